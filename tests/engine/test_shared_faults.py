"""What each rank of a job tells of a fault, where each has a stderr of its own, as under Slurm."""

import socket

import pytest
from clean_forks import clean_forks
from failing_ranks import start_rank
from hanging import HANGS_S


@pytest.fixture(scope="module")
def environment():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


@pytest.fixture
def run(tmp_path, environment):
    """Exit codes, what the ranks tell, and the errors in their log files."""

    def start(how):
        ranks = [
            clean_forks.Process(target=start_rank, args=(tmp_path, how, rank, environment))
            for rank in range(2)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(HANGS_S)
        said = [(tmp_path / f"stderr{rank}").read_text() for rank in range(2)]
        logs = [(tmp_path / "logs" / f"log.txt{end}").read_text() for end in ("", ".rank1")]
        return [rank.exitcode for rank in ranks], said, logs

    return start


@pytest.mark.parametrize(
    "how, failed",
    [("one", 1), ("far", 1), ("first", 0)],  # rank 0 keeps the store
)
def test_all_ranks_hear_of_it(run, how, failed):
    """In a collective, in long work and in a log file of its own."""
    codes, said, logs = run(how)
    assert codes == [1, 1]
    sentence = f"rank {failed} has no data"
    assert said[failed] == f"crnas train: error: {sentence}\n"
    assert said[1 - failed] == f"crnas train: error: rank {failed}: {sentence}\n"
    assert f"ERROR: {sentence}\nTraceback" in logs[failed]
    assert f"ERROR: rank {failed}: {sentence}\n" in logs[1 - failed]


def test_a_bug_of_one_rank(run):
    codes, said, _ = run("bug")
    assert codes == [1, 1]
    assert said[1].startswith("Traceback") and said[1].endswith("\nKeyError: 'a bug'\n")
    assert said[0] == "crnas train: error: rank 1: KeyError: 'a bug'\n"


def test_both_at_once(run):
    """One of them is the first."""
    codes, said, _ = run("both")
    first = next(rank for rank in range(2) if said[rank].startswith("crnas train: error: no"))
    assert codes == [1, 1]
    assert said[first] == "crnas train: error: no rank has data\n"
    assert said[1 - first] == f"crnas train: error: rank {first}: no rank has data\n"


@pytest.mark.parametrize("how", ["killed", "killed at once"])
def test_a_rank_that_was_killed(run, how):
    """Also before the ranks decide anything together."""
    codes, said, _ = run(how)
    assert codes == [1, -9]
    assert said[0].startswith("crnas train: error: rank 0 has lost a rank that has told nothing: ")
    assert said[1] == ""


def test_ranks_that_have_lost_each_other(run):
    """Neither leaves the telling to the other."""
    codes, said, _ = run("lost")
    assert codes == [1, 1]
    for rank in range(2):
        sentence = f"rank {rank} has lost a rank that has told nothing: [pair.cc:547] Connection"
        assert f"crnas train: error: {sentence}" in said[rank]
