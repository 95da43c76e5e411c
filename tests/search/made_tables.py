"""Made AP tables, which stand in for the detector."""

from random import Random


class Evaluator:
    """What a strategy is given. It keeps what it was asked for: a list of codes for each call."""

    def __init__(self, score):
        self._score = score
        self.calls = []

    def __call__(self, codes):
        self.calls.append(list(codes))
        return [self._score(code) for code in codes]

    @property
    def codes(self):
        return [code for call in self.calls for code in call]


def noise(seed):
    """A table without structure: each code, whole or partial, has a number of its own."""
    return lambda code: Random(f"{seed}: {code}").uniform(0, 40)


def separable(space, seed):
    """A table where each entry of a code, whole or partial, adds its own number; none is equal."""
    rng = Random(f"{seed}")
    gains = [{choice: rng.gauss(0, 1) for choice in choices} for choices in space.choices]
    return lambda code: sum(gain[entry] for gain, entry in zip(gains, code))


def best_of_separable(space, table):
    """The code of the highest score, entry by entry."""
    start = next(iter(space))
    return tuple(
        max(choices, key=lambda c: table((*start[:i], c, *start[i + 1 :])))
        for i, choices in enumerate(space.choices)
    )
