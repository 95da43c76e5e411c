"""Multiply-adds and parameters of a detector, module by module, with a fixed number of RoIs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d

from .places import PARTS, locate
from .trace import trace_detector

INPUT_SIZE = (800, 1088)  # height and width: "the median of the input size on COCO" (Table 1)
PROPOSALS = 1000
MASK_ROIS = 100

# What has been counted, by the parts of the config that it depends on: a search asks after each step
_COUNTED: dict[str, DetectorCost] = {}


@dataclass(frozen=True)
class ModuleCost:
    """The cost of one module of a detector for one image.

    Attributes:
        part: one of :data:`PARTS`. "dense head" is that of RetinaNet or FCOS.
        name: name of the stage, layer group or head.
        macs: multiply-adds, for all RoIs in a head that runs on RoIs.
        parameters: number of learned values, including frozen ones and those of FrozenBN.
        rois: number of RoIs that the module runs on. None for one that runs on whole features. The
            res5 of C4 runs on those of the boxes, and again on those of the masks.
    """

    part: str
    name: str
    macs: int
    parameters: int
    rois: int | None = None


@dataclass(frozen=True)
class DetectorCost:
    """The modules of a detector in the order of the data flow, and their totals."""

    modules: tuple[ModuleCost, ...]

    @property
    def macs(self) -> int:
        """The multiply-adds for one image."""
        return sum(module.macs for module in self.modules)

    @property
    def backbone_macs(self) -> int:
        """The multiply-adds of the backbone without its neck.

        They are those of all stages that ``MODEL.CR`` describes, so they include res5 where it
        belongs to the RoI heads (C4).
        """
        return sum(m.macs for m in self.modules if m.part == "backbone" or m.name == "res5")

    def has(self, name: str, part: str = "RoI heads") -> bool:
        """Tell whether a part has a module of this name."""
        return any((module.part, module.name) == (part, name) for module in self.modules)

    @property
    def parameters(self) -> int:
        """The number of learned values."""
        return sum(module.parameters for module in self.modules)


def analyze_detector(
    detector: CfgNode | nn.Module,
    input_size: tuple[int, int] = INPUT_SIZE,
    proposals: int = PROPOSALS,
    mask_rois: int = MASK_ROIS,
) -> DetectorCost:
    """Count the cost of a detector on the meta device, with real shapes but no memory or weights.

    That of a config is counted once in a process.

    The operators are counted by torch, see :mod:`torch.utils.flop_counter`: convolutions and matrix
    products, with one multiply-add for two of its FLOPs. RoIAlign, norms, activations, element-wise
    sums, resizing, pooling and biases are not counted.

    Args:
        detector: config of the detector, or the model, which is left unchanged. It is a
            ``GeneralizedRCNN`` with :class:`StandardROIHeads`, :class:`Res5ROIHeads` or a subclass,
            such as Cascade R-CNN, with masks and keypoints; or a ``PanopticFPN``,
            ``ProposalNetwork``, ``SemanticSegmentor``, ``RetinaNet`` or ``FCOS``. Any backbone and
            neck will do. Layers of a neck other than FPN and NAS-FPN are one module.
        input_size: height and width of the image in pixels, before the model pads it.
        proposals: number of RoIs of the box head, for each stage in Cascade R-CNN.
        mask_rois: number of RoIs of the mask head, and of the keypoint head.

    Raises:
        ValueError: the detector is of another kind, has other heads too, or has a weight that no
            counted operator uses; or a size or number is not positive.
    """
    if not isinstance(detector, CfgNode):
        return _count(detector, input_size, proposals, mask_rois)
    # As texts: 800.0, which is refused, would be the key 800
    key = str((detector.MODEL, detector.INPUT, detector.TEST, input_size, proposals, mask_rois))
    if key not in _COUNTED:
        _COUNTED[key] = _count(detector, input_size, proposals, mask_rois)
    return _COUNTED[key]


def _count(
    detector: CfgNode | nn.Module, input_size: tuple[int, int], proposals: int, mask_rois: int
) -> DetectorCost:
    trace = trace_detector(detector, input_size, proposals, mask_rois)
    model = trace.model
    has_neck = hasattr(model.backbone, "bottom_up")
    leaves = (name for name, module in model.named_modules() if not any(module.children()))
    places = dict.fromkeys(filter(None, (locate(name, has_neck) for name in leaves)))
    macs = _sum_by_place(trace.macs.items(), has_neck)
    parameters = _sum_by_place(_learned_values(model), has_neck)

    has_masks = ("RoI heads", "mask head") in places
    rois = {
        "box": proposals,
        "mask": mask_rois,
        "keypoint": mask_rois,
        "res5": proposals + mask_rois if has_masks else proposals,
    }
    return DetectorCost(
        tuple(
            ModuleCost(
                part=part,
                name=name,
                macs=macs.get((part, name), 0),
                parameters=parameters.get((part, name), 0),
                rois=rois[name.split()[0]] if part == "RoI heads" else None,
            )
            for part, name in sorted(places, key=lambda place: PARTS.index(place[0]))
        )
    )


def _learned_values(model: nn.Module) -> Iterator[tuple[str, int]]:
    for name, parameter in model.named_parameters():
        yield name, parameter.numel()
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):  # it has buffers in place of parameters
            yield name, module.weight.numel() + module.bias.numel()


def _sum_by_place(
    amounts: Iterable[tuple[str, int]], has_neck: bool
) -> dict[tuple[str, str] | None, int]:
    sums: dict[tuple[str, str] | None, int] = {}
    for name, amount in amounts:
        place = locate(name, has_neck)
        sums[place] = sums.get(place, 0) + amount
    return sums
