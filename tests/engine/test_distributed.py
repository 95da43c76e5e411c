"""Two processes on the CPU, by gloo: started by torchrun, then by --num-gpus 2, then as two_ranks.py."""

import os
import signal

import pytest
import torch
from runs import (
    TORCHRUN,
    TWO_PROCESSES,
    Run,
    assert_same_state,
    checkpoints,
    last_checkpoint,
    train,
)
from two_ranks import EXACT, INTERRUPTED, train_exactly

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
        for name, _ in parameters(seen["whole"]):
            assert torch.equal(seen["interrupted"][name], seen["whole"][name]), name


def parameters(state):
    return [(n, t) for n, t in state.items() if "running_" not in n and "num_batches" not in n]


@pytest.mark.parametrize("name", ["whole", "interrupted"])
def test_parameters_are_equal_on_both_ranks(ranks, name):
    one, other = (dict(parameters(seen[name])) for seen in ranks)
    assert_same_state(one, other)
    statistics = {n for n in ranks[0][name] if "running_mean" in n}
    assert any(not torch.equal(ranks[0][name][n], ranks[1][name][n]) for n in statistics)


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


def test_other_path_on_a_rank_is_an_error_on_all(ranks):
    messages = [seen["other_paths"] for seen in ranks]
    assert messages[0] == messages[1]
    assert "iteration 0: the ranks drew different paths: rank 0 [" in messages[0]


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
