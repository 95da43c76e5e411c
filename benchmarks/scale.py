#!/usr/bin/env python3
"""The cost of a search and of a training at COCO's size, with a stand-in for the detector.

scale.py search --processes 1 2 4
scale.py search --images 64 --detections 10 --forward-ms 100 --scoring-s 1.6 --architectures 16
scale.py search --processes 2 --masks --images 200 --architectures 8
scale.py ledger
scale.py training
scale.py gpu

search: synthetic detections of COCO's size pass through the search's own code: 5,000 images, 80
classes, 100 detections in each image, 32 architectures. The detector runs a thin supernet on tiny
images, sleeps for a fixed time, and returns the synthetic detections. All else is the search's, but
the scorer may sleep too, if other programs use the processors. "waits for scores" is the share of
all ranks' time in which a rank is in a collective while another one scores, "waits" the share in
any collective. Memory is the peak of a rank beyond what it has before the first image.
ledger: bytes of a trial with 80 classes and 200 resamples, and the CPU time to open a ledger with
this many trials.
training: collectives in a step of a supernet on two ranks (and how many of them have pickled
objects), and the checkpoints that are left after 36 of them have been written, with the sizes of
ResNet50.
gpu: the plain loop against the search's evaluator, a supernet's step against that of a plain
network, and NCCL with one process. Without a GPU, it prints one line.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import architecture_evaluation
import numpy as np
import supernet_step
import torch
import torch.distributed as dist
from coco_scoring import SIZE, make_data
from PIL import Image
from stand_in import MadeHeads, StandIn
from synthetic import load_config, make_batch
from tabulate import tabulate
from timeline import OBJECT_COLLECTIVES, Timeline, overlap, union

from crnas_d2.engine import CRTrainer
from crnas_d2.evaluation.detections import Detections
from crnas_d2.evaluation.evaluator import ArchitectureEvaluator
from crnas_d2.evaluation.scorer import Scorer
from crnas_d2.procedure.search_keys import settled
from crnas_d2.search.ledger import Ledger
from crnas_d2.search.progress import Progress
from crnas_d2.search.study import Study
from crnas_d2.search.trial import Resampled, Trial

from detectron2.config import CfgNode
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import launch
from detectron2.modeling import build_backbone
from detectron2.utils import comm

NAME = "scale"
MIB, MB = 2**20, 10**6
THIN = [
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
]
SUPERNET = "Digits/stage_supernet_R_18_FPN.yaml"
LARGE_SUPERNET = "Supernet/stage_supernet_R_50_FPN.yaml"


def pretend_to_score(seconds: float, *_: Any) -> dict[str, float]:
    time.sleep(seconds)
    return {"bbox/AP": 1.0}


def memory(name: str) -> float:
    """Read the memory of this process in MiB from /proc/self/status: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def make_archval(folder: Path, args: argparse.Namespace) -> Detections:
    """Write and register a ground truth, with one image that stands for all of them.

    Returns:
        The detections in it.
    """
    coco, found = make_data(args.images, args.classes, args.detections)
    json_file = folder / "archval.json"
    if comm.is_main_process():
        for image in coco["images"]:
            image["file_name"] = "image.png"
        for annotation in coco["annotations"] if args.masks else ():
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        Image.new("RGB", tuple(SIZE)).save(folder / "image.png")
        json_file.write_text(json.dumps(coco))
    comm.synchronize()
    register_coco_instances(NAME, {}, str(json_file), str(folder))
    return found


