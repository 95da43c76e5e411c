"""The best codes of a ranking, each trained alone, before one of them goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .steps import Step

if TYPE_CHECKING:
    from .procedure import Procedure


def run_shortlist(procedure: Procedure, step: Step) -> Mapping[str, Any]:
    raise NotImplementedError
