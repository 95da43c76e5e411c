"""What happens around a training step."""

from __future__ import annotations

import logging
import signal
from random import Random

import torch
import torch.distributed as dist

from detectron2.engine import HookBase
from detectron2.modeling import RetinaNet
from detectron2.utils import comm

from ..modeling.supernet import Supernet
from .loader import seed_from
from .terminal import report, report_images

logger = logging.getLogger(__name__)

EXIT_AFTER_SIGTERM = 143  # 128 + SIGTERM, as a shell reports it


def find_supernet(model: torch.nn.Module) -> Supernet | None:
    """The supernet inside a model; None for a model that has none."""
    return next((m for m in model.modules() if isinstance(m, Supernet)), None)


class SeededStep(HookBase):
    """Makes the random numbers of a step a function of (seed, iteration, rank).

    So a resumed run draws what it would have drawn without the interruption.
    """

    def __init__(self, seed: int):
        self._seed = seed

    def before_step(self) -> None:
        seed_from(self._seed, self.trainer.iter, comm.get_rank())


class UniformPathSampling(HookBase):
    """Single-path uniform sampling: each iteration trains one path of the supernet (section 3.3.1).

    The path is a function of (seed, iteration), hence the same on all ranks without a message, and
    the same after a resume. It is not constrained by any budget.
    """

    def __init__(self, supernet: Supernet, seed: int):
        self._supernet = supernet
        self._seed = seed

    def path(self, iteration: int) -> tuple[int, ...]:
        """The path of an iteration."""
        return self._supernet.space.sample(Random(f"{self._seed}/{iteration}"))

    def before_step(self) -> None:
        """
        Raises:
            RuntimeError: the ranks would run different paths. Every rank raises it.
        """
        path = self.path(self.trainer.iter)
        paths = comm.all_gather(path)
        if len(set(paths)) > 1:
            raise RuntimeError(
                f"iteration {self.trainer.iter}: the ranks drew different paths: "
                + ", ".join(f"rank {rank} {list(path)}" for rank, path in enumerate(paths))
            )
        self._supernet.set_path(path)


class ActiveGradientReduction(HookBase):
    """Averages over all ranks the gradients that are there: those of the path, and nothing else.

    A parameter that has a gradient on some ranks counts as zero on the others; one that has it
    nowhere keeps None.

    Belongs to the inner trainer (:class:`SimpleTrainer`), whose ``after_backward`` is called
    between the backward pass and the optimizer's step.
    """

    def __init__(self, model: torch.nn.Module):
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.data, src=0)

    def after_backward(self) -> None:
        used = torch.tensor(
            [p.grad is not None for p in self._parameters],
            dtype=torch.uint8,
            device=self._parameters[0].device,
        )
        dist.all_reduce(used, dist.ReduceOp.MAX)
        active = [p for p, anywhere in zip(self._parameters, used.tolist()) if anywhere]
        for parameter in active:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in active])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for parameter, mean in zip(active, flat.split([p.numel() for p in active])):
            parameter.grad.copy_(mean.view_as(parameter))


class LossNormalizer(HookBase):
    """Keeps in checkpoints what a RetinaNet divides its losses by, on each rank.

    That is a running mean, which Detectron2 has in an attribute outside of the model's state.
    """

    def __init__(self, model: RetinaNet):
        self._model = model
        self._of_ranks: list[float] = []

    def after_step(self) -> None:
        self._of_ranks = comm.all_gather(self._model.loss_normalizer)

    def state_dict(self) -> dict[str, list[float]]:
        return {"of_ranks": self._of_ranks} if self._of_ranks else {}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """With another number of ranks than before, each one goes on with their mean."""
        self._of_ranks = of_ranks = state_dict["of_ranks"]
        if len(of_ranks) == comm.get_world_size():
            self._model.loss_normalizer = of_ranks[comm.get_rank()]
        else:
            self._model.loss_normalizer = sum(of_ranks) / len(of_ranks)


class Reporting(HookBase):
    """Tells the terminal each iteration and its loss.

    Args:
        images: of a mini-batch, on all ranks together.
    """

    def __init__(self, images: int):
        self._images = images

    def after_step(self) -> None:
        iteration, last = self.trainer.iter + 1, self.trainer.max_iter
        loss = self.trainer.storage.latest().get("total_loss")  # and the iteration that it is of
        detail = f"loss {loss[0]:.3g}" if loss else ""
        report_images(self._images, backward=True)
        report("iteration", iteration, last, self._images, backward=True, detail=detail)


class StopOnSignal(HookBase):
    """On SIGTERM, saves a checkpoint after the running step and ends with exit code 143.

    ``--resume`` goes on from there. One rank that received the signal is enough.
    """

    def __init__(self):
        self._received = False
        self._previous = signal.getsignal(signal.SIGTERM)

    def before_train(self) -> None:
        signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, *_) -> None:
        self._received = True

    def after_step(self) -> None:
        if any(comm.all_gather(self._received)):
            iteration = self.trainer.iter
            self.trainer.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            logger.warning(f"SIGTERM: saved iteration {iteration}; --resume goes on from there")
            comm.synchronize()
            raise SystemExit(EXIT_AFTER_SIGTERM)

    def after_train(self) -> None:
        signal.signal(signal.SIGTERM, self._previous)
