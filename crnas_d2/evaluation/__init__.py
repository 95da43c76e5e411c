"""The AP of many architectures that share the weights of one supernet (section 3.3.1)."""

from .evaluator import ArchitectureEvaluator

__all__ = ["ArchitectureEvaluator"]
