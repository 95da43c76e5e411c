"""Two processes on the CPU, by gloo: started by torchrun, then by --num-gpus 2, then as two_ranks.py."""

import json
import os
import signal

import pytest
import torch
from fvcore.nn.precise_bn import update_bn_stats
from runs import (
    TORCHRUN,
    TWO_PROCESSES,
    Run,
    assert_same_state,
    checkpoints,
    last_checkpoint,
    last_metrics,
    parse,
    train,
)
from two_ranks import EXACT, INTERRUPTED, PRECISE_BN, WITH_BN, make_norms, train_exactly

from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.engine import CRTrainer, setup

from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils.events import EventStorage

STAGES = ["res2", "res3", "res4", "res5"]
TWO_RANKS = os.path.join(os.path.dirname(__file__), "two_ranks.py")


@pytest.fixture(scope="module")
def config(shared_tiny_config):
    return shared_tiny_config


@pytest.fixture(scope="module")
def terminated(config):
    """Exit code and output of two runs in one folder, which got a SIGTERM: the process that the
    user has started got it, and no other."""
    folder = config.parent / "interrupted"
    ends, known = [], []
    for arguments, options in (
        ([], {"launcher": TORCHRUN}),
        ([*TWO_PROCESSES, "--resume"], {}),
    ):
        # The processes of the second one would spawn their data workers, which takes its time.
        workers = ["DATALOADER.NUM_WORKERS", 0 if "--resume" in arguments else 2]
        output = ["OUTPUT_DIR", folder]
        run = Run(config, *arguments, *INTERRUPTED, *workers, *output, **options)
        run.wait_for_checkpoint(folder, known)
        run.process.send_signal(signal.SIGTERM)
        ends.append((*run.finish(), last_checkpoint(folder)["iteration"]))
        run.wait_for_its_children()
        known = checkpoints(folder)
    return ends


@pytest.fixture(scope="module")
def ranks(config, terminated):
    """What two_ranks.py has seen on each rank."""
    run = Run(config, *TWO_PROCESSES, script=TWO_RANKS)
    code, printed = run.finish()
    assert code == 0, printed[-6000:]
    return [torch.load(config.parent / f"rank{rank}.pth") for rank in range(2)]


def test_sigterm_under_torchrun(terminated):
    code, printed, iteration = terminated[0]
    assert code != 0
    assert f"SIGTERM: saved iteration {iteration}" in printed


def test_sigterm_to_the_launcher(terminated):
    code, printed, iteration = terminated[1]
    assert code == 143, printed[-4000:]
    assert f"SIGTERM: saved iteration {iteration}" in printed
    assert f"Starting at iteration {terminated[0][2] + 1} of 28" in printed
    assert "Traceback" not in printed.partition("SIGTERM: saved")[2]


def test_interrupted_twice_equals_never_interrupted(config, terminated, ranks):
    whole, interrupted = (
        last_checkpoint(config.parent / name) for name in ("whole", "interrupted")
    )
    assert_same_state(interrupted, whole)
    for seen in ranks:
        assert_same_state(seen["interrupted"], seen["whole"])


@pytest.mark.parametrize("name", ["whole", "interrupted"])
def test_all_ranks_have_one_network(ranks, name):
    one, other = (seen[name] for seen in ranks)
    assert_same_state(one, other)


def test_statistics_are_those_of_the_mixture_of_the_ranks(ranks):
    before = [make_norms(rank).state_dict() for rank in range(2)]
    for norm in ("plain", "choice.ops.0"):
        means, variances = (
            torch.stack([state[f"{norm}.running_{moment}"] for state in before]).double()
            for moment in ("mean", "var")
        )
        samples = means + variances.sqrt() * torch.tensor([-1.0, 1.0]).double()[:, None, None]
        variance, mean = torch.var_mean(samples.flatten(0, 1), 0, correction=0)
        for seen in ranks:
            state = seen["statistics"]
            torch.testing.assert_close(state[f"{norm}.running_mean"], mean.float())
            torch.testing.assert_close(state[f"{norm}.running_var"], variance.float())
    one, other = (seen["statistics"] for seen in ranks)
    for name, tensor in one.items():
        if name.startswith(("plain", "choice.ops.0")):
            assert torch.equal(tensor, other[name]), name
        else:
            assert torch.equal(tensor, before[0][name]), name
            assert torch.equal(other[name], before[1][name]), name
    assert one["plain.num_batches_tracked"] == 8


def test_cumulated_statistics_are_of_the_batches_of_all_ranks(ranks):
    batches = torch.stack([batch for seen in ranks for batch in seen["cumulated"]["batches"]])
    for seen in ranks:
        state = seen["cumulated"]["state"]
        assert state["num_batches_tracked"] == 3
        torch.testing.assert_close(state["running_mean"], batches.mean((0, 1)))
    assert_same_state(*(seen["cumulated"]["state"] for seen in ranks))


@pytest.mark.parametrize("name", ["precise", "averaged"])
def test_precise_statistics_are_of_the_images_of_all_ranks(config, ranks, name):
    """They are those of one process that sees, one at a time, the images that the two have seen."""
    assert_same_state(*(seen[name] for seen in ranks))
    cfg = setup(parse(config, *PRECISE_BN, "SOLVER.IMS_PER_BATCH", 1))
    model = CRTrainer.build_model(cfg)
    CRCheckpointer(model, "", cfg).load(str(config.parent / name / "model_final.pth"))
    norms = {name for name, _ in model.named_buffers() if "running_" in name}
    with EventStorage():
        update_bn_stats(model.train(), CRTrainer.build_train_loader(cfg), num_iters=4)
    alone, saved = model.state_dict(), last_checkpoint(config.parent / name)["model"]
    assert norms
    for norm in norms:
        torch.testing.assert_close(saved[norm], alone[norm], rtol=1e-4, atol=1e-5)


