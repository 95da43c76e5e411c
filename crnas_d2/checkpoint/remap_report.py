"""A report on the origin of the weights of a remapped network."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from ..modeling.cr_mobilenetv2 import MobileNetV2Stages
from ..modeling.cr_resnet import ResNetStages
from ..modeling.stages import Stages

HOWS = ("copied", "repeated", "zeroed", "initialised")
IN_A_BLOCK = re.compile(r"(?P<stage>\w+)\.(?P<block>\d+)\.(?P<layer>\w+)\.(?P<rest>.+)")


@dataclass(frozen=True)
class Origin:
    """The origin of a tensor of the target.

    Attributes:
        how: "copied" from the block with the same number, "repeated" from the stage's last block,
            "zeroed" to preserve the function, or "initialised", which means left as it was.
        source: name in the seed network. None if it has none.
        is_cut: whether it has fewer channels than its source.
        is_dilated: whether it is the weight of a convolution that the operation code dilates.
    """

    how: str
    source: str | None = None
    is_cut: bool = False
    is_dilated: bool = False


@dataclass(frozen=True)
class RemapReport:
    """A report of :func:`remap_backbone`. Its string is a table.

    Attributes:
        origins: origin of every tensor of the target, by name.
        unused: tensors of the seed network that are not used in the target.
    """

    origins: Mapping[str, Origin]
    unused: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Summarize each stage, and each branch of a stage supernet.

        A row has "part" (the name of the module), "seed_blocks" (for each block the one that it was
        filled from, or None), the number of tensors for each value of ``how`` in :class:`Origin`,
        and "cut" (the number of tensors that are cut).
        """
        rows: dict[str, dict[str, Any]] = {}
        for name, origin in self.origins.items():
            part = re.sub(r"^(\w+(\.ops\.\d+(?=\.\d))?).*", r"\1", name)
            row = rows.setdefault(
                part, {"part": part, "seed_blocks": {}, **dict.fromkeys((*HOWS, "cut"), 0)}
            )
            row[origin.how] += 1
            row["cut"] += origin.is_cut
            block = re.match(r"\.(\d+)\.", name.removeprefix(part))
            if block is not None:
                blocks = row["seed_blocks"]
                blocks.setdefault(int(block[1]))
                source = IN_A_BLOCK.fullmatch(origin.source or "")
                if source is not None:
                    blocks[int(block[1])] = int(source["block"])
        return [
            {**row, "seed_blocks": [block for _, block in sorted(row["seed_blocks"].items())]}
            for row in rows.values()
        ]

    def changes(self) -> dict[str, str]:
        """Describe the differences from the seed network, by the name of the stage."""
        notes: dict[str, Counter[str]] = {}
        for name, origin in self.origins.items():
            note = notes.setdefault(name.partition(".")[0], Counter())
            note["repeated"] += origin.how in ("repeated", "zeroed")
            note["initialised"] += origin.how == "initialised"
            note["cut"] += origin.is_cut
            note["dilated"] += origin.is_dilated
        for place in self._unused_places():
            stage, _, block = place.partition(".")
            if stage in notes and block.isdigit():
                notes[stage]["shortened"] += 1
        return {stage: ", ".join(+counts) for stage, counts in notes.items() if +counts}

    def __str__(self) -> str:
        rows = [
            [row["part"], _format_blocks(row["seed_blocks"]), *(row[h] for h in HOWS), row["cut"]]
            for row in self.rows()
        ]
        headers = ["part", "seed blocks", *HOWS, "of these cut"]
        align = ["left", "left", *["right"] * (len(headers) - 2)]
        table = tabulate(rows, headers, tablefmt="pipe", colalign=align, disable_numparse=True)
        return f"{table}\n\nnot used of the seed network: {self._format_unused()}"

    def metadata(self) -> dict[str, str]:
        """Get the rows and the unused tensors as JSON, for the header of a file."""
        return {"remap": json.dumps({"parts": self.rows(), "unused": self.unused})}

    def _format_unused(self) -> str:
        return ", ".join(self._unused_places()) or "nothing"

    def _unused_places(self) -> list[str]:
        """List blocks that are not used at all, and unused layers of other blocks."""
        used = {_place(origin.source) for origin in self.origins.values() if origin.source}
        unused = [
            _place(name) if _place(name) not in used else name.rpartition(".")[0]
            for name in self.unused
        ]
        return list(dict.fromkeys(unused))


def describe_frozen(changes: Mapping[str, str], family: str, freeze_at: int) -> str:
    """Describe the changed stages that would be frozen, and the config value that avoids it.

    The result is empty if there are none.

    Args:
        changes: result of :meth:`RemapReport.changes`.
        family: family of the network, as in ``MODEL.CR.FAMILY``.
        freeze_at: value of ``MODEL.BACKBONE.FREEZE_AT``.
    """
    kinds: dict[str, type[Stages]] = {"resnet": ResNetStages, "mobilenetv2": MobileNetV2Stages}
    stages = kinds[family]
    frozen, resolution, best = [], 0, None
    for name in stages.names:
        if resolution >= freeze_at:
            break
        if name in changes:
            frozen.append(f"{name} ({changes[name]})")
            best = resolution if best is None else best
        resolution += name in stages.features
    if not frozen:
        return ""
    return (
        f"MODEL.BACKBONE.FREEZE_AT {freeze_at} would freeze layers that are not as in the seed "
        f"network, which then never recover: {', '.join(frozen)}. Train with\n"
        f"MODEL.BACKBONE.FREEZE_AT {best}"
    )


def _place(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _format_blocks(sources: list[int | None]) -> str:
    """Format blocks as in "0-2, 2 x 4", if block 2 fills the four after it too."""
    copied = [block for block, source in enumerate(sources) if source == block]
    repeated = [source for block, source in enumerate(sources) if source not in (None, block)]
    runs = [str(copied[0]) if len(copied) == 1 else f"0-{copied[-1]}"] if copied else []
    if repeated:
        runs.append(f"{repeated[0]} x {len(repeated)}")
    if None in sources:
        runs.append(f"none x {sources.count(None)}")
    return ", ".join(runs)
