"""The backbones leave Python: TorchScript, torch.export and ONNX give the features of eager mode."""

import warnings

import onnxruntime
import pytest
import torch

from crnas_d2 import ARCHITECTURES, Architecture, CRMobileNetV2, CRResNet

from detectron2.export import TracingAdapter
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

STAGES = ["res2", "res3", "res4", "res5"]
BACKBONES = {
    "CR-ResNet18": (CRResNet, {"block": "basic", "stem_out_channels": 8, "res2_out_channels": 8}),
    "CR-ResNet50": (
        CRResNet,
        {"stem_out_channels": 8, "res2_out_channels": 16, "width_per_group": 4},
    ),
    "CR-MobileNetV2": (CRMobileNetV2, {"width_multiplier": 0.25}),
}
# With every dilation; torch.export takes a second for three blocks
SHORT = {
    "CR-ResNet18": Architecture((1, 1, 2, 1), (0, 1, 2, 0, 1)),
    "CR-ResNet50": Architecture((1, 1, 2, 1), (0, 1, 2, 0, 1)),
    "CR-MobileNetV2": Architecture(
        (1, 1, 1, 1, 2, 1, 1, 1, 1, 1), (0, 1, 0, 1, 0, 2, 0, 1, 1, 0, 0)
    ),
}


def make_model(name, fpn=False, architectures=ARCHITECTURES):
    """A thin network with norms that are no identity, so that a wrong fusion would show."""
    torch.manual_seed(0)
    backbone, options = BACKBONES[name]
    architecture = architectures[name]
    model = backbone(
        architecture.stage_code, architecture.operation_code, out_features=STAGES, **options
    )
    for tensor in model.state_dict().values():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.0)
    if fpn:
        model = FPN(model, STAGES, 16, norm="BN", top_block=LastLevelMaxPool())
    return model.eval()


def assert_features(features, expected):
    assert list(features) == list(expected)
    for name, value in expected.items():
        assert value.std() > 0
        torch.testing.assert_close(features[name], value, rtol=1e-5, atol=1e-5 * value.abs().max())


# The networks are exported at one size and run at another one.
EXPORTED_SIZE, SIZE = (2, 3, 64, 96), (1, 3, 128, 64)


@pytest.mark.parametrize(
    "name, fpn", [*((name, False) for name in BACKBONES), ("CR-ResNet50", True)]
)
@torch.no_grad()
def test_torchscript(name, fpn):
    model = make_model(name, fpn)
    adapter = TracingAdapter(model, torch.rand(EXPORTED_SIZE))  # flattens the dict of features
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of torch, tracing is deprecated
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    images = torch.rand(SIZE)
    assert_features(adapter.outputs_schema(traced(images)), model(images))


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_torch_export_and_onnx(name, tmp_path):
    model = make_model(name, architectures=SHORT)
    dynamic = torch.export.Dim.DYNAMIC
    sizes = {0: dynamic, 2: dynamic, 3: dynamic}
    program = torch.export.export(model, (torch.rand(EXPORTED_SIZE),), dynamic_shapes=(sizes,))
    images = torch.rand(SIZE)
    expected = model(images)
    assert_features(program.module()(images), expected)

    path = str(tmp_path / "model.onnx")
    torch.onnx.export(program, f=path, dynamo=True, output_names=list(expected), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    names = [output.name for output in session.get_outputs()]
    assert_features(dict(zip(names, map(torch.from_numpy, outputs), strict=True)), expected)
