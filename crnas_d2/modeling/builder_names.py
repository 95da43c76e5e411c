"""What the name of a backbone builder, ``build_{network}{neck}_backbone``, says of the backbone."""

from __future__ import annotations

import re


def supernet_kind(builder: str) -> str | None:
    """Gives "stage" or "dilation", None where it builds no supernet."""
    found = re.search("(stage|dilation)_supernet", builder)
    return found and found[1]


def neck_of(builder: str) -> str:
    """Gives "fpn", "retinanet_fpn" or "nasfpn"; empty where it builds no pyramid."""
    found = re.search("_(retinanet_fpn|fpn|nasfpn)_backbone$", builder)
    return found[1] if found else ""


def without_supernet(builder: str) -> str:
    """The builder of one network of a supernet, under the same neck."""
    return re.sub("(stage|dilation)_supernet", "cr", builder)


def without_family(builder: str) -> str:
    """The builder of which a name with the family in it, as names once were, is an alias."""
    return re.sub("^build_cr_(resnet|mobilenetv2)", "build_cr", builder)
