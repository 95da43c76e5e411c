"""A recipe and its steps: the hierarchical search procedure of section 3.3, from nothing to a detector."""

from .procedure import Procedure
from .recipe import Recipe, is_recipe
from .supernet_search import run_search

__all__ = ["Procedure", "Recipe", "is_recipe", "run_search"]
