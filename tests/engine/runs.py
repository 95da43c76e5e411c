"""Training runs of toy size, in this process or as a user starts them."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from hanging import HANGS_S
from tiny_coco import write_tiny_coco
from warm_python import warm_python

from crnas_d2.commands import train as train_command
from crnas_d2.engine import CRTrainer, setup

from detectron2.engine import default_argument_parser

TRAIN_NET = Path(__file__).resolve().parents[2] / "train_net.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
TWO_PROCESSES = ["--num-gpus", "2", "--dist-url", "auto"]

NETWORKS = {
    "detector": [],
    "stage": [
        *("MODEL.BACKBONE.NAME", "build_stage_supernet_fpn_backbone"),
        *("MODEL.SUPERNET.STAGE_CHOICES", "[[1, 2], [1, 2], [1, 2, 3], [1, 2]]"),
    ],
    "dilation": ["MODEL.BACKBONE.NAME", "build_dilation_supernet_fpn_backbone"],
    "retinanet": [
        *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CONVS", 1),
        *("MODEL.BACKBONE.NAME", "build_stage_supernet_retinanet_fpn_backbone"),
        *("MODEL.SUPERNET.STAGE_CHOICES", "[[1, 2], [1, 2], [1, 2, 3], [1, 2]]"),
        *("MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']"),
    ],
}

# Everything that draws random numbers: augmentations, and RPN and RoI heads that sample.
RANDOM = [
    *("INPUT.MIN_SIZE_TRAIN", "(48, 64, 80)"),
    *("INPUT.CROP.ENABLED", "True"),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "16"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8"),
    *("SOLVER.IMS_PER_BATCH", "2"),
]


def mixed_data(root):
    """Options for a training set of wide, tall and square images; few enough for three epochs."""
    shapes = [(64, 48), (48, 64), (64, 48), (64, 64), (48, 80)]
    json_file = write_tiny_coco(root, images=5, shapes=shapes)
    name = f"mixed_{root}"
    return [
        *("DATASETS.COCO_JSON", [[name, str(json_file), str(root / "images")]]),
        *("DATASETS.TRAIN", (name,), "DATASETS.TEST", ()),
    ]


def parse(config, *arguments):
    return default_argument_parser().parse_args(
        ["--config-file", str(config), *map(str, arguments)]
    )


def train(config, *arguments):
    """Run train_net.py in this process."""
    return train_command.train(parse(config, *arguments))


def run_trainer(config, *arguments, change=lambda trainer: None):
    """Do what train_net.py does, with a trainer that may be changed before it starts.

    Returns:
        The trainer, at its end.
    """
    args = parse(config, *arguments)
    trainer = CRTrainer(setup(args))
    trainer.resume_or_load(resume=args.resume)
    change(trainer)
    trainer.train()
    return trainer


class Run:
    """train_net.py as a process of its own, which leads a group of processes."""

    def __init__(self, config, *arguments, launcher=(), script=TRAIN_NET):
        self._printed = tempfile.TemporaryFile("w+")
        with open(os.devnull) as nothing:
            self.process = warm_python().start(
                [*launcher, script, "--config-file", config, *arguments],
                *(nothing, self._printed, self._printed),
                cwd=Path(config).parent,
                own_session=True,
            )

    def printed(self):
        self._printed.seek(0)
        return self._printed.read()

    def wait_for_checkpoint(self, output, known=()):
        """Wait until there is a checkpoint in the folder that is not among the known ones."""
        self.wait_for(lambda: set(checkpoints(output)) - set(known))

    def wait_for(self, condition):
        end = time.monotonic() + HANGS_S
        while not condition():
            assert self.process.poll() is None, self.printed()[-4000:]
            assert time.monotonic() < end, self.kill_all()
            time.sleep(0.01)

    def finish(self):
        """Wait for the end.

        Returns:
            The exit code, and all that was printed.
        """
        try:
            return self.process.wait(HANGS_S), self.printed()
        except subprocess.TimeoutExpired:
            raise AssertionError(self.kill_all()) from None

    def wait_for_its_children(self):
        """Wait until no process is left that it has started."""
        end = time.monotonic() + 20
        while left := self._members():
            assert time.monotonic() < end, f"{len(left)} processes are left; {self.kill_all()}"
            time.sleep(0.05)

    def _members(self):
        members = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, _, group = path.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.process.pid and state != "Z":
                    members.append(path)
        return members

    def kill_all(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return f"no end after {HANGS_S} s; printed:\n{self.printed()[-4000:]}"


def checkpoints(output):
    return sorted(path.name for path in output.glob("*.pth"))


def last_checkpoint(output):
    """The last one; at the end of a training that of the same iteration which has the state of the
    optimizer, if there is one."""
    last = torch.load(output / (output / "last_checkpoint").read_text(), weights_only=True)
    periodic = output / f"model_{last['iteration']:07d}.pth"
    return torch.load(periodic, weights_only=True) if periodic.exists() else last


def last_metrics(output):
    """The last line of metrics.json, in which null is NaN."""
    metrics = json.loads((output / "metrics.json").read_text().splitlines()[-1])
    return {key: math.nan if value is None else value for key, value in metrics.items()}


def copy_of_state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def copy_checkpoint(source, target):
    """Make a folder that looks as if its run had ended with this checkpoint."""
    target.mkdir()
    shutil.copy(source, target)
    (target / "last_checkpoint").write_text(source.name)


def assert_same_state(one, other, place="checkpoint"):
    """All numbers and tensors in two nested states are equal, bit for bit."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same_state(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for index, (a, b) in enumerate(zip(one, other)):
            assert_same_state(a, b, f"{place}.{index}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), place
    else:
        assert one == other, place
