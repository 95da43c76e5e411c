"""Statistics that are matched, against those of the activations themselves."""

import copy

import pytest
import torch
from test_remap import EACH, WIDE, build, features_of, images, make_seed
from thin_supernets import assert_same, family_of, make_supernet

from crnas_d2.checkpoint import match_statistics, remap_backbone

CODES = {"resnet": (2, 3, 2, 4), "mobilenetv2": (1, 1, 2, 1, 2, 3, 4, 1, 1, 1)}


def outputs_of_norms(network):
    """What each norm gives of the images, by its name."""
    outputs = {}
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: outputs.update({name: output.clone()})
        )
        for name, module in network.named_modules()
        if hasattr(module, "running_mean")
    ]
    features_of(network)
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@EACH
def test_every_channel_has_the_moments_of_the_seed_network(kind, norm):
    seed = make_seed(kind)
    before = copy.deepcopy(seed.state_dict())
    code = CODES[family_of(kind)]
    target = build(kind, code, operation_code=[0] * (sum(code) - 5) + [1, 2, 0, 0, 0], norm=norm)
    weights, report = remap_backbone(seed.state_dict(), target)
    target.load_state_dict(weights)
    target.eval()
    match_statistics(target, seed, report, images())
    assert_same(seed.state_dict(), before)

    expected, given = outputs_of_norms(seed), outputs_of_norms(target)
    matched = 0
    for name, output in given.items():
        origin = report.origins[f"{name}.running_mean"]
        if origin.source is None:
            continue
        wanted = expected[origin.source.removesuffix(".running_mean")]
        torch.testing.assert_close(
            output.mean((0, 2, 3)), wanted.mean((0, 2, 3)), rtol=1e-3, atol=1e-3
        )
        # a running variance is no less than 0, so that an input below eps stays below
        reached = dict(target.named_modules())[name].running_var > 0
        own, theirs = output.std((0, 2, 3)), wanted.std((0, 2, 3))
        torch.testing.assert_close(own[reached], theirs[reached], rtol=1e-3, atol=1e-3)
        assert (own[~reached] <= theirs[~reached] + 1e-3).all()
        matched += int(reached.sum())
    assert matched > 100
    assert not any(module._forward_pre_hooks for module in [*seed.modules(), *target.modules()])


@EACH
def test_an_unchanged_network_stays_as_it_is(kind):
    seed = make_seed(kind)
    target = copy.deepcopy(seed)
    _, report = remap_backbone(seed.state_dict(), target)
    match_statistics(target, seed, report, images())
    for name, feature in features_of(seed).items():
        torch.testing.assert_close(features_of(target)[name], feature, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_matched_is_refused():
    seed = make_seed("basic")
    supernet = make_supernet("stage", "basic")
    with pytest.raises(ValueError, match="the target is a supernet; expected one network"):
        match_statistics(supernet, seed, remap_backbone(seed.state_dict(), supernet)[1], images())
    wide, thin = make_seed("basic", WIDE), build("basic", (1, 2, 3, 3))
    with pytest.raises(ValueError, match="the target has fewer channels than the seed network"):
        match_statistics(thin, wide, remap_backbone(wide.state_dict(), thin)[1], images())
    seed, target = (build("basic", (1, 1, 1, 1), norm="GN") for _ in range(2))
    with pytest.raises(ValueError, match="there is no norm with running statistics"):
        match_statistics(target, seed, remap_backbone(seed.state_dict(), target)[1], images())
