#!/usr/bin/env python3
"""Time and memory to evaluate architectures of a supernet: a plain loop against the search's way.

architecture_evaluation.py --config-file configs/Digits/stage_supernet_R_18_FPN.yaml \\
    --opts MODEL.WEIGHTS output/supernet/model_final.pth SEARCH.BN.MODE running
architecture_evaluation.py --config-file FILE --candidates 20 --images 100 --plain-images-per-batch
1 \\
    --opts MODEL.WEIGHTS model_final.pth SEARCH.IMAGES_PER_BATCH 16 SEARCH.AMP True
architecture_evaluation.py --config-file FILE --skip-plain --record output/table --opts ...
architecture_evaluation.py --config-file FILE --images 4 --memory 10 374 --opts ...

The plain loop takes one network after the other: it builds the detector, loads its weights and runs
Detectron2's inference_on_dataset, with its own test loader and a COCOEvaluator that scores with
pycocotools. The search's way is ArchitectureEvaluator, with the SEARCH keys of the config. If
SEARCH.BN.MODE recalibrates, the plain loop does it for each network individually, on the same
images. The candidates are the codes that the config's stage search evaluates (all paths with a
large SEARCH.TOLERANCE), or random paths of a dilation supernet.

Both take turns, group by group, in one process. With the same mini-batch size and precision, all
metrics have to be equal in every digit, or the script fails. Otherwise it prints how far they
differ. The work of a loader's workers is not included in the CPU time. --memory prints the peak
memory of a process that evaluates this many candidates and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np
import torch
from stopwatch import Stopwatch, TimedLoader, time_tables
from synthetic import final_config
from tabulate import tabulate

from crnas_d2.architecture import Code, format_code
from crnas_d2.checkpoint import CRCheckpointer, inherit_subnet
from crnas_d2.config import read_config
from crnas_d2.engine import CRTrainer
from crnas_d2.engine.config_check import check_network
from crnas_d2.engine.setup import check_datasets
from crnas_d2.engine.sync_bn import without_sync_bn
from crnas_d2.evaluation.detections import Detections
from crnas_d2.evaluation.evaluator import ArchitectureEvaluator, _draw_images
from crnas_d2.evaluation.recalibration import recalibrate, use_statistics
from crnas_d2.files import read_json, write_json
from crnas_d2.procedure.search_extent import planned_evaluations
from crnas_d2.procedure.search_keys import settled
from crnas_d2.search.limits import Limits
from crnas_d2.search.random_search import draw_paths
from crnas_d2.search.trial import Trial
from crnas_d2.spaces import PathSpace, StageSpace

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, inference_on_dataset

MIB = 2**20


class Search:
    """The evaluation of the search.

    Attributes:
        model: the supernet detector.
        space: space of all paths.
        image_ids: ids of the images that are evaluated.
    """

    def __init__(self, cfg: CfgNode):
        self.watch = watch = Stopwatch(cfg.MODEL.DEVICE)
        with watch.running(), watch.section("set-up"):
            self.model = CRTrainer.build_model(cfg)
            CRCheckpointer(self.model, "", cfg).load(cfg.MODEL.WEIGHTS)
            self._evaluator = evaluator = ArchitectureEvaluator(cfg, self.model)
        self.space: PathSpace = evaluator.space
        self._batches = range(evaluator.mini_batches)
        self.image_ids = evaluator.image_ids(self._batches)
        self.model.forward = watch.section("forward")(self.model.forward)
        make_loader = evaluator._loader
        evaluator._loader = lambda *args: TimedLoader(make_loader(*args), watch)
        if cfg.SEARCH.BN.MODE == "recalibrate":
            evaluator._recalibrate = watch.section("recalibration")(evaluator._recalibrate)
        evaluator.scorer = watch.section("scoring")(evaluator.scorer.__call__)

    def evaluate(self, codes: Sequence[Code]) -> tuple[list[Detections | str], list[Trial]]:
        """Evaluate like :meth:`ArchitectureEvaluator.evaluate`, but keep the detections."""
        with self.watch.running():
            found = list(self._evaluator.detect(codes, self._batches))
            return found, [self._evaluator.score(code, f) for code, f in zip(codes, found)]


class PlainLoop:
    """Detectron2's evaluation of one network after the other."""

    def __init__(self, cfg: CfgNode, supernet: torch.nn.Module, images_per_batch: int):
        self.watch = Stopwatch(cfg.MODEL.DEVICE)
        self._cfg = cfg
        self._weights = supernet.state_dict()
        self._images_per_batch = images_per_batch

    def evaluate(self, codes: Sequence[Code]) -> list[dict[str, float]]:
        """Get the metrics of each network, without those that are not finite."""
        with self.watch.running(), contextlib.redirect_stdout(io.StringIO()):
            return [self._evaluate(code) for code in codes]

    def _evaluate(self, code: Code) -> dict[str, float]:
        name, watch = self._cfg.DATASETS.TEST[0], self.watch
        with watch.section("set-up"):
            model = CRTrainer.build_model(final_config(self._cfg, code)).eval()
            model.load_state_dict(inherit_subnet(self._weights, code))
            model.forward = watch.section("forward")(model.forward)
            archval = get_detection_dataset_dicts(name, filter_empty=False)
            loader = self._loader(archval, self._images_per_batch)
            evaluator = COCOEvaluator(name, use_fast_impl=False)
            evaluator.evaluate = watch.section("scoring")(evaluator.evaluate)
        if self._cfg.SEARCH.BN.MODE == "recalibrate":
            with watch.section("recalibration"):
                self._recalibrate(model)
        found = inference_on_dataset(model, TimedLoader(loader, watch), evaluator)
        return {
            f"{task}/{metric}": value
            for task, metrics in found.items()
            for metric, value in metrics.items()
            if np.isfinite(value)
        }

    def _recalibrate(self, model: torch.nn.Module) -> None:
        # stands in for a supernet
        one_path = mock.Mock(sharing_prefixes=contextlib.nullcontext, modules=lambda: [])
        loader = self._loader(_draw_images(self._cfg), self._cfg.SEARCH.BN.IMAGES_PER_BATCH)
        with torch.no_grad():
            batches = map(model.preprocess_image, loader)
            use_statistics(recalibrate(model.backbone, one_path, [()], batches)[0])

    def _loader(self, images: list[dict], images_per_batch: int) -> torch.utils.data.DataLoader:
        return build_detection_test_loader(
            images,
            mapper=DatasetMapper(self._cfg, is_train=False),
            batch_size=images_per_batch,
            num_workers=self._cfg.DATALOADER.NUM_WORKERS,
        )


