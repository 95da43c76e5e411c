"""The search spaces: the number of blocks in each stage, and the dilation of each block."""

from .operation import OperationSpace, get_operation_space
from .path_space import ChoiceUnit, PathSpace
from .stage import StageSpace, get_stage_space

__all__ = [
    "ChoiceUnit",
    "OperationSpace",
    "PathSpace",
    "StageSpace",
    "get_operation_space",
    "get_stage_space",
]
