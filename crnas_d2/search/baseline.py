"""The network to compare with under another budget than its own."""

from __future__ import annotations

from collections.abc import Sequence

from ..architecture import Code


def scaled_code(code: Code, eligible: Sequence[Code]) -> Code:
    """The eligible stage code that spreads its blocks over the stages most like another one: with
    the least sum of the absolute differences of their shares of all blocks, of equals the smaller
    code. A code that is eligible itself is left as it is.

    Args:
        code: of the baseline.
        eligible: under a budget; at least one.
    """

    def difference(other: Code) -> float:
        pairs = zip(code, other, strict=True)
        return sum(abs(n / sum(code) - m / sum(other)) for n, m in pairs)

    return code if code in eligible else min(eligible, key=lambda c: (difference(c), c))
