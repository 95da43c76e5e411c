"""Datasets before a training: their content, and how a detector fits it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from detectron2.config import CfgNode

from .. import __version__
from ..analysis.advice import SHORTEST, Advice, advise
from ..analysis.anchor_fit import AnchorFit, Anchors, Levels
from ..data.findings import Findings
from ..data.objects import Objects
from ..files import to_json
from .sample import draw_sample

logger = logging.getLogger(__name__)

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
MOST_SIZES = 8  # number of most common image sizes


@dataclass(frozen=True)
class ImageSize:
    """A size of images.

    Attributes:
        file: width and height in pixels.
        input: width and height in the detector's input.
        scale: scale of the width.
        images: number of images with this size.
    """

    file: tuple[int, int]
    input: tuple[int, int]
    scale: float
    images: int


@dataclass
class Dataset:
    """A dataset on the page.

    Attributes:
        name: name in the config.
        images: images in Detectron2's format.
        class_names: names in the order of the class indices.
        shown: whether its images are shown. Otherwise they are shown with another dataset.
        notes: sentences about what is shown.
    """

    name: str
    images: Sequence[Mapping[str, Any]]
    class_names: Sequence[str]
    shown: bool = True
    notes: list[str] = field(default_factory=list)

    @cached_property
    def objects(self) -> Objects:
        return Objects.of(self.images)


class Inspection:
    """The content of a page about datasets, see :func:`.inspection_page.render_inspection`.

    Attributes:
        cfg: config of the detector.
        sets: datasets by name, the training set first.
        findings: findings of the checks.
        notes: sentences about what cannot be shown.
    """

    def __init__(
        self,
        cfg: CfgNode,
        sets: Sequence[Dataset],
        findings: Sequence[Findings],
        notes: Sequence[str] = (),
    ):
        self.cfg = cfg
        self.sets = {data.name: data for data in sets}
        self.findings = [f for f in findings if f.errors or f.warnings]
        self.notes = list(notes)
        self.levels = Levels.of(cfg)
        self.anchors: Anchors | None = None
        try:
            self.anchors = Anchors.of(cfg)
        except ValueError as error:
            self.notes.append(f"Nothing is said of anchors: {error}")

    @cached_property
    def resized(self) -> dict[str, Objects]:
        """The objects in the detector's input."""
        size = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        return {name: data.objects.resized(*size) for name, data in self.sets.items()}

    @cached_property
    def overlaps(self) -> dict[str, np.ndarray]:
        """The IoU of each object with its best anchor."""
        if not self.anchors:
            return {}
        return {name: self.anchors.best(objects)[0] for name, objects in self.resized.items()}

    @cached_property
    def advice(self) -> list[Advice]:
        first = next(iter(self.sets.values()), None)
        return advise(self.cfg, self.anchors, first.objects) if first else []

    @cached_property
    def numbers(self) -> dict[str, dict[str, Any]]:
        """The numbers of each dataset, by its name."""
        return {name: self._count(data) for name, data in self.sets.items()}

    def _count(self, data: Dataset) -> dict[str, Any]:
        objects, resized = data.objects, self.resized[data.name]
        per_image = objects.per_image
        images, instances = objects.per_class(len(data.class_names))
        sizes = self.image_sizes(data.name)
        classes = zip(data.class_names, images.tolist(), instances.tolist())
        counts = {
            "images": len(data.images),
            "images_without_objects": int((per_image == 0).sum()),
            "objects": len(objects.boxes),
            "crowd": objects.crowd,
            "empty_boxes": objects.empty,
            "objects_per_image": {
                "mean": float(per_image.mean()) if len(per_image) else 0.0,
                "median": float(np.median(per_image)) if len(per_image) else 0.0,
                "most": int(per_image.max(initial=0)),
            },
            "classes": [{"name": n, "images": i, "objects": o} for n, i, o in classes],
            "sizes": {"file": objects.per_area(), "input": resized.per_area()},
            "lengths": {"file": _quantiles(objects.lengths), "input": _quantiles(resized.lengths)},
            "shorter_than": {
                str(length): int((resized.lengths < length).sum()) for length, _ in SHORTEST
            },
            "ratios": _quantiles(objects.ratios),
            "different_image_sizes": len(sizes),
            "image_sizes": [asdict(size) for size in sizes[:MOST_SIZES]],
        }
        if self.levels:
            assigned = np.bincount(self.levels.assign(resized), minlength=len(self.levels.names))
            counts["levels"] = dict(zip(self.levels.names, assigned.tolist()))
        if self.anchors:
            overlaps = self.overlaps[data.name]
            counts["anchors"] = asdict(AnchorFit.of(overlaps, self.anchors.threshold))
        return counts

    def as_json(self, title: str) -> bytes:
        """Export all numbers of the page."""
        content = {
            "title": title,
            "crnas_d2": __version__,
            "findings": [asdict(f) for f in self.findings],
            "notes": self.notes,
            "detector": self.detector(),
            "datasets": self.numbers,
            "advice": [advice.as_json() for advice in self.advice],
        }
        return to_json(content, indent=1, ensure_ascii=False).encode()

    def detector(self) -> dict[str, Any]:
        keys = ("MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST")
        return {
            "meta_architecture": self.cfg.MODEL.META_ARCHITECTURE,
            "input": {key: self.cfg.INPUT[key] for key in keys},
            "levels": (
                {**asdict(self.levels), "limits": self.levels.limits()} if self.levels else {}
            ),
            "anchors": asdict(self.anchors) if self.anchors else {},
        }

    def image_sizes(self, name: str) -> list[ImageSize]:
        """Get the image sizes of a dataset, the most common one first."""
        files, inputs = self.sets[name].objects.sizes, self.resized[name].sizes
        pairs = Counter(map(tuple, np.hstack([files, inputs]).astype(int).tolist()))
        return [
            ImageSize((w, h), (new_w, new_h), new_w / w, count)
            for (h, w, new_h, new_w), count in sorted(pairs.items(), key=lambda p: (-p[1], p[0]))
        ]

    @cached_property
    def samples(self) -> dict[str, dict[str, Any]]:
        """The images by the name of the dataset.

        An unreadable one that no check has reported is added to the findings as an error.
        """
        shown = {}
        for data in self.sets.values():
            if data.shown:
                masks = self.cfg.MODEL.MASK_ON
                try:
                    drawn, faults = draw_sample(data.images, data.objects, data.class_names, masks)
                except RuntimeError as error:  # OpenCV is missing
                    drawn, faults = [], {}
                    self.notes.append(f"No images are shown: {error}")
                shown[data.name] = {"drawn": drawn, "faults": list(faults.values())}
                told = [sentence for found in self.findings for sentence in found.errors]
                new = [f for path, f in faults.items() if not any(path in e for e in told)]
                if new:
                    self.findings.append(Findings(f"images of {data.name}", new))
        return shown


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES))}
