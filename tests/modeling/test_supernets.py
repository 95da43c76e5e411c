"""What supernets are made of, how a path is chosen, and how configs build them."""

import copy
import pickle
import weakref

import numpy as np
import pytest
import torch
from thin_supernets import (
    FEATURES,
    KINDS,
    SEARCHED_LAYERS,
    STAGE_NAMES,
    STEPS,
    assert_same,
    covering_paths,
    family_of,
    make_final,
    make_space,
    make_supernet,
    randomize,
    sample_paths,
    supernet_key,
)
from torch import nn

from crnas_d2 import ARCHITECTURES
from crnas_d2.modeling import StageSupernet
from crnas_d2.modeling.cr_resnet import ResNetStages
from crnas_d2.modeling.supernet import ChoiceBlock, Supernet, active_modules
from crnas_d2.spaces import get_operation_space, get_stage_space

from detectron2.config import LazyCall, instantiate
from detectron2.layers import FrozenBatchNorm2d

ALL = pytest.mark.parametrize("step, kind", [(s, k) for s in STEPS for k in KINDS])
SOME = pytest.mark.parametrize(
    "step, kind", [(s, k) for s in STEPS for k in ("basic", "mobilenetv2")]
)


def count(tensors):
    return sum(tensor.numel() for tensor in tensors)


def addresses(module):
    tensors = [*module.parameters(), *module.buffers()]
    found = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    assert len(found) == len(tensors)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_branches_share_nothing(kind):
    """Figure 2: each number of blocks is a chain of its own."""
    supernet = make_supernet("stage", kind)
    names = STAGE_NAMES[family_of(kind)]
    seen = set()
    for block in supernet.choice_blocks:
        assert block is getattr(supernet, names[block.index])
        assert [int(n) for n in block.ops] == list(supernet.space.choices[block.index])
        for n, branch in block.ops.items():
            assert len(branch) == int(n)
            own = addresses(branch)
            assert own and not own & seen
            seen |= own
    shared = {n.split(".")[0] for n in supernet.state_dict() if ".ops." not in n}
    assert shared == ({"stem", "c1280"} if kind == "mobilenetv2" else {"stem"})


@pytest.mark.parametrize("kind", KINDS)
def test_shared_blocks_are_those_of_the_longest_choice(kind):
    """The first n of them are those of choice n."""
    supernet = make_supernet("shared", kind)
    names = STAGE_NAMES[family_of(kind)]
    longest = make_final("stage", kind, tuple(choices[-1] for choices in supernet.space.choices))
    assert count(supernet.parameters()) == count(longest.parameters())
    for block in supernet.choice_blocks:
        assert block is getattr(supernet, names[block.index])
        blocks = [each for part in block.ops.values() for each in part]
        for n in supernet.space.choices[block.index]:
            block.choice = n
            active = [each for part in block.active() for each in part]
            assert len(active) == n and all(a is b for a, b in zip(active, blocks))
            inactive = {*block.modules()} - {*active_modules(block)}
            assert all((each in inactive) is (i >= n) for i, each in enumerate(blocks))


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_share_all_but_the_searched_layer(kind):
    supernet = make_supernet("dilation", kind)
    seen = set()
    for block in supernet.choice_blocks:
        for operation, layer in block.ops.items():
            dilation = int(operation) + 1
            assert layer.kernel_size == (3, 3)
            assert layer.dilation == layer.padding == (dilation, dilation)
            own = addresses(layer)
            assert own and not own & seen
            seen |= own
        first, *others = (layer.weight for layer in block.ops.values())
        assert others and not any(torch.equal(first, other) for other in others)
    shared = {n.rsplit(".", 1)[0] for n in supernet.state_dict() if ".ops." not in n}
    path = covering_paths(supernet.space)[0]
    final = {n.rsplit(".", 1)[0] for n in make_final("dilation", kind, path).state_dict()}
    searched = {n for n in final if f".{SEARCHED_LAYERS[kind]}" in n}
    assert searched and shared == final - searched


@pytest.mark.parametrize("name", ["SCR-MobileNetV2", "MobileNetV2"])
def test_choice_blocks_of_mobilenetv2(name):
    """17 in a code of 20 entries: none for the stem, c1280 and the pooling."""
    supernet = make_supernet(
        "dilation", "mobilenetv2", space=get_operation_space(ARCHITECTURES[name])
    )
    assert [block.index for block in supernet.choice_blocks] == list(range(1, 18))
    assert len(supernet.space.choices) == 20
    layers = [n for n, m in supernet.named_modules() if isinstance(m, ChoiceBlock)]
    assert all(name.endswith(".depthwise") for name in layers)


