"""Started by test_distributed.py: what each of two processes gets to see, written to files.

two_ranks.py --config-file FILE --num-gpus 2 --dist-url auto
"""

import contextlib
import math
import sys
from pathlib import Path
from unittest import mock

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from runs import (  # noqa: E402
    NETWORKS,
    RANDOM,
    copy_checkpoint,
    copy_of_state,
    parse,
    run_trainer,
    train,
)

from crnas_d2.engine import launch  # noqa: E402
from crnas_d2.engine.hooks import ActiveGradientReduction  # noqa: E402
from crnas_d2.engine.shared_statistics import SharedStatistics  # noqa: E402
from crnas_d2.modeling.supernet import ChoiceBlock  # noqa: E402

from detectron2.engine import hooks  # noqa: E402
from detectron2.layers import FrozenBatchNorm2d  # noqa: E402
from detectron2.utils import comm  # noqa: E402

# One process with both images has the mean of the gradients of two with one each, if norms see one
# image at a time and the heads take all anchors and all proposals of an image, equally many.
EXACT = [
    *NETWORKS["stage"],
    *("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", "FrozenBN"),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "4096"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "64", "MODEL.ROI_HEADS.POSITIVE_FRACTION", "1.0"),
    *("DATALOADER.ASPECT_RATIO_GROUPING", "False", "DATASETS.TEST", "()"),
]
INTERRUPTED = [
    *NETWORKS["stage"],
    *RANDOM,
    *("SOLVER.MAX_ITER", "28", "SOLVER.STEPS", "(10, 20)", "SOLVER.CHECKPOINT_PERIOD", "4"),
    *("DATASETS.TEST", "()"),
]
# A detector with BN in its backbone, its FPN and its box head, tested with augmentation too
WITH_BN = [
    *RANDOM,
    *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_CONV", "1"),
    *("MODEL.ROI_BOX_HEAD.CONV_DIM", "8", "MODEL.ROI_BOX_HEAD.NORM", "BN"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    *("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)"),
]
COLLECTIVES = [
    *("all_reduce", "reduce", "broadcast", "broadcast_object_list", "barrier"),
    *("all_gather", "all_gather_object", "gather", "gather_object"),
]
PRECISE_BN = [
    *("TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "2"),
    *("DATALOADER.ASPECT_RATIO_GROUPING", "False", "DATASETS.TEST", "()"),
]


@contextlib.contextmanager
def seeing_collectives():
    """Yields the names of the collectives that are called within it."""
    seen = []

    def see(name, collective):
        return lambda *args, **kwargs: (seen.append(name), collective(*args, **kwargs))[1]

    with contextlib.ExitStack() as stack:
        for name in COLLECTIVES:
            seeing = see(name, getattr(dist, name))
            stack.enter_context(mock.patch.object(dist, name, seeing))
        yield seen


def train_exactly(config, output):
    """Three iterations, and of each one the gradients, the path, the collectives and the state
    after it."""
    record = []

    def see(trainer):
        record.append({"state": copy_of_state(trainer.model)})

        def after_step(trainer):
            named = trainer.model.named_parameters()
            record.append(
                {
                    "gradients": {n: p.grad.clone() for n, p in named if p.grad is not None},
                    "path": trainer.model.backbone.bottom_up.path,
                    "collectives": list(seen),
                    "state": copy_of_state(trainer.model),
                }
            )

        before_step = lambda _: seen.clear()
        trainer.register_hooks([hooks.CallbackHook(before_step=before_step, after_step=after_step)])

    with seeing_collectives() as seen:
        run_trainer(config, *EXACT, "SOLVER.MAX_ITER", 3, "OUTPUT_DIR", output, change=see)
    return record


def draw_other_paths(config, folder):
    seed = ["MODEL.SUPERNET.SEED", comm.get_rank()]
    try:
        run_trainer(config, *EXACT, *seed, "OUTPUT_DIR", folder / "other_paths")
    except RuntimeError as error:
        return str(error)


def diverge(config, folder):
    """Iteration 3 gives rank 1 a loss that is no number."""

    def spoil(trainer):
        def forward_hook(model, images, losses):
            if trainer.iter == 3 and comm.get_rank() == 1:
                losses["loss_cls"] = losses["loss_cls"] * math.nan

        trainer.model.register_forward_hook(forward_hook)

    try:
        run_trainer(config, *EXACT, "OUTPUT_DIR", folder / "diverged", change=spoil)
    except FloatingPointError as error:
        return str(error)


def reduce_partly():
    """Parameters with gradients on both ranks, on rank 1, and on none."""
    rank = comm.get_rank()
    model = torch.nn.ParameterDict({name: torch.full((2,), float(rank)) for name in "abc"})
    model.register_buffer("d", torch.tensor(rank))
    reduction = ActiveGradientReduction(model)
    loss = (model["a"] * (rank + 1)).sum() + (model["b"].sum() * 8 if rank == 1 else 0)
    loss.backward()
    reduction.after_backward()
    return {
        "state": copy_of_state(model),
        "gradients": {name: parameter.grad for name, parameter in model.items()},
    }


def make_norms(rank):
    """Norms whose statistics differ from rank to rank."""
    torch.manual_seed(rank)
    model = torch.nn.ModuleDict(
        {
            "plain": torch.nn.BatchNorm2d(3),
            "choice": ChoiceBlock(0, {k: torch.nn.BatchNorm2d(2) for k in (0, 1)}),
            "without": torch.nn.BatchNorm2d(2, track_running_stats=False),
            "synchronized": torch.nn.SyncBatchNorm(2),
            "frozen": FrozenBatchNorm2d(2),
            "resting": torch.nn.BatchNorm2d(2),
        }
    )
    model["resting"].eval()
    for name, buffer in model.named_buffers():
        if "num_batches" not in name:
            buffer.copy_(torch.rand(buffer.shape) + (100 if "mean" in name else 0.01))
    model["plain"].num_batches_tracked.fill_(7 + rank)  # only rank 1 ran it
    return model


def share_statistics():
    model = make_norms(comm.get_rank())
    SharedStatistics(model).after_step()
    return copy_of_state(model)


def cumulate():
    """Three steps of a norm that averages over all of its batches; each rank has its own."""
    norm = torch.nn.BatchNorm1d(2, momentum=None)
    hook = SharedStatistics(norm)
    generator = torch.Generator().manual_seed(comm.get_rank())
    batches = []
    for _ in range(3):
        batches.append(torch.randn(5, 2, generator=generator))
        norm(batches[-1])
        hook.after_step()
    return {"batches": batches, "state": copy_of_state(norm)}


def train_with_bn(config, folder):
    """A run; one that is stopped after two iterations, and resumed; one with other periods; and
    the evaluation of the first."""
    output = ["OUTPUT_DIR", folder / "bn"]
    every = ["SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINTS_TO_KEEP", 9]
    states = [copy_of_state(run_trainer(config, *WITH_BN, *every, *output).model)]
    resumed = folder / "bn_resumed"
    if comm.is_main_process():
        copy_checkpoint(folder / "bn" / "model_0000001.pth", resumed)
    comm.synchronize()
    for options in (
        ["--resume", *WITH_BN, "OUTPUT_DIR", resumed],
        [*WITH_BN, "TEST.EVAL_PERIOD", 1, "OUTPUT_DIR", folder / "bn_periods"],
    ):
        states.append(copy_of_state(run_trainer(config, *options).model))
    weights = ["MODEL.WEIGHTS", folder / "bn" / "model_final.pth"]
    results = train(
        config, "--eval-only", *WITH_BN, *weights, "OUTPUT_DIR", folder / "bn_evaluated_by_two"
    )
    return {"states": states, "results": results}


def train_averaging(config, output):
    """With precise statistics of the averaged weights; these, at the end."""
    options = [*PRECISE_BN, "SOLVER.EMA.DECAY", "0.5", "OUTPUT_DIR", output]
    return copy_of_state(run_trainer(config, *options)._averaging.network)


def main(args):
    folder = Path(args.config_file).parent
    config = args.config_file
    seen = {
        "exact": train_exactly(config, folder / "exact"),
        "other_paths": draw_other_paths(config, folder),
        "diverged": diverge(config, folder),
        "partly": reduce_partly(),
        "statistics": share_statistics(),
        "cumulated": cumulate(),
        "bn": train_with_bn(config, folder),
        "precise": copy_of_state(
            run_trainer(config, *PRECISE_BN, "OUTPUT_DIR", folder / "precise").model
        ),
    }
    seen["averaged"] = train_averaging(config, folder / "averaged")
    for name, options in (("whole", []), ("interrupted", ["--resume"])):
        output = ["OUTPUT_DIR", folder / name]
        seen[name] = copy_of_state(run_trainer(config, *options, *INTERRUPTED, *output).model)
    torch.save(seen, folder / f"rank{comm.get_rank()}.pth")


if __name__ == "__main__":
    launch(main, parse(*sys.argv[2:]))
