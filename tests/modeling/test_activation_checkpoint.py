"""Activation checkpointing changes memory and time, and nothing else."""

import copy

import pytest
import torch

from crnas_d2 import ARCHITECTURES, CRMobileNetV2, CRResNet, add_crnas_config
from crnas_d2.modeling.activation_checkpoint import CheckpointedStage

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec

RESNET_FEATURES = ["res2", "res3", "res4", "res5"]
STAGES = {
    "CR-ResNet18": RESNET_FEATURES,
    "CR-ResNet50": RESNET_FEATURES,
    "CR-MobileNetV2": ["stem", "c16", "c24", "c32", "c64", "c96", "c160", "c320", "c1280"],
}
CLASSES = {"resnet": CRResNet, "mobilenetv2": CRMobileNetV2}


def make_model(name, **options):
    architecture = ARCHITECTURES[name]
    codes = (architecture.stage_code, architecture.operation_code)
    options = {"out_features": RESNET_FEATURES, **options}
    if name == "CR-MobileNetV2":
        return CRMobileNetV2(*codes, width_multiplier=0.25, **options)
    if name == "CR-ResNet18":
        thin = {"block": "basic", "res2_out_channels": 8}
    else:
        thin = {"res2_out_channels": 16, "width_per_group": 4}
    return CRResNet(*codes, stem_out_channels=8, **thin, **options)


def make_pair(name, **options):
    """The same network without and with checkpointing."""
    torch.manual_seed(0)
    plain = make_model(name, **options)
    checkpointed = make_model(name, activation_checkpoint=True, **options)
    checkpointed.load_state_dict(plain.state_dict())
    return plain, checkpointed


def train_step(model, images):
    """One step of SGD; returns the features, all gradients and the state after it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    features = model(images)
    sum(feature.square().mean() for feature in features.values()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    return features, gradients, model.state_dict()


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(
    "name, options, counts",
    [
        *((name, {}, {2}) for name in STAGES),
        ("CR-ResNet50", {"freeze_at": 2}, {0, 2}),
        ("CR-MobileNetV2", {"freeze_at": 2}, {0, 2}),
        ("CR-ResNet18", {"norm": "GN"}, set()),
    ],
)
def test_training_is_the_same(name, options, counts):
    plain, checkpointed = make_pair(name, **options)
    before = copy.deepcopy(plain.state_dict())
    for _ in range(2):
        images = torch.rand(2, 3, 64, 64)
        for one, other in zip(train_step(plain, images), train_step(checkpointed, images)):
            assert one
            assert_same(one, other)
    state = checkpointed.state_dict()
    trainable = {n for n, p in plain.named_parameters() if p.requires_grad}
    assert trainable == {n for n, p in checkpointed.named_parameters() if p.requires_grad}
    assert trainable and not any(torch.equal(state[n], before[n]) for n in trainable)
    tracked = {int(v) for n, v in state.items() if n.endswith("num_batches_tracked")}
    assert tracked == counts


@pytest.mark.parametrize("name", STAGES)
def test_evaluation_is_the_same(name):
    plain, checkpointed = make_pair(name)
    plain.eval(), checkpointed.eval()
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    features = checkpointed(images)
    assert_same(plain(images), features)
    with torch.no_grad():
        assert_same(checkpointed(images), features)


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_computed_again_in_the_backward_pass_alone(name):
    _, model = make_pair(name)
    calls = []
    for stage in STAGES[name]:
        assert isinstance(getattr(model, stage), CheckpointedStage)
        first = getattr(model, stage)[0]
        first.register_forward_pre_hook(lambda *_, stage=stage: calls.append(stage))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        model(images)
    assert calls == STAGES[name]
    features = model(images)
    assert calls == STAGES[name] * 2
    features["res5"].sum().backward()
    assert sorted(calls) == sorted(STAGES[name] * 3)


@pytest.mark.parametrize("name", STAGES)
def test_activations_inside_a_stage_are_not_kept(name):
    images = torch.rand(2, 3, 64, 64)

    def kept_bytes(model):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = model(images)  # alive, so that no address is used twice
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        assert features
        return sum(size for address, size in sizes.items() if address not in parameters)

    plain, checkpointed = make_pair(name)
    assert kept_bytes(checkpointed) < 0.75 * kept_bytes(plain)


@pytest.mark.parametrize("name", STAGES)
def test_two_backward_passes_through_one_forward_pass(name):
    plain, checkpointed = make_pair(name)
    images = torch.rand(2, 3, 64, 64)
    for model in (plain, checkpointed):
        features = model(images)
        features["res3"].sum().backward(retain_graph=True)
        features["res5"].square().mean().backward()
    assert_same(
        {n: p.grad for n, p in plain.named_parameters()},
        {n: p.grad for n, p in checkpointed.named_parameters()},
    )
    assert_same(plain.state_dict(), checkpointed.state_dict())


def test_failed_backward_pass_leaves_the_statistics():
    _, model = make_pair("CR-ResNet18")
    features = model(torch.rand(2, 3, 64, 64))
    state = copy.deepcopy(model.state_dict())

    def fail(*_):
        raise RuntimeError("broken block")

    handle = model.res3[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken block"):
        features["res5"].sum().backward()
    handle.remove()
    assert_same(model.state_dict(), state)
    model(torch.rand(2, 3, 64, 64))
    assert model.res3[0].conv1.norm.num_batches_tracked == 2


@pytest.mark.parametrize("name", STAGES)
def test_deepcopy(name):
    plain, model = make_pair(name)
    images = torch.rand(2, 3, 64, 64)
    twin = copy.deepcopy(model)
    state = copy.deepcopy(model.state_dict())
    for one, other in zip(train_step(plain, images), train_step(twin, images)):
        assert_same(one, other)
    assert_same(model.state_dict(), state)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_config_key(name, checkpoint):
    architecture = ARCHITECTURES[name]
    cfg = get_cfg()
    add_crnas_config(cfg)
    cfg.MODEL.CR.FAMILY = architecture.family
    cfg.MODEL.CR.STAGE_CODE = list(architecture.stage_code)
    cfg.MODEL.CR.ACTIVATION_CHECKPOINT = checkpoint
    cfg.MODEL.RESNETS.OUT_FEATURES = RESNET_FEATURES
    with torch.device("meta"):
        model = CLASSES[architecture.family](cfg, ShapeSpec(channels=3))
    kinds = {isinstance(getattr(model, stage), CheckpointedStage) for stage in STAGES[name]}
    assert kinds == {checkpoint}
