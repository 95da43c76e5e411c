"""Config files: where they are found, what of them is refused, and what their paths become."""

import os
import re

import pytest

from crnas_d2 import add_crnas_config, configs_dir, get_config
from crnas_d2.config import read_config
from crnas_d2.config_files import config_name, find_config_file
from crnas_d2.procedure import Recipe

from detectron2.config import get_cfg

NAME = "COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """An empty one, in which a test runs; it is the home folder, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "name",
    [NAME, f"crnas_d2://{NAME}", f"{configs_dir()}/{NAME}", f"~/../{{up}}{configs_dir()}/{NAME}"],
)
def test_names_of_a_shipped_config(name, folder):
    name = name.replace("{up}", "../" * len(folder.parts))
    cfg = get_config(name)
    assert list(cfg.MODEL.CR.STAGE_CODE) == [1, 3, 5, 7]
    assert os.path.samefile(find_config_file(name), os.path.join(configs_dir(), NAME))


def test_own_file_goes_before_the_shipped_one_of_its_name(folder):
    write(folder / NAME, "SEED: 7")
    assert get_config(NAME).SEED == 7
    assert get_config(f"crnas_d2://{NAME}").SEED == -1


def test_config_name(folder):
    own = write(folder / "deep" / "own.yaml", "SEED: 7")
    assert config_name(f"{configs_dir()}/{NAME}") == NAME
    assert config_name(own) == "deep/own.yaml"
    write(folder.parent / "beside.yaml", "SEED: 7")
    assert config_name(str(folder.parent / "beside.yaml")) == "../beside.yaml"


@pytest.mark.parametrize("base", [f"crnas_d2://{NAME}", "~/base.yaml", "$DATA/../base.yaml"])
def test_bases(folder, base):
    write(folder / "base.yaml", f'_BASE_: "crnas_d2://{NAME}"\nSEED: 3')
    own = write(folder / "deep" / "own.yaml", f'_BASE_: "{base}"\nSOLVER: {{MAX_ITER: 5}}')
    cfg = read_config(own)
    assert list(cfg.MODEL.CR.STAGE_CODE) == [1, 3, 5, 7] and cfg.SOLVER.MAX_ITER == 5
    assert cfg.SEED == (-1 if base.startswith("crnas_d2") else 3)


def test_later_bases_go_before_earlier_ones(folder):
    write(folder / "a.yaml", "SEED: 1\nSOLVER: {MAX_ITER: 1, BASE_LR: 0.5}")
    write(folder / "b.yaml", "SEED: 2")
    cfg = read_config(write(folder / "c.yaml", "_BASE_: [a.yaml, b.yaml]\nSOLVER: {MAX_ITER: 3}"))
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (2, 3, 0.5)


@pytest.mark.parametrize(
    "name", sorted(p for p in os.listdir(configs_dir()) if p.startswith("Base"))
)
def test_detectron2_opens_shipped_configs_and_reads_the_same(folder, name):
    for file in (name, NAME):
        cfg = get_cfg()
        add_crnas_config(cfg)
        cfg.merge_from_file(f"crnas_d2://{file}", allow_unsafe=False)
        assert cfg.dump() == get_config(file).dump()


DATASETS = """
MODEL: {WEIGHTS: "~/weights.pth"}
OUTPUT_DIR: "$DATA/out"
SEARCH:
  FINAL: "~/final.yaml"
  RECIPE: {SEED_WEIGHTS: "~/seed.pth", STAGE_SUPERNET: "${DATA}/stage.yaml"}
DATASETS:
  COCO_JSON: [["~", "~/a.json", "$DATA/images"]]
  IMAGE_FOLDERS: [["$DATA", "~/birds"]]
  VOC_DIRS: [["own", "~/VOC", "~", 2012, ["~"]]]
  ARCHVAL: {DIR: "~/splits"}
  CACHE_DIR: "$DATA/checks"
"""


def test_paths_are_expanded(folder):
    home = str(folder)
    cfg = read_config(write(folder / "own.yaml", DATASETS))
    assert cfg.MODEL.WEIGHTS == f"{home}/weights.pth"
    assert cfg.OUTPUT_DIR == f"{home}/data/out"
    assert cfg.SEARCH.FINAL == f"{home}/final.yaml"
    assert cfg.SEARCH.RECIPE.SEED_WEIGHTS == f"{home}/seed.pth"
    assert cfg.SEARCH.RECIPE.STAGE_SUPERNET == f"{home}/data/stage.yaml"
    assert cfg.DATASETS.COCO_JSON == [["~", f"{home}/a.json", f"{home}/data/images"]]
    assert cfg.DATASETS.IMAGE_FOLDERS == [["$DATA", f"{home}/birds"]]
    assert cfg.DATASETS.VOC_DIRS == [["own", f"{home}/VOC", "~", 2012, ["~"]]]
    assert cfg.DATASETS.ARCHVAL.DIR == f"{home}/splits"
    assert cfg.DATASETS.CACHE_DIR == f"{home}/data/checks"
    opts = ["OUTPUT_DIR", "~/x", "DATASETS.COCO_JSON", "[('a', '~/a.json', '$UNSET/b')]"]
    cfg = read_config(str(folder / "own.yaml"), opts)
    assert cfg.OUTPUT_DIR == f"{home}/x"
    assert cfg.DATASETS.COCO_JSON == [["a", f"{home}/a.json", "$UNSET/b"]]


