"""How well the anchors and the levels of a detector fit the objects of a dataset."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from detectron2.structures.boxes import matched_pairwise_iou

from ..data.objects import Objects
from ..modeling.meta import on_meta

# An IoU that is shown next to the detector's own threshold
HALF = 0.5
# Share of the objects that other anchors have to gain
GAIN = 0.05
# Share of the objects that other anchors may lose below HALF, where the RPN ignores them
LOSS = 0.01
GROWTHS = (2**0.5, 2**0.75)


@dataclass(frozen=True)
class Anchors:
    """The anchors of a detector.

    Attributes:
        names: names of the feature maps, from fine to coarse.
        strides: stride of each feature map in pixels.
        sizes, ratios: anchors of each feature map, as in ``MODEL.ANCHOR_GENERATOR``.
        offset: offset of the first anchor, in strides.
        threshold: IoU from which an anchor is trained as an object.
        divisor: number of which the sides of the detector's input are multiples.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]
    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[tuple[float, ...], ...]
    offset: float
    threshold: float
    divisor: int

    @classmethod
    def of(cls, cfg: CfgNode) -> Anchors:
        """Get the anchors of a detector from its config.

        Raises:
            ValueError: the detector has no anchors, or rotated ones.
        """
        generator = cfg.MODEL.ANCHOR_GENERATOR
        if generator.NAME != "DefaultAnchorGenerator":
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR.NAME is {generator.NAME!r}; expected "
                "'DefaultAnchorGenerator'"
            )
        head = cfg.MODEL.RETINANET if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else cfg.MODEL.RPN
        shapes, divisor = _feature_maps(cfg)
        names = tuple(head.IN_FEATURES)
        return cls(
            names,
            tuple(shapes[name] for name in names),
            _for_each(generator.SIZES, len(names)),
            _for_each(generator.ASPECT_RATIOS, len(names)),
            generator.OFFSET,
            head.IOU_THRESHOLDS[-1],
            divisor,
        )

    def best(self, objects: Objects) -> tuple[np.ndarray, np.ndarray]:
        """Find the anchor that overlaps each object most.

        The IoU decreases with the distance of the centers in x and in y, whatever the shapes are.
        So for each shape the nearest grid point is the best.

        Args:
            objects: objects in the detector's input.

        Returns:
            The best IoU of each object, with shape (n,), and the index of its feature map, with
            shape (n,). The first of equal ones wins.
        """
        boxes = torch.as_tensor(objects.boxes, dtype=torch.float32)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        sizes = torch.as_tensor(objects.sizes[objects.images][:, ::-1].copy())
        best = torch.full((len(boxes),), -1.0)
        levels = torch.zeros(len(boxes), dtype=torch.int64)
        for level, (stride, shapes) in enumerate(zip(self.strides, self._shapes())):
            padded = torch.ceil(sizes / self.divisor) * self.divisor
            last = torch.ceil(padded / stride).float() - 1
            steps = torch.round(centers / stride - self.offset).clamp(min=0)
            places = (torch.minimum(steps, last) + self.offset) * stride
            for shape in shapes:
                anchors = places.repeat(1, 2) + shape
                overlap = matched_pairwise_iou(Boxes(boxes), Boxes(anchors))
                levels[overlap > best] = level
                best = torch.maximum(best, overlap)
        return best.numpy(), levels.numpy()

    def reach(self, objects: Objects) -> AnchorFit:
        return AnchorFit.of(self.best(objects)[0], self.threshold)

    def settings(self) -> str:
        """Format the anchors as lines of a config."""

        def rounded(lists: Sequence[Sequence[float]]) -> list[list[float]]:
            return [[float(f"{v:.4g}") for v in values] for values in lists]

        same = len(set(self.ratios)) == 1
        ratios = rounded(self.ratios[:1] if same else self.ratios)
        return (
            "MODEL:\n  ANCHOR_GENERATOR:\n"
            f"    SIZES: {rounded(self.sizes)}\n    ASPECT_RATIOS: {ratios}\n"
        )

    def _shapes(self) -> Iterator[torch.Tensor]:
        """Iterate over the anchors of each feature map around (0, 0), with shape (k, 4)."""
        yield from DefaultAnchorGenerator(
            sizes=self.sizes, aspect_ratios=self.ratios, strides=self.strides, offset=self.offset
        ).cell_anchors


@dataclass(frozen=True)
class AnchorFit:
    """How well anchors fit some objects.

    Attributes:
        reached: share of the objects whose best anchor reaches the detector's threshold.
        half: share of the objects whose best anchor reaches :data:`HALF`.
        mean: mean of the best IoUs.
    """

    reached: float
    half: float
    mean: float

    @classmethod
    def of(cls, overlaps: np.ndarray, threshold: float) -> AnchorFit:
        if not len(overlaps):
            return cls(math.nan, math.nan, math.nan)
        reached, half = (float((overlaps >= t).mean()) for t in (threshold, HALF))
        return cls(reached, half, float(overlaps.mean()))