def load_config(args: argparse.Namespace) -> CfgNode:
    cfg = read_config(args.config_file, args.opts)
    check_network(cfg, training=False)
    check_datasets(cfg, training=False)
    return settled(without_sync_bn(cfg, "an evaluation needs no other"))


@contextlib.contextmanager
def first_images(cfg: CfgNode, count: int | None) -> Iterator[CfgNode]:
    """Get a config whose archval has only the first ``count`` images. None keeps all."""
    if count is None:
        yield cfg
        return
    source = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    archval = read_json(os.fspath(source.json_file))
    archval["images"] = sorted(archval["images"], key=lambda image: image["id"])[:count]
    ids = {image["id"] for image in archval["images"]}
    archval["annotations"] = [a for a in archval["annotations"] if a["image_id"] in ids]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "archval.json")
        path.write_text(json.dumps(archval))
        name = f"{source.name}_first_{count}"
        register_coco_instances(name, {}, str(path), source.image_root)
        cfg = cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TEST = (name,)
        yield cfg


def choose_candidates(cfg: CfgNode, space: PathSpace, count: int | None) -> list[Code]:
    """Choose evenly spaced stage codes, or random dilation paths, in lexicographic order.

    Args:
        cfg: config of the search.
        space: space of the paths.
        count: number of candidates, or fewer if there are no more. None for as many as the search
            evaluates.
    """
    if not isinstance(space, StageSpace):
        return draw_paths(space, Random(cfg.SEARCH.SEED), count or planned_evaluations(cfg))
    codes = Limits.of(cfg, space, None).codes
    steps = np.linspace(0, len(codes) - 1, min(count or len(codes), len(codes)))
    return [codes[round(step)] for step in steps]


def in_groups(cfg: CfgNode, codes: Sequence[Code]) -> Iterator[Sequence[Code]]:
    for start in range(0, len(codes), cfg.SEARCH.GROUP_SIZE):
        yield codes[start : start + cfg.SEARCH.GROUP_SIZE]


def peak_memory(args: argparse.Namespace, count: int) -> list[float]:
    """Get the peak memory of this process in MiB, main and GPU memory, for a number of candidates."""
    with first_images(load_config(args), args.images) as cfg:
        search = Search(cfg)
        codes = choose_candidates(cfg, search.space, args.candidates)
        evaluations = []
        for group in in_groups(cfg, list(itertools.islice(itertools.cycle(codes), count))):
            evaluations += search.evaluate(group)[1]
    peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB]
    if cfg.MODEL.DEVICE != "cpu":
        peaks.append(torch.cuda.max_memory_allocated() / MIB)
    return peaks


