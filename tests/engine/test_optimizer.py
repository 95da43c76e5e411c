"""What a step does to the parameters of a supernet, against its formula; and with AMP."""

import pytest
import torch
from runs import NETWORKS, copy_of_state, parse

from crnas_d2.config import read_config
from crnas_d2.engine import CRTrainer
from crnas_d2.engine.hooks import find_supernet
from crnas_d2.engine.step import AMPStep, Step

from detectron2.utils.events import EventStorage

LR, DECAY = 0.1, 0.01
SOLVER = [
    *("SOLVER.BASE_LR", LR, "SOLVER.WEIGHT_DECAY", DECAY, "SOLVER.WEIGHT_DECAY_NORM", 0.02),
    *("SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.03),
    *("MODEL.BACKBONE.FREEZE_AT", 0),
]
CLIPS = {
    "none": [],
    "value": ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-3],
    "norm": [
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-3),
        *("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
    ],
}


def clipped(gradient, kind):
    if kind == "value":
        return gradient.clamp(-1e-3, 1e-3)
    if kind == "norm":
        return gradient * (1e-3 / (gradient.norm() + 1e-6)).clamp(max=1)
    return gradient


class Backbone(torch.nn.Module):
    """A detector's backbone, whose loss is a mean of its features."""

    def __init__(self, model):
        super().__init__()
        self.backbone = model.backbone
        self.losses = []

    def forward(self, images):
        features = self.backbone(images)
        self.losses.append(sum(feature.square().mean() for feature in features.values()))
        return {"loss": self.losses[-1]}


@pytest.fixture
def build(tiny_config):
    def build(network, *options):
        args = parse(tiny_config, *NETWORKS[network], *SOLVER, *options)
        cfg = read_config(args.config_file, args.opts)
        torch.manual_seed(0)
        model = Backbone(CRTrainer.build_model(cfg)).train()
        supernet = find_supernet(model)
        supernet.set_path(tuple(choices[-1] for choices in supernet.space.choices))
        return model, CRTrainer.build_optimizer(cfg, model)

    return build


IMAGES = [torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))] * 2


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("network", ["stage", "dilation"])
def test_step_of_a_path(build, network, clip):
    """Clipping, factors of the learning rate and weight decays act on the path alone."""
    model, optimizer = build(network, *CLIPS[clip])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(IMAGES[0])["loss"].backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    norms = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    }
    assert 0 < len(gradients) < len(before)
    for name, parameter in model.named_parameters():
        if name not in gradients:
            assert torch.equal(parameter, before[name]), name
            assert parameter not in optimizer.state, name
            continue
        is_bias, is_norm = name.endswith(".bias"), name.rpartition(".")[0] in norms
        decay = 0.03 if is_bias else 0.02 if is_norm else DECAY
        step = clipped(gradients[name], clip) + decay * before[name]
        expected = before[name] - LR * (2.0 if is_bias else 1.0) * step
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("network", ["stage", "dilation"])
def test_amp_scales_and_clips_the_path_alone(build, network, monkeypatch):
    """On the CPU, where autocast does nothing: with scaled losses, the steps are those without; a
    gradient that is not finite leaves all parameters as they are."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # or Detectron2 refuses
    states = []
    for kind in ("plain", "amp"):
        model, optimizer = build(network, *CLIPS["value"])
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        step = (
            Step(model, IMAGES, optimizer)
            if kind == "plain"
            else AMPStep(model, IMAGES, optimizer, grad_scaler=scaler)
        )
        with EventStorage():
            step.run_step()
            states.append(copy_of_state(model))
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-6, atol=1e-8, msg=name)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.register_forward_hook(lambda *_: {"loss": model.losses[-1] * 1e36})  # finite, unscaled
    with EventStorage():
        step.run_step()
    assert scaler.get_scale() < 2.0**10
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, parameters[name]), name
