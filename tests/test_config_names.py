"""A config that is nothing but its bases has those that its name says."""

import re
from pathlib import Path

import pytest
import yaml

from crnas_d2.config import configs_dir

ROOT = Path(configs_dir())
NAME = re.compile(
    r"(?:(.+?)_)??((?:S?CR_)?(?:R|X|MNV2)(?:_\d+)?(?:_32x4d)?)(?:_([A-Z]\w*?))?(?:_(\w+))?"
)
HALF = {"R_18": "Basic", "R_50": "Bottleneck", "R_101": "Bottleneck"}
HALF |= {"X_50_32x4d": "ResNeXt", "X_101_32x4d": "ResNeXt"}


def read_derived():
    """The bases of each config without keys of its own, by its name."""
    bases = {}
    for path in sorted(ROOT.glob("*/*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if content.keys() == {"_BASE_"}:
            bases[path.relative_to(ROOT).as_posix()] = content["_BASE_"]
    return bases


DERIVED = read_derived()


def bases_by_name(name):
    folder, _, stem = name.removesuffix(".yaml").partition("/")
    kind, network, neck, schedule = NAME.fullmatch(stem).groups()
    half = HALF.get(re.sub("^S?CR_", "", network))
    network_file = f"../Networks/{network}.yaml"
    halves = [f"../Networks/Base-Half-{half}.yaml"] if half else []
    if folder == "COCO-InstanceSegmentation":
        return [f"../COCO-Detection/faster_rcnn_{network}_FPN_1x.yaml", "Base-Mask-RCNN.yaml"]
    if folder == "COCO-Cascade":
        masks = f"../COCO-InstanceSegmentation/mask_rcnn_{network}_FPN_1x.yaml"
        return [masks, f"Base-Cascade-{schedule}.yaml"]
    if folder == "PascalVOC-Detection":
        return [f"../COCO-Detection/faster_rcnn_{network}_FPN_1x.yaml", f"Base-VOC-{schedule}.yaml"]
    if folder == "COCO-Detection" and schedule == "2x":
        return [f"{stem.removesuffix('2x')}1x.yaml", "../Base-2x.yaml"]
    if folder == "COCO-Detection":
        heads = ["../Base-RetinaNet.yaml"] if kind == "retinanet" else []
        reallocated = ["../Base-Reallocated.yaml"] if "CR_" in network else []
        return [f"../Base-RCNN-{neck}.yaml", *heads, network_file, *reallocated]
    if folder == "Small-Data" and kind == "retinanet":
        return [f"faster_rcnn_{network}_FPN.yaml", "Base-RetinaNet.yaml"]
    if folder == "Small-Data":  # the smallest network is trained from random weights
        return ["Base-Small-Data.yaml", network_file, *(halves if "R_18" in network else [])]
    if kind is None:
        return [f"Base-{folder}.yaml", network_file]
    return [f"Base-{kind.title().replace('_', '-')}.yaml", network_file, *halves]


@pytest.mark.parametrize("name", DERIVED)
def test_bases_are_those_of_the_name(name):
    assert DERIVED[name] == bases_by_name(name)
