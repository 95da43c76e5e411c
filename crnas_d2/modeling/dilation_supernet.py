"""The supernet of convolution reallocation (section 3.2.2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec

from ..architecture import Architecture, get_family
from ..config import get_architecture
from ..spaces import OperationSpace, get_operation_space
from .stages import Stages
from .supernet import ChoiceBlock, Supernet, build_stages


class DilationSupernet(Supernet):
    """A supernet in which the searched 3x3 convolution of every block is a choice among dilations.

    All other layers are shared. A path is an operation code. The candidates have their own weights
    and norms. The searched convolution is the second 3x3 in a basic block, and the depthwise one in
    MobileNetV2.
    """

    @configurable
    def __init__(
        self,
        stages: Stages,
        space: OperationSpace,
        *,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ):
        """
        Args:
            stages: stages of the family that the space's stage code belongs to.
            space: the operation codes for one stage code.
            out_features, freeze_at: see :class:`StagedBackbone`.

        Raises:
            ValueError: see :class:`Supernet`.
        """
        family = get_family(Architecture(space.stage_code).family)

        def make_stage(name: str) -> nn.Module:
            index = family.stages.index(name)
            start, depth = sum(space.stage_code[:index]), space.stage_code[index]
            candidates = {o: stages.make_stage(name, (o + 1,) * depth) for o in space.operations}
            chains = zip(*(chain.children() for chain in candidates.values()))
            for i, blocks in enumerate(chains):
                layers = [getattr(block, stages.choice_layer) for block in blocks]
                choice = ChoiceBlock(start + i, dict(zip(candidates, layers)))
                setattr(blocks[0], stages.choice_layer, choice)
            return candidates[space.operations[0]]

        super().__init__(space, family, stages, make_stage, out_features, freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        architecture = get_architecture(cfg)
        return {
            "stages": build_stages(cfg, input_shape),
            "space": get_operation_space(architecture, cfg.MODEL.SUPERNET.OPERATIONS),
            "out_features": cfg.MODEL.RESNETS.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }
