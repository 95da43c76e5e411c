"""The backbones in Detectron2's registry: each network on its own, and with each neck."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from ..config import get_architecture
from .cr_mobilenetv2 import CRMobileNetV2
from .cr_resnet import CRResNet
from .dilation_supernet import DilationSupernet
from .fpn import build_fpn, build_retinanet_fpn
from .nas_fpn import build_nasfpn
from .stage_supernet import StageSupernet

Builder = Callable[[CfgNode, ShapeSpec], Backbone]
Neck = Callable[[CfgNode, Backbone], Backbone]

NETWORKS: Mapping[str, type[Backbone]] = MappingProxyType(
    {"resnet": CRResNet, "mobilenetv2": CRMobileNetV2}
)


def _build_network(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    return NETWORKS[get_architecture(cfg).family](cfg, input_shape)


# Each with a description of what it builds. The older names, which contain the family, refuse a
# config with another family.
BODIES: Mapping[str, tuple[Builder, str]] = MappingProxyType(
    {
        "cr": (_build_network, "A network of the family ``MODEL.CR.FAMILY``"),
        "stage_supernet": (StageSupernet, "A :class:`StageSupernet`"),
        "dilation_supernet": (DilationSupernet, "A :class:`DilationSupernet`"),
        "cr_resnet": (CRResNet, "A :class:`CRResNet`"),
        "cr_mobilenetv2": (CRMobileNetV2, "A :class:`CRMobileNetV2`"),
    }
)
# Without a neck, the builder returns the network itself.
NECKS: Mapping[str, Neck | None] = MappingProxyType(
    {
        "": None,
        "_fpn": build_fpn,
        "_retinanet_fpn": build_retinanet_fpn,
        "_nasfpn": build_nasfpn,
    }
)


def _register(name: str, body: Builder, what: str, neck: Neck | None) -> Builder:
    def build(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
        bottom_up = body(cfg, input_shape)
        return neck(cfg, bottom_up) if neck else bottom_up

    build.__name__ = build.__qualname__ = name
    build.__module__ = __package__
    over = f" Over it: {neck.__doc__.splitlines()[0]}" if neck and neck.__doc__ else ""
    build.__doc__ = f"{what} from a config.{over}"
    BACKBONE_REGISTRY.register(build)
    return build


# By the name in MODEL.BACKBONE.NAME
BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {
        name: _register(name, *body, neck)
        for body_name, body in BODIES.items()
        for neck_name, neck in NECKS.items()
        for name in [f"build_{body_name}{neck_name}_backbone"]
    }
)
