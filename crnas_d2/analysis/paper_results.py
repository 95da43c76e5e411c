"""The numbers printed in the paper, by the name of the config that reproduces the experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class PaperResult:
    """A row of a table in the paper. None of it was measured by this project.

    Attributes:
        table: number of the table.
        box_ap: AP of the boxes on COCO minival, in percent. None in Table 2, which is on VOC.
        gflops: "on the whole detector (w/o ROIAlign layer) using the input size 800x1088". None in
            Tables 2, 4, 8 and 9, which have no such column.
        mask_ap: AP of the masks in percent, in Table 3.
        box_ap50: AP of the boxes at IoU 0.5 on VOC test2007 in percent, in Table 2.
    """

    table: int
    box_ap: float | None = None
    gflops: float | None = None
    mask_ap: float | None = None
    box_ap50: float | None = None


# fmt: off
_FASTER_RCNN = {
    "MNV2_FPN_1x": PaperResult(1, 32.2, 121.1),
    "CR_MNV2_FPN_1x": PaperResult(1, 33.9, 121.4),
    "R_18_FPN_1x": PaperResult(1, 32.1, 147.7),
    "CR_R_18_FPN_1x": PaperResult(1, 33.8, 147.6),
    "R_50_FPN_1x": PaperResult(1, 36.4, 192.5),
    "CR_R_50_FPN_1x": PaperResult(1, 38.3, 192.7),
    "R_101_FPN_1x": PaperResult(1, 38.6, 257.3),
    "CR_R_101_FPN_1x": PaperResult(1, 40.2, 257.5),
    "SCR_MNV2_FPN_1x": PaperResult(4, 33.5),
    "SCR_R_18_FPN_1x": PaperResult(4, 33.4),
    "SCR_R_50_FPN_1x": PaperResult(4, 37.4),
    "SCR_R_101_FPN_1x": PaperResult(4, 39.5),
    "X_50_32x4d_FPN_1x": PaperResult(4, 37.9),
    "SCR_X_50_32x4d_FPN_1x": PaperResult(4, 38.9),
    "X_101_32x4d_FPN_1x": PaperResult(4, 40.6),
    "SCR_X_101_32x4d_FPN_1x": PaperResult(4, 41.5),
    "R_50_FPN_2x": PaperResult(7, 37.6, 192.5),
    "CR_R_50_FPN_2x": PaperResult(7, 39.3, 192.7),
    "R_101_FPN_2x": PaperResult(7, 39.8, 257.3),
    "CR_R_101_FPN_2x": PaperResult(7, 41.2, 257.5),
    "R_50_NASFPN_1x": PaperResult(9, 39.6),
    "CR_R_50_NASFPN_1x": PaperResult(9, 41.0),
}
_MASK_RCNN = {
    "MNV2_FPN_1x": PaperResult(3, 33.1, 189.5, mask_ap=30.6),
    "CR_MNV2_FPN_1x": PaperResult(3, 34.6, 189.8, mask_ap=31.8),
    "R_50_FPN_1x": PaperResult(3, 37.6, 261.2, mask_ap=33.9),
    "CR_R_50_FPN_1x": PaperResult(3, 39.1, 261.0, mask_ap=35.2),
    "R_101_FPN_1x": PaperResult(3, 39.7, 325.9, mask_ap=35.6),
    "CR_R_101_FPN_1x": PaperResult(3, 41.5, 325.8, mask_ap=36.7),
}
_CASCADE_MASK_RCNN = {
    "R_101_FPN_20e": PaperResult(8, 43.3),
    "CR_R_101_FPN_20e": PaperResult(8, 44.5),
}
_FASTER_RCNN_ON_VOC = {
    "R_50_FPN_18e": PaperResult(2, box_ap50=84.1),
    "CR_R_50_FPN_18e": PaperResult(2, box_ap50=85.1),
    "R_101_FPN_18e": PaperResult(2, box_ap50=85.8),
    "CR_R_101_FPN_18e": PaperResult(2, box_ap50=86.5),
}
# fmt: on

PAPER_RESULTS: Mapping[str, PaperResult] = MappingProxyType(
    {
        f"{detector}_{network}.yaml": row
        for detector, rows in (
            ("COCO-Detection/faster_rcnn", _FASTER_RCNN),
            ("COCO-InstanceSegmentation/mask_rcnn", _MASK_RCNN),
            ("COCO-Cascade/cascade_mask_rcnn", _CASCADE_MASK_RCNN),
            ("PascalVOC-Detection/faster_rcnn", _FASTER_RCNN_ON_VOC),
        )
        for network, row in rows.items()
    }
)
