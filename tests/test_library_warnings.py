"""Which warnings of other packages are silenced, and that no others are."""

import subprocess
import sys

import pytest
from warm_python import environment_of_tests, warm_python

AMP = (
    "AMPTrainer(torch.nn.Linear(1, 1), [], torch.optim.SGD([torch.zeros(1)], 1), grad_scaler=None)"
)
# A group of one process, of which Detectron2 is told that it has two
DDP = """
import os, tempfile, torch.distributed
from detectron2.utils import comm
file = tempfile.NamedTemporaryFile()
torch.distributed.init_process_group("gloo", f"file://{file.name}", rank=0, world_size=1)
comm.get_world_size = lambda: 2
model = torch.nn.Linear(1, 1)
"""
DETECTRON2 = {
    "import": "import detectron2.modeling, detectron2.evaluation, detectron2.export",
    "anchors": (
        "from detectron2.modeling.anchor_generator import DefaultAnchorGenerator as Anchors\n"
        "Anchors(sizes=[[8]], aspect_ratios=[[1.0]], strides=[8])([torch.zeros(1, 1, 2, 2)])"
    ),
    "pooler": (
        "from detectron2.modeling.poolers import ROIPooler\n"
        "from detectron2.structures import Boxes\n"
        "ROIPooler(2, (0.5, 0.25), 0, 'ROIAlignV2')([torch.zeros(1, 1, 8, 8)] * 2, "
        "[Boxes(torch.ones(1, 4))])"
    ),
    "amp": f"from detectron2.engine import AMPTrainer\n{AMP}",
    "ddp": (
        f"{DDP}from detectron2.engine import create_ddp_model\n"
        "create_ddp_model(model, broadcast_buffers=False, device_ids=None)"
    ),
}
OWN = {
    "ddp": (
        f"{DDP}from torch.nn.parallel import DistributedDataParallel\n"
        "DistributedDataParallel(model, broadcast_buffers=False)"
    ),
    "script": "torch.jit.script(lambda_)",
    "amp": "torch.cuda.amp.autocast()",
    "warn": "import warnings; warnings.warn('torch.meshgrid: in an upcoming release')",
}


def run(code, imported=True):
    """What the code writes to stderr in a new process, in which this package is imported first."""
    code = f"import crnas_d2, torch\ndef lambda_(x: torch.Tensor):\n    return x\n{code}"
    if not imported:
        command = [sys.executable, "-c", code]
        environment = environment_of_tests()
        return subprocess.run(command, env=environment, capture_output=True, text=True).stderr
    return warm_python().run(["-c", code]).stderr


@pytest.mark.parametrize("call", DETECTRON2)
def test_calls_of_detectron2_are_not_warned_of(call):
    text = run(DETECTRON2[call], imported=call != "import")
    if call == "amp":  # on a machine without a GPU torch says so, by right
        text = "".join(line for line in text.splitlines() if "GradScaler(args" in line)
    assert text == ""


@pytest.mark.parametrize("call", OWN)
def test_calls_of_the_user_are(call):
    assert "Warning: " in run(OWN[call])
