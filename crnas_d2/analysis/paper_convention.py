"""An interpretation of how the paper counted the FLOPs of its Tables 1, 3 and 7."""

from __future__ import annotations

from math import prod

from torch import nn

from detectron2.config import CfgNode

from ..modeling.cr_mobilenetv2 import InvertedResidual
from .flops import INPUT_SIZE, MASK_ROIS, PROPOSALS
from .trace import LayerCall, trace_detector

BN_OPERATIONS = 4  # for each element


def paper_convention_gflops(cfg: CfgNode) -> float:
    """Count the operations of a detector in units of 1e9 such that the paper's numbers come out.

    The paper does not say how it counted. This convention was fitted to its printed numbers after
    the fact and reproduces all of them to the last digit. It is an interpretation, not the authors'
    counter:

    - The input is 800x1088, with 1000 RoIs in the box head and 100 in the mask head.
    - A convolution counts its multiply-adds and its biases, a transposed one as if each output
      position used the whole kernel. A linear layer counts ``(2 * in - 1) * out``. A batch norm
      counts 4 for each element.
    - There is a BN after each convolution of the backbone, and none in FPN and heads.
    - Background is an additional class in all predictions by class: two scores for each anchor, and
      one more set of boxes and one more mask for each RoI.
    - The first inverted residual of MobileNetV2, which has no expansion (t = 1), has a 1x1
      convolution like the others. Torchvision's network, and ours, has none.

    With it, the paper's rows of ResNet50 and of ResNet101 in Tables 1 and 7 appear to be swapped
    between baseline and CR: CR networks have fewer BN elements, and so fewer operations, as in
    Table 3.

    The arguments and errors are those of :func:`analyze_detector`, restricted to two-stage
    detectors, as the paper has no others.
    """
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}; expected a GeneralizedRCNN, "
            "as the paper counts no other"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.FPN.NORM = ""
    trace = trace_detector(cfg, INPUT_SIZE, PROPOSALS, MASK_ROIS)

    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    outputs_with_background = {
        "proposal_generator.rpn_head.objectness_logits": (1, 2),
        "roi_heads.box_predictor.bbox_pred": (classes, classes + 1),
        "roi_heads.mask_head.predictor": (classes, classes + 1),
    }
    unexpanded = {
        f"{name}.depthwise"
        for name, module in trace.model.named_modules()
        if isinstance(module, InvertedResidual) and module.expand is None
    }
    operations = 0
    for call in trace.calls:
        without, with_background = outputs_with_background.get(call.name, (1, 1))
        operations += _operations(call) * with_background // without
        if call.name in unexpanded:
            channels, elements = call.input_shape[1], call.input_shape.numel()
            operations += elements * (channels + BN_OPERATIONS)
    return operations / 1e9


def _operations(call: LayerCall) -> int:
    layer, elements = call.layer, call.output_shape.numel()
    if isinstance(layer, nn.BatchNorm2d):
        return BN_OPERATIONS * elements
    if isinstance(layer, nn.Linear):
        return (2 * layer.in_features - 1) * elements
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        batch, _, *size = call.output_shape
        biases = 0 if layer.bias is None else elements
        return layer.weight.numel() * batch * prod(size) + biases
    return 0
