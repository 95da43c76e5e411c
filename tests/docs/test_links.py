"""Links between the pages, and from them to files and headings, lead somewhere."""

import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "MODEL_ZOO.md", "CHANGELOG.md")),
    ROOT / "configs" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^(```+).*?^\1[ ]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
CODE = re.compile(r"`[^`\n]*`")


@lru_cache
def prose(page):
    """The text of a page without blocks of code."""
    return FENCE.sub("", page.read_text())


@lru_cache
def anchors(page):
    """The names that GitHub gives to the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", prose(page), re.MULTILINE):
        text = LINK.sub(lambda link: link[0].split("](")[0].lstrip("!["), heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        numbers = (f"-{n}" if n else "" for n in range(len(found) + 1))
        found.add(next(slug + number for number in numbers if slug + number not in found))
    return found


def links(page):
    return [target for target in LINK.findall(CODE.sub("code", prose(page))) if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page):
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not (file.exists() and file.is_relative_to(ROOT)):
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file):
            broken.append(f"{target}: no such heading")
    assert not broken


def test_every_page_of_docs_is_linked():
    linked = {
        (page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)
    }
    assert {page for page in PAGES if page.parent.name == "docs"} <= linked


def test_what_is_a_link_and_what_a_heading(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Links, and `code`\n## Twice\n## Twice\n[a](b.md#c) `[no](link.md)` [`d`](e.md)\n"
        "```bash\n# no heading\n[no](link.md)\n```\n[w](https://example.org/)\n"
    )
    assert links(page) == ["b.md#c", "e.md"]
    assert anchors(page) == {"links-and-code", "twice", "twice-1"}
