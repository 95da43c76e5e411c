"""The baseline for a budget that differs from its own cost."""

from __future__ import annotations

from collections.abc import Sequence

from ..architecture import ARCHITECTURES, Code

PLAIN = {network.stage_code for name, network in ARCHITECTURES.items() if "-" not in name}


def scaled_code(code: Code, eligible: Sequence[Code]) -> Code:
    """Get the eligible stage code that stands for another one under a budget.

    A code that is itself eligible is returned unchanged. The stage code of a published plain
    network, such as ResNet50, becomes that of another one that fits the budget, such as ResNet101.
    In all other cases it is the code whose distribution of blocks is closest: the distance is the
    sum of absolute differences between the stages' shares of all blocks. The lexicographically
    smaller code wins ties.

    Args:
        code: stage code of the baseline.
        eligible: one or more stage codes that fit a budget.
    """

    def difference(other: Code) -> float:
        pairs = zip(code, other, strict=True)
        return sum(abs(n / sum(code) - m / sum(other)) for n, m in pairs)

    if code in eligible:
        return code
    published = PLAIN.intersection(eligible) if code in PLAIN else ()
    return min(published or eligible, key=lambda c: (difference(c), c))
