"""Figures of the baseline and the network that was found, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from detectron2.config import CfgNode
from detectron2.modeling import Backbone, build_backbone

from ..analysis.erf import (
    dataset_images,
    effective_receptive_fields,
    random_network,
    trained_network,
)
from ..analysis.erf_figure import anchor_sizes, draw_erfs
from ..analysis.sketch import BUILDERS, SketchedNetwork
from ..analysis.sketch_figure import draw_sketches
from ..data import setup_datasets
from ..modeling.meta import on_meta
from ..procedure.networks import Network
from .narrow_sketch import draw_narrow_sketches
from .themes import Chart

IMAGES = 8
LARGEST_PLATE = 512  # in pixels, as in figure 1
DEEPEST_STRIDE = 32  # features beyond it repeat the one below


def sketch(networks: Sequence[Network]) -> list[Chart]:
    """Sketch the blocks of the networks.

    The result is empty if a backbone does not belong to this project or cannot be counted.
    """
    if not all(n.cost and n.cfg.MODEL.BACKBONE.NAME.startswith(BUILDERS) for n in networks):
        return []
    sketches = [SketchedNetwork.from_config(n.name, n.cfg) for n in networks]
    caption = "Blocks, their dilations, and the part of each stage in the backbone's multiply-adds"
    return [Chart(caption, draw_sketches(sketches), draw_narrow_sketches(sketches))]


def draw_fields(networks: Sequence[Network], search_cfg: CfgNode) -> list[Chart]:
    """Draw the effective receptive fields of the networks.

    Args:
        networks: networks with their trained weights. If one of them has none, all have random
            ones.
        search_cfg: config of the search, on whose archval images the fields are measured.
    """
    trained = all(network.weights for network in networks)
    images = _draw_images(networks[0].cfg, search_cfg)
    fields, anchors = {}, {}
    for network in networks:
        cfg = network.cfg.clone()
        cfg.MODEL.DEVICE = search_cfg.MODEL.DEVICE
        model = trained_network(cfg, network.weights) if trained else random_network(cfg, images)
        anchors[network.name] = anchor_sizes(cfg, model.backbone.output_shape())
        features = _features(model.backbone, anchors[network.name])
        fields[network.name] = effective_receptive_fields(model, features, images)
    weights = "trained" if trained else "random"
    if any(len(network.trainings) > 1 for network in networks):
        weights = "the first seed's trained"
    caption = (
        f"Effective receptive fields with {weights} weights, mean of {IMAGES} images of archval"
    )
    return [Chart.draw(caption, draw_erfs, fields, anchors)]


def _draw_images(cfg: CfgNode, search_cfg: CfgNode) -> torch.Tensor:
    """Read images of archval in the size at which the detector works, at most that of figure 1."""
    search_cfg = search_cfg.clone()
    setup_datasets(search_cfg)
    with on_meta():
        step = max(build_backbone(cfg).size_divisibility, DEEPEST_STRIDE)
    size = min(LARGEST_PLATE, cfg.INPUT.MIN_SIZE_TEST or LARGEST_PLATE)
    return dataset_images(cfg, search_cfg.DATASETS.TEST[0], IMAGES, max(size // step, 1) * step)


def _features(backbone: Backbone, anchors: Mapping[int, Sequence[float]]) -> list[str]:
    """List the features that have anchors, or all of them if there are no anchors."""
    shapes = backbone.output_shape()
    strides = anchors or {shape.stride for shape in shapes.values()}
    return [f for f, s in shapes.items() if s.stride in strides and s.stride <= DEEPEST_STRIDE]
