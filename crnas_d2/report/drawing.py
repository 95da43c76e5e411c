"""Drawing of objects on an image: boxes, masks, keypoints, names in any script, and scores."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detectron2.structures import BoxMode

from .fonts import find_families, unheeded_glyphs

try:
    from detectron2.utils.visualizer import Visualizer
except ImportError:  # OpenCV is missing
    Visualizer = None

SMALLEST_FONT = 9  # in pixels of the result


def draw_objects(
    pixels: np.ndarray,
    objects: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    scale: float = 1.0,
) -> np.ndarray:
    """Draw objects on an image, the last one on top.

    Args:
        pixels: RGB image as uint8 of shape (h, w, 3), which is not changed.
        objects: objects in Detectron2's annotation format: "bbox", "bbox_mode" and "category_id",
            an index into the names. "segmentation", "keypoints", "score" and "iscrowd" are drawn if
            present.
        class_names: names of all classes, which have evenly spaced colors.
        scale: size of the result relative to ``pixels``.

    Returns:
        RGB image as uint8 of shape (scale * h, scale * w, 3).

    Raises:
        RuntimeError: OpenCV is missing, which Detectron2 draws with.
    """
    if Visualizer is None:
        raise RuntimeError("drawing needs OpenCV: pip install opencv-python-headless")
    visualizer = Visualizer(pixels, scale=scale)
    height, width = pixels.shape[:2]
    font_size = max(SMALLEST_FONT / scale, np.sqrt(height * width) / 90)
    line = 1.8 * font_size
    families = find_families(tuple(class_names))
    for instance in objects:
        color = class_color(instance["category_id"], len(class_names))
        box = BoxMode.convert(instance["bbox"], instance["bbox_mode"], BoxMode.XYXY_ABS)
        if "segmentation" in instance:
            visualizer.overlay_instances(masks=[instance["segmentation"]], assigned_colors=[color])
        visualizer.draw_box(box, alpha=1, edge_color=color)
        if "keypoints" in instance:
            visualizer.draw_and_connect_keypoints(np.reshape(instance["keypoints"], (-1, 3)))
        label = class_names[instance["category_id"]]
        if "score" in instance:
            label += f" {instance['score']:.2f}"
        if instance.get("iscrowd"):
            label += " crowd"
        x0, y0, x1, y1 = box
        # Above the box, or below it at the border of the image; to the left in the right half
        y = y0 - line if y0 > line else min(y1 + 2, height - line)
        x, alignment = (x0, "left") if x0 + x1 < width else (x1, "right")
        visualizer.draw_text(
            label,
            (min(max(x, 0), width), y),
            font_size=font_size,
            color=color,
            horizontal_alignment=alignment,
        )
        text = visualizer.output.ax.texts[-1]
        text.set_family(families)
        text.set_parse_math(False)  # a name may contain dollar signs
    with unheeded_glyphs():
        return visualizer.output.get_image()


def class_color(index: int, num_classes: int) -> tuple[float, float, float]:
    """Get the bright color of a class, which is the same in all images."""
    return colorsys.hsv_to_rgb(index / num_classes, 0.65, 1.0)
