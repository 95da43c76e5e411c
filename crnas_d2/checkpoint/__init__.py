from .checkpointer import CRCheckpointer
from .inherit import inherit_subnet

__all__ = ["CRCheckpointer", "inherit_subnet"]
