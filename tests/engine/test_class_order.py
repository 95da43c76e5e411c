"""The same data with other category ids: no command mixes the classes of a checkpoint up."""

import json
import shutil

import pytest
import torch
from runs import last_metrics, train
from tiny_search import write_search_config

from crnas_d2.commands import compare, visualize
from crnas_d2.commands import search as search_command
from crnas_d2.config import read_config
from crnas_d2.data.images import read_pixels
from crnas_d2.engine.predicting import Predictor
from crnas_d2.search import Ledger

from detectron2.engine import default_argument_parser

IDS = {3: 30, 7: 1}  # blue comes first now
# So that a training may be tested
FROZEN = ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", "FrozenBN"]
RESULTS = "inference/coco_instances_results.json"


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    """The config of a trained supernet, on archtrain and archval of some data."""
    return write_search_config(tmp_path_factory.mktemp("order"), "stage")


def variant(supernet, name, names=("red", "blue"), network=True):
    """Such a config on a copy of the data, with the ids of above.

    Args:
        names: of the categories 30 and 1.
        network: of one network of the supernet, on all of the data, else of the supernet.
    """
    folder = supernet.parent
    data = json.loads((folder / "data" / "annotations.json").read_text())
    if name != "original":
        data["categories"] = [{"id": i, "name": n} for i, n in zip(IDS.values(), names)]
        for annotation in data["annotations"]:
            annotation["category_id"] = IDS[annotation["category_id"]]
    root = folder / f"{name}_{network}"
    root.mkdir()
    (root / "annotations.json").write_text(json.dumps(data))
    (root / "images").symlink_to(folder / "data" / "images")
    text = (
        supernet.read_text().replace(f"{folder}/data", str(root)).replace("tiny_", f"{root.name}_")
    )
    if network:
        text = text.replace("build_stage_supernet_fpn", "build_cr_fpn")
        text = text.replace("_archtrain", "_train").replace("_archval", "_train")
    path = root / "config.yaml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def original(supernet):
    return variant(supernet, "original")


@pytest.fixture(scope="module")
def reordered(supernet):
    return variant(supernet, "reordered")


def evaluate(config, folder, *opts):
    return train(config, "--eval-only", "OUTPUT_DIR", folder, *FROZEN, *opts)["bbox"]


@pytest.fixture(scope="module")
def tested(original, tmp_path_factory):
    """The folder of an evaluation of the network as it was trained, and its results."""
    folder = tmp_path_factory.mktemp("tested") / "output"
    return folder, evaluate(original, folder)


def detections(folder):
    """By their ids in the original data."""
    ids = {new: old for old, new in IDS.items()}
    found = json.loads((folder / RESULTS).read_text())
    return sorted(
        (d["image_id"], ids.get(d["category_id"], d["category_id"]), d["score"], d["bbox"])
        for d in found
    )


def assert_as_tested(results, folder, tested):
    expected_folder, expected = tested
    assert expected["AP"] > 5 and expected["AP-red"] != expected["AP-blue"]
    assert results == pytest.approx(expected, abs=1e-3, nan_ok=True)
    for one, other in zip(detections(folder), detections(expected_folder), strict=True):
        assert one[:2] == other[:2]
        assert one[2:] == (pytest.approx(other[2], abs=1e-4), pytest.approx(other[3], abs=1e-2))


def test_evaluation_in_another_order_is_the_same(reordered, tested, tmp_path):
    results = evaluate(reordered, tmp_path / "output")
    assert_as_tested(results, tmp_path / "output", tested)
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "the same 2 classes in another order" in log and "('blue', 'red')" in log


def test_warm_start_in_another_order_begins_with_the_same(reordered, original, tested, tmp_path):
    """And a resume of it refuses the first order, which the optimizer does not have."""
    output = tmp_path / "output"
    options = ["OUTPUT_DIR", output, "SOLVER.MAX_ITER", 1, *FROZEN]
    train(reordered, *options, "SOLVER.BASE_LR", 0.0)
    results = {key: value for key, value in last_metrics(output).items() if "bbox/" in key}
    results = {key.removeprefix("bbox/"): value for key, value in results.items()}
    assert_as_tested(results, output, tested)
    saved = torch.load(output / "model_final.pth", weights_only=True)
    assert saved["model_config"]["MODEL.CLASS_NAMES"] == "['blue', 'red']"
    message = (
        "MODEL.CLASS_NAMES: the same 2 in another order: .* 'blue' in the checkpoint, 'red' in"
    )
    with pytest.raises(ValueError, match=message):
        train(original, "--resume", *options)
    results = train(original, "--resume", "--eval-only", *options)["bbox"]
    assert results == pytest.approx(tested[1], abs=1e-3, nan_ok=True)
    weights = ["MODEL.WEIGHTS", output / "model_final.pth"]  # back again, from a detector's file
    results = evaluate(original, tmp_path / "back", *weights)
    assert_as_tested(results, tmp_path / "back", tested)


