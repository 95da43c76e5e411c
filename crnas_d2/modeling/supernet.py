"""The common base of the two supernets, which run one path at a time (section 3.3.1)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from ..architecture import Family
from ..spaces import PathSpace
from .cr_mobilenetv2 import MobileNetV2Stages
from .cr_resnet import ResNetStages
from .stages import StagedBackbone, Stages


class ChoiceBlock(nn.Module):
    """A choice unit: candidates with the same input and output shapes, one of which runs.

    Attributes:
        index: index of its entry in the path.
        ops: the candidates, by the entry that chooses them.
        choice: the entry that is currently chosen.
    """

    def __init__(self, index: int, ops: Mapping[int, nn.Module]):
        super().__init__()
        self.index = index
        self.ops = nn.ModuleDict({str(entry): op for entry, op in ops.items()})
        self.choice = next(iter(ops))

    def active(self) -> list[nn.Module]:
        """The candidates that run, one after the other."""
        return [self.ops[str(self.choice)]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for op in self.active():
            x = op(x)
        return x


class ElasticChoiceBlock(ChoiceBlock):
    """A choice unit whose entry n runs all candidates up to n, each on the output of the one
    before.

    This is elastic depth as in Once-for-All (Cai et al., 2020). A candidate holds what its choice
    has in addition to the next smaller one.
    """

    def active(self) -> list[nn.Module]:
        return [op for entry, op in self.ops.items() if int(entry) <= self.choice]


class Supernet(StagedBackbone):
    """A backbone that holds all networks of a space and runs the one chosen by :meth:`set_path`.

    A path is a code of full length: a stage code in the stage supernet, an operation code in the
    dilation supernet. Parameters off the path take no part in the forward pass, so their gradient
    is None rather than zero, and the statistics of their norms do not change.

    Attributes:
        space: the space of all paths.
        path: the path that runs. None until :meth:`set_path` is called.
        choice_blocks: all choice blocks, from first to last.
    """

    def __init__(
        self,
        space: PathSpace,
        family: Family,
        stages: Stages,
        make_stage: Callable[[str], nn.Module],
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ):
        """
        Args:
            space: the space of all paths.
            family: family of the space.
            stages: the rules of the family, by which the stem and the single-layer stages are
                built.
            make_stage: builds any other stage by its name.
            out_features, freeze_at: see :class:`StagedBackbone`.

        Raises:
            ValueError: the stages belong to another family, or a feature is unknown.
        """
        if stages.names[-1] not in family.stages:
            raise ValueError(
                f"stages are {', '.join(stages.names)}; expected those of {family.name}, the family of "
                f"the space: {', '.join(family.stages)}"
            )

        def make_any_stage(name: str) -> nn.Module:
            searched = name in family.stages and name not in family.single
            return make_stage(name) if searched else stages.make_stage(name)

        super().__init__(stages, make_any_stage, out_features, freeze_at)
        self.space = space
        self.path: tuple[int, ...] | None = None
        self.choice_blocks = [m for m in self.modules() if isinstance(m, ChoiceBlock)]
        self._memory: list[_Memory] | None = None  # units in the order in which they ran
        self._place = 0  # index of the next unit

    def set_path(self, path: Sequence[int]) -> None:
        """Choose the path that the following forward passes run.

        If activations are recomputed, the backward pass of the previous path must be over.

        Raises:
            ValueError: the path is not in the space.
        """
        if path not in self.space:
            raise ValueError(
                f"path {path!r} is not in the space; expected {len(self.space.choices)} entries, "
                f"each one of {[list(choices) for choices in self.space.choices]}"
            )
        self.path = tuple(map(int, path))
        for block in self.choice_blocks:
            block.choice = self.path[block.index]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.path is None:
            raise RuntimeError("a supernet runs one path at a time: call set_path(path) first")
        self._place = 0
        return super().forward(x)

    @contextlib.contextmanager
    def sharing_prefixes(self) -> Iterator[None]:
        """Reuse the outputs of common first blocks across forward passes, within a ``with`` block.

        Successive passes on the same image tensor share the outputs from the first block up to
        where their paths, or the tensors that replace the statistics of their norms, diverge. The
        features are bitwise equal to those of a pass that shares nothing. Paths in lexicographic
        order share the most. The outputs of one path's blocks are kept in memory. This is for
        inference only.
        """
        self._memory = []
        try:
            with torch.no_grad():
                yield
        finally:
            self._memory = None

    def run_stage(self, name: str, x: torch.Tensor) -> torch.Tensor:
        stage = getattr(self, name)
        if self._memory is None:
            return stage(x)
        for unit in _units(stage):
            known = self._memory[self._place : self._place + 1]
            if not known or not known[0].answers(unit, x):
                del known, self._memory[self._place :]  # the path diverges here
                self._memory.append(_Memory(unit, x))
            x = self._memory[self._place].output
            self._place += 1
        return x


def _units(stage: nn.Module) -> Sequence[nn.Module]:
    """The parts of a stage that run one after the other, each of which may be shared."""
    if isinstance(stage, ElasticChoiceBlock):
        return stage.active()
    return list(stage) if isinstance(stage, nn.Sequential) else [stage]


class _Memory:
    """The last forward pass of a module: what it depended on, and its output."""

    def __init__(self, unit: nn.Module, x: torch.Tensor):
        self._unit, self._input = unit, x
        self._choices: list[tuple[ChoiceBlock, int]] = []
        self._statistics: list[tuple[nn.Module, torch.Tensor]] = []
        for module in active_modules(unit):
            if isinstance(module, ChoiceBlock):
                self._choices.append((module, module.choice))
            elif isinstance(mean := getattr(module, "running_mean", None), torch.Tensor):
                self._statistics.append((module, mean))
        self.output = unit(x)

    def answers(self, unit: nn.Module, x: torch.Tensor) -> bool:
        """Whether a pass on x would give the same output. The choices determine the active norms."""
        return (
            unit is self._unit
            and x is self._input
            and all(block.choice == choice for block, choice in self._choices)
            and all(norm.running_mean is mean for norm, mean in self._statistics)
        )


def active_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Iterate like :meth:`torch.nn.Module.modules`, but skip candidates that are not chosen."""
    yield module
    if isinstance(module, ChoiceBlock):
        for op in module.active():
            yield from active_modules(op)
    else:
        for child in module.children():
            yield from active_modules(child)


def build_stages(cfg: CfgNode, input_shape: ShapeSpec) -> Stages:
    """Build the stages of the family ``MODEL.CR.FAMILY``."""
    family = MobileNetV2Stages if cfg.MODEL.CR.FAMILY == "mobilenetv2" else ResNetStages
    return family(**family.arguments(cfg, input_shape))
