"""The baseline for a budget that differs from its own cost."""

from __future__ import annotations

from collections.abc import Sequence

from ..architecture import Code


def scaled_code(code: Code, eligible: Sequence[Code]) -> Code:
    """Get the eligible stage code whose distribution of blocks is closest to that of another one.

    The distance is the sum of absolute differences between the stages' shares of all blocks. The
    lexicographically smaller code wins ties. A code that is itself eligible is returned unchanged.

    Args:
        code: stage code of the baseline.
        eligible: one or more stage codes that fit a budget.
    """

    def difference(other: Code) -> float:
        pairs = zip(code, other, strict=True)
        return sum(abs(n / sum(code) - m / sum(other)) for n, m in pairs)

    return code if code in eligible else min(eligible, key=lambda c: (difference(c), c))
