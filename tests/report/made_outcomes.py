"""Outcomes of recipes and results of short lists, made of numbers."""

import numpy as np

from crnas_d2.architecture import Architecture
from crnas_d2.config import get_config
from crnas_d2.evaluation.paired_comparison import compare_pairs, same_network
from crnas_d2.procedure.networks import Network, Training
from crnas_d2.procedure.outcome import DataStatement, HandedOver, Outcome, TrainedNetwork
from crnas_d2.search.shortlist_result import RungResult, ShortlistResult
from crnas_d2.search.shortlisting import Candidate

BETTER = {"found": (72.1, 71.9, 72.6, 72.1, 71.5), "baseline": (70.8, 71.5, 71.3, 69.9, 69.5)}


def resample(aps, seed=0, images=0.5, own=0.3):
    """APs in 200 resamples of images, of which the same are drawn for all networks."""
    shared = images * np.random.default_rng(0).standard_normal(200)
    return np.add.outer(aps, shared) + own * np.random.default_rng(seed + 1).standard_normal(
        (len(aps), 200)
    )


def make_outcome(found=BETTER["found"], baseline=BETTER["baseline"], resampled=True, **changes):
    """Of two networks with these APs; the same network where one of them has none."""
    pair = {
        "baseline": (Architecture((2, 2, 2, 2)), baseline),
        "found": (Architecture((1, 2, 3, 2)), found) if found else None,
    }
    pair["found"] = pair["found"] or pair["baseline"]
    networks = {
        name: TrainedNetwork(
            architecture,
            1.5,
            2.5,
            tuple(range(1, len(aps) + 1)),
            tuple(f"{name}_{i + 1}" for i in range(len(aps))),
            tuple(aps),
        )
        for name, (architecture, aps) in pair.items()
    }
    if found:
        samples = [resample(aps, i) for i, aps in enumerate((found, baseline))] if resampled else []
        comparison = compare_pairs(found, baseline, *samples)
    else:
        comparison = same_network(baseline, resample(baseline) if resampled else None)
    better = comparison.verdict == "better"
    content = {
        "budget": "",
        "cost": {"blocks": {"baseline": 8.0, "found": 8.0}},
        "metric": "bbox/AP",
        **networks,
        "comparison": comparison,
        "handed_over": HandedOver(
            "found" if better else "baseline",
            f"final.yaml is the {'network that was found' if better else 'baseline'}.",
        ),
        "ranking": (),
        "data": DataStatement(
            trained={"own_archtrain": 500},
            chose={"own_archval": 200},
            tested={"own_test": 300},
            looks=10,
            not_resampled="" if resampled else "own_test is scored as 'pascal_voc'",
        ),
    }
    return Outcome(**{**content, **changes})


BASELINE, FIRST, SECOND, THIRD, DRAWN = CODES = [
    (2, 2, 2, 2),
    (1, 3, 2, 2),
    (1, 2, 3, 2),
    (1, 2, 2, 3),
    (3, 2, 2, 1),
]


def make_shortlist(*, failed=False, scored=True):
    """Of five candidates and two rungs; the third of the ranking wins."""
    candidates = [
        Candidate(BASELINE, "baseline", 9 if scored else None, 20.5 if scored else None),
        *(Candidate(code, "ranking", i + 1, 25.0 - i) for i, code in enumerate(CODES[1:4])),
        Candidate(DRAWN, "random"),
    ]
    first = {
        BASELINE: [30.0, 31.0],
        FIRST: [None, 29.5] if failed else [29.0, 29.5],
        SECOND: [31.0, 31.5],
        THIRD: [32.0, 31.0],
        DRAWN: [28.0, 28.5],
    }
    last = {BASELINE: [40.0, 41.0], SECOND: [41.0, 41.5], THIRD: [42.0, 42.5]}
    rungs = [
        RungResult(0.25, 150, 1200, first, [BASELINE, THIRD, SECOND]),
        RungResult(0.5, 300, 2400, last),
    ]
    return ShortlistResult(
        *("stage", "stage_search", "", "bbox/AP", [1, 2]),
        *(candidates, rungs, THIRD, Architecture(THIRD)),
    )


def make_network(name, *results, tests=("first",)):
    """Make a network that was trained once for each of some results."""
    cfg = get_config("Digits/faster_rcnn_R_18_FPN.yaml")
    cfg.DATASETS.TEST = tests
    return Network(name, cfg, [Training(i, "", seed) for i, seed in enumerate(results)])
