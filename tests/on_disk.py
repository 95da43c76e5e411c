"""What lies in a folder, and edits of its files."""

import json


def contents(folder):
    """The bytes of all files, by their paths."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(path, old, new):
    """Replace a text that the file has."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit_json(path, change):
    """Apply a function, which changes its argument, to the content of a JSON file."""
    with open(path) as file:
        data = json.load(file)
    change(data)
    with open(path, "w") as file:
        json.dump(data, file)
