"""AP_val(N(tau, w)) of many architectures that share the weights of one supernet (section 3.3.1)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import ImageList
from detectron2.utils import comm

from ..architecture import Code
from ..data.naming_mapper import NamingMapper
from ..engine.hooks import find_supernet
from ..engine.terminal import report_images
from ..main_process import patient_group
from ..search.trial import Resampled, Trial
from ..spaces import PathSpace
from .detections import Detections
from .recalibration import Statistics, keeping_statistics, recalibrate, use_statistics
from .scorer import Scorer


class ArchitectureEvaluator:
    """Evaluates the networks of a trained supernet on archval, many at a time.

    A mini-batch of images is read and decoded once and then passes through one network after the
    other, in lexicographic order, so that each pass starts where it differs from the one before.
    The APs equal exactly those of building each network, loading its weights and running
    Detectron2's evaluation. Masks are neither predicted nor scored, unless ``SEARCH.METRIC`` is a
    mask metric.

    A code may be shorter than a path. The open entries are then drawn uniformly, once for each
    mini-batch and equally for all codes of the same length, so that these are compared on the same
    completions (section 3.3.2, where c is the number of mini-batches).

    Attributes:
        scorer: scorer of detections on archval.
    """

    def __init__(self, cfg: CfgNode, model: Any):
        """
        Args:
            cfg: config of the supernet detector. ``DATASETS.TEST[0]`` is archval,
                ``DATASETS.TRAIN`` is the source of the norms' statistics, and ``SEARCH`` has all
                other settings.
            model: the meta-architecture of this config, with its weights.

        Raises:
            ValueError: the model has no supernet, or a value in the config is invalid here.
        """
        supernet = find_supernet(model)
        if supernet is None:
            raise ValueError(
                f"MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME!r}; expected the builder of a "
                "supernet"
            )
        search = cfg.SEARCH
        self._supernet = supernet
        self._model = model.eval()
        self._images_per_batch = search.IMAGES_PER_BATCH
        self._group_size = search.GROUP_SIZE
        self._num_workers = cfg.DATALOADER.NUM_WORKERS
        self._mapper = NamingMapper(DatasetMapper(cfg, is_train=False))
        self._archval = get_detection_dataset_dicts(cfg.DATASETS.TEST[0], filter_empty=False)
        self._with_masks = search.METRIC.startswith("segm/")
        self.scorer = Scorer(cfg.DATASETS.TEST[0], masks=self._with_masks)
        if cfg.MODEL.MASK_ON and cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
            model.roi_heads.mask_on = self._with_masks  # a PanopticFPN needs its masks
        self._metric, self._resampled = search.METRIC, None
        if search.RESAMPLES:
            self._resampled = self.scorer.resample(search.METRIC, search.RESAMPLES)
        self._seed = search.SEED
        self._autocast = search.AMP
        self._statistics_images = _draw_images(cfg) if search.BN.MODE == "recalibrate" else []
        self._statistics_batch = search.BN.IMAGES_PER_BATCH
        self._scorers = patient_group()  # pycocotools takes minutes for an architecture

    @property
    def space(self) -> PathSpace:
        """The space of all paths of the supernet."""
        return self._supernet.space

    @property
    def mini_batches(self) -> int:
        """The number c of mini-batches of archval."""
        return math.ceil(len(self._archval) / self._images_per_batch)

    @property
    def image_passes(self) -> int:
        """The number of images that pass through the network of one architecture to evaluate it."""
        return len(self._archval) + len(self._statistics_images)

    def image_ids(self, batches: range) -> list[int]:
        """Get the ids of the images in some mini-batches."""
        indices = _images_of(batches, self._images_per_batch, len(self._archval))
        return [self._archval[index]["image_id"] for index in indices]

    def evaluate(self, codes: Sequence[Code], batches: range | None = None) -> Iterator[Trial]:
        """Evaluate architectures, ``SEARCH.GROUP_SIZE`` of them in each pass over archval.

        The ranks share the images of a group, and then its architectures, each of which is scored
        by one rank. All ranks have to call this in the same way and to exhaust the iterator.

        Args:
            codes: paths, or prefixes of the same length.
            batches: mini-batches of archval on which they are evaluated. By default all.

        Yields:
            Each trial as soon as it is scored, on all ranks, in the order of the codes.
        """
        batches = range(self.mini_batches) if batches is None else batches
        image_ids = None if len(batches) == self.mini_batches else self.image_ids(batches)
        for start in range(0, len(codes), self._group_size):
            group = codes[start : start + self._group_size]
            began = time.perf_counter()
            own = self.detect(group, batches)
            detecting = (time.perf_counter() - began) / len(group)
            for first in range(0, len(group), comm.get_world_size()):
                began = time.perf_counter()
                scored = group[first : first + comm.get_world_size()]
                parts = []
                for rank in range(len(scored)):  # one after the other, as they are large
                    parts += comm.gather(next(own), rank, self._scorers)
                trial = None
                if parts:
                    trial = self.score(scored[comm.get_rank()], together(parts), image_ids)
                trials = comm.all_gather(trial, self._scorers)[: len(scored)]
                scoring = (time.perf_counter() - began) / len(scored)
                yield from (replace(trial, seconds=detecting + scoring) for trial in trials)

    def score(
        self, code: Code, found: Detections | str, image_ids: Sequence[int] | None = None
    ) -> Trial:
        """Score the detections of an architecture.

        Args:
            code: code of the architecture.
            found: its detections, or the reason why it failed.
            image_ids: ids of the images that it was run on. None means all of archval.
        """
        images = len(self._archval if image_ids is None else image_ids)
        if isinstance(found, str):
            return Trial(code, "failed", images=images, reason=found)
        results = self.scorer(found, image_ids)
        metrics = {name: value for name, value in results.items() if math.isfinite(value)}
        if not metrics:
            reason = f"no result is finite, of {len(found)} detections"
            return Trial(code, "failed", images=images, reason=reason)
        if image_ids is not None:
            return Trial(code, "dropped", metrics, images)
        resampled = None
        if self._resampled:
            resampled = Resampled.of(self._metric, self._resampled.ap(found))
        return Trial(code, "done", metrics, images, resampled=resampled)

    def detect(self, codes: Sequence[Code], batches: range) -> Iterator[Detections | str]:
        """Detect objects in this rank's share of some mini-batches of archval.

        All results are kept in memory until they are consumed, at 32 bytes for each box.

        Returns:
            An iterator over the detections of each architecture, or the reason why it failed.
        """
        order = sorted(range(len(codes)), key=lambda index: codes[index])
        found: list[list[Detections | str]] = [[] for _ in codes]
        with torch.no_grad(), keeping_statistics(self._model.backbone):
            statistics = self._recalibrate([codes[index] for index in order])
            for number, inputs in self._load(batches):
                with self._one_image_tensor(inputs), self._supernet.sharing_prefixes():
                    for index, own_statistics in zip(order, statistics):
                        self._supernet.set_path(self._complete(codes[index], number))
                        use_statistics(own_statistics)
                        found[index].append(self._run(inputs))
                        report_images(len(inputs) * comm.get_world_size())
        found.reverse()  # concatenated when they are consumed, so that few exist twice
        return (together(found.pop()) for _ in codes)

    def _complete(self, code: Code, number: int) -> Code:
        """Get the path that a code stands for on a mini-batch."""
        if len(code) == len(self._supernet.space.choices):
            return code
        drawn = self._supernet.space.sample(Random(f"{self._seed}/{len(code)}/{number}"))
        return (*code, *drawn[len(code) :])

    def _run(self, inputs: list[dict[str, Any]]) -> Detections | str:
        """Get the detections in a mini-batch, or the reason if the features are not all finite."""
        # NaN for a feature that has one; far faster than isfinite() of every value
        extremes: list[torch.Tensor] = []

        def add_extremes(_: Any, __: Any, features: dict[str, torch.Tensor]) -> None:
            for feature in features.values():
                extremes.extend(feature.aminmax())

        hook = self._model.backbone.register_forward_hook(add_extremes)
        with hook, torch.autocast(self._model.device.type, enabled=self._autocast):
            outputs = self._model(inputs)
        found = []
        for image, output in zip(inputs, outputs):
            instances = output["instances"]
            if not self._with_masks and instances.has("pred_masks"):
                instances.remove("pred_masks")
            found += instances_to_coco_json(instances.to("cpu"), image["image_id"])
        if not torch.stack(extremes).isfinite().all():
            return "a feature is Inf or NaN"
        return Detections.from_json(found).compact()

    def _load(self, batches: range) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Load and decode the mini-batches of this rank, with their numbers."""
        own = _own_share(batches)
        yield from zip(own, self._loader(self._archval, own, self._images_per_batch))

    def _loader(self, images: list[dict], batches: range, batch_size: int) -> Any:
        return build_detection_test_loader(
            images,
            mapper=self._mapper,
            sampler=_images_of(batches, batch_size, len(images)),
            batch_size=batch_size,
            num_workers=self._num_workers,
        )

    @contextlib.contextmanager
    def _one_image_tensor(self, inputs: list[dict[str, Any]]) -> Iterator[None]:
        """Preprocess the images only once for all forward passes within a ``with`` block."""
        images = self._model.preprocess_image(inputs)
        self._model.preprocess_image = lambda _: images
        try:
            yield
        finally:
            del self._model.preprocess_image

    def _recalibrate(self, codes: Sequence[Code]) -> list[Statistics]:
        if not self._statistics_images:
            return [{}] * len(codes)
        batches = self._statistics_batches(len(codes))
        return recalibrate(self._model.backbone, self._supernet, codes, batches)

    def _statistics_batches(self, codes: int) -> Iterator[ImageList]:
        """Load this rank's images for the statistics of the norms.

        Args:
            codes: number of networks through which each image passes.
        """
        images, size = self._statistics_images, self._statistics_batch
        own = _own_share(range(math.ceil(len(images) / size)))
        for inputs in self._loader(images, own, size):
            yield self._model.preprocess_image(inputs)
            report_images(len(inputs) * codes * comm.get_world_size())


def together(parts: Sequence[Detections | str]) -> Detections | str:
    """Concatenate the detections in all parts of archval, or get the reason of a failure."""
    reasons = [part for part in parts if isinstance(part, str)]
    found = [part for part in parts if isinstance(part, Detections)]
    return reasons[0] if reasons else Detections.concatenate(found)


def _images_of(batches: range, size: int, count: int) -> list[int]:
    """Get the indices of the images in some mini-batches of ``size``, out of ``count`` images."""
    return [i for b in batches for i in range(b * size, min((b + 1) * size, count))]


def _own_share(batches: range) -> range:
    """Get the mini-batches of this rank, distributed as in Detectron2."""
    own = list(InferenceSampler(len(batches)))
    return batches[own[0] : own[-1] + 1] if own else batches[:0]


def _draw_images(cfg: CfgNode) -> list[dict]:
    """Draw the images of archtrain for the norms' statistics, sorted by their aspect ratio."""
    images = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    count = min(len(images), cfg.SEARCH.BN.BATCHES * cfg.SEARCH.BN.IMAGES_PER_BATCH)
    drawn = Random(cfg.SEARCH.SEED).sample(images, count)
    return sorted(drawn, key=lambda image: image["width"] / image["height"])
