"""The findings of the checks of a dataset: errors, and warnings counted by their kind."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..files import raise_faults

SHOWN_PLACES = 5


@dataclass
class Warned:
    """The number of times that something was found, and the first places."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.places) < SHOWN_PLACES:
            self.places.append(place)

    def describe(self) -> str:
        """Describe the places, as in "2 times: annotation 3 of image 1, annotation 8 of image 2"."""
        places = ", ".join(self.places) + (", ..." if self.count > len(self.places) else "")
        return places if self.count == 1 else f"{self.count:,} times: {places}"


@dataclass
class Findings:
    """The findings in a file or folder.

    An error is something on which Detectron2 or pycocotools would later fail or compute wrong
    scores. A warning describes content that they treat in a special way.

    Attributes:
        path: path of the file or folder.
        errors: one sentence for each error.
        warnings: warnings by their kind, which says what was found and how it is treated.
    """

    path: str
    errors: list[str] = field(default_factory=list)
    warnings: dict[str, Warned] = field(default_factory=dict)

    def error(self, sentence: str) -> None:
        self.errors.append(sentence)

    def warn(self, kind: str, place: str) -> None:
        """Add a warning.

        Args:
            kind: kind such as "box of width or height 0, which Detectron2 leaves out of the
                training".
            place: place such as "annotation 7 of image 3".
        """
        self.warnings.setdefault(kind, Warned()).add(place)

    def raise_errors(self) -> None:
        """Raise an exception if there are errors.

        Raises:
            ValueError: there are. The message has the first ones and the total number.
        """
        raise_faults(self.path, self.errors)

    def describe_warnings(self) -> list[str]:
        """Get a sentence for each kind of warning."""
        return [f"{self.path}: {kind} ({w.describe()})" for kind, w in self.warnings.items()]
