"""Reports of searches and trainings: the page of a search, and plots across several of them."""

from .report import report_procedure, report_search

__all__ = ["report_procedure", "report_search"]
