"""The search for an architecture over a trained supernet (section 3.3)."""

from .evaluator import ArchitectureEvaluator
from .ledger import Ledger
from .procedure import Procedure
from .recipe import Recipe, is_recipe
from .step import run_search

__all__ = [
    "ArchitectureEvaluator",
    "Ledger",
    "Procedure",
    "Recipe",
    "is_recipe",
    "run_search",
]