def detections(output):
    return [
        json.loads((output / folder / "coco_instances_results.json").read_text())
        for folder in ("inference", "inference_TTA")
    ]


def test_what_is_printed_is_what_the_file_gives(config, ranks):
    """On any number of processes, after a resume, and whatever the periods of saving and testing:
    the same state, the same detections, the same results, in every digit."""
    folder = config.parent
    for seen in ranks:
        for state in seen["bn"]["states"]:
            assert_same_state(state, ranks[0]["bn"]["states"][0])
    alone = folder / "bn_evaluated_by_one"
    weights = ["MODEL.WEIGHTS", folder / "bn" / "model_final.pth"]
    results = train(config, "--eval-only", *WITH_BN, *weights, "OUTPUT_DIR", alone)
    assert json.dumps(ranks[0]["bn"]["results"]) == json.dumps(results)
    truth = detections(alone)
    assert all(truth)
    assert detections(folder / "bn_evaluated_by_two") == truth
    results = flatten_results_dict(results)
    for name in ("bn", "bn_resumed", "bn_periods"):
        assert detections(folder / name) == truth
        metrics = last_metrics(folder / name)
        assert json.dumps({key: metrics[key] for key in results}) == json.dumps(results)


def test_all_ranks_start_with_the_weights_of_the_first(config, ranks):
    one, other = (seen["exact"][0]["state"] for seen in ranks)
    assert_same_state(one, other)
    train(config, *EXACT, "SEED", 1, "SOLVER.BASE_LR", 0.0, "OUTPUT_DIR", config.parent / "still")
    assert_same_state(dict(last_checkpoint(config.parent / "still")["model"]), one)


def relative_error(tensor, truth):
    return (tensor - truth).norm() / truth.norm()


def flatten(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def test_gradients_are_those_of_one_process_with_both_images(config, ranks):
    single = train_exactly(config, config.parent / "single")
    assert_same_state(single[0], ranks[0]["exact"][0])
    assert len({step["path"] for step in single[1:]}) == 3
    for seen in ranks:
        for step, together in zip(seen["exact"][1:], single[1:], strict=True):
            assert step["path"] == together["path"]
            assert step["gradients"].keys() == together["gradients"].keys()
            assert relative_error(*map(flatten, (step["gradients"], together["gradients"]))) < 1e-6
            for name, gradient in together["gradients"].items():
                assert relative_error(step["gradients"][name], gradient) < 1e-5, name
            for name, tensor in together["state"].items():
                torch.testing.assert_close(step["state"][name], tensor, rtol=1e-6, atol=1e-7)


def test_off_path_parameters_are_untouched(ranks):
    for seen in ranks:
        for before, after in zip(seen["exact"], seen["exact"][1:]):
            for name, tensor in after["state"].items():
                _, is_searched, branch = name.partition(".ops.")
                if is_searched:
                    stage = STAGES.index(name.split(".")[2])
                    on_path = int(branch.split(".")[0]) == after["path"][stage]
                    assert (name in after["gradients"]) <= on_path
                    assert on_path or torch.equal(tensor, before["state"][name]), name
            changed = {
                n for n, t in after["state"].items() if not torch.equal(t, before["state"][n])
            }
            assert changed <= after["gradients"].keys()
            assert {name.split(".")[2] for name in changed if ".ops." in name} == set(STAGES)


def test_a_step_has_one_message_beside_the_gradients(ranks):
    for seen in ranks:
        for step in seen["exact"][1:]:
            assert step["collectives"] == ["all_reduce", "all_gather"]


def test_other_path_on_a_rank_is_an_error_on_all(ranks):
    messages = [seen["other_paths"] for seen in ranks]
    assert messages[0] == messages[1]
    expected = (
        "would run different paths; their seeds and iterations are: rank 0 (0, 0), rank 1 (1, 0)"
    )
    assert expected in messages[0]


def test_diverged_rank_stops_all(config, ranks):
    messages = [seen["diverged"] for seen in ranks]
    assert messages[0] == messages[1]
    assert "diverged at iteration 3, path [" in messages[0]
    assert "losses of rank 1 are {'loss_cls': nan, 'loss_box_reg': 0." in messages[0]
    output = config.parent / "diverged"
    assert checkpoints(output) == ["model_0000001.pth"]
    train(config, "--resume", *EXACT, "OUTPUT_DIR", output)
    assert last_checkpoint(output)["iteration"] == 3


def test_parameters_without_gradient_on_a_rank_or_on_all(ranks):
    for seen in ranks:
        gradients = seen["partly"]["gradients"]
        assert gradients["a"].tolist() == [1.5, 1.5]  # of 1 and 2
        assert gradients["b"].tolist() == [4, 4]  # of none and 8
        assert gradients["c"] is None
        assert_same_state(seen["partly"]["state"], ranks[0]["partly"]["state"])
        assert not any(tensor.any() for tensor in seen["partly"]["state"].values())
