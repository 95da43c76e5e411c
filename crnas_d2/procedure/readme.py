"""The ``README.md`` of an ``OUTPUT_DIR``, with the verdict, the numbers, and a list of the files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence

from ..files import write_signed
from ..search.result import ARCHITECTURE_FILE, FINAL_FILE, RESULT_FILE

README_FILE = "README.md"

FILES = {  # descriptions by glob pattern
    FINAL_FILE: "the detector to use, as a config with its trained weights where it was trained",
    ARCHITECTURE_FILE: "the codes that the search has found, as config keys",
    RESULT_FILE: "the verdict and all its numbers",
    "report/index.html": "the search on one page, with figures",
    "budget_*": "what was found under this budget, with a detector and a README of its own",
    "baseline": "training of the baseline with the first seed; `baseline_2` is the second, and so on",
    "final": "training of the network that was found, likewise",
    "*_pretraining": "pre-trainings",
    "*_supernet": "trainings of the supernets",
    "*_search": "searches over them; `ledger.sqlite` has every architecture that was evaluated",
    "*_shortlist": "the best codes of a search, each trained alone",
    "near_copies.csv": "images that are nearly in two parts of the data",
}
USE = """\
## How to use it

In this folder, to detect objects in images:

    crnas predict --model final.yaml --input IMAGES --output FOLDER

The head of `final.yaml` has the command to train it again.
"""


def write_readme(folder: str, headline: str, numbers: str = "", data: Sequence[str] = ()) -> None:
    """Write the README.

    Args:
        folder: folder of the file.
        headline: result of the search, in a few sentences.
        numbers: table of the numbers, as on the terminal.
        data: sentences on which images were used to train, to choose and to test.
    """
    sections = ["# Architecture search", headline]
    if numbers:
        sections.append(f"```text\n{numbers}\n```")
    if data:
        sections.append("\n".join(["## Data", "", *(f"* {line}" for line in data)]))
    sections.append("\n".join(["## Files", "", *_rows(folder)]))
    if os.path.exists(os.path.join(folder, FINAL_FILE)):
        sections.append(USE.rstrip())
    write_signed(os.path.join(folder, README_FILE), "\n\n".join(sections) + "\n")


def _rows(folder: str) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    for pattern, what in FILES.items():
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), pattern))):
            yield f"| `{os.path.relpath(path, folder)}` | {what} |"
