"use strict";
for (const ranking of document.querySelectorAll(".ranking")) {
  const body = ranking.querySelector("tbody");
  const rows = [...body.rows];
  const headers = [...ranking.querySelectorAll("th")];
  const text = ranking.querySelector("input");
  const group = ranking.querySelector("select");
  const count = ranking.querySelector("output");

  // Numbers by value, codes and words in natural order; what has no value comes last.
  const compare = (a, b) => {
    if (a.dataset.value !== undefined && b.dataset.value !== undefined) return a.dataset.value - b.dataset.value;
    return a.textContent.localeCompare(b.textContent, "en", { numeric: true });
  };
  const sort = (column, descending) => {
    rows.sort((first, second) => {
      const [a, b] = [first.cells[column], second.cells[column]];
      if (!a.textContent !== !b.textContent) return a.textContent ? -1 : 1;
      return descending ? compare(b, a) : compare(a, b);
    });
    body.append(...rows);
    headers.forEach((header, i) =>
      header.setAttribute("aria-sort", i !== column ? "none" : descending ? "descending" : "ascending"));
  };
  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    for (const row of rows) {
      const inGroup = !group || !group.value || row.dataset.group === group.value;
      row.hidden = !inGroup || !row.textContent.toLowerCase().includes(wanted);
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
  };

  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () =>
    sort(column, header.getAttribute("aria-sort") === "ascending")));
  text.addEventListener("input", filter);
  if (group) group.addEventListener("change", filter);
  filter();
}