@pytest.mark.parametrize("name", ["ResNet18", "ResNet50", "ResNet101"])
def test_choice_blocks_of_resnets(name):
    kind = "basic" if name == "ResNet18" else "bottleneck"
    space = get_operation_space(ARCHITECTURES[f"SCR-{name}"])
    with torch.device("meta"):
        supernet = make_supernet("dilation", kind, space=space)
    blocks = {"ResNet18": 8, "ResNet50": 16, "ResNet101": 33}[name]
    assert [block.index for block in supernet.choice_blocks] == list(range(blocks))
    layers = [n for n, m in supernet.named_modules() if isinstance(m, ChoiceBlock)]
    assert len(layers) == blocks and all(name.endswith(".conv2") for name in layers)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_the_stage_supernet(kind):
    """Those of the stages of all final networks, each stage and number of blocks once."""
    supernet = make_supernet("stage", kind)
    names = STAGE_NAMES[family_of(kind)]
    found = {}
    for path in covering_paths(supernet.space):
        final = make_final("stage", kind, path)
        for name, blocks in [("stem", 1), *zip(names, path)]:
            if name != "pool":
                found[name, blocks] = count(getattr(final, name).parameters())
    assert count(supernet.parameters()) == sum(found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_the_dilation_supernet(kind):
    """Those of one final network, and its searched layers twice more."""
    supernet = make_supernet("dilation", kind)
    final = make_final("dilation", kind, covering_paths(supernet.space)[0])
    searched = [p for n, p in final.named_parameters() if f".{SEARCHED_LAYERS[kind]}." in n]
    assert count(supernet.parameters()) == count(final.parameters()) + 2 * count(searched)


@ALL
def test_every_tensor_is_on_some_path(step, kind):
    supernet = make_supernet(step, kind)
    reached = {
        supernet_key(step, kind, path, key)
        for path in covering_paths(supernet.space)
        for key in make_final(step, kind, path).state_dict()
    }
    assert reached == supernet.state_dict().keys()


@SOME
def test_state_dict_does_not_depend_on_the_path(step, kind):
    torch.manual_seed(0)
    supernet = randomize(make_supernet(step, kind)).eval()
    before = copy.deepcopy(supernet.state_dict())
    images = torch.rand(1, 3, 64, 64)
    one, other = covering_paths(supernet.space)[:2]
    supernet.set_path(one)
    assert_same(supernet.state_dict(), before)
    features = supernet(images)
    supernet.set_path(other)
    assert not torch.equal(supernet(images)["res5"], features["res5"])

    loaded = make_supernet(step, kind).eval()
    loaded.set_path(one)
    loaded.load_state_dict(supernet.state_dict())
    assert loaded.path == one
    assert_same(loaded(images), features)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@SOME
def test_copies_choose_for_themselves(step, kind, clone):
    torch.manual_seed(0)
    supernet = randomize(make_supernet(step, kind)).eval()
    images = torch.rand(1, 3, 64, 64)
    one, other = covering_paths(supernet.space)[:2]
    supernet.set_path(one)
    features = supernet(images)
    twin = clone(supernet)
    assert twin.path == one and not addresses(twin) & addresses(supernet)
    assert_same(twin(images), features)
    twin.set_path(other)
    assert supernet.path == one
    assert_same(supernet(images), features)
    supernet.set_path(other)
    assert_same(supernet(images), twin(images))


@SOME
def test_path_of_any_integers(step, kind):
    supernet = make_supernet(step, kind).eval()
    path = covering_paths(supernet.space)[1]
    for given in (list(path), tuple(np.array(path))):
        supernet.set_path(given)
        assert supernet.path == path and {type(entry) for entry in supernet.path} == {int}
        supernet(torch.rand(1, 3, 64, 64))


def test_forward_before_set_path():
    supernet = make_supernet("stage", "basic").eval()
    with pytest.raises(RuntimeError, match=r"call set_path\(path\) first"):
        supernet(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    "step, kind, path, words",
    [
        ("stage", "basic", (1, 2, 2, 1), ["(1, 2, 2, 1)", "[[1, 2], [1, 3], [2, 4], [1, 2, 3]]"]),
        ("stage", "basic", [1, 1, 2], ["[1, 1, 2]", "expected 4 entries"]),
        ("stage", "basic", [1, 1, 2, 1, 1], ["[1, 1, 2, 1, 1]", "expected 4 entries"]),
        ("stage", "basic", "1121", ["'1121'", "expected 4 entries"]),
        ("stage", "basic", None, ["path None"]),
        ("stage", "basic", 1121, ["path 1121"]),
        ("stage", "mobilenetv2", (2, 1, 1, 1, 2, 1, 2, 1, 1, 1), ["(2, 1,", "[[1], [1], [1, 2],"]),
        ("dilation", "basic", (3, 0, 0, 0, 0, 0, 0, 0), ["(3, 0,", "[[0, 1, 2], [0, 1, 2],"]),
        ("dilation", "basic", (), ["path ()", "expected 8 entries"]),
        ("dilation", "mobilenetv2", (0,) * 17, ["(0, 0,", "expected 20 entries"]),
        ("dilation", "mobilenetv2", (1,) + (0,) * 19, ["(1, 0,", "[[0], [0, 1, 2],"]),
    ],
)
def test_path_outside_of_the_space(step, kind, path, words):
    torch.manual_seed(0)
    supernet = make_supernet(step, kind).eval()
    supernet.set_path(sample_paths(supernet.space, 1)[0])
    images, before = torch.rand(1, 3, 64, 64), supernet.path
    features = supernet(images)
    with pytest.raises(ValueError) as error:
        supernet.set_path(path)
    for word in words:
        assert word in str(error.value)
    assert supernet.path == before
    assert_same(supernet(images), features)


@ALL
def test_unknown_feature(step, kind):
    with pytest.raises(ValueError, match=r"out_features has \['res7'\]; expected any of \['stem'"):
        make_supernet(step, kind, out_features=["res2", "res7"])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind, other", [("bottleneck", "mobilenetv2"), ("mobilenetv2", "basic")])
def test_stages_of_another_family(step, kind, other):
    with pytest.raises(ValueError) as error:
        make_supernet(step, kind, space=make_space(step, other))
    for family in (kind, other):
        assert ", ".join(STAGE_NAMES[family_of(family)][1:-1]) in str(error.value)
    assert f"expected those of {family_of(other)}" in str(error.value)


NORMS = {
    "BN": nn.BatchNorm2d,
    "FrozenBN": FrozenBatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "GN": nn.GroupNorm,
}


@pytest.mark.parametrize("norm", NORMS)
@SOME
def test_norms(step, kind, norm):
    supernet = make_supernet(step, kind, norm=norm)
    found = [type(m) for m in supernet.modules() if isinstance(m, tuple(NORMS.values()))]
    convolutions = [m for m in supernet.modules() if isinstance(m, nn.Conv2d)]
    assert len(found) == len(convolutions) and set(found) == {NORMS[norm]}
    supernet.set_path(covering_paths(supernet.space)[1])
    features = supernet.eval()(torch.rand(1, 3, 64, 64))
    assert all(feature.isfinite().all() for feature in features.values())


def test_lazy_config():
    supernet = instantiate(
        LazyCall(StageSupernet)(
            stages=LazyCall(ResNetStages)(**KINDS["basic"]),
            space=LazyCall(get_stage_space)(family="resnet", choices=[[1, 2], [1], [2], [3]]),
            out_features=FEATURES,
        )
    )
    assert isinstance(supernet, Supernet)
    supernet.set_path((2, 1, 2, 3))
    assert [f.shape[-1] for f in supernet(torch.rand(2, 3, 64, 64)).values()] == [16, 8, 4, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_before_the_paths_part_run_once(kind):
    """Of choices that share them, and the features are those of passes that share nothing."""
    torch.manual_seed(0)
    supernet = randomize(make_supernet("shared", kind)).eval()
    x, paths = torch.rand(1, 3, 64, 64), sorted(sample_paths(supernet.space, 12))
    alone = []
    for path in paths:
        supernet.set_path(path)
        alone.append(supernet(x))
    ran = []
    for block in supernet.choice_blocks:
        for entry, part in block.ops.items():
            part.register_forward_hook(lambda *_, it=(block.index, entry): ran.append(it))
    with supernet.sharing_prefixes():
        for path, features in zip(paths, alone):
            supernet.set_path(path)
            assert_same(supernet(x), features)
    # A part depends on all the entries before, and on its own only in that it runs.
    distinct = {
        (path[: block.index], entry)
        for path in paths
        for block in supernet.choice_blocks
        for entry in block.ops
        if int(entry) <= path[block.index]
    }
    assert len(ran) == len(distinct)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_freed_when_the_path_has_left_them(kind):
    supernet = make_supernet("stage", kind, out_features=FEATURES[-1:]).eval()
    choices = supernet.space.choices
    first, last = (tuple(entries[end] for entries in choices) for end in (0, -1))
    outputs = []
    for block in supernet.choice_blocks:
        block.register_forward_hook(lambda *args: outputs.append(weakref.ref(args[-1])))
    x = torch.rand(1, 3, 32, 32)
    with supernet.sharing_prefixes():
        supernet.set_path(first)
        supernet(x)
        ran = len(outputs)
        assert all(output() is not None for output in outputs)
        supernet.set_path(last)
        supernet(x)
        assert ran < len(outputs) and not any(output() is not None for output in outputs[1:ran])
    assert not any(output() is not None for output in outputs)