def test_other_classes(supernet, tmp_path):
    """They start from the rows of the class that is there; to test them makes no sense."""
    config = variant(supernet, "others", ("Red", "blue"))
    message = (
        "2 in the checkpoint, 2 in the data; in the checkpoint alone: 'red'; in the data alone"
    )
    with pytest.raises(ValueError, match=f"{message}: 'Red'; taken as different: 'red' and 'Red'"):
        evaluate(config, tmp_path / "output")
    assert not (tmp_path / "output").exists()
    output = tmp_path / "started"
    train(config, "OUTPUT_DIR", output, "SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 0.0)
    log = (output / "log.txt").read_text()
    assert "1 of 2 classes have rows of a class of the same name ('blue'); new: 'Red'" in log
    started, trained = (
        torch.load(path, weights_only=True)["model"]["roi_heads.box_predictor.cls_score.weight"]
        for path in (output / "model_final.pth", read_config(str(supernet)).MODEL.WEIGHTS)
    )
    assert torch.equal(started[[0, 2]], trained[[1, 2]])  # blue and the background
    assert started[1].abs().max() < 0.06 < trained[0].abs().max()  # Red, of std 0.01
    with pytest.raises(ValueError, match="in the checkpoint alone: 'Red'"):
        options = ["MODEL.WEIGHTS", output / "model_final.pth"]
        search(variant(supernet, "more", network=False), tmp_path / "search", *options)


def search(config, folder, *opts):
    options = ["OUTPUT_DIR", folder, "SEARCH.BUDGETS", "[5]", *opts]
    args = default_argument_parser().parse_args(["--config-file", *map(str, [config, *options])])
    args.eval_only = True
    search_command.search_supernet(args)
    trials = Ledger.read(folder / "ledger.sqlite").trials.values()
    return {trial.code: trial.metrics["bbox/AP"] for trial in trials}


def test_search_in_another_order_finds_the_same(supernet, tmp_path, without_report):
    first, other = (
        search(variant(supernet, name, network=False), tmp_path / name)
        for name in ("original", "swapped")
    )
    assert len(first) > 1 and max(first.values()) > 5
    assert other == pytest.approx(first, abs=1e-3)


def test_predictor_names_what_the_checkpoint_knows(original, reordered):
    image = read_pixels(str(original.parent / "images" / "0001.png"))
    found = []
    for config, names in (
        (original, []),
        (reordered, ["blue", "red"]),
        (original, ["red", "blue"]),
    ):
        predictor = Predictor(read_config(str(config), ["MODEL.CLASS_NAMES", names]))
        instances = predictor(image)["instances"]
        assert len(instances) > 0
        found.append([predictor.class_names[i] for i in instances.pred_classes])
    assert found[0] == found[1] == found[2]
    with pytest.raises(ValueError, match="in the data alone: 'green'"):
        Predictor(read_config(str(original), ["MODEL.CLASS_NAMES", ["red", "green"]]))


def test_results_of_another_order_are_not_read(original, tested, tmp_path, capsys):
    """As when the ids in the annotations were exchanged after the test."""
    folder = tmp_path / "output"
    shutil.copytree(tested[0], folder)
    path = original.parent / "annotations.json"
    data = json.loads(path.read_text())
    shown = ["--config-file", str(original), "--output", str(tmp_path / "image.png")]
    shown += ["--input", str(folder / RESULTS)]
    compare.main([str(folder), str(folder), "--annotations", str(path)])
    visualize.main(shown)
    for entry in (*data["categories"], *data["annotations"]):
        key = "id" if "name" in entry else "category_id"
        entry[key] = 10 - entry[key]
    exchanged = tmp_path / "exchanged.json"
    exchanged.write_text(json.dumps(data))
    capsys.readouterr()
    told = "at index 0 stand 'red' and 'blue'"
    with pytest.raises(SystemExit):
        compare.main([str(folder), str(folder), "--annotations", str(exchanged)])
    assert told in capsys.readouterr().err
    sets = read_config(str(original)).DATASETS.COCO_JSON
    sets = [["exchanged_train", str(exchanged), sets[0][2]]]
    with pytest.raises(SystemExit):
        visualize.main(
            [*shown, "DATASETS.COCO_JSON", str(sets), "DATASETS.TEST", "('exchanged_train',)"]
        )
    assert told in capsys.readouterr().err
