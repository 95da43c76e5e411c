"""A detector on the meta device, and the calls of its layers, with the number of RoIs fixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, RetinaNet, build_model
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import BaseMaskRCNNHead, Res5ROIHeads, StandardROIHeads

from .places import locate

WEIGHTED_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


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


def trace_detector(
    cfg: CfgNode, input_size: tuple[int, int], proposals: int, mask_rois: int
) -> tuple[GeneralizedRCNN | RetinaNet, list[LayerCall]]:
    """Build a detector on the meta device and run each of its modules once, on one image.

    Args, Raises: as :func:`.flops.analyze_detector`.

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
        if dimensions and locate(name, has_neck) is None:
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
