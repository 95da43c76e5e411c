"""Hooks around a training step."""

from __future__ import annotations

import logging
import signal
from random import Random

import torch
import torch.distributed as dist

from detectron2.engine import HookBase
from detectron2.modeling import RetinaNet
from detectron2.utils import comm

from ..modeling.supernet import Supernet, active_modules
from .loader import seed_from
from .step_message import StepMessage
from .terminal import report, report_images

logger = logging.getLogger(__name__)

EXIT_AFTER_SIGTERM = 143  # 128 + SIGTERM, as shells report it


def find_supernet(model: torch.nn.Module) -> Supernet | None:
    """Find the supernet inside a model. None for a model without one."""
    return next((m for m in model.modules() if isinstance(m, Supernet)), None)


class SeededStep(HookBase):
    """Makes the random numbers of a step a function of (seed, iteration, rank).

    So a resumed run draws the same numbers as an uninterrupted one.
    """

    def __init__(self, seed: int):
        self._seed = seed

    def before_step(self) -> None:
        seed_from(self._seed, self.trainer.iter, comm.get_rank())


class UniformPathSampling(HookBase):
    """Single-path uniform sampling: each iteration trains one path of the supernet (section 3.3.1).

    The path is a function of (seed, iteration). Hence it is the same on all ranks without
    communication, and the same after a resume. No budget applies to it.
    """

    def __init__(self, supernet: Supernet, seed: int):
        self._supernet = supernet
        self._seed = seed

    def path(self, iteration: int) -> tuple[int, ...]:
        """Get the path of an iteration."""
        return self._supernet.space.sample(Random(f"{self._seed}/{iteration}"))

    def before_train(self) -> None:
        """Check that all ranks will run the same paths.

        Raises:
            RuntimeError: they would not. Every rank raises it.
        """
        seeds = comm.all_gather((self._seed, self.trainer.iter))
        if len(set(seeds)) > 1:
            raise RuntimeError(
                "the ranks would run different paths; their seeds and iterations are: "
                + ", ".join(f"rank {rank} {pair}" for rank, pair in enumerate(seeds))
            )

    def before_step(self) -> None:
        self._supernet.set_path(self.path(self.trainer.iter))


class CyclicPathSampling(UniformPathSampling):
    """Samples paths in cycles, in each of which a choice unit trains all its choices equally often.

    An iteration trains one path, which is a function of (seed, iteration) too, see
    :meth:`~crnas_d2.spaces.path_space.PathSpace.sample_in_cycles`.
    """

    def path(self, iteration: int) -> tuple[int, ...]:
        return self._supernet.space.sample_in_cycles(self._seed, iteration)


# By value of MODEL.SUPERNET.SAMPLING
SAMPLINGS = {"uniform": UniformPathSampling, "cycles": CyclicPathSampling}


class ActiveGradientReduction(HookBase):
    """Averages the gradients on the current path over all ranks, in a single collective.

    The path is the same on all ranks. A parameter with a gradient on only some ranks counts as zero
    on the others, and one without any gradient keeps None.

    The hook belongs to the inner trainer (:class:`SimpleTrainer`), whose ``after_backward`` is
    called between the backward pass and the optimizer's step.
    """

    def __init__(self, model: torch.nn.Module):
        self._model = model
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.data, src=0)

    def after_backward(self) -> None:
        modules = active_modules(self._model)
        shared = dict.fromkeys(p for m in modules for p in m.parameters(recurse=False))
        parameters = [parameter for parameter in shared if parameter.requires_grad]
        used = torch.tensor([p.grad is not None for p in parameters]).to(parameters[0])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([used, *(gradient.flatten() for gradient in gradients)])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        used, *means = flat.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, anywhere, mean in zip(parameters, used.tolist(), means):
            if anywhere:
                parameter.grad = mean.view_as(parameter)


class LossNormalizer(HookBase):
    """Saves the loss normalizer of a RetinaNet on each rank in checkpoints.

    It is a running mean, which Detectron2 keeps in an attribute outside of the model's state.

    Args:
        model: the RetinaNet.
        message: the message by which the ranks exchange it.
    """

    def __init__(self, model: RetinaNet, message: StepMessage):
        self._model = model
        self._message = message
        self._of_ranks: list[float] = []
        message.add("loss_normalizer", lambda: model.loss_normalizer)

    def after_step(self) -> None:
        self._of_ranks = [told["loss_normalizer"] for told in self._message.of_ranks]

    def state_dict(self) -> dict[str, list[float]]:
        return {"of_ranks": self._of_ranks} if self._of_ranks else {}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """Restore the normalizer. If the number of ranks has changed, all ranks get the mean."""
        self._of_ranks = of_ranks = state_dict["of_ranks"]
        if len(of_ranks) == comm.get_world_size():
            self._model.loss_normalizer = of_ranks[comm.get_rank()]
        else:
            self._model.loss_normalizer = sum(of_ranks) / len(of_ranks)


class ProcessCount(HookBase):
    """Warns if a training resumes with another number of processes.

    Its result is then that of neither number, as each rank draws its own part of the data and its
    own random numbers.
    """

    def state_dict(self) -> dict[str, int]:
        return {"processes": comm.get_world_size()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        before, now = state_dict["processes"], comm.get_world_size()
        if before != now:
            logger.warning(
                f"the training ran in {before} process(es) and goes on in {now}: it draws other data "
                "and random numbers from here, and its result is that of neither number"
            )


class Reporting(HookBase):
    """Reports each iteration and its loss to the terminal.

    Args:
        images: number of images in a mini-batch on all ranks together.
    """

    def __init__(self, images: int):
        self._images = images

    def after_step(self) -> None:
        iteration, last = self.trainer.iter + 1, self.trainer.max_iter
        loss = self.trainer.storage.latest().get("total_loss")  # with its iteration
        detail = f"loss {loss[0]:.3g}" if loss else ""
        report_images(self._images, backward=True)
        report("iteration", iteration, last, self._images, backward=True, detail=detail)


class StopOnSignal(HookBase):
    """On SIGTERM, saves a checkpoint after the current step and exits with code 143.

    ``--resume`` continues from there. It is enough if one rank has received the signal before the
    message of a step.

    Args:
        message: the message by which the ranks exchange it.
    """

    def __init__(self, message: StepMessage):
        self._message = message
        message.add("sigterm", lambda: self._received)
        self._received = False
        self._previous = signal.getsignal(signal.SIGTERM)

    def before_train(self) -> None:
        signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, *_) -> None:
        self._received = True

    def after_step(self) -> None:
        if any(told["sigterm"] for told in self._message.of_ranks):
            iteration = self.trainer.iter
            self.trainer.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            logger.warning(f"SIGTERM: saved iteration {iteration}; --resume goes on from there")
            comm.synchronize()
            raise SystemExit(EXIT_AFTER_SIGTERM)

    def after_train(self) -> None:
        signal.signal(signal.SIGTERM, self._previous)
