"""A supernet trains the final network of its path, and nothing else."""

import copy

import pytest
import torch
from thin_supernets import (
    FEATURES,
    KINDS,
    STEPS,
    assert_same,
    covering_paths,
    loss_of,
    make_final,
    make_supernet,
    randomize,
    sample_paths,
    supernet_key,
)

from crnas_d2.checkpoint.inherit import inherit_subnet

ALL = pytest.mark.parametrize("step, kind", [(s, k) for s in STEPS for k in KINDS])
LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-2


def make_optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def random_images():
    return torch.rand(2, 3, 64, 96)


def gradients(model):
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def snapshot(model):
    return copy.deepcopy(model.state_dict())


@ALL
def test_path_is_the_final_network(step, kind):
    torch.manual_seed(0)
    supernet = randomize(make_supernet(step, kind))
    assert supernet.path is None
    for path in sample_paths(supernet.space, 2, seed=f"{step} {kind}"):
        final = make_final(step, kind, path)
        final.load_state_dict(inherit_subnet(supernet.state_dict(), path), strict=True)
        supernet.set_path(path)
        assert supernet.path == path
        assert supernet.output_shape() == final.output_shape()

        images = random_images()
        features = supernet.eval()(images)
        assert_same(features, final.eval()(images))
        assert list(features) == FEATURES
        assert all(f.isfinite().all() and f.std() > 0 for f in features.values())

        images = random_images()
        for model in (supernet.train(), final.train()):
            optimizer = make_optimizer(model)
            features = model(images)
            loss_of(features).backward()
            model.features = features
            model.gradients = gradients(model)
            optimizer.step()
            optimizer.zero_grad()
        assert_same(supernet.features, final.features)
        renamed = {supernet_key(step, kind, path, n): g for n, g in final.gradients.items()}
        assert_same(supernet.gradients, renamed)
        assert all(gradient.any() for gradient in renamed.values())
        assert_same(inherit_subnet(supernet.state_dict(), path), final.state_dict())


@ALL
def test_step_leaves_all_off_the_path(step, kind):
    torch.manual_seed(0)
    supernet = randomize(make_supernet(step, kind))
    optimizer = make_optimizer(supernet)
    for path in sample_paths(supernet.space, 2, seed=f"{kind} {step}"):
        keys = make_final(step, kind, path).state_dict()
        on_path = {supernet_key(step, kind, path, key) for key in keys}
        before = snapshot(supernet)
        assert on_path < before.keys()
        supernet.set_path(path)
        optimizer.zero_grad()
        loss_of(supernet(random_images())).backward()
        optimizer.step()
        parameters = {name for name, _ in supernet.named_parameters()}
        assert gradients(supernet).keys() == parameters & on_path
        for name, tensor in supernet.state_dict().items():
            assert torch.equal(tensor, before[name]) is (name not in on_path), name


@ALL
def test_steps_with_changing_paths(step, kind):
    """The same as final networks that are trained one after the other, each from the weights,
    statistics and momenta that the ones before it left behind."""
    torch.manual_seed(0)
    supernet = make_supernet(step, kind)
    optimizer = make_optimizer(supernet)
    state, momenta = snapshot(supernet), {}
    paths = sample_paths(supernet.space, 5, seed=f"{step}, {kind}")
    assert len(set(paths)) > 3
    for path in paths + paths[:1]:
        images = random_images()
        supernet.set_path(path)
        optimizer.zero_grad()
        loss_of(supernet(images)).backward()
        optimizer.step()

        final = make_final(step, kind, path)
        place = {key: supernet_key(step, kind, path, key) for key in final.state_dict()}
        final.load_state_dict({key: state[place[key]] for key in place})
        loss_of(final(images)).backward()
        for key, buffer in final.named_buffers():
            state[place[key]] = buffer
        for key, parameter in final.named_parameters():
            weight = parameter.detach()
            gradient = parameter.grad + WEIGHT_DECAY * weight
            momentum = momenta.get(place[key])
            momentum = gradient if momentum is None else MOMENTUM * momentum + gradient
            momenta[place[key]] = momentum
            state[place[key]] = weight - LR * momentum

        trained = supernet.state_dict()
        assert trained.keys() == state.keys()
        for key in state.keys() - place.values():
            assert torch.equal(trained[key], state[key]), key
        for key in place.values():
            torch.testing.assert_close(trained[key], state[key], rtol=1e-4, atol=1e-6)
            state[key] = trained[key].clone()  # so that roundings do not add up
    visited = {name for name, p in supernet.named_parameters() if p in optimizer.state}
    assert visited == momenta.keys()


@ALL
def test_only_the_path_runs(step, kind):
    supernet = make_supernet(step, kind).eval()
    ran = []
    for block in supernet.choice_blocks:
        for entry, op in block.ops.items():
            op.register_forward_hook(lambda *_, i=block.index, e=int(entry): ran.append((i, e)))
    for path in sample_paths(supernet.space, 3):
        ran.clear()
        supernet.set_path(path)
        with torch.no_grad():
            supernet(random_images())
        assert ran == [
            (block.index, int(entry))
            for block in supernet.choice_blocks
            for entry in block.ops
            if int(entry) == path[block.index]
            or (step == "shared" and int(entry) < path[block.index])
        ]


@pytest.mark.parametrize("kind", ["basic", "bottleneck", "mobilenetv2"])
@pytest.mark.parametrize("step", STEPS)
def test_activation_checkpoint_changes_nothing(step, kind):
    torch.manual_seed(0)
    plain = randomize(make_supernet(step, kind))
    checkpointed = make_supernet(step, kind, activation_checkpoint=True)
    checkpointed.load_state_dict(plain.state_dict())
    optimizers = [make_optimizer(plain), make_optimizer(checkpointed)]
    for path in sample_paths(plain.space, 2):
        images = random_images()
        for model, optimizer in zip((plain, checkpointed), optimizers):
            model.set_path(path)
            optimizer.zero_grad()
            model.features = model(images)
            loss_of(model.features).backward()
            optimizer.step()
        assert_same(plain.features, checkpointed.features)
        assert_same(gradients(plain), gradients(checkpointed))
        assert_same(plain.state_dict(), checkpointed.state_dict())


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 5])
@pytest.mark.parametrize(
    "step, kind", [("stage", "basic"), ("shared", "basic"), ("dilation", "mobilenetv2")]
)
def test_frozen_is_what_is_frozen_in_the_final_networks(step, kind, freeze_at):
    """In all branches and candidates."""
    torch.manual_seed(0)
    supernet = make_supernet(step, kind, freeze_at=freeze_at)
    before = snapshot(supernet)
    optimizer = make_optimizer(supernet)
    trainable = set()
    for path in covering_paths(supernet.space):
        final = make_final(step, kind, path, freeze_at=freeze_at)
        trainable |= {
            supernet_key(step, kind, path, name)
            for name, p in final.named_parameters()
            if p.requires_grad
        }
        supernet.set_path(path)
        loss = loss_of(supernet(random_images()))
        assert loss.requires_grad is (freeze_at < 5)
        if loss.requires_grad:
            loss.backward()
    optimizer.step()
    assert trainable == {name for name, p in supernet.named_parameters() if p.requires_grad}
    assert trainable == gradients(supernet).keys()
    changed = {
        n for n, tensor in supernet.state_dict().items() if not torch.equal(tensor, before[n])
    }
    assert trainable <= changed
    resolution = {"stem": 1, "c16": 2, "res2": 2, "c24": 2, "res3": 3, "c32": 3}
    unfrozen = {name for name in before if resolution.get(name.split(".")[0], 5) > freeze_at}
    assert changed == unfrozen
