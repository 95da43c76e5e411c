"""The costs of two networks at the paper's input size, and at that of the test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_backbone

from ..analysis.flops import INPUT_SIZE, PROPOSALS, DetectorCost, ModuleCost, analyze_detector
from ..modeling.meta import on_meta
from ..procedure.networks import Network

Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class InputSize:
    """The size at which the most common image of a test set passes through a detector.

    Attributes:
        image: size of that image.
        resized: size after the config's ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``.
        padded: size after padding to a multiple that the backbone requires.
    """

    image: Size
    resized: Size
    padded: Size

    @classmethod
    def of(cls, cfg: CfgNode, images: Sequence[Mapping[str, Any]]) -> InputSize:
        """Determine the input size.

        Args:
            cfg: config of the detector.
            images: images of the test set in Detectron2's format.

        Raises:
            ValueError: the images do not state their sizes.
        """
        sizes = Counter((i["height"], i["width"]) for i in images if "height" in i and "width" in i)
        if not sizes:
            raise ValueError("the test set has no image with a height and a width")
        [(image, _)] = sizes.most_common(1)
        resized = image
        if cfg.INPUT.MIN_SIZE_TEST > 0:
            resized = ResizeShortestEdge.get_output_shape(
                *image, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
            )
        with on_meta():
            step = max(build_backbone(cfg).size_divisibility, 1)
        return cls(image, resized, tuple(-(-side // step) * step for side in resized))

    def __str__(self) -> str:
        return format_size(self.padded)


def format_size(size: Size) -> str:
    return " x ".join(map(str, size))


@dataclass(frozen=True)
class Costs:
    """The costs of a baseline and of what was found, module by module.

    Attributes:
        networks: the two networks.
        costs: their costs at the paper's input size.
        tested_size: input size of the test. None if it is unknown.
    """

    networks: tuple[Network, Network]
    costs: tuple[DetectorCost, DetectorCost]
    tested_size: InputSize | None

    @cached_property
    def by_size(self) -> dict[str, tuple[DetectorCost, DetectorCost]]:
        """The costs of the two networks by the size of the image, without duplicate sizes."""
        costs = {format_size(INPUT_SIZE): self.costs}
        if self.tested_size and str(self.tested_size) not in costs:
            padded, (baseline, found) = self.tested_size.padded, self.networks
            costs[str(self.tested_size)] = (
                analyze_detector(baseline.cfg, padded),
                analyze_detector(found.cfg, padded),
            )
        return costs

    def explain(self) -> str:
        """Explain what is counted, and where the sizes come from."""
        paper = format_size(INPUT_SIZE)
        sentence = (
            f"GMACs: multiply-adds (1e9) of one image, height x width, with {PROPOSALS} proposals, "
            f"as the command analyze counts them. {paper} is the size of the paper"
        )
        size = self.tested_size
        if not size:
            return f"{sentence}."
        padded = f", padded to {size}" if size.resized != size.padded else ""
        origin = (
            f"the most common size of the test images, {format_size(size.image)}, "
            f"resized to {format_size(size.resized)}{padded}"
        )
        return f"{sentence}; {origin}, is " + ("the same." if str(size) == paper else "the other.")

    def tables(self) -> Iterator[tuple[str, list[tuple[str, float, float]]]]:
        """Iterate over tables of GMACs at each size, then of millions of parameters.

        Each has a title, and for each module its name and the numbers of the two networks. The last
        row is the whole detector.
        """
        for size, pair in self.by_size.items():
            yield f"GMACs, {size}", _rows(pair, lambda cost: cost.macs / 1e9)
        yield "M parameters", _rows(self.costs, lambda cost: cost.parameters / 1e6)


def _rows(
    pair: tuple[DetectorCost, DetectorCost], number: Callable[[DetectorCost | ModuleCost], float]
) -> list[tuple[str, float, float]]:
    # Networks that only differ in the codes of their backbones have the same modules.
    baseline, found = pair
    modules = zip(baseline.modules, found.modules, strict=True)
    rows = [(b.name, number(b), number(f)) for b, f in modules]
    return [*rows, ("detector", number(baseline), number(found))]
