"""The supernet of stage reallocation (section 3.2.1, figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec

from ..architecture import get_family
from ..config import get_architecture
from ..spaces import StageSpace, get_stage_space
from .stages import Stages
from .supernet import ChoiceBlock, ElasticChoiceBlock, Supernet, build_stages


class StageSupernet(Supernet):
    """A supernet in which every stage is a choice among numbers of blocks.

    As in the paper (figure 2), each choice n is a branch with its own weights, a chain of n blocks. With
    ``share_blocks``, the choices of a stage share one chain, of which choice n runs the first n blocks.

    The stem and the single-layer stages are shared. A path is a stage code. The features are those of
    the family's final networks.
    """

    @configurable
    def __init__(
        self,
        stages: Stages,
        space: StageSpace,
        *,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        share_blocks: bool = False,
    ):
        """
        Args:
            stages: stages of the space's family.
            space: the stage codes.
            out_features, freeze_at: see :class:`StagedBackbone`.
            share_blocks: whether the choices of a stage share their blocks.

        Raises:
            ValueError: see :class:`Supernet`.
        """
        family = get_family(space.family)

        def make_stage(name: str) -> nn.Module:
            index = family.stages.index(name)
            depths = space.choices[index]
            if share_blocks:
                chain: Any = stages.make_stage(name, (1,) * depths[-1])
                parts = {n: chain[start:n] for start, n in zip((0, *depths), depths)}
                return ElasticChoiceBlock(index, parts)
            return ChoiceBlock(index, {n: stages.make_stage(name, (1,) * n) for n in depths})

        super().__init__(space, family, stages, make_stage, out_features, freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        family = get_architecture(cfg).family
        supernet = cfg.MODEL.SUPERNET
        return {
            "stages": build_stages(cfg, input_shape),
            "space": get_stage_space(family, supernet.STAGE_CHOICES, supernet.STAGE_WEIGHTS),
            "out_features": cfg.MODEL.RESNETS.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "share_blocks": supernet.SHARE_BLOCKS,
        }
