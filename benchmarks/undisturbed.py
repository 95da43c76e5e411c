"""The results of an uninterrupted tiny procedure, to which those of interrupted ones are compared."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from killed_run import HANGS_S, OUTPUT, Run

import crnas_d2
from crnas_d2.search.ledger import Ledger

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from killing import count_writes
from tiny_search import write_recipe

VARIANTS = ("as it was", "json changed", "key changed")
# Files that may differ between two runs
OWN_FILES = ("*.tfevents.*", "log.txt*", "metrics.json", "report/*", "last_checkpoint", "*.lock")
OWN_FILES += ("model_[0-9]*.pth*", "*.changed", "near_copies.csv", "config.yaml")
CHANGED = ("SOLVER.BASE_LR", "0.03")


def _count_writes() -> None:
    count_writes(lambda n: Path("writes.txt").write_text(str(n)))


def change_data(folder: Path) -> None:
    path = folder / "data" / "annotations.json"
    data = json.loads(path.read_text())
    del data["annotations"][-1]
    path.write_text(json.dumps(data))


class References:
    """Uninterrupted procedures of the same code, which are run on demand."""

    def __init__(self, folder: Path):
        self._folder, self._known = folder, {}
        source = Path(crnas_d2.__file__).parent
        code = "\n".join(f"{p} {p.stat().st_mtime_ns}" for p in sorted(source.rglob("*.py")))
        mark = folder / "code.txt"
        if not mark.exists() or mark.read_text() != code:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "recipe").mkdir()
            write_recipe(folder / "recipe", relative_to=folder / "recipe")
            mark.write_text(code)

    def copy_recipe(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._folder / "recipe", folder)

    def restore_data(self, folder: Path) -> None:
        shutil.copy2(self._folder / "recipe/data/annotations.json", folder / "data")

    def _path(self, ranks: int, variant: str) -> Path:
        return self._folder / f"{ranks}_{variant.replace(' ', '_')}"

    def get(self, ranks: int, variant: str) -> tuple[float, int]:
        """Get the seconds that a procedure took, and the number of writes of its first rank."""
        key, folder = (ranks, variant), self._path(ranks, variant)
        facts = folder / "facts.json"
        if key not in self._known and not facts.exists():
            self.copy_recipe(folder)
            if variant == "json changed":
                change_data(folder)
            options, start = CHANGED if variant == "key changed" else (), time.monotonic()
            run = Run(folder, ranks, options, [_count_writes])
            run.wait(HANGS_S)
            if not run.succeeded:
                run.kill()
                raise RuntimeError(f"it fails without being stopped:\n{run.printed[-3000:]}")
            seconds = time.monotonic() - start
            facts.write_text(json.dumps([seconds, int((folder / "writes.txt").read_text())]))
        if key not in self._known:
            self._known[key] = tuple(json.loads(facts.read_text()))
        return self._known[key]

    def compare(self, folder: Path, ranks: int, variant: str) -> list[str]:
        """Get the faults of a finished procedure."""
        self.get(ranks, variant)
        whole = self._path(ranks, variant)
        there, here = products(whole / OUTPUT), products(folder / OUTPUT)
        faults = [f"{name} is missing" for name in sorted(there.keys() - here.keys())]
        faults += [f"{name} is left" for name in sorted(here.keys() - there.keys())]
        for name in sorted(there.keys() & here.keys()):
            try:
                same = content(there[name], whole) == content(here[name], folder)
            except (RuntimeError, ValueError, OSError):  # it cannot be read
                same = False
            if not same:
                faults.append(f"{name} differs")
        return faults


def products(folder: Path) -> dict[str, Path]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path
        for path in paths
        if not any(path.relative_to(folder).match(pattern) for pattern in OWN_FILES)
    }


def content(path: Path, folder: Path) -> Any:
    """Get the content that has to be equal, wherever the folder of the recipe is."""
    if path.suffix == ".pth":
        found = torch.load(path, weights_only=True)
        if "model" not in found:
            return found
        return {key: (str(t.dtype), t.numpy().tobytes()) for key, t in found["model"].items()}
    if path.suffix == ".sqlite":
        return Ledger.read(path)  # trials that only differ in their duration are equal
    if path.name in ("step.json", "results.json"):
        found = json.loads(path.read_text())
        found.pop("seconds", None)
        return found
    if path.name == "README.md":  # it mentions the page, which few starts write
        return [line for line in path.read_text().splitlines()[1:] if "index.html" not in line]
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text().replace(str(folder), ""))
    return path.read_bytes()
