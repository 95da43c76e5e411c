"""Thin supernets of every family, and the final network of each of their paths."""

from random import Random

import torch

from crnas_d2 import ARCHITECTURES, Architecture, CRMobileNetV2, CRResNet, add_crnas_config
from crnas_d2.modeling import DilationSupernet, StageSupernet
from crnas_d2.modeling.cr_mobilenetv2 import MobileNetV2Stages
from crnas_d2.modeling.cr_resnet import ResNetStages
from crnas_d2.spaces import get_operation_space, get_stage_space

from detectron2.config import get_cfg

FEATURES = ["res2", "res3", "res4", "res5"]
STEPS = ["stage", "shared", "dilation"]  # "shared" is a stage supernet that shares its blocks
KINDS = {
    "basic": {"block": "basic", "stem_out_channels": 8, "res2_out_channels": 8},
    "bottleneck": {"stem_out_channels": 8, "res2_out_channels": 16, "width_per_group": 4},
    "resnext": {
        "stem_out_channels": 8,
        "res2_out_channels": 16,
        "num_groups": 2,
        "width_per_group": 4,
    },
    "mobilenetv2": {"width_multiplier": 0.25},
}
STAGE_NAMES = {
    "resnet": ["res2", "res3", "res4", "res5"],
    "mobilenetv2": ["stem", "c16", "c24", "c32", "c64", "c96", "c160", "c320", "c1280", "pool"],
}
STAGE_CHOICES = {
    "resnet": [[1, 2], [1, 3], [2, 4], [1, 2, 3]],
    "mobilenetv2": [[1], [1], [1, 2], [1, 3], [2, 3], [1, 2], [2, 3], [1], [1], [1]],
}
STAGE_CODES = {
    "resnet": (1, 2, 3, 2),
    "mobilenetv2": ARCHITECTURES["SCR-MobileNetV2"].stage_code,
}
SEARCHED_LAYERS = {
    "basic": "conv2",
    "bottleneck": "conv2",
    "resnext": "conv2",
    "mobilenetv2": "depthwise",
}
SINGLE_LAYERS = {"stem", "c1280", "pool"}


def family_of(kind):
    return "mobilenetv2" if kind == "mobilenetv2" else "resnet"


def make_stages(kind, **options):
    stages = MobileNetV2Stages if kind == "mobilenetv2" else ResNetStages
    return stages(**KINDS[kind], **options)


def make_space(step, kind):
    if step != "dilation":
        return get_stage_space(family_of(kind), STAGE_CHOICES[family_of(kind)])
    return get_operation_space(Architecture(STAGE_CODES[family_of(kind)]))


def make_supernet(
    step, kind, norm="BN", activation_checkpoint=False, space=None, res5_dilation=1, **options
):
    supernet = DilationSupernet if step == "dilation" else StageSupernet
    if step == "shared":
        options["share_blocks"] = True
    return supernet(
        make_stages(
            kind,
            norm=norm,
            activation_checkpoint=activation_checkpoint,
            res5_dilation=res5_dilation,
        ),
        space or make_space(step, kind),
        **{"out_features": FEATURES, **options},
    )


def make_final(step, kind, path, **options):
    """The final network that a path stands for."""
    codes = (path,) if step != "dilation" else (STAGE_CODES[family_of(kind)], path)
    network = CRMobileNetV2 if kind == "mobilenetv2" else CRResNet
    return network(*codes, **KINDS[kind], **{"out_features": FEATURES, **options})


def sample_paths(space, count, seed=0):
    rng = Random(seed)
    return [space.sample(rng) for _ in range(count)]


def covering_paths(space):
    """A few paths that have every choice of every unit among them."""
    count = max(map(len, space.choices))
    return [tuple(choices[i % len(choices)] for choices in space.choices) for i in range(count)]


def supernet_key(step, kind, path, key, stage_code=None):
    """Where a supernet keeps a tensor of the final network of a path."""
    names = STAGE_NAMES[family_of(kind)]
    stage, _, rest = key.partition(".")
    if stage in SINGLE_LAYERS:
        return key
    if step != "dilation":
        entry, choices = path[names.index(stage)], STAGE_CHOICES[family_of(kind)]
        if step == "shared":
            entry = next(n for n in choices[names.index(stage)] if n > int(rest.split(".")[0]))
        return f"{stage}.ops.{entry}.{rest}"
    block, layer, rest = rest.split(".", 2)
    if layer != SEARCHED_LAYERS[kind]:
        return key
    architecture = Architecture(stage_code or STAGE_CODES[family_of(kind)], path)
    operation = architecture.operations[names.index(stage)][int(block)]
    return f"{stage}.{block}.{layer}.ops.{operation}.{rest}"


def make_thin_cfg(backbone, family):
    """A config of such a backbone with every feature, under an FPN."""
    cfg = get_cfg()
    add_crnas_config(cfg)
    cfg.MODEL.BACKBONE.NAME = backbone
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.CR.FAMILY = family
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = FEATURES
    if family == "mobilenetv2":
        cfg.MODEL.CR.WIDTH_MULTIPLIER = 0.25
    else:
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.FPN.IN_FEATURES = FEATURES
    cfg.MODEL.FPN.NORM = "BN"
    return cfg


def randomize(model):
    """Give the norms weights and statistics that tell them apart."""
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.0)
        elif name.endswith("num_batches_tracked"):
            tensor.random_(1, 100)
    return model


def loss_of(features):
    return sum(feature.square().mean() for feature in features.values())


def assert_same(one, other):
    """Both hold the same tensors, bit for bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name
