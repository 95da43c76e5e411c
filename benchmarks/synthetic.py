"""A detector and images for it, for measurements of time, memory and traffic."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from crnas_d2 import get_config
from crnas_d2.engine.sync_bn import without_needless_sync_bn
from crnas_d2.modeling.builder_names import supernet_kind, without_supernet

from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances


def load_config(name: str, opts: Sequence[str]) -> CfgNode:
    """Load a config below ``configs/``, with random weights, and the GPU if there is one."""
    cfg = get_config(name)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.SOLVER.BASE_LR = 1e-8  # steps do the same work, and random weights cannot diverge
    cfg.merge_from_list(list(opts))
    return without_needless_sync_bn(cfg)


def final_config(cfg: CfgNode, path: Sequence[int]) -> CfgNode:
    """Get the config of the final network of a path from the config of a supernet."""
    final = cfg.clone()
    final.defrost()
    final.MODEL.BACKBONE.NAME = without_supernet(cfg.MODEL.BACKBONE.NAME)
    is_stage_code = supernet_kind(cfg.MODEL.BACKBONE.NAME) == "stage"
    final.MODEL.CR["STAGE_CODE" if is_stage_code else "OPERATION_CODE"] = list(path)
    return final


def make_batch(cfg: CfgNode, images: int, height: int, width: int) -> list[dict]:
    """Make random images with ten random boxes each, in the format of Detectron2's training loader."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(10, generator=generator)

    batch = []
    for _ in range(images):
        w, h = uniform(0.1, 0.5) * width, uniform(0.1, 0.5) * height
        x, y = uniform(0, 1) * (width - w), uniform(0, 1) * (height - h)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.stack([x, y, x + w, y + h], 1))
        classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        instances.gt_classes = torch.randint(classes, (10,), generator=generator)
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
    return batch
