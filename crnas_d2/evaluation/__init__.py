"""AP of many architectures whose weights are those of one supernet (section 3.3.1)."""

from .evaluator import ArchitectureEvaluator

__all__ = ["ArchitectureEvaluator"]
