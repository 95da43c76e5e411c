"""The page that shows a search."""

from .report import report_procedure, report_search

__all__ = ["report_procedure", "report_search"]
