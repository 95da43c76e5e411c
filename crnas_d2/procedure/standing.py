"""The progress of a step of a procedure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..architecture import Architecture
from .identity import PROCESSES, Identity
from .state import DONE, StepState


@dataclass(frozen=True)
class Standing:
    """The progress of a step of a procedure.

    Attributes:
        done: whether all of its products exist.
        trained: whether the weights of a training exist. Their test may still have to be repeated.
        why: why it runs although it was begun before. Empty for a step that was not.
        refusal: why it cannot resume. Empty if it can.
        results, seconds: see :class:`StepState`, for a finished step.
        architectures: architectures that a finished step has found, by budget. The empty name
            stands for the first budget, or for the only architecture.
        folder: name of the step whose training stands for this one. Empty if it has its own.
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
        """Get the architecture found under a budget. None until the step is finished."""
        return self.architectures.get(budget, self.architectures.get(""))

    @classmethod
    def of(cls, folder: str, state: StepState, identity: Identity) -> Standing:
        """Determine the standing of a step from its state.

        Args:
            folder: folder of the step.
            state: state that its last run has left.
            identity: current identity of the step.
        """
        work, verdict = identity.list_changes(state.identity)
        damages = state.list_damages(folder)
        # once finished, the number of processes does not matter
        if state.state == DONE and not damages:
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
        """Refuse a step that was begun with other values.

        Raises:
            ValueError: it was. The message lists the differences.
        """
        if self.refusal:
            raise ValueError(
                f"{self.refusal}\nGo on with the values there, choose another OUTPUT_DIR, or move "
                "that folder and those of the later steps away."
            )
