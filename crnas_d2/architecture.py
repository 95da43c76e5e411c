"""The result of CR-NAS as an immutable value: the number of blocks and their dilations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import MappingProxyType

# A stage code, an operation code, a path of a supernet, or a prefix of one of these
Code = tuple[int, ...]

# Operation o is a 3x3 convolution of dilation o + 1, with O = {1, 2, 3} in section 3.2.2
MAX_OPERATION = 2


@dataclass(frozen=True)
class Family:
    """The meaning of a stage code for one family of networks.

    Attributes:
        name: name of the family, as in ``MODEL.CR.FAMILY``.
        stages: name of the stage behind each entry of the stage code, in order.
        single: stages that consist of a single layer instead of a chain of blocks. Their entry is
            always 1. Their 3x3 convolution, if they have one, is not a choice block.
    """

    name: str
    stages: tuple[str, ...]
    single: frozenset[str] = frozenset()


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "resnet": Family("resnet", ("res2", "res3", "res4", "res5")),
        # Appendix A.2: [1, 1, m1, m2, m3, m4, m5, 1, 1, 1]. The stages are named by their output
        # channels.
        "mobilenetv2": Family(
            "mobilenetv2",
            ("stem", "c16", "c24", "c32", "c64", "c96", "c160", "c320", "c1280", "pool"),
            frozenset({"stem", "c1280", "pool"}),
        ),
    }
)


def get_family(name: str) -> Family:
    """Look up a family by its name.

    Raises:
        ValueError: there is no family of this name.
    """
    try:
        return FAMILIES[name]
    except (KeyError, TypeError):
        raise ValueError(f"family is {name!r}; expected one of {sorted(FAMILIES)}") from None


@dataclass(frozen=True)
class Architecture:
    """An allocation strategy with its operation code (sections 3.2.1 and 3.2.2).

    Args:
        stage_code: tau, the number of blocks in each stage. It has 4 entries for ResNet and
            ResNeXt, and 10 for MobileNetV2 (stem and tail included, as in Table 5).
        operation_code: o, one entry of 0, 1 or 2 for each block, whose 3x3 convolution has the
            dilation ``entry + 1``. An empty code means all zeros.

    Raises:
        ValueError: a code has the wrong length, or an entry that is not allowed at its place.
    """

    stage_code: tuple[int, ...]
    operation_code: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        stage_code = _as_ints("stage code", self.stage_code)
        object.__setattr__(self, "stage_code", stage_code)
        family = self._find_family()
        for stage, blocks in zip(family.stages, stage_code):
            if blocks < 1:
                raise ValueError(
                    f"stage code {list(stage_code)}: stage {stage} has {blocks} blocks; "
                    "expected at least 1 in every stage"
                )
            if stage in family.single and blocks != 1:
                raise ValueError(
                    f"stage code {list(stage_code)}: {stage} has {blocks}; expected 1, "
                    f"as {', '.join(s for s in family.stages if s in family.single)} "
                    f"are single layers of {family.name}"
                )

        operation_code = _as_ints("operation code", self.operation_code)
        if not operation_code:
            operation_code = (0,) * sum(stage_code)
        object.__setattr__(self, "operation_code", operation_code)
        if len(operation_code) != sum(stage_code):
            raise ValueError(
                f"operation code {list(operation_code)} has {len(operation_code)} entries; expected "
                f"{sum(stage_code)}, the sum of the stage code {list(stage_code)} (or none)"
            )
        for stage, entries in zip(family.stages, self.operations):
            for operation in entries:
                if not 0 <= operation <= MAX_OPERATION:
                    raise ValueError(
                        f"operation code {list(operation_code)}: entry {operation} in stage {stage}; "
                        f"expected 0..{MAX_OPERATION} (dilation 1..{MAX_OPERATION + 1})"
                    )
                if operation and stage in family.single:
                    raise ValueError(
                        f"operation code {list(operation_code)}: entry {operation} at {stage}; "
                        "expected 0, as it is no choice block"
                    )

    def _find_family(self) -> Family:
        for family in FAMILIES.values():
            if len(family.stages) == len(self.stage_code):
                return family
        lengths = " or ".join(f"{len(f.stages)} ({f.name})" for f in FAMILIES.values())
        raise ValueError(
            f"stage code {list(self.stage_code)} has {len(self.stage_code)} entries; "
            f"expected {lengths}"
        )

    @classmethod
    def of_family(
        cls, family: str, stage_code: Sequence[int], operation_code: Sequence[int] = ()
    ) -> Architecture:
        """Create an architecture for a network whose family is already known.

        Raises:
            ValueError: the family is unknown, the codes belong to another family, or the
                constructor rejects them.
        """
        expected = len(get_family(family).stages)
        stage_code = _as_ints("stage code", stage_code)
        if len(stage_code) != expected:
            raise ValueError(
                f"stage code {list(stage_code)} has {len(stage_code)} entries; "
                f"expected {expected} for family {family!r}"
            )
        return cls(stage_code, _as_ints("operation code", operation_code))

    @property
    def family(self) -> str:
        """The name of the family, inferred from the length of the stage code."""
        return self._find_family().name

    @property
    def operations(self) -> tuple[tuple[int, ...], ...]:
        """The operation code split into one tuple for each stage."""
        code = iter(self.operation_code)
        return tuple(tuple(next(code) for _ in range(blocks)) for blocks in self.stage_code)

    @property
    def dilations(self) -> tuple[tuple[int, ...], ...]:
        """The dilation of each block's 3x3 convolution, as one tuple for each stage."""
        return tuple(tuple(operation + 1 for operation in stage) for stage in self.operations)


