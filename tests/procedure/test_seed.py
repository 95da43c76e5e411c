"""SEARCH.RECIPE.SEED_WEIGHTS: what each step's config becomes, and what is refused before any work."""

import os
import shutil

import pytest
import torch
from on_disk import edit
from tiny_search import write_recipe
from torchvision.models.resnet import BasicBlock, ResNet
from zoo_files import write_zoo_detector

from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.config import default_config, read_config
from crnas_d2.engine import CRTrainer
from crnas_d2.files import file_sha256
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.identity import identify
from crnas_d2.procedure.overview import describe

pytestmark = pytest.mark.usefixtures("catalogs")

NO_PRETRAINING = ["SEARCH.RECIPE.STAGE_PRETRAINING", ""]
START = ["stage_supernet", "dilation_supernet", "baseline", "final"]
ALL = ["stage_supernet", "stage_search", "dilation_supernet", "operation_search", *START[2:]]
SEED = "SEARCH.RECIPE.SEED_WEIGHTS"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A ResNet in torchvision's names, of other codes and more channels than the recipe's."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("seed") / "resnet.pth"
    torch.save(ResNet(BasicBlock, [2, 1, 1, 1]).state_dict(), path)
    return path


@pytest.fixture
def recipe(tmp_path, weights):
    """A recipe that starts from the weights beside it."""
    path = write_recipe(tmp_path / "recipe")
    os.symlink(weights, path.parent / "resnet.pth")
    edit(path, 'STAGE_PRETRAINING: "stage_pretraining.yaml"', 'SEED_WEIGHTS: "resnet.pth"')
    return path


def procedure(recipe, *opts):
    return Procedure(Recipe(str(recipe), list(map(str, opts))))


def configs(recipe, *opts):
    made = procedure(recipe, *opts)
    return {step.name: made.config(step) for step in made.steps}


def fault(recipe, *opts, error=ValueError):
    """What is wrong with the recipe, which is told before there is anything to run or to describe."""
    with pytest.raises(error) as caught:
        procedure(recipe, *opts)
    return str(caught.value)


def save_own(folder, recipe, *opts):
    """A checkpoint of the recipe's final detector, trained under other keys."""
    cfg = read_config(str(recipe.parent / "final.yaml"), list(map(str, opts)))
    CRCheckpointer(CRTrainer.build_model(cfg), str(folder), cfg).save("own")
    return folder / "own.pth"


def test_supernets_and_final_detectors_start_from_them(recipe):
    made = configs(recipe, "MODEL.INIT.FUNCTION_PRESERVING", True)
    assert list(made) == ALL
    for name in START:
        init = made[name].MODEL.INIT
        assert made[name].MODEL.WEIGHTS == str(recipe.parent / "resnet.pth")
        assert (init.REMAP, init.FUNCTION_PRESERVING) == (True, True)
    for name, supernet in (("stage_search", "stage"), ("operation_search", "dilation")):
        folder = recipe.parent / "data" / "output" / f"{supernet}_supernet"
        assert made[name].MODEL.WEIGHTS == str(folder / "model_final.pth")
        assert made[name].MODEL.INIT == default_config().MODEL.INIT


def test_inherited_weights_are_taken_as_they_are(recipe):
    made = configs(recipe, "SEARCH.RECIPE.INHERIT", True)
    for name, supernet in (("final", "dilation"), ("baseline", "stage")):
        assert made[name].MODEL.WEIGHTS.endswith(f"{supernet}_supernet/model_final.pth")
        assert made[name].MODEL.INIT == default_config().MODEL.INIT
    assert made["dilation_supernet"].MODEL.INIT.REMAP
    start = procedure(recipe, "SEARCH.RECIPE.INHERIT", True).start
    assert start[0].startswith("stage_supernet, dilation_supernet start from resnet.pth")


def test_the_plan_says_what_starts_from_where(recipe, weights):
    lines = describe(procedure(recipe)).splitlines()
    sentence = (
        f"{', '.join(START)} start from resnet.pth, remapped (SHA-256 {file_sha256(str(weights))})"
    )
    assert lines[-1] == sentence