def test_paths_of_a_recipe_are_expanded_for_its_steps(folder):
    write(folder / "final.yaml", f'_BASE_: "crnas_d2://{NAME}"')
    recipe = Recipe(
        write(
            folder / "recipe.yaml",
            'DATASETS: {COCO_JSON: [["own", "~/a.json", "~"]]}\nSEARCH: {FINAL: "~/final.yaml"}',
        ),
        ["OUTPUT_DIR", "~/out"],
    )
    cfg = recipe.config(recipe.names["FINAL"])
    assert cfg.DATASETS.COCO_JSON == [["own", f"{folder}/a.json", str(folder)]]
    assert cfg.OUTPUT_DIR == f"{folder}/out"


@pytest.mark.parametrize(
    "keys, read",
    [
        ("MODEL: {WEIGHTS: model.pth}", lambda cfg: cfg.MODEL.WEIGHTS),
        (
            "SEARCH: {RECIPE: {SEED_WEIGHTS: model.pth}}",
            lambda cfg: cfg.SEARCH.RECIPE.SEED_WEIGHTS,
        ),
    ],
)
def test_weights_beside_the_file_that_names_them(folder, keys, read):
    weights = folder / "deep" / "model.pth"
    write(weights, "")
    write(folder / "deep" / "base.yaml", keys)
    assert read(read_config(write(folder / "own.yaml", "_BASE_: deep/base.yaml"))) == str(weights)
    assert read(read_config(write(folder / "own.yaml", keys))) == "model.pth"


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [1", "config file own.yaml is not YAML: .*line 1"),
        ("a: !!python/name:os.system", "config file own.yaml is not YAML: .*python/name"),
        ("", "config file own.yaml holds nothing; expected keys with values"),
        ("- 1", "config file own.yaml holds a list; expected keys"),
        ("text", "config file own.yaml holds a str; expected keys"),
        ("_BASE_: no.yaml", "config file own.yaml: _BASE_ is 'no.yaml'; there is no file no.yaml"),
        ("_BASE_: 3", "config file own.yaml: _BASE_ is 3; expected a file"),
        ("_BASE_: [3]", "config file own.yaml: _BASE_ is 3; expected a file"),
        ("_BASE_: .", "_BASE_ is '.'; there is no file"),
        ("_BASE_: own.yaml", "own.yaml: _BASE_ is 'own.yaml', which makes it a base of itself"),
        ("_BASE_: other.yaml", "file other.yaml: _BASE_ is './own.yaml', which makes it a base of"),
        ('_BASE_: "crnas_d2://no.yaml"', "_BASE_ is 'crnas_d2://no.yaml'; there is no file .*"),
        ("_BASE_: bad.yaml", "config file bad.yaml: there is no config key MODEL.CR.TAU"),
        (
            "SOLVR: {MAX_ITER: 1}",
            "own.yaml: there is no config key SOLVR.MAX_ITER; is it SOLVER.MAX",
        ),
        ("SOLVER: 3", "own.yaml: SOLVER is 3; expected keys below it"),
        ("SOLVER:", "own.yaml: SOLVER is None; expected keys below it"),
        ("SOLVER: {MAX_ITER: abc}", "MAX_ITER is 'abc'; expected a whole number, such as 40000"),
        ("SOLVER: {MAX_ITER: 2026-01-01}", "MAX_ITER is datetime.*; expected a whole number"),
        ("SOLVER: {MAX_ITER: {A: 1}}", "there is no config key SOLVER.MAX_ITER.A"),
        ("MODEL: {CR: {STAGE_CODE: 3}}", r"STAGE_CODE is 3; expected a list, such as \[3, 4, 6"),
        ("1: 2", "own.yaml: there is no config key 1"),
    ],
)
def test_faulty_files(folder, text, message):
    write(folder / "other.yaml", "_BASE_: ./own.yaml")
    write(folder / "bad.yaml", "MODEL: {CR: {TAU: 1}}")
    write(folder / "own.yaml", text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read_config("own.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["SEED"], "the last config key 'SEED' has no value"),
        (["SEED", "1", "OUTPUT_DIR"], "the last config key 'OUTPUT_DIR' has no value"),
        (["SEED", "1", "--resume"], "--resume is behind a config key; expected options before"),
        (["SOLVER.MAX_ITER", "abc"], "SOLVER.MAX_ITER is 'abc'; expected a whole number"),
        (["SOLVER.MAX_ITERS", "1"], "no config key SOLVER.MAX_ITERS; is it SOLVER.MAX_ITER?"),
        (["MODEL", "1"], "MODEL is '1'; expected keys below it"),
        (["_BASE_", "a.yaml"], "there is no config key _BASE_"),
        (["", "a"], "there is no config key "),
    ],
)
def test_faulty_options(opts, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_config(NAME, opts)


def test_folders_and_binary_files(folder):
    with pytest.raises(ValueError, match="config file '.' is a folder; expected a YAML file"):
        read_config(".")
    (folder / "own.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="config file own.yaml is not YAML"):
        read_config("own.yaml")