def _as_ints(what: str, code: Sequence[int]) -> tuple[int, ...]:
    if isinstance(code, str) or not isinstance(code, Sequence):
        raise ValueError(f"{what} is {code!r}; expected a list of integers")
    for entry in code:
        if isinstance(entry, bool) or not isinstance(entry, Integral):
            raise ValueError(f"{what} {list(code)}: entry {entry!r} is no integer")
    return tuple(int(entry) for entry in code)


# Tables 5 (baseline and SCR-) and 6 (CR-). The paper has no operation code for ResNeXt (32x4d).
# fmt: off
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({
    "ResNet18": Architecture((2, 2, 2, 2)),
    "SCR-ResNet18": Architecture((1, 1, 2, 4)),
    "CR-ResNet18": Architecture((1, 1, 2, 4), (0, 0, 1, 0, 1, 0, 2, 1)),
    "ResNet50": Architecture((3, 4, 6, 3)),
    "SCR-ResNet50": Architecture((1, 3, 5, 7)),
    "CR-ResNet50": Architecture(
        (1, 3, 5, 7),
        (0, 0, 1, 0, 0, 0, 1, 2, 0, 0, 1, 0, 2, 1, 1, 2),
    ),
    "ResNet101": Architecture((3, 4, 23, 3)),
    "SCR-ResNet101": Architecture((2, 3, 17, 11)),
    "CR-ResNet101": Architecture(
        (2, 3, 17, 11),
        (0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1,
         0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 2, 0, 1, 1),
    ),
    "ResNeXt50": Architecture((3, 4, 6, 3)),
    "SCR-ResNeXt50": Architecture((2, 2, 6, 6)),
    "ResNeXt101": Architecture((3, 4, 23, 3)),
    "SCR-ResNeXt101": Architecture((3, 4, 15, 11)),
    "MobileNetV2": Architecture((1, 1, 2, 3, 4, 3, 3, 1, 1, 1)),
    "SCR-MobileNetV2": Architecture((1, 1, 2, 2, 3, 4, 4, 1, 1, 1)),
    "CR-MobileNetV2": Architecture(
        (1, 1, 2, 2, 3, 4, 4, 1, 1, 1),
        (0, 1, 0, 1, 0, 2, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 2, 0, 0),
    ),
})
# fmt: on


def format_code(code: Code) -> str:
    """Format a code as it is printed and stored: ``(1, 1, 2, 4)`` becomes "1-1-2-4"."""
    return "-".join(map(str, code))


def parse_code(text: str) -> Code:
    """Parse what :func:`format_code` returns."""
    return tuple(int(entry) for entry in text.split("-")) if text else ()
