"""The stage reallocation space: the number of blocks each stage may have (section 3.2.1)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf, lcm
from numbers import Real
from types import MappingProxyType

from ..architecture import get_family
from .path_space import PathSpace, as_choices


@dataclass(frozen=True)
class StageSpace(PathSpace):
    """The stage codes that can be built from one choice set for each stage.

    A path is a stage code. Floats are converted to the exact decimals that they print as, so that
    all comparisons are exact.

    Args:
        family: name of the family, as in ``MODEL.CR.FAMILY``.
        choices: T_i, the numbers of blocks that stage i may have, in increasing order, for each
            stage of the family. A single-layer stage has ``[1]``.
        weights: what one block adds to the cost of a stage code, for each stage. Positive, or 0 for
            uncounted blocks in stages that have a single choice.

    Raises:
        ValueError: the family is unknown, the number of choice sets or weights differs from its
            number of stages, or one of them is not allowed at its stage.
    """

    family: str
    choices: tuple[tuple[int, ...], ...]
    weights: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        family = get_family(self.family)
        for what, values in (("choice sets", self.choices), ("weights", self.weights)):
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise ValueError(
                    f"{what} are {values!r}; expected one for each stage of {self.family}"
                )
            if len(values) != len(family.stages):
                raise ValueError(
                    f"{len(values)} {what}: {values}; expected {len(family.stages)}, one for each "
                    f"stage of {self.family}: {', '.join(family.stages)}"
                )
        choices, weights = [], []
        for stage, blocks, weight in zip(family.stages, self.choices, self.weights):
            blocks = as_choices(f"choices of stage {stage}", blocks, lowest=1)
            if stage in family.single and blocks != (1,):
                raise ValueError(
                    f"choices of stage {stage} are {list(blocks)}; expected [1], as it is a single "
                    f"layer of {self.family}"
                )
            exact = as_exact(f"weight of stage {stage}", weight)
            if exact < 0 or (exact == 0 and len(blocks) > 1):
                raise ValueError(
                    f"weight of stage {stage} is {exact}, with the choices {list(blocks)}; expected "
                    "a positive number, or 0 for blocks that are not counted where there is one "
                    "choice"
                )
            choices.append(blocks)
            weights.append(exact)
        object.__setattr__(self, "choices", tuple(choices))
        object.__setattr__(self, "weights", tuple(weights))

    def cost(self, stage_code: Sequence[int]) -> Fraction:
        """Compute the sum of blocks times weight over the stages."""
        parts, whole = self._in_parts
        return Fraction(sum(n * part for n, part in zip(stage_code, parts, strict=True)), whole)

    @functools.cached_property
    def _in_parts(self) -> tuple[list[int], int]:
        """The weights as numbers of equal parts, and the number of parts in a whole."""
        whole = lcm(*(weight.denominator for weight in self.weights))
        return [int(weight * whole) for weight in self.weights], whole

    def eligible(
        self,
        budget: float,
        tolerance: float = 0,
        cost: Callable[[tuple[int, ...]], float] | None = None,
        at_most: bool = False,
    ) -> list[tuple[int, ...]]:
        """List the stage codes that fit a budget, the constraint of equation (1).

        Args:
            budget: what a stage code may cost, in the unit of ``cost``.
            tolerance: by how much the cost may be above or below the budget, in the same unit. To
                stay within 1 % of the budget, pass ``0.01 * budget``.
            cost: cost of a stage code. By default :meth:`cost`: N, the number of blocks, for the
                ResNet series, and the weighted cost of appendix A.2 for MobileNetV2. ``sum`` counts
                blocks in any family. A function that looks up multiply-adds makes these the unit of
                the budget.
            at_most: treat the budget as an upper limit. The tolerance is then how far the cost may
                be below it, and 0 means any distance.

        Returns:
            The stage codes in lexicographic order. Empty if none fits.

        Raises:
            ValueError: one of the numbers is not finite, or the tolerance is negative.
        """
        least, most = cost_range(budget, tolerance, at_most)
        measure: Callable[[tuple[int, ...]], float | Fraction] = cost or self.cost
        fits: dict[float | Fraction, bool] = {}  # many codes share a cost
        codes = []
        for code in self:
            number = measure(code)
            if number not in fits:
                exact = as_exact(f"cost of stage code {list(code)}", number)
                fits[number] = least <= exact <= most
            if fits[number]:
                codes.append(code)
        return codes


def get_stage_space(
    family: str,
    choices: Sequence[Sequence[int]] = (),
    weights: Sequence[float] = (),
) -> StageSpace:
    """Get the stage space of the paper, or one with other choice sets or weights.

    Args:
        family: "resnet", for ResNet and ResNeXt, or "mobilenetv2".
        choices: as in :class:`StageSpace`. By default those of section 3.2.1 or appendix A.2.
        weights: as in :class:`StageSpace`. By default those of the paper, which are 1 for each
            stage of the ResNet series, whose blocks all cost the same.

    Raises:
        ValueError: as in :class:`StageSpace`.
    """
    paper = PAPER_SPACES[get_family(family).name]
    return _checked(family, choices or paper.choices, weights or paper.weights)


def _checked(
    family: str, choices: Sequence[Sequence[int]], weights: Sequence[float | Fraction]
) -> StageSpace:
    return StageSpace(family, choices, weights)  # type: ignore[arg-type]  # which it converts


def cost_range(
    budget: float, tolerance: float | Fraction, at_most: bool
) -> tuple[Fraction | float, Fraction]:
    """Get the least and the most that a stage code may cost within a budget.

    The arguments are those of :meth:`StageSpace.eligible`.

    Returns:
        Both ends of the range, which belong to it. The lower one is minus infinity if any cost
        below the budget fits.

    Raises:
        ValueError: one of the numbers is not finite, or the tolerance is negative.
    """
    exact, margin = as_exact("budget", budget), as_exact("tolerance", tolerance)
    if margin < 0:
        raise ValueError(f"tolerance is {margin}; expected 0 or more")
    least = -inf if at_most and not margin else exact - margin
    return least, exact if at_most else exact + margin


def as_exact(what: str, number: float | Fraction) -> Fraction:
    """Convert a number to the exact decimal that it prints as.

    Raises:
        ValueError: it is not a finite number. The message begins with ``what``.
    """
    if isinstance(number, Real) and not isinstance(number, bool):
        try:
            return Fraction(str(number))
        except ValueError:  # inf or nan
            pass
    raise ValueError(f"{what} is {number!r}; expected a finite number")


PAPER_SPACES: Mapping[str, StageSpace] = MappingProxyType(
    {
        # Section 3.2.1, T_1 to T_4.
        "resnet": _checked(
            "resnet",
            (
                range(1, 11),
                range(1, 11),
                (2, 3, 5, 6, 9, 11, 14, 17, 20, 23),
                (2, 3, 4, 6, 7, 9, 11, 13, 15, 17),
            ),
            (1, 1, 1, 1),
        ),
        # Appendix A.2, [1, 1, M_1 to M_5, 1, 1, 1]. The weights are those of m_1 to m_5 alone. As
        # the fixed layers are not counted, MobileNetV2 itself costs 16.
        "mobilenetv2": _checked(
            "mobilenetv2",
            ((1,), (1,), *[range(1, 6)] * 2, range(3, 8), *[range(2, 7)] * 2, (1,), (1,), (1,)),
            (0, 0, 1.5, 1, 1, 0.75, 1.25, 0, 0, 0),
        ),
    }
)
