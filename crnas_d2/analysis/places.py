"""The modules of a detector in the order of the data flow, by the names of their layers."""

from __future__ import annotations

PARTS = ("backbone", "neck", "RPN", "RoI heads", "semantic segmentation", "dense head")


def locate(path: str, has_neck: bool) -> tuple[str, str] | None:
    """Get the part and name of the module that a layer or parameter belongs to. None for poolers."""
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
        case [
            "roi_heads",
            "box_head" | "box_predictor" | "mask_head" | "keypoint_head" as head,
            *_,
        ]:
            return "RoI heads", head.replace("_", " ")
        case ["sem_seg_head", *_]:
            return "semantic segmentation", "semantic head"
        case ["head", "cls_subnet" | "cls_score", *_]:
            return "dense head", "class subnet"
        case ["head", "bbox_subnet" | "bbox_pred" | "ctrness", *_]:
            return "dense head", "box subnet"
    return None
