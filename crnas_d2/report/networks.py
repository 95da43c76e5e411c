"""Pictures of the baseline and of what was found, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from ..analysis.erf import (
    ERF,
    dataset_images,
    effective_receptive_fields,
    random_network,
    trained_network,
)
from ..analysis.erf_figure import anchor_sizes, draw_erfs
from ..analysis.sketch import SketchedNetwork, draw_sketches
from ..data import setup_datasets
from ..search.records import Network

IMAGES = 8
LARGEST_PLATE = 512  # pixels, as in figure 1
DEEPEST_STRIDE = 32  # what is beyond it repeats the feature below


def draw_networks(networks: Sequence[Network], search_cfg: CfgNode) -> dict[str, Figure]:
    """Their sketches and effective receptive fields, by captions.

    Args:
        networks: with their trained weights; where one of them has none, random ones stand for all.
        search_cfg: of the search, on whose archval images the fields are measured.
    """
    sketches = [SketchedNetwork.from_config(n.name, n.cfg) for n in networks]
    trained = all(network.weights for network in networks)
    fields, anchors = {}, {}
    for network in networks:
        fields[network.name], anchors[network.name] = _measure(network, trained, search_cfg)
    weights = "trained" if trained else "random"
    caption = (
        f"Effective receptive fields with {weights} weights, mean of {IMAGES} images of archval"
    )
    return {
        "Blocks, their dilations, and the multiply-adds of each stage": draw_sketches(sketches),
        caption: draw_erfs(fields, anchors),
    }


def _measure(
    network: Network, trained: bool, search_cfg: CfgNode
) -> tuple[dict[str, ERF], dict[int, tuple[float, ...]]]:
    """The fields of the features on which the RPN works, and the anchors there."""
    cfg, search_cfg = network.cfg.clone(), search_cfg.clone()
    cfg.MODEL.DEVICE = search_cfg.MODEL.DEVICE
    setup_datasets(search_cfg)
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    features = [f for f in cfg.MODEL.RPN.IN_FEATURES if shapes[f].stride <= DEEPEST_STRIDE]
    step = max(backbone.size_divisibility, DEEPEST_STRIDE)
    size = min(LARGEST_PLATE, cfg.INPUT.MIN_SIZE_TEST or LARGEST_PLATE)
    size = max(size // step, 1) * step
    images = dataset_images(cfg, search_cfg.DATASETS.TEST[0], IMAGES, size)
    model = trained_network(cfg, network.weights) if trained else random_network(cfg, images)
    return effective_receptive_fields(model, features, images), anchor_sizes(cfg, shapes)
