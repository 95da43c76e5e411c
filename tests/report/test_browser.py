"""The page in a browser, opened from the disk."""

import pytest
from playwright.sync_api import sync_playwright


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


def test_it_loads_without_a_fault(browser, path):
    page, faults = open_page(browser, path)
    images = page.eval_on_selector_all("img", "all => all.map((i) => [i.naturalWidth, i.alt])")
    assert images and all(width > 0 and caption for width, caption in images)
    page.get_by_role("link", name="Settings").click()
    page.get_by_text("Versions", exact=True).click()
    assert page.get_by_text("detectron2").last.is_visible()
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


def test_narrow_screen(browser, path):
    """Nothing but tables and figures is scrolled sideways, and no text is tiny."""
    page, faults = open_page(browser, path, width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    sizes = page.evaluate(
        """[...document.querySelectorAll("p, td, th, a, pre, summary, figcaption")]
            .map((element) => parseFloat(getComputedStyle(element).fontSize))"""
    )
    assert min(sizes) >= 13
    for table in page.locator("table").all():
        box = table.locator("xpath=..").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    assert faults == []


def test_print(browser, procedure_page):
    """All rows of a ranking are printed, and what is there to click is not."""
    page, _ = open_page(browser, procedure_page)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    tall = page.locator(".tall").first
    assert tall.evaluate("e => e.scrollHeight <= e.clientHeight")
    pictures = page.eval_on_selector_all("img", "all => all.map((i) => i.clientWidth)")
    assert max(pictures) <= page.evaluate("document.querySelector('main').clientWidth")
