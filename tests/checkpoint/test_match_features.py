"""Features that are learnt from the seed network, against those that it gives."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_remap import EACH, WIDE, build, make_seed
from thin_supernets import assert_same, family_of

from crnas_d2.checkpoint import match_features, match_statistics, remap_backbone

CODES = {"resnet": (2, 1, 2, 4), "mobilenetv2": (1, 1, 2, 1, 2, 3, 4, 1, 1, 1)}
NORMS = pytest.mark.parametrize("norm", ["BN", "FrozenBN"])


def batches(seed, length=64):
    """Images that are smooth, as photographs are."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        coarse = torch.randn(8, 3, 8, 8, generator=generator)
        yield F.interpolate(coarse, (length, length), mode="bicubic")


def make_pair(kind, norm, **options):
    seed = make_seed(kind)
    code = CODES[family_of(kind)]
    operation_code = [0] * (sum(code) - 5) + [1, 2, 0, 0, 0]
    target = build(kind, code, operation_code=operation_code, norm=norm, **options)
    weights, report = remap_backbone(seed.state_dict(), target)
    target.load_state_dict(weights, strict=False)
    match_statistics(target.eval(), seed, report, next(batches(5)))
    return target, seed


@torch.no_grad()
def error(target, seed, norm):
    """Mean squared relative error of the features of images that nothing was learnt from."""
    target, seed = copy.deepcopy(target).train(), copy.deepcopy(seed).train(norm == "BN")
    images = next(batches(6))
    given, expected = target(images), seed(images)
    return sum(((given[k] - e).norm() / e.norm()) ** 2 for k, e in expected.items()) / len(given)


@NORMS
@EACH
def test_features_approach_those_of_the_seed_network(kind, norm):
    target, seed = make_pair(kind, norm)
    before = copy.deepcopy(seed.state_dict())
    start = error(target, seed, norm)
    losses = match_features(target, seed, batches(4), steps=40)
    end = error(target, seed, norm)
    assert len(losses) == 40 and not target.training
    assert_same(seed.state_dict(), before)
    assert end < 0.75 * start


@EACH
def test_loss_is_the_mean_error_of_the_stages(kind):
    """In one step, whose batch all is normalised by."""
    target, seed = make_pair(kind, "BN")
    images, outputs = next(batches(4)), []
    for network in (copy.deepcopy(target).train(), copy.deepcopy(seed).train()):
        x, outs = images, []
        for stage in network.children():
            x = stage(x)
            outs.append(x)
        outputs.append(outs)
    errors = [((a - b) ** 2).sum() / (b**2).sum() for a, b in zip(*outputs)]
    expected = sum(errors) / len(errors)
    assert match_features(target, seed, iter([images]), 1) == pytest.approx([expected.item()])


@NORMS
@EACH
def test_an_unchanged_network_keeps_its_weights(kind, norm):
    seed = make_seed(kind)
    target = build(kind, seed.architecture.stage_code, norm=norm)
    target.load_state_dict(seed.state_dict(), strict=False)
    before = copy.deepcopy(dict(target.named_parameters()))
    assert match_features(target, seed, batches(4), steps=3) == [0, 0, 0]
    assert_same(dict(target.named_parameters()), before)


@EACH
def test_what_will_be_frozen_learns_too_but_for_its_norms(kind):
    target, seed = make_pair(kind, "BN", freeze_at=2)
    frozen = {name for name, p in target.named_parameters() if not p.requires_grad}
    before = copy.deepcopy(target.state_dict())
    match_features(target, seed, batches(4), steps=2)
    assert frozen == {name for name, p in target.named_parameters() if not p.requires_grad}
    assert all(p.grad is None for p in target.parameters())
    after = target.state_dict()
    assert any(name.startswith("stem") for name in frozen)
    for name in frozen:
        assert not torch.equal(after[name], before[name])
        for rest in ("weight", "bias", "running_mean", "running_var"):
            norm = name.replace("weight", f"norm.{rest}")
            assert torch.equal(after[norm], before[norm])


def test_the_same_batches_give_the_same_network():
    networks = [make_pair("basic", "BN") for _ in range(2)]
    losses = [match_features(*pair, batches(4), steps=3) for pair in networks]
    assert losses[0] == losses[1]
    assert_same(networks[0][0].state_dict(), networks[1][0].state_dict())


def test_other_shapes_are_refused():
    seed = make_seed("basic", WIDE)
    target = build("basic", (1, 2, 3, 3))
    words = (
        r"stage stem gives \(8, 8, 16, 16\) in the target, \(8, 16, 16, 16\) in the seed network"
    )
    with pytest.raises(ValueError, match=words):
        match_features(target, seed, batches(4), steps=1)
