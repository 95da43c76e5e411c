"""Whatever is wrong with a step is one sentence before the first one runs, by a run and a dry run."""

import copy

import pytest
from on_disk import contents
from tiny_search import write_recipe

from crnas_d2.engine.examination import Examination
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.checks import check_before_run, check_procedure

ALONE = ("SEARCH.RECIPE.STAGE_SUPERNET", "", "SEARCH.RECIPE.STAGE_PRETRAINING", "")
# Keys and values of the command line, the last ones of which are wrong
OPTIONS = [
    ("SEARCH.BUDGETS", [0]),
    ("SEARCH.BUDGETS", [-5]),
    ("SEARCH.BUDGETS", ["five"]),
    ("SEARCH.BUDGETS", [500]),
    ("SEARCH.BUDGETS", 5),
    ("SEARCH.BUDGETS", [5.1]),
    ("SEARCH.BUDGETS", [float("nan")]),
    ("SEARCH.COST", "flops"),
    ("SEARCH.COST_SIZE", (800, 0)),
    ("SEARCH.COST_SIZE", (800, 1088.5)),
    ("SEARCH.COST_SIZE", (800,)),
    ("SEARCH.COST_SIZE", 800),
    ("SEARCH.BUDGET_IS", "less"),
    ("SEARCH.TOLERANCE", -0.1),
    ("SEARCH.TOLERANCE", float("nan")),
    ("SEARCH.STRATEGY", "annealing"),
    ("SEARCH.SURVIVORS", 0),
    ("SEARCH.RESAMPLES", 1),
    ("SEARCH.EVALUATIONS", -1),
    (*ALONE, "SEARCH.STRATEGY", "random", "SEARCH.EVALUATIONS", 10000),
    (*ALONE, "SEARCH.STRATEGY", "evolutionary", "SEARCH.EVALUATIONS", 244),
    ("SEARCH.SEED", "x"),
    ("SEARCH.METRIC", "AP"),
    ("SEARCH.METRIC", "segm/AP"),
    ("SEARCH.METRIC", "bbox/AP-green"),
    ("SEARCH.METRIC", ""),
    ("SEARCH.IMAGES_PER_BATCH", -1),
    ("SEARCH.GROUP_SIZE", 0),
    ("SEARCH.AMP", True),
    ("SEARCH.BN.MODE", "precise"),
    ("SEARCH.BN.MODE", "recalibrate"),
    ("SEARCH.BN.BATCHES", 0),
    ("SEARCH.BN.IMAGES_PER_BATCH", -2),
    ("SEARCH.HALVING.FACTOR", 1),
    ("SEARCH.HALVING.MIN_IMAGES", 0),
    ("SEARCH.FINAL", "none.yaml"),
    ("SEARCH.RECIPE.STAGE_SUPERNET", "none.yaml"),
    ("SEARCH.RECIPE.STAGE_SUPERNET", "data"),
    ("SEARCH.RECIPE.STAGE_SUPERNET", "recipe.yaml"),
    ("SEARCH.RECIPE.STAGE_SUPERNET", "dilation.yaml"),
    ("SEARCH.RECIPE.STAGE_PRETRAINING", "final.yaml"),
    ("SEARCH.RECIPE.FINAL_PRETRAINING", "final.yaml"),
    ("SEARCH.RECIPE.SEED_WEIGHTS", "none.pth"),
    ("SEARCH.RECIPE.SEED_WEIGHTS", "data/annotations.json"),
    ("SEARCH.RECIPE.INHERIT", "perhaps"),
    ("SEARCH.RECIPE.STAGES", "a"),
    ("MODEL.SUPERNET.STAGE_CHOICES", [[1, 2]]),
    ("MODEL.SUPERNET.STAGE_CHOICES", [[0], [1], [1], [1]]),
    ("MODEL.SUPERNET.STAGE_WEIGHTS", [1, 2]),
    ("MODEL.SUPERNET.STAGE_WEIGHTS", [-1, 1, 1, 1]),
    ("MODEL.SUPERNET.OPERATIONS", []),
    ("MODEL.SUPERNET.OPERATIONS", [0, 7]),
    ("MODEL.SUPERNET.OPERATIONS", [0.5]),
    ("MODEL.CR.STAGE_CODE", [1, 1]),
    ("MODEL.CR.FAMILY", "mobilenet"),
    ("MODEL.INIT.SETTINGS", "maybe"),
    ("DATASETS.ARCHVAL.SIZE", 12),
    ("DATASETS.ARCHVAL.SIZE", 0),
    ("DATASETS.ARCHVAL.GROUP_KEY", "video"),
    ("DATASETS.TRAIN", ()),
    ("DATASETS.CHECK_IMAGES", "look"),
    ("SOLVER.STEPS", (5, 3)),
    ("SOLVER.CHECKPOINT_PERIOD", 0),
    ("SOLVER.IMS_PER_BATCH", 0),
    ("OUTPUT_DIR", ""),
]
# A file, what is in it, what is there instead, and words of the sentence
FILES = [
    (
        "final.yaml",
        "MODEL:",
        "MODEL:\n  ROI_BOX_HEAD: {FC_DIM: -1}",
        "MODEL.ROI_BOX_HEAD.FC_DIM is -1",
    ),
    (
        "final.yaml",
        "MODEL:",
        "MODEL:\n  RPN: {IN_FEATURES: [p9]}",
        "MODEL.RPN.IN_FEATURES is ['p9']",
    ),
    ("final.yaml", "MODEL:", "MODEL:\n  WEIGHTS: none.pth", "none.pth"),
    ("final.yaml", "MODEL:", "SOLVER: {GAMMA: -1.0}\nMODEL:", "SOLVER.GAMMA is -1.0"),
    ("final.yaml", "MODEL:", "MODEL:\n  BACKBON: {}", "there is no config key MODEL.BACKBON"),
    ("final.yaml", "build_cr_fpn", "build_cr_vgg_fpn", "build_cr_vgg_fpn"),
    ("final.yaml", '_val"', '_none"', "_none"),
    ("final.yaml", "dilation.yaml", "final.yaml", "base of itself"),
    ("final.yaml", "dilation.yaml", "none.yaml", "none.yaml"),
    ("final.yaml", "MODEL:", "MODEL: [", "is not YAML"),
    ("final.yaml", "MODEL:", "MODEL: &a\n  CR: *a", "final.yaml"),
    ("stage.yaml", "STEPS: []", "STEPS: [5, 3]", "SOLVER.STEPS is"),
    ("stage.yaml", "IMAGES_PER_BATCH: 2\n", "IMAGES_PER_BATCH: -2\n", "SEARCH.IMAGES_PER_BATCH"),
    (
        "stage.yaml",
        "IMAGES_PER_BATCH: 2\n",
        "IMAGES_PER_BATCH: 2\n  HALVING: {ENABLED: True, MIN_IMAGES: 100}\n",
        "SEARCH.HALVING.MIN_IMAGES is 100; expected at most",
    ),
    ("dilation.yaml", "GROUP_SIZE: 4", "STRATEGY: beam", "SEARCH.STRATEGY is 'beam'"),
    ("dilation.yaml", "GROUP_SIZE: 4", "BUDGETS: many", "SEARCH.BUDGETS"),
    ("dilation.yaml", 'TEST: ["', 'TEST: ["x_', "DATASETS.TEST"),
    ("dilation.yaml", "NUM_WORKERS: 0", "NUM_WORKERS: -1", "DATALOADER.NUM_WORKERS is -1"),
    ("stage_pretraining.yaml", '["res5"]', '["res6"]', "MODEL.RESNETS.OUT_FEATURES is ['res6']"),
    ("stage_pretraining.yaml", '["res5"]', '["res4"]', "res5"),
    (
        "stage_pretraining.yaml",
        "CROP_SIZE: 32",
        "CROP_SIZE: 0",
        "INPUT.CLASSIFICATION.CROP_SIZE is 0",
    ),
    ("stage_pretraining.yaml", '_colors"]\n', '_grays"]\n', "_grays"),
    ("recipe.yaml", "BUDGETS: [5]", "BUDGETS: [5", "is not YAML"),
    ("recipe.yaml", "SEARCH:", "SEARCH: 5\nSOLVERS:", "SEARCH"),
    ("recipe.yaml", "/data/annotations.json", "/data/none.json", "none.json"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("bad") / "recipe")


def refused(recipe, *opts):
    """The sentence of a run, which leaves all files as they are."""
    before = contents(recipe.parent)
    with pytest.raises((ValueError, OSError)) as error:
        check_before_run(Procedure(Recipe(str(recipe), list(opts))))
    assert contents(recipe.parent) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("case", OPTIONS, ids=lambda case: " ".join(map(str, case[-2:])))
def test_options(recipe, case):
    message = refused(recipe, *map(copy.deepcopy, case))
    assert case[-2] in message or f"{case[-2].rpartition('.')[0]}: " in message


@pytest.mark.parametrize("file, old, new, words", FILES, ids=[case[2] for case in FILES])
def test_files(recipe, file, old, new, words):
    path = recipe.parent / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        message = refused(recipe)
    finally:
        path.write_text(text)
    assert words in message and (file in message or words in new)


def test_a_sound_recipe(recipe):
    """Without a final detector, with it, and with weights that are handed on to it."""
    for opts in (["SEARCH.FINAL", ""], [], ["SEARCH.RECIPE.INHERIT", True]):
        check_procedure(Procedure(Recipe(str(recipe), opts)), splits=str(recipe.parent / "splits"))


def test_what_an_untrained_detector_cannot_be(recipe):
    """The architecture goes into SEARCH.FINAL, whether it is trained or not."""
    untrained = ["SEARCH.RECIPE.TRAIN_FINAL", False]
    final = recipe.parent / "odd.yaml"
    for line, words in (
        ("ROI_BOX_HEAD: {POOLER_TYPE: none}", "MODEL.ROI_BOX_HEAD.POOLER_TYPE is 'none'"),
        ("ROI_HEADS: {IN_FEATURES: [p7]}", "MODEL.ROI_HEADS.IN_FEATURES is ['p7']"),
    ):
        final.write_text(f"_BASE_: final.yaml\nMODEL:\n  {line}\n")
        assert words in refused(recipe, *untrained, "SEARCH.FINAL", final.name)
        final.unlink()


def test_norms_that_cannot_be_inherited(recipe):
    final = recipe.parent / "groups.yaml"
    final.write_text("_BASE_: final.yaml\nMODEL: {RESNETS: {NORM: GN, STEM_OUT_CHANNELS: 8}}\n")
    message = refused(recipe, "SEARCH.FINAL", final.name, "SEARCH.RECIPE.INHERIT", True)
    final.unlink()
    assert "MODEL.RESNETS.NORM is 'BN, or one of its kind' in " in message and "'GN' in" in message


def test_a_dry_run_tells_the_faults_of_all_steps(recipe):
    found = Examination()
    opts = ["SOLVER.GAMMA", -1.0, "SEARCH.COST", "flops", "DATALOADER.NUM_WORKERS", -2]
    check_procedure(
        Procedure(Recipe(str(recipe), opts)), found.check, splits=str(recipe.parent / "splits")
    )
    for words in ("SOLVER.GAMMA is -1.0", "SEARCH.COST is 'flops'", "NUM_WORKERS is -2"):
        assert sum(words in fault for fault in found.faults) == 1


def test_a_fault_of_several_steps_is_told_once(recipe):
    found = Examination()
    opts = ["SEARCH.BUDGETS", [5, 100]]
    splits = str(recipe.parent / "splits")
    check_procedure(Procedure(Recipe(str(recipe), opts)), found.check, splits=splits)
    assert [fault.count("budget 100: no stage code") for fault in found.faults] == [1]
    assert found.faults[0].endswith("; it is set on the command line")
