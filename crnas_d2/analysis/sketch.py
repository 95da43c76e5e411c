"""Sketches of architectures as in figure 4: their blocks, dilations and cost, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from ..architecture import ARCHITECTURES, Architecture, get_family
from ..config import get_architecture, get_config, set_architecture
from ..config_files import name_in_configs
from ..modeling.supernet import build_stages
from .flops import analyze_detector

# Prefix of the builders whose backbones MODEL.CR describes
BUILDERS = "build_cr_"


@dataclass(frozen=True)
class SketchedStage:
    """A stage of a network.

    Attributes:
        name: name such as "res4".
        stride: stride of its output relative to the image. None if it runs on RoIs (C4).
        dilations: dilation of the 3x3 convolution of each block. Empty for a single layer, which is
            not a choice block.
        macs: multiply-adds.
    """

    name: str
    stride: int | None
    dilations: tuple[int, ...]
    macs: int


@dataclass(frozen=True)
class SketchedNetwork:
    """A backbone, with its stages in the order of the data flow, including the stem."""

    label: str
    stages: tuple[SketchedStage, ...]

    @classmethod
    def from_config(cls, label: str, cfg: CfgNode) -> SketchedNetwork:
        """Sketch the backbone of a detector, counted by :func:`analyze_detector` at 800x1088.

        Raises:
            ValueError: the backbone does not have a single architecture, such as a supernet, or the
                detector cannot be counted.
        """
        builder = cfg.MODEL.BACKBONE.NAME
        if not builder.startswith(BUILDERS):
            raise ValueError(
                f"{label}: MODEL.BACKBONE.NAME is {builder!r}; expected a backbone that "
                "MODEL.CR describes, such as 'build_cr_fpn_backbone'"
            )
        architecture = get_architecture(cfg)
        family = get_family(architecture.family)
        rules = build_stages(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
        dilations = {
            stage: rules.real_dilations(stage, entries)
            for stage, entries in zip(family.stages, architecture.dilations)
            if stage not in family.single
        }
        macs = {m.name: m for m in analyze_detector(cfg).modules if m.name in rules.names}
        stages, stride = [], 1
        for name in filter(macs.__contains__, rules.names):
            stride *= rules.stride(name)
            where = stride if macs[name].rois is None else None
            stages.append(SketchedStage(name, where, dilations.get(name, ()), macs[name].macs))
        return cls(label, tuple(stages))

    @classmethod
    def from_architecture(
        cls, label: str, architecture: Architecture, block: str = "bottleneck"
    ) -> SketchedNetwork:
        """Sketch a backbone with the widths of ResNet50, ResNet18 or MobileNetV2 and other codes.

        Args:
            label: label of the sketch.
            architecture: the codes.
            block: "bottleneck" or "basic", for the ResNet family.

        Raises:
            ValueError: there is no such block.
        """
        networks = {"bottleneck": "R_50", "basic": "R_18"}
        if block not in networks:
            raise ValueError(f"block is {block!r}; expected one of {sorted(networks)}")
        network = networks[block] if architecture.family == "resnet" else "MNV2"
        cfg = _shipped_config(network)
        set_architecture(cfg, architecture)
        return cls.from_config(label, cfg)

    @classmethod
    def published(cls, name: str, label: str = "") -> SketchedNetwork:
        """Sketch one of :data:`ARCHITECTURES`, with its widths and groups.

        Args:
            name: name of the architecture.
            label: label to use instead of the name.

        Raises:
            ValueError: there is no such name.
        """
        if name not in ARCHITECTURES:
            raise ValueError(
                f"architecture is {name!r}; expected a published one of one of {', '.join(ARCHITECTURES)}"
            )
        return cls.from_config(label or name, _shipped_config(name_in_configs(name)))

    @property
    def macs(self) -> int:
        """The multiply-adds of the backbone for one image."""
        return sum(stage.macs for stage in self.stages)

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of each stage in the multiply-adds. The shares add up to 1."""
        return tuple(stage.macs / self.macs for stage in self.stages)


def _shipped_config(network: str) -> CfgNode:
    return get_config(f"COCO-Detection/faster_rcnn_{network}_FPN_1x.yaml")
