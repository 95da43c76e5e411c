"""Short lists of a tiny recipe: their trainings, their choice, and how they go on."""

import json
import math
import shutil
from random import Random

import pytest
from scipy.stats import kendalltau
from supernet_searches import in_two_processes
from tiny_search import write_recipe

from crnas_d2.architecture import format_code
from crnas_d2.config import get_architecture, read_config
from crnas_d2.engine import CRTrainer
from crnas_d2.engine.step import DivergedError
from crnas_d2.procedure import Procedure, Recipe
from crnas_d2.procedure.outcome import Outcome
from crnas_d2.procedure.overview import describe, measure_steps, overview
from crnas_d2.procedure.shortlist_plan import ShortlistPlan, shorten
from crnas_d2.search.result import read_architecture, read_ranking
from crnas_d2.search.shortlist_result import ShortlistResult
from crnas_d2.search.training_ledger import TrainingLedger

LIST = "SEARCH.RECIPE.SHORTLIST"
# 7 stage codes cost 6, of which 1-2-2-1 is the baseline
STAGES = [
    *("SEARCH.BUDGETS", "[6]", "MODEL.CR.STAGE_CODE", "[1, 2, 2, 1]"),
    *("SEARCH.RECIPE.STAGE_PRETRAINING", "", "SEARCH.RECIPE.DILATION_SUPERNET", ""),
    *("SEARCH.RECIPE.TRAIN_FINAL", "False"),
    *("SOLVER.STEPS", "(4, 5)", "SOLVER.WARMUP_ITERS", "2"),
]
BASELINE = (1, 2, 2, 1)
# Of its last rung and of the first: 70 % of 6 iterations and a half of that
LAST, FIRST = 4, 2


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = write_recipe(tmp_path_factory.mktemp("shortlist"))
    text = path.read_text()
    shortlist = "SHORTLIST: {CODES: 3, SEEDS: 1, FACTOR: 2, SHARE: 0.7}"
    path.write_text(text.replace("  RECIPE:\n", f"  RECIPE:\n    {shortlist}\n"))
    return path


@pytest.fixture(scope="module")
def searched(recipe):
    """Folder of all steps before the short list."""
    folder = recipe.parent / "searched"
    run(recipe, folder, f"{LIST}.CODES", 0)
    return folder


@pytest.fixture(scope="module")
def whole(recipe, searched):
    """Folder of a short list that nothing has stopped."""
    folder = recipe.parent / "whole"
    shutil.copytree(searched, folder)
    run(recipe, folder)
    return folder


def make(recipe, folder, *opts):
    opts = [*STAGES, "OUTPUT_DIR", str(folder), *map(str, opts)]
    return Procedure(Recipe(str(recipe), opts))


def run(recipe, folder, *opts):
    return make(recipe, folder, *opts).run()


def result_of(folder, step="stage_shortlist"):
    return ShortlistResult.read(str(folder / step))


def rows_of(folder, step="stage_shortlist"):
    return TrainingLedger.read(str(folder / step / "ledger.sqlite"))


def trainings(folder, step="stage_shortlist"):
    return sorted((folder / step).glob("iterations_*/*/seed_*"))


@pytest.fixture
def scores(monkeypatch):
    """Lets each training have the AP that this gives by its config, and counts the trainings."""
    trained = []

    def let(score):
        def test(cls, cfg, model, evaluators=None):
            trained.append(cfg)
            return {"bbox": {"AP": float(score(cfg)), "AP50": 1.0}}

        monkeypatch.setattr(CRTrainer, "test", classmethod(test))
        return trained

    return let


def code_of(cfg):
    return get_architecture(cfg).stage_code


