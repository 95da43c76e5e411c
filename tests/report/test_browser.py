"""The page in a browser, opened from the disk."""

import re

import pytest
from pages import contrast
from playwright.sync_api import sync_playwright

from crnas_d2.report.themes import THEMES


@pytest.fixture(scope="module")
def browser(chromium):
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture(params=["procedure_page", "stage_page"])
def path(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(
    params=["procedure_page", "verdict_page", "budgets_page", "stage_page", "inspection_page"]
)
def any_path(request):
    return request.getfixturevalue(request.param)


def open_page(browser, path, width=1200):
    """The opened page, and the list that gets all that it complains of or asks the network for."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    faults = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or faults.append(r.url))
    page.goto(path.as_uri())
    return page, faults


def cells(ranking, column):
    """The texts of a column in the rows that are shown."""
    return ranking.evaluate(
        """(ranking, column) => {
            const names = [...ranking.querySelectorAll("th")].map((th) => th.textContent.trim());
            const rows = [...ranking.querySelectorAll("tbody tr")].filter((row) => row.offsetParent);
            return rows.map((row) => row.cells[names.indexOf(column)].textContent);
        }""",
        column,
    )


def test_it_loads_without_a_fault(browser, any_path):
    page, faults = open_page(browser, any_path)
    images = page.eval_on_selector_all("img", "all => all.map((i) => [i.naturalWidth, i.alt])")
    assert all(width > 0 and caption for width, caption in images)
    page.get_by_role("link", name="Settings").click()
    page.get_by_text("Versions", exact=True).click()
    assert page.get_by_text("detectron2").last.is_visible()
    page.emulate_media(color_scheme="dark")
    assert faults == []


def test_sorting(browser, path):
    page, faults = open_page(browser, path)
    ranking = page.locator(".ranking").first
    assert cells(ranking, "rank") == [str(i + 1) for i in range(len(cells(ranking, "rank")))]
    header = ranking.get_by_role("button", name="bbox/AP50", exact=True)
    for order, reverse in (("ascending", False), ("descending", True)):
        header.click()
        values = [float(text) for text in cells(ranking, "bbox/AP50")]
        assert values == sorted(values, reverse=reverse) and len(values) > 3
        assert header.locator("xpath=..").get_attribute("aria-sort") == order
    ranking.get_by_role("button", name="stage code").click()
    codes = [tuple(map(int, code.split("-"))) for code in cells(ranking, "stage code")]
    assert codes == sorted(codes)
    assert header.locator("xpath=..").get_attribute("aria-sort") == "none"
    assert faults == []


def test_filter(browser, stage_page):
    page, faults = open_page(browser, stage_page)
    ranking = page.locator(".ranking")
    all_codes = ranking.locator("tbody tr").count()
    assert len(cells(ranking, "stage code")) == 4 < all_codes == 11
    ranking.get_by_label("Compared for").select_option(label="all")
    assert len(cells(ranking, "stage code")) == 11
    assert ranking.locator("output").inner_text() == "11 of 11 shown"
    ranking.get_by_label("Filter").fill("2-1-2")
    shown = cells(ranking, "stage code")
    assert shown and all("2-1-2" in code for code in shown)
    assert ranking.locator("output").inner_text() == f"{len(shown)} of 11 shown"
    ranking.get_by_label("Filter").fill("nothing like it")
    assert cells(ranking, "stage code") == []
    assert faults == []


OUTSIDE = """() => [...document.body.querySelectorAll("*")].filter((element) => {
    if (element.closest("svg") || element.parentElement.closest(".scroll, pre, .listed thead")) return false;
    const box = element.getBoundingClientRect();
    return box.left < -0.5 || box.right > innerWidth + 0.5;
}).map((element) => element.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_widths(browser, any_path, scheme):
    """Nothing but tables in their boxes is wider than the screen, and no text is tiny."""
    page, faults = open_page(browser, any_path)
    page.emulate_media(color_scheme=scheme)
    for width in (360, 390, 768, 1200):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OUTSIDE) == []
        sizes = page.evaluate(
            """[...document.querySelectorAll("p, td, th, a, pre, summary, figcaption")]
                .map((element) => parseFloat(getComputedStyle(element).fontSize))"""
        )
        assert min(sizes) >= 13
        drawn = page.locator(".drawing").evaluate_all(
            "all => all.filter((e) => e.offsetParent).map((e) => e.clientWidth)"
        )
        captions = page.locator("figure:has(.drawing)").count()
        assert len(drawn) == captions and min(drawn) > 250
    assert faults == []


GROUNDS = """() => {
    const pairs = new Set();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        let element = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || element.closest("svg, script, style")) continue;
        const color = getComputedStyle(element).color;
        const ground = (e) => getComputedStyle(e).backgroundColor;
        while (element && ground(element) === "rgba(0, 0, 0, 0)") element = element.parentElement;
        pairs.add(color + " on " + ground(element));
    }
    return [...pairs];
}"""


def as_hex(color):
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", color)[:3])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors(browser, any_path, scheme):
    """Text stands out from what is behind it, and figures have the colors of the page."""
    page, _ = open_page(browser, any_path)
    page.emulate_media(color_scheme=scheme)
    theme = THEMES[scheme]
    page.locator("summary").first.click()
    pairs = [tuple(map(as_hex, pair.split(" on "))) for pair in page.evaluate(GROUNDS)]
    assert (theme["ink"].lower(), theme["paper"]) in pairs and len(pairs) > 3
    for color, ground in pairs:
        assert contrast(color, ground) >= 4.5, (color, ground)
    fills = page.eval_on_selector_all(
        ".drawing svg path", "all => all.map((e) => getComputedStyle(e).fill)"
    )
    colors = {as_hex(fill) for fill in fills if fill != "none"}
    assert {theme["paper"], theme["ink"].lower()} <= colors
    # Pixels do not follow: they stand on a light ground.
    cards = page.locator(".card")
    assert all(
        card.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"
        for card in cards.all()
    )


def test_every_image_and_table_has_names(browser, any_path):
    page, _ = open_page(browser, any_path)
    drawings = page.eval_on_selector_all(
        ".drawing:has(svg)", "all => all.map((e) => [e.getAttribute('role'), e.ariaLabel])"
    )
    assert drawings and all(role == "img" and label for role, label in drawings)
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("[id]").count() == page.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size"
    )
    assert page.evaluate("document.documentElement.lang") == "en"
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map((e) => +e.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1


def test_the_keyboard_is_enough(browser, stage_page):
    """Whatever can be reached has an outline while it is, and a table can be scrolled."""
    page, _ = open_page(browser, stage_page, width=390)
    outlines = {}
    for _ in range(60):
        page.keyboard.press("Tab")
        kind, outline = page.evaluate("""(() => {
                const element = document.activeElement;
                const { outlineStyle, outlineWidth } = getComputedStyle(element);
                return [element.tagName, outlineStyle !== "none" && parseFloat(outlineWidth) >= 2];
            })()""")
        if kind == "BODY":
            break
        outlines.setdefault(kind, set()).add(outline)
    assert {"A", "BUTTON", "INPUT", "SELECT", "SUMMARY", "DIV"} <= set(outlines)
    assert all(seen == {True} for seen in outlines.values()), outlines


def test_print(browser, procedure_page):
    """All rows of a ranking are printed, and what is there to click is not."""
    page, _ = open_page(browser, procedure_page)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    tall = page.locator(".tall").first
    assert tall.evaluate("e => e.scrollHeight <= e.clientHeight")
    images = page.eval_on_selector_all("img, svg", "all => all.map((i) => i.clientWidth)")
    assert max(images) <= page.evaluate("document.querySelector('main').clientWidth")


def test_print_of_a_dark_screen(browser, procedure_page):
    """Paper is white."""
    page, _ = open_page(browser, procedure_page)
    page.emulate_media(media="print", color_scheme="dark")
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (as_hex(ground), as_hex(ink)) == ("#ffffff", THEMES["light"]["ink"].lower())
