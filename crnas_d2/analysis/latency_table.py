"""A table of latencies in a file, for another machine or a later run."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..architecture import Code, format_code, parse_code
from ..config import list_differences
from ..files import read_file, write_atomically
from .latency import Latency

HEAD = ["code", "median_ms", "lower_quartile_ms", "upper_quartile_ms", "runs"]


@dataclass
class LatencyTable:
    """A table of latencies.

    Attributes:
        conditions: where, of what and how it was measured, by names or config keys.
        rows: latencies by stage code.
    """

    conditions: Mapping[str, str]
    rows: dict[Code, Latency] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> LatencyTable:
        """Read a table.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a table of latencies. The message names the line.
        """
        try:
            lines = read_file(path).decode("utf-8").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no table of latencies: it is no text in UTF-8") from None
        texts = [line[1:] for line in lines if line.startswith("#")]
        conditions = {
            name.strip(): value.strip() for name, _, value in (t.partition(":") for t in texts)
        }
        body = lines[len(texts) :]
        if not body or next(csv.reader(body[:1])) != HEAD:
            raise ValueError(
                f"{path} is no table of latencies: line {len(texts) + 1} is "
                f"{body[0] if body else ''!r}; expected {','.join(HEAD)!r}, behind lines with '#'"
            )
        table = cls(conditions)
        for number, row in enumerate(csv.reader(body[1:]), start=len(texts) + 2):
            try:
                code, latency = _parse(row)
            except ValueError as error:
                raise ValueError(
                    f"{path}: line {number} is {','.join(row)!r}: {error}; expected a stage code "
                    "such as 3-4-6-3, three times in ms of which the first is the median, and the "
                    "number of runs"
                ) from None
            if code in table.rows:
                raise ValueError(f"{path}: line {number} has {format_code(code)} once more")
            table.rows[code] = latency
        return table

    def write(self, path: str) -> None:
        """Write the table, with its codes in lexicographic order."""
        text = io.StringIO()
        text.writelines(f"# {name}: {value}\n" for name, value in self.conditions.items())
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEAD)
        for code, latency in sorted(self.rows.items()):
            times = (latency.median, latency.lower, latency.upper)
            writer.writerow([format_code(code), *(f"{time:.4f}" for time in times), latency.runs])
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        write_atomically(path, text.getvalue().encode())

    def check_conditions(
        self, path: str, now: Mapping[str, str], defaults: Mapping[str, str]
    ) -> None:
        """Check that the table was made under given conditions.

        Args:
            path: path of the file, for the error message.
            now: conditions that have to match. Those that are not config keys do not have to be
                named here.
            defaults: defaults of all config keys. A key that is not named has its default.

        Raises:
            ValueError: the conditions differ. The message lists the differences.
        """
        names = now.keys() | (self.conditions.keys() & defaults.keys())
        differences = list_differences(
            *(
                {name: given.get(name, defaults.get(name, "absent")) for name in names}
                for given in (self.conditions, now)
            )
        )
        if differences:
            raise ValueError(
                "\n  ".join([f"{path} holds latencies under other conditions:", *differences])
                + "\nGo on with the conditions there, or move the file away to measure anew."
            )


def _parse(row: list[str]) -> tuple[Code, Latency]:
    if len(row) != len(HEAD):
        raise ValueError(f"{len(row)} entries")
    code, *times, runs = row
    median, lower, upper = map(float, times)
    if not (0 < lower <= median <= upper and math.isfinite(upper)):
        raise ValueError("the times are no quartiles")
    if int(runs) < 1:
        raise ValueError("no runs")
    return parse_code(code), Latency(median, lower, upper, int(runs))
