"""Multiply-adds and parameters of a detector, module by module, with the number of RoIs fixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import GeneralizedRCNN, RetinaNet, build_model
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import BaseMaskRCNNHead, Res5ROIHeads, StandardROIHeads

INPUT_SIZE = (800, 1088)  # height and width: "the median of the input size on COCO" (Table 1)
PROPOSALS = 1000
MASK_ROIS = 100
WEIGHTED_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
PARTS = ("backbone", "neck", "RPN", "RoI heads", "dense head")  # in the order of the data flow


@dataclass(frozen=True)
class LayerCall:
    """One use of a layer in a forward pass.

    Attributes:
        name: path of the layer in the detector.
        layer: the layer.
        input_shape: of its first argument.
        output_shape: of its result, norm and activation that it carries included.
    """

    name: str
    layer: nn.Module
    input_shape: torch.Size
    output_shape: torch.Size

    @property
    def macs(self) -> int:
        """Multiply-adds with the weight, a bias not counted; 0 for a layer of another type than
        :data:`WEIGHTED_LAYERS`."""
        if not isinstance(self.layer, WEIGHTED_LAYERS):
            return 0
        if isinstance(self.layer, nn.Linear):
            uses = prod(self.input_shape[:-1])
        else:
            transposed = isinstance(self.layer, nn.ConvTranspose2d)
            batch, _, *size = self.input_shape if transposed else self.output_shape
            uses = batch * prod(size)
        return uses * self.layer.weight.numel()


@dataclass(frozen=True)
class ModuleCost:
    """What one module of a detector costs for one image.

    Attributes:
        part: one of :data:`PARTS`; "dense head" is RetinaNet's.
        name: the stage, layer group or head.
        macs: multiply-adds, for all RoIs in a head that runs on RoIs.
        parameters: number of learned values, frozen ones and those of FrozenBN included.
        rois: number of RoIs that the module runs on; None for one that runs on whole features.
            The res5 of C4 runs on those of the boxes, and on those of the masks once more.
    """

    part: str
    name: str
    macs: int
    parameters: int
    rois: int | None = None


@dataclass(frozen=True)
class DetectorCost:
    """The modules of a detector in the order of the data flow, and their sums."""

    modules: tuple[ModuleCost, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return sum(module.macs for module in self.modules)

    @property
    def backbone_macs(self) -> int:
        """Those of the backbone without its neck: the stages that ``MODEL.CR`` tells, and so with
        res5 where that lies in the RoI heads (C4)."""
        return sum(m.macs for m in self.modules if m.part == "backbone" or m.name == "res5")

    @property
    def parameters(self) -> int:
        """Number of learned values."""
        return sum(module.parameters for module in self.modules)


def analyze_detector(
    cfg: CfgNode,
    input_size: tuple[int, int] = INPUT_SIZE,
    proposals: int = PROPOSALS,
    mask_rois: int = MASK_ROIS,
) -> DetectorCost:
    """Measure a detector on the meta device: real shapes, no memory, no weights.

    Convolutions and linear layers count one multiply-add for each use of a weight. RoIAlign,
    norms, activations, element-wise sums, resizing, pooling and biases count nothing.

    Args:
        cfg: of a ``RetinaNet``, or of a ``GeneralizedRCNN`` with RPN and :class:`StandardROIHeads`,
            :class:`Res5ROIHeads` or a subclass, such as Cascade R-CNN. Any backbone and neck; layers
            of a neck other than FPN and NAS-FPN are one module.
        input_size: height and width of the image, in pixels, before the model pads it.
        proposals: RoIs of the box head, of each one in Cascade R-CNN. RetinaNet has none.
        mask_rois: RoIs of the mask head.

    Raises:
        ValueError: the config describes another detector, one with other heads too, or one with
            a layer that has a weight and is no convolution or linear layer; or a size or number
            is not positive.
    """
    model, calls = trace_detector(cfg, input_size, proposals, mask_rois)
    has_neck = hasattr(model.backbone, "bottom_up")
    leaves = (name for name, module in model.named_modules() if not any(module.children()))
    places = dict.fromkeys(filter(None, (_locate(name, has_neck) for name in leaves)))
    macs = _sum_by_place(((call.name, call.macs) for call in calls), has_neck)
    parameters = _sum_by_place(_learned_values(model), has_neck)

    masks = model.roi_heads.mask_on if isinstance(model, GeneralizedRCNN) else False
    rois = {
        "box": proposals,
        "mask": mask_rois,
        "res5": proposals + mask_rois if masks else proposals,
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


def trace_detector(
    cfg: CfgNode, input_size: tuple[int, int], proposals: int, mask_rois: int
) -> tuple[GeneralizedRCNN | RetinaNet, list[LayerCall]]:
    """Build a detector on the meta device and run each of its modules once, on one image.

    Args, Raises: as :func:`analyze_detector`.

    Returns:
        The detector in evaluation mode, and the calls of its layers in the order of their end.
    """
    sizes = (*input_size, proposals, mask_rois)
    if len(sizes) != 4 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            f"input_size {input_size}, proposals {proposals}, mask_rois {mask_rois}: "
            "expected height and width, and two numbers, all positive integers"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg).eval()
    _check_countable(cfg, model)

    with torch.no_grad(), _recorded_calls(model) as calls:
        image = torch.empty(3, *input_size, device="meta")
        features = model.backbone(model.preprocess_image([{"image": image}]).tensor)
        if isinstance(model, RetinaNet):
            model.head([features[name] for name in model.head_in_features])
        else:
            _run_two_stages(model, features, proposals, mask_rois)
    return model, calls


def _run_two_stages(
    model: GeneralizedRCNN, features: dict[str, torch.Tensor], proposals: int, mask_rois: int
) -> None:
    rpn = model.proposal_generator
    rpn.rpn_head([features[name] for name in rpn.in_features])

    heads = model.roi_heads
    if isinstance(heads, Res5ROIHeads):
        pooled = _pooled(features, heads.in_features, heads.pooler, proposals)
        heads.box_predictor(heads.res5(pooled).mean((2, 3)))
        if heads.mask_on:
            pooled = _pooled(features, heads.in_features, heads.pooler, mask_rois)
            heads.mask_head.layers(heads.res5(pooled))
        return
    pooled = _pooled(features, heads.box_in_features, heads.box_pooler, proposals)
    for head, predictor in zip(_each(heads.box_head), _each(heads.box_predictor), strict=True):
        predictor(head(pooled))
    if heads.mask_on:
        pooled = _pooled(features, heads.mask_in_features, heads.mask_pooler, mask_rois)
        heads.mask_head.layers(pooled)


def _check_countable(cfg: CfgNode, model: nn.Module) -> None:
    if isinstance(model, GeneralizedRCNN):
        _check_two_stages(cfg, model)
    elif not isinstance(model, RetinaNet):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}: the computation of a "
            "GeneralizedRCNN or a RetinaNet alone can be counted"
        )
    has_neck = hasattr(model.backbone, "bottom_up")
    for name, module in model.named_modules():
        dimensions = [parameter.ndim for parameter in module.parameters(recurse=False)]
        if dimensions and _locate(name, has_neck) is None:
            raise ValueError(
                f"{name} is not counted: expected a backbone, and RetinaNet's head or an RPN head, "
                "box heads and a mask head, alone"
            )
        if max(dimensions, default=0) > 1 and not isinstance(module, WEIGHTED_LAYERS):
            raise ValueError(
                f"{name} is a {type(module).__name__}: expected weights in "
                f"{', '.join(layer.__name__ for layer in WEIGHTED_LAYERS)} alone"
            )


def _check_two_stages(cfg: CfgNode, model: GeneralizedRCNN) -> None:
    if not isinstance(model.proposal_generator, RPN):
        raise ValueError(
            f"MODEL.PROPOSAL_GENERATOR.NAME is {cfg.MODEL.PROPOSAL_GENERATOR.NAME!r}: expected an RPN"
        )
    heads = model.roi_heads
    if not isinstance(heads, (StandardROIHeads, Res5ROIHeads)):
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME is {cfg.MODEL.ROI_HEADS.NAME!r}: expected StandardROIHeads, "
            "Res5ROIHeads or heads derived from them"
        )
    if heads.mask_on and not isinstance(heads.mask_head, BaseMaskRCNNHead):
        raise ValueError(
            f"MODEL.ROI_MASK_HEAD.NAME is {cfg.MODEL.ROI_MASK_HEAD.NAME!r}: expected a head derived "
            "from BaseMaskRCNNHead"
        )


@contextmanager
def _recorded_calls(model: nn.Module) -> Iterator[list[LayerCall]]:
    calls: list[LayerCall] = []
    handles = []

    def record(name: str) -> None:
        def hook(layer: nn.Module, args: tuple, output: object) -> None:
            if isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
                calls.append(LayerCall(name, layer, args[0].shape, output.shape))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, WEIGHTED_LAYERS) or not any(module.children()):
            handles.append(module.register_forward_hook(record(name)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _pooled(
    features: dict[str, torch.Tensor], names: list[str], pooler: nn.Module, rois: int
) -> torch.Tensor:
    feature = features[names[0]]
    return feature.new_empty(rois, feature.shape[1], *pooler.output_size)


def _each(heads: nn.Module) -> Iterable[nn.Module]:
    return heads if isinstance(heads, nn.ModuleList) else [heads]


def _learned_values(model: nn.Module) -> Iterator[tuple[str, int]]:
    for name, parameter in model.named_parameters():
        yield name, parameter.numel()
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):  # has buffers in place of parameters
            yield name, module.weight.numel() + module.bias.numel()


def _sum_by_place(
    amounts: Iterable[tuple[str, int]], has_neck: bool
) -> dict[tuple[str, str] | None, int]:
    sums: dict[tuple[str, str] | None, int] = {}
    for name, amount in amounts:
        place = _locate(name, has_neck)
        sums[place] = sums.get(place, 0) + amount
    return sums


def _locate(path: str, has_neck: bool) -> tuple[str, str] | None:
    """Part and name of the module that a layer or parameter belongs to; None for the poolers."""
    match path.split("."):
        case ["backbone", "bottom_up", stage, *_]:
            return "backbone", stage
        case ["backbone", stage, *_] if not has_neck:
            return "backbone", stage
        case ["backbone", layer, *_] if layer.startswith("fpn_lateral"):
            return "neck", "FPN lateral"
        case ["backbone", layer, *_] if layer.startswith("fpn_output"):
            return "neck", "FPN output"
        case ["backbone", "top_block", *_]:
            return "neck", "FPN top block"
        case ["backbone", "fpn_cells", *_]:
            return "neck", "NAS-FPN cells"
        case ["backbone", *_]:
            return "neck", "neck"
        case ["proposal_generator", "rpn_head", *_]:
            return "RPN", "RPN head"
        case ["roi_heads", "res5", *_]:
            return "RoI heads", "res5"
        case ["roi_heads", "box_head" | "box_predictor" as head, index, *_] if index.isdigit():
            return "RoI heads", f"{head.replace('_', ' ')} {int(index) + 1}"
        case ["roi_heads", "box_head" | "box_predictor" | "mask_head" as head, *_]:
            return "RoI heads", head.replace("_", " ")
        case ["head", "cls_subnet" | "cls_score", *_]:
            return "dense head", "class subnet"
        case ["head", "bbox_subnet" | "bbox_pred", *_]:
            return "dense head", "box subnet"
    return None
