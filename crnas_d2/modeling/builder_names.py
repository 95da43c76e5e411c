"""What the name of a backbone builder, ``build_{network}{neck}_backbone``, says of the backbone."""

from __future__ import annotations

import re


def supernet_kind(builder: str) -> str | None:
    """Get "stage" or "dilation", or None if the builder does not build a supernet."""
    found = re.search("(stage|dilation)_supernet", builder)
    return found and found[1]


def neck_of(builder: str) -> str:
    """Get "fpn", "retinanet_fpn" or "nasfpn". Empty if the builder adds no feature pyramid."""
    found = re.search("_(retinanet_fpn|fpn|nasfpn)_backbone$", builder)
    return found[1] if found else ""


def without_supernet(builder: str) -> str:
    """Get the builder of a single network of a supernet, with the same neck."""
    return re.sub("(stage|dilation)_supernet", "cr", builder)


def without_family(builder: str) -> str:
    """Get the builder that an older name, which contains the family, is an alias of."""
    return re.sub("^build_cr_(resnet|mobilenetv2)", "build_cr", builder)
