"""How to go through a space: strategies, and the study of one, which asks, evaluates and records."""

from .ledger import Ledger
from .trial import Trial

__all__ = ["Ledger", "Trial"]
