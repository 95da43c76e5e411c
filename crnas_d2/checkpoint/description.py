"""A description of converted weights: their network, and how its images must be prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import yaml

from detectron2.modeling import Backbone

from ..modeling import CRMobileNetV2, CRResNet

# Metadata entry "format" of a file that holds only a backbone, or a model with its heads
BACKBONE_FORMAT, MODEL_FORMAT = "crnas_d2.backbone", "crnas_d2.model"


@dataclass(frozen=True)
class Convention:
    """How a project preprocesses its images, and where its bottlenecks have the stride.

    Attributes:
        input_format: order of the channels, as in ``INPUT.FORMAT``.
        pixel_mean: mean from 0 to 255, in that order.
        pixel_std: standard deviation, likewise.
        stride_in_1x1: see :class:`CRResNet`.
    """

    input_format: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    stride_in_1x1: bool

    def settings(self) -> dict[str, str]:
        """Get the values as strings by config key."""
        return {
            "INPUT.FORMAT": self.input_format,
            "MODEL.PIXEL_MEAN": str(list(self.pixel_mean)),
            "MODEL.PIXEL_STD": str(list(self.pixel_std)),
            "MODEL.RESNETS.STRIDE_IN_1X1": str(self.stride_in_1x1),
        }


_TORCH = Convention("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False)
CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        "torchvision": _TORCH,
        "timm": _TORCH,
        # as Detectron2's configs use MSRA/R-50.pkl and FAIR/X-101-32x8d.pkl
        "msra": Convention("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), True),
        "fair": Convention("BGR", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), False),
    }
)


@dataclass(frozen=True)
class Description:
    """The network that a state dict turned out to belong to.

    Attributes:
        source: origin of the weights, such as a key of ``CONVENTIONS``.
        family: family of the network, as in ``MODEL.CR.FAMILY``.
        arguments: arguments of the backbone's constructor that the weights determine.
        dropped: keys of the input that do not contribute to the features.
        settings: config values that the weights need, as strings by config key.
    """

    source: str
    family: str
    arguments: Mapping[str, Any]
    dropped: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        arguments = (f"{name} {value}" for name, value in self.arguments.items())
        return f"{self.family} of {self.source}: {', '.join(arguments)}"

    def build(self, **options: Any) -> Backbone:
        """Build the backbone with fresh weights. ``options`` add or override arguments."""
        backbone = {"resnet": CRResNet, "mobilenetv2": CRMobileNetV2}[self.family]
        return backbone(**{**self.arguments, **options})

    def config(self) -> dict[str, Any]:
        """Get the nested values of a Detectron2 config that the weights need."""
        flat = {"MODEL.CR.FAMILY": self.family}
        for name, value in self.arguments.items():
            of_cr = name in ("block", "stage_code", "operation_code", "width_multiplier")
            flat[f"MODEL.{'CR' if of_cr else 'RESNETS'}.{name.upper()}"] = value
        flat.update({k: yaml.safe_load(v) if v else v for k, v in self.settings.items()})
        config: dict[str, Any] = {}
        for key, value in flat.items():
            node = config
            *sections, name = key.split(".")
            for section in sections:
                node = node.setdefault(section, {})
            node[name] = value
        return config