def test_what_it_trains(whole, recipe):
    result, rows = result_of(whole), rows_of(whole)
    ranking = read_ranking(str(whole / "stage_search"))
    others = [s.code for s in ranking.scored if s.code != BASELINE]
    assert [c.origin for c in result.candidates] == ["baseline", *["ranking"] * 3, "random"]
    codes = [c.code for c in result.candidates]
    assert codes[:4] == [BASELINE, *others[:3]] and codes[4] in others[3:]
    first, last = result.rungs
    assert (first.iterations, first.images) == (FIRST, 2 * FIRST) and last.iterations == LAST
    assert [*first.scores] == codes and [*last.scores] == first.went_on and len(last.scores) == 3
    assert {(r.code, r.rung, r.seed) for r in rows} == {
        (code, number, seed)
        for number, rung in enumerate(result.rungs, start=1)
        for code in rung.scores
        for seed in (1,)
    }
    for row in rows:
        rung = result.rungs[row.rung - 1]
        assert rung.scores[row.code][row.seed - 1] == row.metrics["bbox/AP"]
        assert (row.status, row.iterations, row.images) == ("done", rung.iterations, rung.images)
        name = f"iterations_{row.iterations}/{format_code(row.code)}/seed_{row.seed}"
        folder = whole / "stage_shortlist" / name
        cfg = read_config(str(folder / "config.yaml"))
        assert code_of(cfg) == row.code and cfg.SEED == row.seed
        assert cfg.DATASETS.TRAIN[0].endswith("_archtrain")
        assert cfg.DATASETS.TEST[0].endswith("_archval")
        assert cfg.SOLVER.STEPS == ((1,) if row.rung == 1 else (3,))
        assert cfg.SOLVER.WARMUP_ITERS == 1
        state = json.loads((folder / "step.json").read_text())
        assert state["state"] == "done" and state["results"]["bbox"]["AP"] == row.metrics["bbox/AP"]
        assert not list(folder.rglob("*.pth"))
    assert len(trainings(whole)) == len(rows) == 8
    assert (whole / "architecture.yaml").read_text() == (
        whole / "stage_shortlist/architecture.yaml"
    ).read_text()
    log = (whole / "stage_shortlist/log.txt").read_text()
    assert log.count(" bbox/AP ") == 8 and "Starting at iteration" not in log


def test_the_cost_is_known_before(whole, recipe, tmp_path):
    rows = describe(make(recipe, tmp_path)).splitlines()
    (row,) = (row for row in rows if row.startswith("stage_shortlist"))
    spent = sum(r.images for r in rows_of(whole))
    assert "5 codes x 1 seed, 2 rungs" in row
    assert f" {spent} forward and backward, {8 * 7} forward " in row
    procedure = make(recipe, whole)
    (step,) = (step for step in procedure.steps if step.name == "stage_shortlist")
    work = ShortlistPlan.of_step(procedure, step).work
    assert (work.backward, work.forward) == (spent, 8 * 7)
    assert overview(procedure)[-1].done


def test_it_is_measured(recipe, tmp_path, monkeypatch):
    """A second for each image that passes forward and backward, a third for one that is tested."""
    monkeypatch.setattr("crnas_d2.procedure.measurement._time", lambda *_, **__: 1.0)
    times = measure_steps(make(recipe, tmp_path))
    images = 2 * (5 * FIRST + 3 * LAST)
    assert times["stage_shortlist"].seconds == pytest.approx(images + 8 * 7 / 3)


@pytest.mark.parametrize("killed_at, where", [(1, "step"), (3, "checkpoint"), (8, "test")])
def test_killed_in_a_training_it_goes_on(killed_at, where, whole, searched, recipe, tmp_path):
    """And ends with the same bytes; trainings that have ended are not begun again."""
    folder = tmp_path / "killed"
    shutil.copytree(searched, folder)
    train, after_step = CRTrainer.train, CRTrainer.after_step
    begun, again = [], []

    def stop(self):
        begun.append(self.cfg.OUTPUT_DIR)
        if len(begun) == killed_at:
            if where == "test":
                patch.setattr(CRTrainer, "test", stop_test)
            else:
                patch.setattr(CRTrainer, "after_step", stop_after_the_first)
        train(self)

    def stop_after_the_first(self):
        after_step(self)
        if where == "checkpoint":
            self.checkpointer.save("model_0000000", iteration=0)
        raise KeyboardInterrupt

    def stop_test(*_):
        raise KeyboardInterrupt

    def count(self):
        again.append(self.cfg.OUTPUT_DIR)
        return train(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CRTrainer, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CRTrainer, "train", count)
        run(recipe, folder)
    assert again[0] == begun[-1] and not {*again[1:]} & {*begun}
    assert len({*begun, *again}) == 8
    for name in ("result.json", "architecture.yaml"):
        one, other = ((f / "stage_shortlist" / name).read_bytes() for f in (folder, whole))
        assert one == other
    for one, other in zip(trainings(folder), trainings(whole), strict=True):
        detections = "inference/coco_instances_results.json"
        assert (one / detections).read_bytes() == (other / detections).read_bytes()
        assert not list(one.rglob("*.pth"))
    keys = [{(r.code, r.rung, r.seed) for r in rows_of(f)} for f in (folder, whole)]
    assert keys[0] == keys[1]