def search(args: argparse.Namespace, folder: Path) -> None:
    """Run in each process. The first one writes a row of the table."""
    torch.set_num_threads(1)
    found = make_archval(folder, args)
    cfg = load_config(SUPERNET, [*THIN, "INPUT.MIN_SIZE_TEST", 16, "SEARCH.BN.MODE", "running"])
    cfg.merge_from_list(["DATASETS.TEST", (NAME,), "DATALOADER.NUM_WORKERS", 0])
    cfg.merge_from_list(["SEARCH.METRIC", "segm/AP" if args.metric == "segm" else "bbox/AP"])
    cfg.merge_from_list(["MODEL.MASK_ON", args.masks, "OUTPUT_DIR", str(folder), *args.opts])
    heads = MadeHeads(found, args.images, args.forward_ms / 1000, args.masks)
    cfg, model = settled(cfg), StandIn(cfg, heads)
    evaluator = ArchitectureEvaluator(cfg, model)
    if args.pycocotools:
        evaluator.scorer = Scorer(NAME, fast=False)
    codes = sorted(evaluator.space)[: args.architectures]
    ledger = Ledger(folder / "ledger.sqlite", {}) if comm.is_main_process() else None
    progress = Progress(str(folder), cfg.SEARCH.METRIC, len(codes), evaluator.image_passes)
    study = Study(cfg, evaluator, ledger, progress)
    comm.synchronize()

    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    timeline, start = Timeline(), time.monotonic()
    score = None if args.scoring_s is None else functools.partial(pretend_to_score, args.scoring_s)
    with timeline.running(score), progress:
        scores = study(codes)
    seconds = time.monotonic() - start
    own = (seconds, timeline.waits, timeline.scores, memory("VmHWM") - before)
    every = comm.gather(own)
    if not comm.is_main_process():
        return
    ledger.close()
    total = sum(rank[0] for rank in every)
    behind = sum(
        overlap(waits, union([s for j, other in enumerate(every) if j != i for s in other[2]]))
        for i, (_, waits, _, _) in enumerate(every)
    )
    waiting = sum(end - start for rank in every for start, end in rank[1])
    row = [
        len(every),
        seconds,
        sum(end - start for rank in every for start, end in rank[2]),
        f"{behind / total:.1%}",
        f"{waiting / total:.1%}",
        every[0][3],
        max([rank[3] for rank in every[1:]], default=None),
        f"{np.ptp(scores):.1e}",
    ]
    (folder / "row.json").write_text(json.dumps(row))


def report_search(args: argparse.Namespace) -> None:
    rows = []
    for processes in args.processes:
        with tempfile.TemporaryDirectory() as folder:
            launch(search, processes, dist_url="auto", args=(args, Path(folder)))
            rows.append(json.loads(Path(folder, "row.json").read_text()))
    head = ["ranks", "seconds", "scoring s", "waits for scores", "waits", "MiB of rank 0"]
    head += ["MiB of others", "APs apart"]
    print(
        f"{args.images} images, {args.classes} classes, {args.detections} detections in each image"
        f"{' with masks' if args.masks else ''}, {args.architectures} architectures, "
        f"{args.forward_ms} ms for an image, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    print(tabulate(rows, head, "github", floatfmt=".1f"))


def report_ledger(args: argparse.Namespace) -> None:
    rng = Random(0)
    codes = [tuple(rng.randint(1, 20) for _ in range(4)) for _ in range(args.trials)]
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", *(f"AP-class {k}" for k in range(80))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.sqlite")
        with Ledger(path, {"a": 1}) as ledger:
            empty = path.stat().st_size
            for code in dict.fromkeys(codes):
                metrics = {f"bbox/{name}": 100 * rng.random() for name in names}
                resampled = Resampled.of("bbox/AP", np.array([rng.random() for _ in range(200)]))
                ledger.record(Trial(code, "done", metrics, 5000, "", 1.0, resampled))
        size = path.stat().st_size
        seconds = []
        for _ in range(9):
            start = time.process_time()
            with Ledger(path, {"a": 1}):
                seconds.append(time.process_time() - start)
    trials = len(set(codes))
    print(
        tabulate(
            [[trials, (size - empty) / trials, 1000 * median(seconds)]],
            ["trials", "bytes of a trial", "CPU ms to open"],
            "github",
            floatfmt=".1f",
        )
    )


class Loader(itertools.repeat):
    """The same mini-batch forever, in place of a loader."""

    dataset = ()


