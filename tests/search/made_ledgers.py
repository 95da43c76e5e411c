"""Ledgers with a few trials."""

import numpy as np

from crnas_d2.search.ledger import Ledger
from crnas_d2.search.trial import Resampled, Trial

SETTINGS = {"step": "stage", "weights": "ab12", "SEARCH.SEED": 0, "SEARCH.BN": [1, 0.1, None]}
CODES = [(10, 1), (2, 3), (2, 1), (1, 17), (1, 2, 3)]
LARGE = Trial((5, 5), "failed", reason="why not " * 10_000)  # over several pages
RESAMPLED = Resampled.of("bbox/AP", np.array([0.1, 100 / 3, np.nan]))


def done(code, ap=30.0, seconds=1.5, **metrics):
    return Trial(code, "done", {"bbox/AP": ap, **metrics}, 500, seconds=seconds)


def fill(path, codes=CODES):
    with Ledger(path, SETTINGS) as ledger:
        for code in codes:
            ledger.record(done(code, float(sum(code))))
