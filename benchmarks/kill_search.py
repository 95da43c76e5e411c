#!/usr/bin/env python3
"""Kill the whole procedure of a tiny recipe many times, and compare the results at the end.

kill_search.py 100 output/kills
kill_search.py 1000 output/kills other/kills

A procedure of one or two processes is started, interrupted, and started again until it finishes;
then another one begins. It is interrupted by a signal at a random moment, by SIGKILL at a random
write, or by a full disk (a limit on the size of its files). Between two starts a ledger or a
checkpoint may lose a byte or its end, an annotation or a key of the config may change, and while it
runs another one may start in its folder. It has to end like an uninterrupted one: all products byte
for byte, weights tensor by tensor, no trial recorded twice, nothing left behind. A refusal has to
name the file.

The first folder has a line for each procedure in kills.jsonl, and keeps the procedures with a
fault. The same command resumes until all folders together have this many kills, and prints their
sum. The processes are forked from one that has imported everything. The rendezvous of two is that
of torchrun.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from killed_run import HANGS_S, OUTPUT, Run, limit_files
from tabulate import tabulate
from tqdm import tqdm
from undisturbed import CHANGED, VARIANTS, References, change_data

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from killing import die_at

REPORTS = 0.1  # share of the starts that write the report, which takes longer than all the steps
PARTS = 3  # of a procedure; a start is interrupted in the first of the remaining ones
PAUSE_S = 1.0


class Procedure:
    """A procedure that is interrupted until it finishes.

    Attributes:
        counts: how often each event occurred.
        faults: sentences about faults.
    """

    def __init__(self, folder: Path, rng: Random, references: References):
        self._folder, self._rng, self._references = folder, rng, references
        self._ranks = rng.choice((1, 2))
        self._variant = VARIANTS[0]
        self._damaged: set[str] = set()  # files that may still be damaged
        self._ledgers: set[str] = set()  # ledgers that were damaged
        self._may_repeat = False
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        references.copy_recipe(folder)

    def run(self) -> None:
        self._references.get(self._ranks, self._variant)
        stops = 0
        while not self.faults:
            stop = self._rng.choice(list(STOPS)) if stops < 12 else None
            run = self._start(stop)
            if not run:
                continue
            if run.succeeded:
                break
            stops += 1
            self._between()
        if not self.faults:
            faults = self._references.compare(self._folder, self._ranks, self._variant)
            # The ledger of a finished search is not read again.
            passed_over = {f"{path.removeprefix(OUTPUT + '/')} differs" for path in self._ledgers}
            self.faults += [fault for fault in faults if fault not in passed_over]
            if not self._may_repeat:
                self._look_for_repeated_trials()

    def _start(self, stop: str | None) -> Run | None:
        """Start a run and wait for its end. None if it was refused, and the cause was undone."""
        seconds, writes = self._references.get(self._ranks, self._variant)
        options = CHANGED if self._variant == "key changed" else ()
        wait = self._rng.uniform(0, seconds / PARTS)
        number = self._rng.randint(1, max(1, writes // PARTS))
        patches = STOPS[stop][0](self._rng, self._ranks, number) if stop else []
        report = self._rng.random() < REPORTS
        run = Run(self._folder, self._ranks, options, patches, report)
        asked = stop is not None and STOPS[stop][1] is not None
        if asked and not run.wait(wait):
            STOPS[stop][1](self, run)
        elif asked:
            asked = False  # it was too late
        if not run.wait(HANGS_S) and not run.waits_for_the_dead:
            self.faults.append(f"{stop}: a process hangs; printed {run.printed[-300:]!r}")
        run.kill()
        if run.succeeded:
            return run
        full = stop == "full disk" and ("File too large" in run.printed or "disk" in run.printed)
        if asked or full or any(code == -signal.SIGKILL for code in run.codes.values()):
            self.counts[stop] += 1
            return run
        return self._refused(run)

    def _refused(self, run: Run) -> Run | None:
        """Handle a run that nothing has interrupted."""
        said = " ".join(run.sentences())
        damaged = {path for path in self._damaged if str(Path(path).parent) in said}
        if damaged:
            self.counts["refused: damaged"] += 1
            self._damaged -= damaged
            for path in damaged:
                (self._folder / path).unlink(missing_ok=True)
        elif self._variant != VARIANTS[0] and ("other" in said or "change" in said):
            self.counts[f"refused: {self._variant}"] += 1
            self._references.restore_data(self._folder)
            self._variant = VARIANTS[0]
        else:
            self.faults.append(
                f"ended with {list(run.codes.values())} by itself: {run.printed[-900:]!r}"
            )
            return run
        return None

    def _between(self) -> None:
        draw = self._rng.random()
        if draw < 0.15:
            self._damage()
        elif draw < 0.2 and self._variant == VARIANTS[0]:
            self._variant = self._rng.choice(VARIANTS[1:])
            self.counts[self._variant] += 1
            self._may_repeat = True
            if self._variant == "json changed":
                change_data(self._folder)

    def _damage(self) -> None:
        paths = [*self._folder.rglob("model_*.pth"), *self._folder.rglob("ledger.sqlite")]
        paths = sorted(path for path in paths if path.stat().st_size)
        if not paths:
            return
        path = self._rng.choice(paths)
        content = bytearray(path.read_bytes())
        if self._rng.random() < 0.5:
            place = self._rng.randrange(len(content))
            content[place] ^= 1 << self._rng.randrange(8)
            kind = "flipped bit"
        else:
            del content[self._rng.randrange(len(content)) :]
            kind = "truncated"
        path.write_bytes(content)
        self.counts[f"{kind}: {'ledger' if path.suffix == '.sqlite' else 'checkpoint'}"] += 1
        damaged = str(path.relative_to(self._folder))
        self._damaged.add(damaged)
        if path.suffix == ".sqlite":
            self._ledgers.add(damaged)
        self._may_repeat = True

    def start_second(self, run: Run) -> None:
        """Check that another search in the same folder is refused, while the first one continues."""
        second = Run(self._folder, self._ranks, name="second")
        second.wait(HANGS_S)
        alive = not run.wait(0)
        if alive and (second.succeeded or not any("other" in s for s in second.sentences())):
            self.faults.append(f"a second search was not refused: {second.printed[-600:]!r}")
        run.kill()

    def _look_for_repeated_trials(self) -> None:
        path = self._folder / "trials.txt"
        lines = Counter(path.read_text().splitlines()) if path.exists() else {}
        repeated = [line for line, count in lines.items() if count > 1]
        if repeated:
            self.faults.append(f"{len(repeated)} trials were recorded twice, as {repeated[0]}")


def send(number: int, to_one: bool = False) -> Callable[[Procedure, Run], None]:
    def stop(_: Procedure, run: Run) -> None:
        run.signal(number, run.pids[-1:] if to_one else None)

    return stop


def pause(procedure: Procedure, run: Run) -> None:
    run.signal(signal.SIGSTOP, run.pids[:1])
    time.sleep(PAUSE_S)
    run.signal(signal.SIGCONT, run.pids[:1])
    if not run.wait(PAUSE_S):
        run.signal(signal.SIGKILL)


def at_write(rng: Random, ranks: int, number: int) -> list[Callable]:
    return [functools.partial(die_at, number)]


def full_disk(rng: Random, ranks: int, number: int) -> list[Callable]:
    return [functools.partial(limit_files, int(2 ** rng.uniform(15, 19)))] * ranks


def as_it_is(*_: Any) -> list[Callable]:
    return []


# By name: patches of the ranks before they start, and what happens to them at a random moment
STOPS: dict[str, tuple[Callable, Callable | None]] = {
    "SIGKILL": (as_it_is, send(signal.SIGKILL)),
    "SIGKILL of one": (as_it_is, send(signal.SIGKILL, to_one=True)),
    "SIGTERM": (as_it_is, send(signal.SIGTERM)),
    "SIGINT": (as_it_is, send(signal.SIGINT)),
    "SIGSTOP": (as_it_is, pause),
    "at a write": (at_write, None),
    "full disk": (full_disk, None),
    "second search": (as_it_is, Procedure.start_second),
}


def read_lines(folder: Path) -> list[dict]:
    path = folder / "kills.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def kills_of(lines: Sequence[dict]) -> int:
    return sum(line["counts"].get(stop, 0) for line in lines for stop in STOPS)


def lines_of(folders: Sequence[Path]) -> Iterator[dict]:
    for folder in folders:
        yield from read_lines(folder)


def table(lines: Sequence[dict]) -> str:
    counts = sum((Counter(line["counts"]) for line in lines), Counter())
    rows = [[name, count] for name, count in sorted(counts.items())]
    rows += [["kills", kills_of(lines)], ["procedures", len(lines)]]
    rows += [["procedures with a fault", sum(bool(line["faults"]) for line in lines)]]
    return tabulate(rows, ["what", "times"], "github")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kills", type=int, help="of all folders together")
    parser.add_argument("folders", type=Path, nargs="+", help="for the first; others are added up")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder = args.folders[0].absolute()
    folder.mkdir(parents=True, exist_ok=True)
    references = References(folder / "references") if args.kills else None
    lines = list(lines_of(args.folders))
    with tqdm(total=args.kills, initial=kills_of(lines), unit="kill", disable=None) as bar:
        while kills_of(lines) < args.kills:
            number = len(read_lines(folder))
            procedure = Procedure(folder / "now", Random(f"{folder.name}/{number}"), references)
            procedure.run()
            line = {"number": number, "counts": procedure.counts, "faults": procedure.faults}
            for fault in procedure.faults:
                bar.write(f"{number}: {fault}")
            if procedure.faults:
                shutil.rmtree(folder / f"fault_{number}", ignore_errors=True)
                os.rename(folder / "now", folder / f"fault_{number}")
            with open(folder / "kills.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            lines.append(line)
            bar.update(kills_of([line]))
    print(table(lines))


if __name__ == "__main__":
    main()