class Trainer(CRTrainer):
    """A trainer on tiny synthetic images."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Loader:
        return Loader(make_batch(cfg, 1, 64, 64))


def train(args: argparse.Namespace, folder: Path, processes: int) -> None:
    """Run 36 steps in each process with a checkpoint after each, and count."""
    torch.set_num_threads(1)
    cfg = load_config(SUPERNET, [*THIN, "OUTPUT_DIR", str(folder), "DATASETS.TEST", ()])
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", processes, "SOLVER.MAX_ITER", 36])
    cfg.merge_from_list(["SOLVER.STEPS", (), "SOLVER.CHECKPOINT_PERIOD", 1, *args.opts])
    trainer, timeline = Trainer(cfg), Timeline()
    with timeline.running():
        trainer.train()
    if comm.is_main_process():
        steps = cfg.SOLVER.MAX_ITER
        found = {name: count / steps for name, count in timeline.counts.items() if count >= steps}
        (folder / "row.json").write_text(json.dumps(found))


def report_training(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        launch(train, 2, dist_url="auto", args=(args, Path(folder), 2))
        counts = json.loads(Path(folder, "row.json").read_text())
        files = sorted(Path(folder).glob("*.pth"))
        sizes = {path.name: path.stat().st_size for path in files}
        last = torch.load(Path(folder, "model_final.pth"), weights_only=True)
        weights = sum(tensor.nbytes for tensor in last["model"].values())
    pickled = sum(count for name, count in counts.items() if name in OBJECT_COLLECTIVES)
    print(f"collectives of a step: {counts}")
    with torch.device("meta"):
        large = build_backbone(load_config(LARGE_SUPERNET, ["MODEL.DEVICE", "meta"]))
    gigabytes = sum(tensor.nbytes for tensor in large.state_dict().values()) / 1e9
    ratio = {name: size / weights for name, size in sizes.items()}
    row = [sum(counts.values()), pickled, len(files), ratio["model_final.pth"]]
    head = ["collectives", "pickled", "checkpoints kept", "final / weights"]
    row += [ratio["model_final.pth"] * gigabytes, sum(ratio.values()) * gigabytes]
    head += ["GB of the final one, R-50", "GB of all, R-50"]
    print(tabulate([row], head, "github", floatfmt=".2f"))


def report_gpu(args: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        print("gpu: skipped, as there is no GPU")
        return
    supernet_step.main(["--config-file", LARGE_SUPERNET, "--size", "800", "1088"])
    supernet_step.main(["--config-file", LARGE_SUPERNET, "--size", "800", "1088", "--amp"])
    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, "weights.pth")
        size = ["INPUT.MIN_SIZE_TEST", "800", "DATALOADER.NUM_WORKERS", "4"]
        cfg = load_config(SUPERNET, size)
        model = CRTrainer.build_model(cfg)
        torch.save({"model": model.state_dict()}, weights)
        for amp in ("False", "True"):
            architecture_evaluation.main(
                ["--config-file", f"configs/{SUPERNET}", "--candidates", "8", "--images", "50"]
                + ["--opts", "MODEL.DEVICE", "cuda", "MODEL.WEIGHTS", weights, *size]
                + ["SEARCH.BN.MODE", "running", "SEARCH.TOLERANCE", "10.0", "SEARCH.AMP", amp]
            )
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29561"}
        dist.init_process_group("nccl", rank=0, world_size=1)
        comm.create_local_process_group(1)
        args.opts += ["MODEL.DEVICE", "cuda"]
        start = time.perf_counter()
        train(args, Path(folder), 1)
        print(f"NCCL with one process: 36 steps in {time.perf_counter() - start:.1f} s")
        dist.destroy_process_group()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"search": report_search, "ledger": report_ledger}
    parts |= {"training": report_training, "gpu": report_gpu}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=100, help="in each image")
    parser.add_argument("--architectures", type=int, default=32)
    parser.add_argument("--forward-ms", type=float, default=1, help="for each image")
    parser.add_argument(
        "--scoring-s", type=float, metavar="S", help="sleep so long for each architecture, to score"
    )
    parser.add_argument("--masks", action="store_true", help="the detector has masks")
    parser.add_argument("--metric", choices=("bbox", "segm"), default="bbox")
    parser.add_argument("--pycocotools", action="store_true", help="score with it")
    parser.add_argument("--trials", type=int, default=400, help="of the ledger")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config keys, values")
    args = parser.parse_args(argv)
    if args.part != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    parts[args.part](args)


if __name__ == "__main__":
    sys.exit(main())
