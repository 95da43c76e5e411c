"""docs/paper_map.md: it has every item of the paper, and all that it names is there."""

import ast
import glob
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "paper_map.md"
ITEMS = [
    "Equation 1",
    "Algorithm 1",
    *(f"Figure {n}" for n in range(1, 7)),
    *(f"Table {n}" for n in range(1, 10)),
    *(f"A.{n}" for n in range(1, 5)),
    *("3.1", "3.2.1", "3.2.2", "3.3", "3.3.1", "3.3.2", "4.1", "4.2.1", "4.2.2", "4.3.1", "4.3.2"),
]
FOLDERS = ("benchmarks", "configs", "crnas_d2", "tests", "tools")
CODE_SPANS = re.findall(r"`([^`\n]+)`", PAGE.read_text())
TESTS = sorted({span for span in CODE_SPANS if "::" in span})
PATHS = sorted({s for s in CODE_SPANS if s.split("/")[0] in FOLDERS and "::" not in s})


@lru_cache
def functions_of(path):
    return {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}


@pytest.mark.parametrize("item", ITEMS)
def test_item_of_the_paper_has_a_row(item):
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    of_item = [row for row in rows if re.match(rf"\| {re.escape(item)}[: ]", row[0])]
    assert of_item
    for row in of_item:
        assert len(row) == 3 and all(cell.strip(" |") for cell in row), row


@pytest.mark.parametrize("name", TESTS)
def test_named_test_is_there(name):
    path, function = name.split("::")
    assert function.startswith("test_") and function in functions_of(ROOT / path)


@pytest.mark.parametrize("path", PATHS)
def test_named_files_are_there(path):
    assert glob.glob(path, root_dir=ROOT)
