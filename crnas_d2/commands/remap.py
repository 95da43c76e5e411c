"""Put the weights of a trained network into one of another architecture, or into a supernet.

crnas remap resnet50-11ad3fa6.pth CR-R-50.safetensors --stage-code 1 3 5 7 \\
    --operation-code 0 0 1 0 0 0 1 2 0 0 1 0 2 1 1 2
crnas remap resnet50-11ad3fa6.pth supernet.safetensors \\
    --config-file Supernet/stage_supernet_R_50_FPN.yaml
crnas remap output/baseline/model_final.pth CR.safetensors \\
    --config-file Digits/faster_rcnn_CR_R_18_FPN.yaml
crnas remap model_final_280758.pkl CR-zoo.safetensors \\
    --config-file COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml
crnas remap mobilenet_v2-b0353104.pth CR.safetensors --function-preserving \\
    --interpolate-dilated --match-features 150 --images cells/images \\
    --config-file Small-Data/faster_rcnn_CR_MNV2_FPN.yaml

Reads what crnas convert reads and writes, and checkpoints of detectors and classifiers. A
stage with more blocks repeats the last one, one with fewer keeps the first ones; of wider layers
the first channels are taken; a dilated convolution takes the weights of the plain one (Fast Neural
Network Adaptation, Fang et al., 2020). Neck, RPN and heads of a detector stay as they are. The result
is safetensors that MODEL.WEIGHTS takes; MODEL.INIT.REMAP True does the same when weights are loaded.
Says which of the changed layers MODEL.BACKBONE.FREEZE_AT would freeze.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

import torch

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from ..checkpoint.parts import name_part
from ..checkpoint.remap_report import describe_frozen
from ..checkpoint.save import check_output, save_network
from ..checkpoint.seed_network import read_seed_network
from ..checkpoint.settings import as_command, as_yaml, find_contradictions, take_settings
from ..checkpoint.start import remap_seed
from ..config import default_config, read_config
from ..data import setup_datasets
from ..engine.adapt import adapt
from ..engine.sync_bn import without_needless_sync_bn
from ..engine.unlabeled import unlabeled_batches
from .command_line import command, command_parser
from .convert import add_origin


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("input", help="file or URL of the trained network; see above")
    parser.add_argument("output", help="local file *.safetensors")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--config-file", metavar="FILE", help="config of the network to fill")
    target.add_argument(
        "--stage-code", type=int, nargs="+", metavar="N", help="or its codes, in the given widths"
    )
    parser.add_argument("--operation-code", type=int, nargs="+", metavar="O", default=[])
    parser.add_argument(
        "--function-preserving",
        action="store_true",
        help="make the blocks that a stage has more the identity: their last norm starts at zero, "
        "or, where the config freezes norms, their last convolution; as MODEL.INIT.FUNCTION_PRESERVING",
    )
    parser.add_argument(
        "--interpolate-dilated",
        action="store_true",
        help="give dilated convolutions weights that do to a smooth input what the plain ones do; as "
        "MODEL.INIT.INTERPOLATE_DILATED",
    )
    parser.add_argument(
        "--match-features",
        type=int,
        metavar="STEPS",
        help="train the filled backbone for so many steps to give the features that the input's network "
        "gives of the images in DATASETS.TRAIN. No labels are needed. 0 matches the statistics of "
        "the norms alone",
    )
    parser.add_argument("--images", metavar="FOLDER", help="match on all images in it instead")
    parser.add_argument(
        "--init-seed",
        type=int,
        default=0,
        help="of the values that nothing is there for, and of the order of the images",
    )
    add_origin(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.add_argument("opts", nargs="*", help="keys and values for the config")
    args = parser.parse_intermixed_args(argv)
    if args.config_file and args.operation_code:
        parser.error("--operation-code goes with --stage-code; a config has its own")
    if args.stage_code and args.opts:
        parser.error(f"{' '.join(args.opts)}: keys and values go with --config-file")
    if args.match_features is None:
        if args.images:
            parser.error("--images goes with --match-features")
    elif args.match_features < 0:
        parser.error(f"--match-features is {args.match_features}; expected 0 or more steps")
    elif not args.config_file:
        parser.error("--match-features goes with --config-file, which tells size and norms")
    return args


def remap(args: argparse.Namespace) -> None:
    check_output(args.output, args.overwrite, [args.input])
    cfg = read_config(args.config_file, args.opts) if args.config_file else None
    seed = read_seed_network(args.input, args.source, args.prefix, args.pixel_mean, args.pixel_std)
    needed = seed.settings if cfg is None else find_contradictions(seed.settings, cfg)
    if cfg is not None:
        take_settings(seed.settings, cfg, seed.name)
    if args.match_features is not None:
        cfg = prepare_matching(cfg, args.images)

    torch.manual_seed(args.init_seed)
    if cfg:
        target = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    else:
        target = seed.build(args.stage_code, args.operation_code)
    config = cfg or default_config()
    rules = (
        args.function_preserving or config.MODEL.INIT.FUNCTION_PRESERVING,
        args.interpolate_dilated or config.MODEL.INIT.INTERPOLATE_DILATED,
    )
    remapped, report = remap_seed(seed, target, *rules)
    errors: list[float] = []
    if args.match_features is not None:
        print(f"matching to the features of {seed.name}, {args.match_features} steps", flush=True)
        batches = unlabeled_batches(cfg, args.init_seed, args.images)
        remapped, errors = adapt(remapped, report, seed, target, batches, args.match_features)
    tensors = save_network(args.output, remapped, report)

    print(f"{report}\n")
    cut = Counter(
        name_part(key) for key, t in remapped.rest.items() if t.shape != seed.rest[key].shape
    )
    for part, count in Counter(map(name_part, remapped.rest)).items():
        of_these = f", {cut[part]} of them cut" if cut[part] else ""
        print(f"as it is: {part} ({count} tensors{of_these})")
    size = sum(tensor.numel() for tensor in tensors.values())
    print(f"tensors: {len(tensors)} with {size:,} elements, written to {args.output}")
    if errors:
        print(
            f"squared error of the features in training, relative: {errors[0]:.3f} -> {errors[-1]:.3f}"
        )
    freeze_at = config.MODEL.BACKBONE.FREEZE_AT
    if warning := describe_frozen(report.changes(), seed.family, freeze_at):
        print(warning)
    if needed:
        where = "and the config does not have" if cfg else "as far as known"
        print(f"settings that the weights need, {where}; in a config:")
        print(as_yaml(needed))
        print(f"or behind a command:\n{as_command(needed)}")


def prepare_matching(cfg: CfgNode, images: str | None) -> CfgNode:
    """Prepare a config for matching: register its datasets, and choose its norms and device."""
    if images is None:
        setup_datasets(cfg)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return without_needless_sync_bn(cfg)


@command
def main(argv: Sequence[str] | None = None) -> None:
    remap(parse_args(argv))