@dataclass(frozen=True)
class Levels:
    """The feature maps from which a detector's RoI heads pool objects.

    Attributes:
        names: names from fine to coarse.
        strides: strides in pixels.
        canonical_size, canonical_level: parameters of equation 1 in the FPN paper: an object with
            this length, the square root of its area, is pooled from this level.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]
    canonical_size: int = 224  # that of ROIPooler, which no config changes
    canonical_level: int = 4

    @classmethod
    def of(cls, cfg: CfgNode) -> Levels | None:
        """Get the levels from a config. None for a detector without RoI heads, such as RetinaNet."""
        if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
            return None
        names = tuple(cfg.MODEL.ROI_HEADS.IN_FEATURES)
        shapes, _ = _feature_maps(cfg)
        return cls(names, tuple(shapes[name] for name in names))

    def pooler(self) -> ROIPooler:
        scales = [1 / stride for stride in self.strides]
        return ROIPooler(
            1, scales, 0, "ROIAlignV2", self.canonical_size, canonical_level=self.canonical_level
        )

    def assign(self, objects: Objects) -> np.ndarray:
        """Get the index of the level of each object, with shape (n,).

        Args:
            objects: objects in the detector's input.
        """
        boxes = [Boxes(torch.as_tensor(objects.boxes, dtype=torch.float32))]
        pooler = self.pooler()
        return assign_boxes_to_levels(
            boxes,
            pooler.min_level,
            pooler.max_level,
            pooler.canonical_box_size,
            pooler.canonical_level,
        ).numpy()

    def limits(self) -> list[float]:
        """Get the object lengths in pixels at which one level ends and the next one begins."""
        first = round(math.log2(self.strides[0]))
        return [
            self.canonical_size * 2.0 ** (first + i - self.canonical_level)
            for i in range(1, len(self.names))
        ]


def suggest(anchors: Anchors, objects: Objects) -> Anchors | None:
    """Suggest as many other sizes and ratios, if they are measurably better.

    The candidate sizes are the config's own times a factor, or grow by one of :data:`GROWTHS` from
    one feature map to the next. The candidate ratios are the config's own, or quantiles of the
    objects' ratios. The best candidate is chosen on images with an even index and measured on the
    others.

    Args:
        anchors: anchors of the detector.
        objects: objects in the detector's input.

    Returns:
        The best of those candidates that lose at most :data:`LOSS` of the objects below
        :data:`HALF`. None unless the share of objects that reach the threshold increases by
        :data:`GAIN` and by twice its standard error.
    """
    even = objects.images % 2 == 0
    chosen, measured = objects.select(even), objects.select(~even)
    if not (len(chosen.boxes) and len(measured.boxes)):
        return None
    fits = {a: a.reach(chosen) for a in _candidates(anchors, chosen.ratios)}
    least = fits[anchors].half - LOSS
    best = max((a for a in fits if fits[a].half >= least), key=lambda a: fits[a].reached)
    reached = [(a.best(measured)[0] >= a.threshold).astype(float) for a in (best, anchors)]
    rise = reached[0] - reached[1]
    error = rise.std() / math.sqrt(len(rise))
    return best if rise.mean() >= max(GAIN, 2 * error) else None


def _candidates(anchors: Anchors, ratios: np.ndarray) -> Iterator[Anchors]:
    yield anchors
    count = len(anchors.ratios[0])
    quantiles = np.quantile(np.log2(ratios), (np.arange(count) + 0.5) / count)
    own = tuple(float(f"{2**q:.2g}") for q in quantiles)
    same = len({len(r) for r in anchors.ratios}) == 1
    choices = [anchors.ratios, *([(own,) * len(anchors.names)] if same else [])]
    first = anchors.sizes[0]
    scales = [anchors.sizes]
    for growth in GROWTHS:  # from one feature map to the next
        scales.append(tuple(tuple(s * growth**i for s in first) for i in range(len(anchors.names))))
    for sizes, factor, kept in product(scales, 2 ** np.arange(-2, 2.01, 0.25), choices):
        rounded = tuple(tuple(float(f"{s * factor:.3g}") for s in level) for level in sizes)
        yield replace(anchors, sizes=rounded, ratios=kept)


def _feature_maps(cfg: CfgNode) -> tuple[dict[str, int], int]:
    """Get the strides by name, and the number of which the sides of the input are multiples."""
    with on_meta():
        backbone = build_backbone(cfg)
    shapes = {name: shape.stride for name, shape in backbone.output_shape().items()}
    return shapes, max(backbone.size_divisibility, 1)


def _for_each(values: Sequence[Any], count: int) -> tuple[tuple[float, ...], ...]:
    """Expand values to one list for each feature map, as Detectron2 accepts one list for all."""
    levels = values if isinstance(values[0], (list, tuple)) else [values]
    lists = tuple(tuple(map(float, level)) for level in levels)
    return lists * count if len(lists) == 1 else lists
