from .checkpointer import CRCheckpointer

__all__ = ["CRCheckpointer"]