def test_the_best_on_archval_wins_and_goes_on(searched, recipe, tmp_path, scores):
    """Against a brute force over the table of AP; the search's own best does not win."""
    folder = tmp_path / "scored"
    shutil.copytree(searched, folder)
    ranking = read_ranking(str(folder / "stage_search"))
    table = {s.code: 10 + 3 * place for place, s in enumerate(ranking.scored)}
    table[BASELINE] = 1
    trained = scores(lambda cfg: table[code_of(cfg)] + (0, 0.5, -0.5)[cfg.SEED])
    told = run(recipe, folder, f"{LIST}.SEEDS", 2)
    assert "compared it with the baseline, on archval alone" in " ".join(told.split())
    result = result_of(folder)
    codes = {c.code for c in result.candidates}
    assert len(trained) == 2 * 8 and {code_of(cfg) for cfg in trained} == codes
    best = sorted(codes, key=table.get)
    assert result.winner == best[-1] != ranking.best
    assert set(result.rungs[0].went_on) == {BASELINE, *best[-2:]}
    assert result.scores[result.winner] == [table[best[-1]] + 0.5, table[best[-1]] - 0.5]
    assert read_architecture(str(folder / "stage_shortlist")).stage_code == result.winner
    assert make(recipe, folder, f"{LIST}.SEEDS", 2).found() == result.architecture


def test_the_baseline_can_win(searched, recipe, tmp_path, scores):
    folder = tmp_path / "baseline"
    shutil.copytree(searched, folder)
    scores(lambda cfg: 5)
    table = run(recipe, folder)
    assert result_of(folder).winner == BASELINE
    assert "It is the baseline itself." in table and "no test has shown" not in table
    assert "It is the baseline itself." in (folder / "final.yaml").read_text()
    state = json.loads((folder / "stage_shortlist/step.json").read_text())
    assert state["results"] == {"bbox/AP": 5.0}


def test_one_that_diverges_loses(searched, recipe, tmp_path, scores, monkeypatch):
    folder = tmp_path / "diverged"
    shutil.copytree(searched, folder)
    first = read_ranking(str(folder / "stage_search")).scored[:2]
    (bad,) = [s.code for s in first if s.code != BASELINE][:1]
    trained = scores(lambda cfg: 9 if code_of(cfg) == bad else 5)
    train = CRTrainer.train

    def diverge(self):
        if code_of(self.cfg) == bad:
            raise DivergedError("diverged at iteration 1")
        return train(self)

    monkeypatch.setattr(CRTrainer, "train", diverge)
    run(recipe, folder)
    result = result_of(folder)
    assert result.winner == BASELINE and result.rungs[0].scores[bad] == [None]
    assert bad not in result.rungs[0].went_on
    (row,) = (row for row in rows_of(folder) if row.status == "failed")
    assert (row.code, row.seed, row.reason) == (bad, 1, "diverged at iteration 1")
    assert len(trained) == 7
    shutil.rmtree(folder / "stage_shortlist" / "iterations_4")  # it is not tried again
    (folder / "stage_shortlist" / "result.json").unlink()
    run(recipe, folder)
    assert len(trained) == 10 and result_of(folder).as_json() == result.as_json()


