"""How far a step of a procedure has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..architecture import Architecture
from .identity import PROCESSES, Identity
from .state import DONE, StepState


@dataclass(frozen=True)
class Standing:
    """
    Attributes:
        done: whether all that it would leave is there.
        trained: whether the weights of a training are there, which may still be tested again.
        why: it runs although it was begun; empty of one that was not.
        refusal: why it cannot go on; empty where it can.
        results, seconds: see :class:`StepState`, of one that is done.
        architectures: that a step which is done has found, by budget; under an empty name that of
            the first, or of its only one.
        folder: name of the step whose training stands for this one; empty where it is its own.
    """

    done: bool = False
    trained: bool = False
    why: str = ""
    refusal: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    architectures: Mapping[str, Architecture] = field(default_factory=dict)
    folder: str = ""

    def found(self, budget: str) -> Architecture | None:
        """The architecture under a budget; None before the step is done."""
        return self.architectures.get(budget, self.architectures.get(""))

    @classmethod
    def of(cls, folder: str, state: StepState, identity: Identity) -> Standing:
        """
        Args:
            folder: of the step.
            state: that it was left in.
            identity: of the step now.
        """
        work, verdict = identity.list_changes(state.identity)
        damages = state.list_damages(folder)
        if state.state == DONE and not damages:  # by how many it was done does not matter any more
            work = [change for change in work if not change.startswith(f"{PROCESSES}: ")]
        if work:
            return cls(refusal="\n  ".join([f"{folder} was begun with other values:", *work]))
        if state.state != DONE:
            return cls(why="goes on")
        if damages:
            return cls(why=f"runs again: {', '.join(damages)}")
        if verdict:
            return cls(trained=True, why=f"ends again: {'; '.join(verdict)}")
        return cls(True, True, results=state.results, seconds=state.seconds)

    def refuse_changes(self) -> None:
        """
        Raises:
            ValueError: it was begun with other values. The message lists where.
        """
        if self.refusal:
            raise ValueError(
                f"{self.refusal}\nGo on with the values there, choose another OUTPUT_DIR, or move "
                "that folder and those of the later steps away."
            )
