"""What the checks of a data set have found: errors, and warnings that are counted by their kind."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..files import raise_faults

SHOWN_PLACES = 5


@dataclass
class Warned:
    """How often something was found, and the first places."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.places) < SHOWN_PLACES:
            self.places.append(place)

    def describe(self) -> str:
        """Such as "2 times: annotation 3 of image 1, annotation 8 of image 2"."""
        places = ", ".join(self.places) + (", ..." if self.count > len(self.places) else "")
        return places if self.count == 1 else f"{self.count:,} times: {places}"


@dataclass
class Findings:
    """An error is what Detectron2 or pycocotools would end on, or score wrongly, later; a warning is
    what they treat in a way of their own, which the warning tells.

    Attributes:
        path: of the file or folder that was checked.
        errors: one sentence each.
        warnings: by their kind, which says what was found and what becomes of it.
    """

    path: str
    errors: list[str] = field(default_factory=list)
    warnings: dict[str, Warned] = field(default_factory=dict)

    def error(self, sentence: str) -> None:
        self.errors.append(sentence)

    def warn(self, kind: str, place: str) -> None:
        """
        Args:
            kind: such as "box of width or height 0, which Detectron2 leaves out of the training".
            place: such as "annotation 7 of image 3".
        """
        self.warnings.setdefault(kind, Warned()).add(place)

    def raise_errors(self) -> None:
        """
        Raises:
            ValueError: there are errors. The message has the first ones and the number of all.
        """
        raise_faults(self.path, self.errors)

    def describe_warnings(self) -> list[str]:
        """A sentence for each kind."""
        return [f"{self.path}: {kind} ({w.describe()})" for kind, w in self.warnings.items()]
