"""Search strategies, and the study that evaluates and records the architectures they ask for."""

from .ledger import Ledger
from .trial import Trial

__all__ = ["Ledger", "Trial"]
