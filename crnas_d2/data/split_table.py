"""A table of the class counts in the parts of a search: archtrain, archval, and the test set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from detectron2.config import CfgNode

from .class_counts import ClassCounts, count_classes
from .shared_images import source_of_drawn

MOST_ROWS = 12  # number of classes on a terminal
MOST_NAMES = 8  # number of classes in a sentence
# What it means if a part has no object of a class
CONSEQUENCES = {
    "archtrain": "the supernet cannot learn {them}, so in the search {their} AP tells nothing",
    "archval": "{their} AP does not count in the search",
    "test": "{their} AP is no part of its result",
}


@dataclass(frozen=True)
class Part:
    """One part of a search.

    Attributes:
        role: a key of :data:`CONSEQUENCES`.
        names: names of its datasets.
        counts: their total counts.
    """

    role: str
    names: tuple[str, ...]
    counts: ClassCounts


@dataclass(frozen=True)
class SplitTable:
    """A table of class counts.

    Attributes:
        parts: parts with the same classes.
        notes: sentences about the parts.
    """

    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Mapping[str, Sequence[str]], data: CfgNode) -> SplitTable:
        """Create the table.

        Args:
            names: names of the datasets of each role, which are registered, or parts of registered
                ones.
            data: ``DATASETS``.

        Raises:
            OSError, ValueError: see :func:`count_classes`.
        """
        parts, notes = [], []
        for role, of_role in names.items():
            counts = [count_classes(name, data) for name in of_role]
            if not counts:
                continue
            for more in counts[1:]:
                counts[0] += more
            parts.append(Part(role, tuple(of_role), counts[0]))
        others = [part for part in parts if part.counts.classes != parts[0].counts.classes]
        for part in others:
            notes.append(f"{', '.join(part.names)} is not counted, as its classes are others")
        notes += _notes_on_size(parts, data.ARCHVAL)
        return cls(tuple(part for part in parts if part not in others), tuple(notes))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the class indices."""
        return self.parts[0].counts.classes if self.parts else ()

    @property
    def lacking(self) -> list[list[str]]:
        """For each class, the roles of the annotated parts without an object of it."""
        return [
            [p.role for p in self.parts if p.counts.annotated and not p.counts.objects[index]]
            for index in range(len(self.classes))
        ]

    def warnings(self) -> list[str]:
        """Get a sentence for each part that lacks classes."""
        sentences = []
        everywhere = [part.role for part in self.parts if part.counts.annotated]
        nowhere = [name for name, roles in self._named_lacking() if roles == everywhere]
        if nowhere:
            sentences.append(f"No part has an object of {_shortened(nowhere)}")
        for part in self.parts:
            names = [
                name
                for name, roles in self._named_lacking()
                if part.role in roles and roles != everywhere
            ]
            if names:
                them, their = ("them", "their") if len(names) > 1 else ("it", "its")
                sentences.append(
                    f"{part.role} ({', '.join(part.names)}) has no object of {_shortened(names)}: "
                    f"{CONSEQUENCES[part.role].format(them=them, their=their)}"
                )
        return sentences

    def _named_lacking(self) -> Iterator[tuple[str, list[str]]]:
        return zip(map(repr, self.classes), self.lacking)

    def columns(self) -> list[str]:
        counted = [f"{p.role} {what}" for p in self.parts for what in ("images", "objects")]
        return ["class", *counted, "lacking in"]

    def rows(self) -> list[list[Any]]:
        """Get a row for each class, and one for the total.

        A row has the name, images and objects in each part, and the parts that lack the class. None
        stands for unknown counts of a part without annotations.
        """
        rows = [
            [name, *self._cells(index), ", ".join(lacking)]
            for index, (name, lacking) in enumerate(zip(self.classes, self.lacking))
        ]
        totals = [
            number
            for part in self.parts
            for number in (
                part.counts.images,
                sum(part.counts.objects) if part.counts.annotated else None,
            )
        ]
        return [*rows, ["all", *totals, ""]]

    def _cells(self, index: int) -> Iterator[int | None]:
        for part in self.parts:
            known = part.counts.annotated
            yield part.counts.with_class[index] if known else None
            yield part.counts.objects[index] if known else None

    def describe(self, most: int | None = None) -> str:
        """Format a table for a terminal.

        Args:
            most: maximum number of classes to show, preferably those that a part lacks and those
                with the fewest objects in archval. None shows all.
        """
        *rows, total = self.rows()
        shown = rows if most is None or len(rows) <= most else self._rarest(rows, most)
        heads = ["class", *(f"{p.role}\n{w}" for p in self.parts for w in ("images", "objects"))]
        texts = [[str(row[0])[:40], *map(_number, row[1:-1]), row[-1]] for row in [*shown, total]]
        align = ("left", *["right"] * (len(heads) - 1), "left")
        table = tabulate(
            texts, [*heads, "lacking in"], "simple", colalign=align, disable_numparse=True
        )
        left = len(rows) - len(shown)
        more = [f"and {left:,} more classes"] if left else []
        return "\n".join([table, *more, *self.notes])

    def _rarest(self, rows: Sequence[list[Any]], most: int) -> list[list[Any]]:
        rare = next((p for p in self.parts if p.role == "archval"), self.parts[0])
        order = sorted(
            range(len(rows)), key=lambda i: (not self.lacking[i], rare.counts.objects[i], i)
        )
        return [rows[index] for index in order[:most]]

    def as_json(self) -> dict[str, Any]:
        """Export the complete table as JSON."""
        return {
            "classes": list(self.classes),
            "parts": {
                part.role: {
                    "names": list(part.names),
                    "images": part.counts.images,
                    "annotated": part.counts.annotated,
                    "images_of_class": list(part.counts.with_class),
                    "objects_of_class": list(part.counts.objects),
                }
                for part in self.parts
            },
            "notes": list(self.notes),
            "warnings": self.warnings(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SplitTable:
        """Create a table from the result of :meth:`as_json`."""
        parts = [
            Part(
                role,
                tuple(part["names"]),
                ClassCounts(
                    tuple(content["classes"]),
                    part["images"],
                    tuple(part["images_of_class"]),
                    tuple(part["objects_of_class"]),
                    part["annotated"],
                ),
            )
            for role, part in content["parts"].items()
        ]
        return cls(tuple(parts), tuple(content["notes"]))


def _notes_on_size(parts: Sequence[Part], archval: CfgNode) -> Iterator[str]:
    """Iterate over notes on the size of an archval that was split by groups."""
    for part in parts:
        is_drawn = part.role == "archval" and any(map(source_of_drawn, part.names))
        if is_drawn and part.counts.images != archval.SIZE:
            groups = f"groups of {archval.GROUP_KEY!r}" if archval.GROUP_KEY else "images"
            yield (
                f"archval has {part.counts.images:,} images, as near to DATASETS.ARCHVAL.SIZE, "
                f"{archval.SIZE:,}, as whole {groups} come"
            )


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES:,} more classes" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
