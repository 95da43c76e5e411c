"""Started by test_distributed.py: what each of two processes gets to see, written to files.

two_ranks.py --config-file FILE --num-gpus 2 --dist-url auto
"""

import math
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import torch  # noqa: E402
from runs import NETWORKS, RANDOM, copy_of_state, parse, run_trainer  # noqa: E402

from crnas_d2.engine import launch  # noqa: E402
from crnas_d2.engine.hooks import ActiveGradientReduction  # noqa: E402
from detectron2.engine import hooks  # noqa: E402
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
    *("SOLVER.MAX_ITER", "28", "SOLVER.STEPS", "(10, 20)", "SOLVER.CHECKPOINT_PERIOD", "3"),
    *("DATASETS.TEST", "()"),
]


def train_exactly(config, output):
    """Three iterations, and of each one the gradients, the path and the state after it."""
    record = []

    def see(trainer):
        record.append({"state": copy_of_state(trainer.model)})

        def after_step(trainer):
            named = trainer.model.named_parameters()
            record.append(
                {
                    "gradients": {n: p.grad.clone() for n, p in named if p.grad is not None},
                    "path": trainer.model.backbone.bottom_up.path,
                    "state": copy_of_state(trainer.model),
                }
            )

        trainer.register_hooks([hooks.CallbackHook(after_step=after_step)])

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


def main(args):
    folder = Path(args.config_file).parent
    config = args.config_file
    seen = {
        "exact": train_exactly(config, folder / "exact"),
        "other_paths": draw_other_paths(config, folder),
        "diverged": diverge(config, folder),
        "partly": reduce_partly(),
    }
    for name, options in (("whole", []), ("interrupted", ["--resume"])):
        output = ["OUTPUT_DIR", folder / name]
        seen[name] = copy_of_state(run_trainer(config, *options, *INTERRUPTED, *output).model)
    torch.save(seen, folder / f"rank{comm.get_rank()}.pth")


if __name__ == "__main__":
    launch(main, parse(*sys.argv[2:]))
