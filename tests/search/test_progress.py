"""What TensorBoard shows of a search, read back from its event files."""

import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crnas_d2.search.progress import Progress
from crnas_d2.search.trial import Trial

AP = "bbox/AP"


def done(code, ap):
    return Trial(code, "done", {AP: ap}, 10, seconds=3.0)


TRIALS = [
    done((1, 2), 20.5),
    done((2, 1), 30.25),
    Trial((3, 1), "failed", reason="NaN"),
    Trial((1, 3), "dropped", {AP: 40.0}, 4, seconds=1.5),
    done((2, 2), 30.25),
]


def tell(folder, trials):
    finished = {}
    with Progress(str(folder), AP, 8, 10) as progress:
        for trial in trials:
            finished[trial.code] = trial
            progress.update(trial, finished)


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def scalars(events, tag):
    return [(e.step, e.value) for e in events.Scalars(tag)]


def texts(events, tag):
    tensors = events.Tensors(f"{tag}/text_summary")
    return [(e.step, e.tensor_proto.string_val[0].decode()) for e in tensors]


def test_events(tmp_path):
    tell(tmp_path, TRIALS)
    events = read(tmp_path)
    assert scalars(events, f"search/{AP}") == [(1, 20.5), (2, 30.25), (4, 40.0), (5, 30.25)]
    assert scalars(events, f"search/leader/{AP}") == list(
        zip(range(1, 6), [20.5, 30.25, 30.25, 30.25, 30.25])
    )
    assert scalars(events, "search/architectures_per_minute") == [
        *((1, 20), (2, 20), (4, 40), (5, 20))
    ]
    # Of equal scores, the smaller code leads; a dropped one never does.
    assert texts(events, "search/leader") == list(zip(range(1, 6), ["1-2", *["2-1"] * 4]))
    assert texts(events, "search/architecture") == [
        (1, "1-2: done, 20.50"),
        (2, "2-1: done, 30.25"),
        (3, "3-1: failed, NaN"),
        (4, "1-3: dropped, 40.00"),
        (5, "2-2: done, 30.25"),
    ]


def test_log(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "crnas_d2")
    tell(tmp_path, TRIALS)
    assert [record.message for record in caplog.records] == [
        "1 of 8 evaluated, leader 1-2 20.50",
        "2 of 8 evaluated, leader 2-1 30.25",
        "3 of 8 evaluated, leader 2-1 30.25",
        "4 of 8 evaluated, leader 2-1 30.25",
        "5 of 8 evaluated, leader 2-1 30.25",
    ]


@pytest.mark.parametrize("codes", [[(1,), (2,)], [(0, 1), (2, 0)]])
def test_partial_codes_lead_among_their_own_length(tmp_path, codes):
    """In the greedy search a longer partial code has been chosen from shorter ones."""
    tell(tmp_path, [done((), 90.0), *(done(code, 10.0 + i) for i, code in enumerate(codes))])
    assert scalars(read(tmp_path), f"search/leader/{AP}") == [
        (1, 90.0),
        (2, 10.0),
        (3, 11.0),
    ]


def test_nothing_new_leaves_no_file(tmp_path):
    tell(tmp_path, [])
    assert not list(tmp_path.iterdir())
