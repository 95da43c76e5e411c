"""The convolution reallocation space: the dilations that each block may use (section 3.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..architecture import MAX_OPERATION, Architecture, get_family
from .path_space import PathSpace, as_choices

OPERATIONS = tuple(range(MAX_OPERATION + 1))


@dataclass(frozen=True)
class OperationSpace(PathSpace):
    """The operation codes for one stage code, with a choice block for each block of the backbone.

    A path is an operation code. Its entry is 0 at a single-layer stage, which has no choice block.

    Args:
        stage_code: tau, as in :class:`Architecture`.
        operations: O, the candidates of a choice block, in increasing order. Operation o is the 3x3
            convolution of dilation o + 1.

    Raises:
        ValueError: the stage code is invalid, or an operation is not from 0 to 2.
    """

    stage_code: tuple[int, ...]
    operations: tuple[int, ...] = OPERATIONS

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage_code", Architecture(self.stage_code).stage_code)
        object.__setattr__(self, "operations", as_choices("operations", self.operations, lowest=0))
        if self.operations[-1] > MAX_OPERATION:
            raise ValueError(
                f"operations are {self.operations}; expected none above {MAX_OPERATION} "
                f"(dilation {MAX_OPERATION + 1})"
            )

    @cached_property
    def choices(self) -> tuple[tuple[int, ...], ...]:  # type: ignore[override]  # nobody writes it
        family = get_family(Architecture(self.stage_code).family)
        return tuple(
            (0,) if stage in family.single else self.operations
            for stage, blocks in zip(family.stages, self.stage_code)
            for _ in range(blocks)
        )


def get_operation_space(
    architecture: Architecture, operations: Sequence[int] = OPERATIONS
) -> OperationSpace:
    """Get the operation space for an architecture's stage code. Its operation code is ignored.

    Args:
        architecture: an architecture of any family.
        operations: as in :class:`OperationSpace`.

    Raises:
        ValueError: ``architecture`` is not an :class:`Architecture`, or as in
            :class:`OperationSpace`.
    """
    if not isinstance(architecture, Architecture):
        raise ValueError(f"architecture is {architecture!r}; expected an Architecture")
    return OperationSpace(architecture.stage_code, as_choices("operations", operations, lowest=0))