def report_memory(args: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as processes:
        peaks = list(processes.map(peak_memory, itertools.repeat(args), args.memory))
    rows = [[count, *peak] for count, peak in zip(args.memory, peaks)]
    print(tabulate(rows, ["candidates", "MiB", "GPU MiB"], "github", floatfmt=".0f"))


def compare(cfg: CfgNode, args: argparse.Namespace) -> None:
    search = Search(cfg)
    codes = choose_candidates(cfg, search.space, args.candidates)
    own_batch = cfg.SEARCH.IMAGES_PER_BATCH
    plain_batch = args.plain_images_per_batch or own_batch
    plain = None if args.skip_plain else PlainLoop(cfg, search.model, plain_batch)
    device = "CPU" if cfg.MODEL.DEVICE == "cpu" else torch.cuda.get_device_name()
    print(
        f"{device}, {torch.get_num_threads()} thread(s), torch {torch.__version__}; "
        f"{len(codes)} candidates in groups of {cfg.SEARCH.GROUP_SIZE}, "
        f"{len(search.image_ids)} images, {own_batch} in a mini-batch"
        + ("" if plain is None else f" (plain: {plain_batch})")
        + (", mixed precision (plain: single)" if cfg.SEARCH.AMP else "")
    )
    evaluations, expected = [], []
    for number, group in enumerate(in_groups(cfg, codes)):
        if plain is not None and number % 2 == 0:
            expected += plain.evaluate(group)
        found, evaluated = search.evaluate(group)
        evaluations += evaluated
        if plain is not None and number % 2 == 1:
            expected += plain.evaluate(group)
        if args.record:
            record(args.record, group, found)
        print(f"{len(evaluations)} of {len(codes)} evaluated", file=sys.stderr, flush=True)
    if args.record:
        write_json(str(args.record / "image_ids.json"), search.image_ids)

    if plain is not None:
        check(evaluations, expected, exactly=plain_batch == own_batch and not cfg.SEARCH.AMP)
    watches = {"search": search.watch}
    if plain is not None:
        watches = {"plain": plain.watch, **watches}
    print("\n" + time_tables(watches, len(codes) * len(search.image_ids)))


def record(folder: Path, codes: Sequence[Code], found: Sequence[Detections | str]) -> None:
    """Write the detections of each architecture."""
    folder.mkdir(parents=True, exist_ok=True)
    for code, detections in zip(codes, found):
        if isinstance(detections, str):
            raise ValueError(
                f"{format_code(code)} failed, so nothing can be recorded: {detections}"
            )
        write_json(str(folder / f"{format_code(code)}.json"), detections.to_json())


def check(
    evaluations: Sequence[Trial], expected: Sequence[dict[str, float]], exactly: bool
) -> None:
    """Compare all metrics of all architectures.

    Raises:
        ValueError: they differ where they have to be equal.
    """
    differ = [e.code for e, metrics in zip(evaluations, expected) if dict(e.metrics) != metrics]
    if exactly:
        if differ:
            raise ValueError(f"{len(differ)} architectures have other metrics: {differ}")
        print(f"all metrics have the same digits ({len(expected[0])} for each candidate)")
        return
    for name in evaluations[0].metrics:
        if name.endswith("/AP"):
            own = [e.metrics.get(name, np.nan) for e in evaluations]
            apart = np.abs(np.subtract(own, [metrics.get(name, np.nan) for metrics in expected]))
            print(
                f"{name} differs by {np.nanmax(apart):.4f} at most, {np.nanmean(apart):.4f} on average"
            )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of a supernet detector")
    parser.add_argument("--candidates", type=int, metavar="N", help="default: as the search has")
    parser.add_argument("--images", type=int, metavar="N", help="of archval; default: all")
    parser.add_argument(
        "--plain-images-per-batch", type=int, metavar="N", help="default: SEARCH.IMAGES_PER_BATCH"
    )
    parser.add_argument("--skip-plain", action="store_true", help="take no times of the plain loop")
    parser.add_argument(
        "--record", type=Path, metavar="FOLDER", help="for what was detected, see halving_replay.py"
    )
    parser.add_argument("--memory", type=int, nargs="+", metavar="N", help="numbers of candidates")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys, values")
    args = parser.parse_args(argv)
    if args.memory:
        report_memory(args)
    else:
        with first_images(load_config(args), args.images) as cfg:
            compare(cfg, args)


if __name__ == "__main__":
    main()
