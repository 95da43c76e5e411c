"""The hierarchical search procedure of section 3.3: recipes, and the steps that they consist of."""

from .procedure import Procedure
from .recipe import Recipe, is_recipe
from .supernet_search import run_search

__all__ = ["Procedure", "Recipe", "is_recipe", "run_search"]