def test_the_path_is_that_of_a_file_beside_the_recipe_or_of_a_home(recipe, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert configs(recipe)["final"].MODEL.WEIGHTS == str(recipe.parent / "resnet.pth")
    monkeypatch.setenv("HOME", str(recipe.parent))
    opts = [SEED, "~/resnet.pth"]
    assert configs(recipe, *opts)["final"].MODEL.WEIGHTS == str(recipe.parent / "resnet.pth")


def test_a_file_that_is_not_there(recipe):
    message = fault(recipe, SEED, "nowhere.pth", error=OSError)
    assert message == "SEARCH.RECIPE.SEED_WEIGHTS is 'nowhere.pth'; there is no such file"


def test_a_file_of_something_else(recipe):
    page = recipe.parent / "page.pth"
    page.write_text("<html>not found</html>")
    for path in (page, recipe.parent):
        message = fault(recipe, SEED, path)
        assert message.startswith("SEARCH.RECIPE.SEED_WEIGHTS: ") and str(path) in message


def test_a_network_of_another_kind(recipe):
    for key, file in (("DILATION_SUPERNET", "dilation"), ("STAGE_SUPERNET", "stage")):
        edit(recipe.parent / f"{file}.yaml", 'BLOCK: "basic"', 'BLOCK: "bottleneck"')
        message = fault(recipe, "SEARCH.FINAL", "", f"SEARCH.RECIPE.{key}", f"{file}.yaml")
        assert f"SEARCH.RECIPE.{key} {str(recipe.parent / file)!r}"[:-1] in message
        assert "the seed network is a resnet of basic blocks" in message
        edit(recipe.parent / f"{file}.yaml", 'BLOCK: "bottleneck"', 'BLOCK: "basic"')
    edit(recipe.parent / "final.yaml", "MODEL:", "MODEL:\n  RESNETS: {STEM_OUT_CHANNELS: 128}")
    message = fault(recipe)
    assert f"SEARCH.FINAL {str(recipe.parent / 'final.yaml')!r}" in message
    assert "weights can be cut to fewer channels, not widened" in message


def test_a_pretraining_beside_them(recipe):
    path = str(recipe.parent / "stage_pretraining.yaml")
    message = fault(recipe, "SEARCH.RECIPE.STAGE_PRETRAINING", "stage_pretraining.yaml")
    assert f"SEARCH.RECIPE.STAGE_PRETRAINING {path!r}; expected one of them" in message


def test_other_weights_beside_them(recipe):
    edit(recipe.parent / "final.yaml", "MODEL:", 'MODEL:\n  WEIGHTS: "resnet.pth"')
    message = fault(recipe)
    assert f"MODEL.WEIGHTS {str(recipe.parent / 'resnet.pth')!r} in " in message
    assert "(SEARCH.FINAL); expected one of them" in message


def test_settings_that_contradict_the_configs(recipe, tmp_path):
    """An error, or taken by all steps and all that describes them, or ignored by all steps."""
    stds = ["MODEL.PIXEL_STD", "[1.0, 2.0, 3.0]"]
    opts = [SEED, save_own(tmp_path, recipe, *stds)]
    message = fault(recipe, *opts)
    assert "MODEL.PIXEL_STD" in message and "[1.0, 2.0, 3.0]" in message
    assert "58.395" in message and str(recipe.parent / "stage.yaml") in message

    taken = [*opts, "MODEL.INIT.SETTINGS", "take"]
    made = {**configs(recipe, *taken), "FINAL": procedure(recipe, *taken).final_config()}
    assert [cfg.MODEL.PIXEL_STD for cfg in made.values()] == [[1.0, 2.0, 3.0]] * 7
    assert "MODEL.PIXEL_STD '[1.0, 2.0, 3.0]'" in describe(procedure(recipe, *taken))

    ignored = [*opts, "MODEL.INIT.SETTINGS", "ignore"]
    assert {tuple(cfg.MODEL.PIXEL_STD) for cfg in configs(recipe, *ignored).values()} == {
        (58.395, 57.12, 57.375)
    }


def test_one_step_that_takes_the_settings_alone(recipe):
    edit(recipe.parent / "final.yaml", "MODEL:", 'MODEL:\n  INIT: {SETTINGS: "take"}')
    message = fault(recipe)
    assert message.startswith("MODEL.INIT.SETTINGS is 'take' in ")
    assert message.endswith(f"expected 'check' as in {str(recipe)!r}, for all steps or for none")


def test_layers_that_would_stay_frozen_as_they_are_not(recipe):
    """With as many channels as the seed network, the stem alone is as it was."""
    wide = "RESNETS: {NORM: BN, STEM_OUT_CHANNELS: 64, RES2_OUT_CHANNELS: 64}"
    for file in ("stage", "dilation"):
        edit(
            recipe.parent / f"{file}.yaml",
            'RESNETS: {NORM: "BN", STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8}',
            wide,
        )
    assert len(procedure(recipe, "MODEL.BACKBONE.FREEZE_AT", 1).start) == 1
    edit(recipe.parent / "final.yaml", "NAME:", "FREEZE_AT: 2, NAME:")
    text = describe(procedure(recipe))
    assert "final.yaml: MODEL.BACKBONE.FREEZE_AT 2 would freeze layers" in text
    assert "stage.yaml: MODEL" not in text and text.endswith("MODEL.BACKBONE.FREEZE_AT 1")


def test_steps_from_other_weights_are_not_taken_for_done(recipe, tmp_path):
    """By content: the same file elsewhere is the same start, another one of that name is not."""

    def work(*opts):
        return identify(configs(recipe, *opts)["stage_supernet"], {}, searches=False).work

    one = work()
    copy = tmp_path / "copy.pth"
    shutil.copy(recipe.parent / "resnet.pth", copy)
    assert work(SEED, copy) == one
    torch.manual_seed(1)
    torch.save(ResNet(BasicBlock, [2, 1, 1, 1]).state_dict(), copy)
    other = work(SEED, copy)
    assert {key for key in one if one[key] != other[key]} == {"weights"}


def test_the_file_where_a_step_writes(recipe):
    output = recipe.parent / "output"
    (output / "final").mkdir(parents=True)
    there = output / "final" / "seed.pth"
    shutil.copy(recipe.parent / "resnet.pth", there)
    with pytest.raises(ValueError, match=f"{there} is read from there"):
        procedure(recipe, "OUTPUT_DIR", output, SEED, there).run()


def test_a_search_from_a_detector_of_the_zoo(recipe, tmp_path):
    """Its frozen norms have no statistics that a path could have of its own."""
    write_zoo_detector(tmp_path / "zoo.pkl")
    for file in ("stage", "dilation"):
        path = recipe.parent / f"{file}.yaml"
        edit(path, 'BLOCK: "basic"', 'BLOCK: "bottleneck"')
        edit(path, "RES2_OUT_CHANNELS: 8", "RES2_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 4")
    opts = ["SEARCH.RECIPE.DILATION_SUPERNET", "", "SEARCH.RECIPE.TRAIN_FINAL", False]
    opts += [SEED, tmp_path / "zoo.pkl", "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", tmp_path / "output"]
    assert "MODEL.RESNETS.NORM: 'FrozenBN' in the file, 'BN' in the config" in fault(recipe, *opts)
    taken = [*opts, "MODEL.INIT.SETTINGS", "take"]
    with pytest.raises(
        ValueError, match="'recalibrate'; expected 'running', .* \\(FrozenBN\\) have no"
    ):
        procedure(recipe, *taken, "SEARCH.BN.MODE", "recalibrate").run()
    assert "stage code" in procedure(recipe, *taken).run()
    final = read_config(str(tmp_path / "output" / "final.yaml"))
    assert (final.INPUT.FORMAT, final.MODEL.RESNETS.NORM) == ("BGR", "FrozenBN")
    assert final.MODEL.WEIGHTS == str(tmp_path / "zoo.pkl") and final.MODEL.INIT.REMAP