def test_changed_keys(whole, recipe, tmp_path, scores):
    """Those of a training are refused; the others end the short list again with what is there."""
    folder = tmp_path / "changed"
    shutil.copytree(whole, folder)
    trained = scores(lambda cfg: 5)
    for key, value in (("SOLVER.BASE_LR", 0.03), ("MODEL.ROI_BOX_HEAD.FC_DIM", 8)):
        with pytest.raises(ValueError, match="was begun with other values"):
            run(recipe, folder, key, value)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("iterations_*/*/*/step.json")}
    more = recipe.parent / "more.yaml"
    more.write_text(recipe.read_text().replace("SEEDS: 1", "SEEDS: 2"))
    run(more, folder)
    assert {cfg.SEED for cfg in trained} == {2} and len(trained) == 5 + 3
    assert result_of(folder).seeds == [1, 2]
    trained.clear()
    run(recipe, folder, f"{LIST}.FACTOR", 1)  # all for the longer schedule, for which some were
    assert len(trained) == 5 - 3 and len(result_of(folder).rungs) == 1
    trained.clear()
    run(recipe, folder)
    assert trained == [] and len(result_of(folder).rungs) == 2 and len(rows_of(folder)) == 8
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_damaged_training_is_refused(whole, recipe, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    (folder / "stage_shortlist/result.json").unlink()
    (folder / "stage_shortlist/ledger.sqlite").write_text("nothing")  # nothing depends on it
    state = trainings(folder)[0] / "step.json"
    content = json.loads(state.read_text())
    content["identity"]["work"]["SOLVER.BASE_LR"] = "7"
    state.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{state.parent} was .*\n  SOLVER.BASE_LR: 7 there"):
        run(recipe, folder)


def test_whole_procedure_takes_the_winners(recipe, tmp_path, scores):
    """Of both short lists: into the dilation supernet, the final detector, and final.yaml."""
    bonus = {}

    def score(cfg):
        architecture = get_architecture(cfg)
        is_plain = not any(architecture.operation_code)
        of_stage = 10 * (architecture.stage_code == (1, 1, 2, 2))
        bonus.setdefault(architecture, len(bonus))
        return of_stage + (0 if is_plain else 5 + bonus[architecture] / 10)

    scores(score)
    opts = ["SEARCH.RECIPE.TRAIN_FINAL", True, "SEARCH.RECIPE.SEEDS", 2, f"{LIST}.CODES", 6]
    opts += ["SEARCH.RECIPE.DILATION_SUPERNET", "dilation.yaml", f"{LIST}.FACTOR", 1]
    run(recipe, tmp_path / "out", *opts)
    stage, operation = (
        result_of(tmp_path / "out", f"{kind}_shortlist") for kind in ("stage", "operation")
    )
    assert stage.winner == (1, 1, 2, 2) and stage.of == "stage"
    plain = operation.baseline
    assert plain.code == (0,) * 6 and operation.architecture.stage_code == stage.winner
    assert any(operation.winner) and operation.search == "operation_search"
    for step in ("dilation_supernet", "operation_search"):
        cfg = read_config(str(tmp_path / "out" / step / "config.yaml"))
        assert code_of(cfg) == stage.winner
    for step in ("final", "final_2"):
        cfg = read_config(str(tmp_path / "out" / step / "config.yaml"))
        assert get_architecture(cfg) == operation.architecture
        assert cfg.SOLVER.MAX_ITER == 6 and cfg.DATASETS.TRAIN[0].endswith("_train")


def test_several_budgets(recipe, tmp_path, scores):
    """Each has a short list of its own ranking, with its own baseline."""
    scores(lambda cfg: code_of(cfg)[0])
    folder = tmp_path / "budgets"
    run(recipe, folder, "SEARCH.BUDGETS", "[5, 6]", f"{LIST}.CODES", 1)
    for budget, blocks in (("5", 5), ("6", 6)):
        step = f"budget_{budget}/stage_shortlist"
        result = result_of(folder, step)
        assert result.budget == budget and result.search == "stage_search"
        assert {sum(c.code) for c in result.candidates} == {blocks}
        assert result.baseline.code == {"5": (1, 1, 2, 1), "6": BASELINE}[budget]
        assert (folder / f"budget_{budget}/architecture.yaml").is_file()
        assert read_architecture(str(folder / step)).stage_code == result.winner
        assert len(rows_of(folder, step)) == 3


def test_what_it_starts_from(recipe, searched, tmp_path, scores):
    """A pre-training of each candidate, its schedule shortened as well; or the supernet."""
    (recipe.parent / "pretraining.yaml").write_text("""
_BASE_: "stage_pretraining.yaml"
MODEL:
  BACKBONE: {NAME: "build_cr_backbone"}
""")
    scores(lambda cfg: 5)
    folder = tmp_path / "pretrained"
    shutil.copytree(searched, folder)
    pretraining = ["SEARCH.RECIPE.FINAL_PRETRAINING", "pretraining.yaml", f"{LIST}.CODES", 1]
    row = next(r for r in overview(make(recipe, folder, *pretraining)) if "shortlist" in r.name)
    run(recipe, folder, *pretraining)
    root = folder / "stage_shortlist"
    assert {p.parent.name for p in root.glob("pretraining_4/*/model_final.pth")} == {
        format_code(c.code) for c in result_of(folder).candidates
    }
    assert [p.name for p in root.rglob("*.pth")] == ["model_final.pth"] * 3
    for training in root.glob("iterations_4_after_4/*/seed_*"):
        cfg = read_config(str(training / "config.yaml"))
        weights = root / "pretraining_4" / format_code(code_of(cfg)) / "model_final.pth"
        assert cfg.MODEL.WEIGHTS == str(weights)
    assert row.image_passes == f"{3 * 2 * 4 + 3 * 2 * 4} forward and backward, {3 * 7} forward"
    shutil.rmtree(root)
    run(recipe, folder, "SEARCH.RECIPE.INHERIT", True, f"{LIST}.CODES", 1)
    for training in root.glob("iterations_4/*/seed_1"):
        text = (training / "log.txt").read_text()
        assert "is of a supernet: loading the weights of its path" in text


def test_a_shortened_schedule():
    cfg = read_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (95279, (58633, 80620))
    short = shorten(cfg, 0.25)
    assert short.SOLVER.MAX_ITER == 23820 and short.SOLVER.STEPS == (14658, 20155)
    assert short.SOLVER.WARMUP_ITERS == 250 and short.TEST.PRECISE_BN.NUM_ITER == 50
    assert short.SOLVER.CHECKPOINT_PERIOD == cfg.SOLVER.CHECKPOINT_PERIOD
    tiny = shorten(cfg, 1e-9)
    assert tiny.SOLVER.MAX_ITER == 1 and tiny.SOLVER.STEPS == ()


def test_faults_are_told_before_the_first_step(recipe, tmp_path):
    for key, value, message in (
        (f"{LIST}.SHARE", 1.5, f"{LIST}.SHARE is 1.5; expected more than 0 and at most 1"),
        (f"{LIST}.CODES", -1, f"{LIST}.CODES is -1; expected at least 0"),
        ("SEARCH.FINAL", "", "SHORTLIST.CODES is 3 and SEARCH.FINAL is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            run(recipe, tmp_path / "out", key, value)
        assert not (tmp_path / "out").exists()


def test_archtrain_in_the_short_list_is_apart_from_the_test_set(recipe, tmp_path):
    final = recipe.parent / "leaking.yaml"
    name = read_config(str(recipe.parent / "final.yaml")).DATASETS.TRAIN[0]
    final.write_text(f'_BASE_: "final.yaml"\nDATASETS: {{TEST: ["{name}"]}}\n')
    with pytest.raises(ValueError, match=f"{name} is the DATASETS.TEST of .*expected none"):
        run(recipe, tmp_path / "out", "SEARCH.FINAL", "leaking.yaml")
    assert not (tmp_path / "out").exists()


def test_two_processes(searched, recipe, tmp_path):
    """They train each candidate together."""
    folder = tmp_path / "two"
    printed = in_two_processes(recipe, folder, *STAGES, f"{LIST}.CODES", "1")
    rows = rows_of(folder)
    assert [(r.iterations, r.images, r.status) for r in rows] == [(LAST, 2 * LAST, "done")] * 3
    identity = json.loads((trainings(folder)[0] / "step.json").read_text())["identity"]
    assert identity["work"]["processes"] == "2"
    found = [line.split()[-1] for line in printed.splitlines() if line.startswith("found  ")]
    assert found[0] == format_code(result_of(folder).winner)


def test_the_last_checkpoints_of_a_supernet_are_compared(recipe, tmp_path):
    folder = tmp_path / "whole"
    run(recipe, folder, "SOLVER.CHECKPOINT_PERIOD", 2)
    told = json.loads((folder / "stage_shortlist" / "checkpoints.json").read_text())
    names = ["model_0000003", "model_final"]  # model_0000005 is the final one
    codes = {format_code(candidate.code) for candidate in result_of(folder).candidates}
    assert list(told["scores"]) == names
    assert all(scores.keys() == codes for scores in told["scores"].values())
    ranking = read_ranking(str(folder / "stage_search"), "")
    final = {
        format_code(code): score for code, score in ranking.scored if format_code(code) in codes
    }
    assert told["scores"]["model_final"] == pytest.approx(final)
    one, other = ([scores[code] for code in sorted(codes)] for scores in told["scores"].values())
    tau = kendalltau(one, other)[0]
    assert told["taus"] == [[*names, None if math.isnan(tau) else pytest.approx(tau)]]


def test_the_outcome_says_how_well_the_supernet_has_ranked(recipe, searched, tmp_path, scores):
    folder = shutil.copytree(searched, tmp_path / "whole")
    rng = Random(0)
    scores(lambda cfg: rng.uniform(40, 60))
    run(recipe, folder, f"{LIST}.SEEDS", 2, "SEARCH.RECIPE.TRAIN_FINAL", True)
    (ranking,) = Outcome.read(str(folder)).ranking
    result = result_of(folder)
    by_supernet = {candidate.code: candidate.score for candidate in result.candidates}
    assert ranking.step == "stage_search" and None not in by_supernet.values()
    for rung, told in zip(result.rungs, ranking.alone, strict=True):
        means = {code: sum(aps) / 2 for code, aps in rung.scores.items()}
        tau = kendalltau([by_supernet[code] for code in means], list(means.values()))[0]
        assert told["tau"] == pytest.approx(tau)
        assert (told["codes"], told["iterations"]) == (len(means), rung.iterations)
        first = max(means, key=by_supernet.get)
        assert told["regret"] == pytest.approx(max(means.values()) - means[first])
