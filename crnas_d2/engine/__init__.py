from .launch import launch
from .setup import setup
from .trainer import CRTrainer

__all__ = ["CRTrainer", "launch", "setup"]
