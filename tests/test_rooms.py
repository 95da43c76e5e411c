"""The rooms of docs/rooms.md are those of the package, and imports only go up the list."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "crnas_d2"
TOP = "the files at the top"
ENTRANCES = ("__init__.py", "__main__.py")  # of the package, which import from any room


def read_rooms():
    text = (PACKAGE.parent / "docs" / "rooms.md").read_text().split("## Words")[0]
    return [TOP, *re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)]


def room_of(parts):
    return parts[0] if parts[0] in read_rooms() else TOP


def imported(path):
    """The modules of the package that a file imports, inside functions too, as parts of a path."""
    folder = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) + 1 - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield (*base, *name.split("."))


def test_the_table_has_all_rooms():
    folders = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert sorted(read_rooms()[1:]) == sorted(folders)


@pytest.mark.parametrize("room", read_rooms())
def test_imports_go_up(room):
    order = read_rooms()
    files = PACKAGE.glob("*.py") if room == TOP else (PACKAGE / room).rglob("*.py")
    below = [
        (path.name, ".".join(parts))
        for path in files
        if room != TOP or path.name not in ENTRANCES
        for parts in imported(path)
        if order.index(room_of(parts)) > order.index(room)
    ]
    assert below == []
