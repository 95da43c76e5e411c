"""A training loader that can start at any iteration, and a test loader that reports its progress."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from detectron2.data import DatasetFromList
from detectron2.data.build import trivial_batch_collator
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper

from ..data.naming_mapper import NamingMapper
from .terminal import report, report_images


class ReportedLoader:
    """A test loader that reports to the terminal how many images have passed."""

    def __init__(self, loader: DataLoader):
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        total = len(cast(Sized, self._loader.dataset))
        size = self._loader.batch_size * comm.get_world_size()
        for number, batch in enumerate(self._loader, start=1):
            yield batch
            done = min(number * size, total)
            report_images(done - (number - 1) * size)
            report("test image", done, total, 1)


class TrainingBatches(Sampler):
    """Batches of an infinite sampler, with each sample's position in the stream of all ranks.

    Attributes:
        start: number of batches to skip at the beginning, without loading their images.
    """

    def __init__(self, sampler: Sampler, batch_size: int, groups: Sequence[int] | None = None):
        """
        Args:
            sampler: an infinite sampler of this rank, such as
                :class:`detectron2.data.samplers.TrainingSampler`.
            batch_size: batch size of this rank.
            groups: group of each index. A batch contains samples of a single group.
        """
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups
        self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        open_batches: dict[int, list[tuple[int, int]]] = defaultdict(list)
        finished = 0
        rank, world_size = comm.get_rank(), comm.get_world_size()
        for position, index in enumerate(self.sampler):
            batch = open_batches[self.groups[index] if self.groups else 0]
            batch.append((position * world_size + rank, index))
            if len(batch) == self.batch_size:
                if finished >= self.start:
                    yield list(batch)
                finished += 1
                batch.clear()


class SeededDataset(Dataset):
    """Mapped samples whose randomness depends only on the seed and the position in the stream.

    A sample that the mapper refuses by returning None is replaced by another random one.
    """

    def __init__(self, dataset: Sequence[Any], mapper: Callable[[Any], Any], seed: int):
        self._dataset = dataset
        self._mapper = PicklableWrapper(mapper)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[Any]:
        """Get the samples of a batch by their positions in the stream and indices."""
        with own_random_state():  # once a batch, as it takes longer than the seeding of a sample
            return [self._draw(position, index) for position, index in places]

    def _draw(self, position: int, index: int) -> Any:
        # torch.manual_seed takes long, as it seeds GPUs too, which no mapper draws from.
        torch.default_generator.manual_seed(_seed_numpy_and_python(self._seed, position))
        while (sample := self._mapper(self._dataset[index])) is None:
            index = random.randrange(len(self))
        return sample


def build_train_loader(
    dataset: list[dict],
    mapper: Callable[[dict], Any],
    sampler: Sampler,
    *,
    total_batch_size: int,
    seed: int,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] = trivial_batch_collator,
) -> DataLoader:
    """Same as :func:`detectron2.data.build_detection_train_loader`, but can start at any iteration.

    With the same seed, the batches from iteration k on are the same whether the loader started
    there (``loader.batch_sampler.start = k``) or at 0, with any number of workers.

    Args:
        dataset, mapper, sampler, total_batch_size, aspect_ratio_grouping, num_workers, collate_fn:
            as there.
        seed: seed of the random augmentations.

    Raises:
        ValueError: the batch size is not divisible by the number of processes.
        UnreadableError: raised by an iteration whose image cannot be read. The message names it.
    """
    batch_size, rest = divmod(total_batch_size, comm.get_world_size())
    if rest or batch_size < 1:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {total_batch_size}; "
            f"expected a multiple of the {comm.get_world_size()} processes"
        )
    groups = [int(d["width"] > d["height"]) for d in dataset] if aspect_ratio_grouping else None
    return DataLoader(
        SeededDataset(DatasetFromList(dataset, copy=False), NamingMapper(mapper), seed),
        batch_sampler=TrainingBatches(sampler, batch_size, groups),
        num_workers=num_workers,
        collate_fn=collate_fn,
        worker_init_fn=end_on_sigterm_of_trainer,
        generator=torch.Generator(),  # its start must not draw from the random numbers of a step
    )


def end_on_sigterm_of_trainer(worker_id: int) -> None:
    """Make a data worker ignore a SIGTERM from any process but the one it works for.

    torchrun, ``timeout`` and batch systems send SIGTERM to all processes of a job, but the trainer
    still needs its data to finish the step. This requires a system that identifies the sender, such
    as Linux.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def wait_for_trainer() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait_for_trainer, daemon=True).start()


def seed_from(*numbers: int) -> None:
    """Seed the generators of Python, NumPy and torch with some non-negative integers."""
    torch.manual_seed(_seed_numpy_and_python(*numbers))


def _seed_numpy_and_python(*numbers: int) -> int:
    """Seed the generators of Python and NumPy, and get the seed of the others."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    return seed


@contextlib.contextmanager
def own_random_state() -> Iterator[None]:
    """Isolate the state of all CPU generators within a ``with`` block from the state outside."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
