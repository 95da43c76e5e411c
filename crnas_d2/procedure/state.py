"""``step.json``: the settings that a step was begun with and, once it is finished, its results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..files import read_json, write_json
from .identity import Identity, product_sha256

STATE_FILE = "step.json"
MODEL_FILE = "model_final.pth"  # product of a training
BEGUN, DONE = "begun", "done"


@dataclass(frozen=True)
class StepState:
    """The content of ``step.json``.

    Attributes:
        identity: identity of the step whose files are in the folder.
        state: :data:`BEGUN` or :data:`DONE`.
        results: results that were measured at its end.
        seconds: duration of its last run. None before it has finished.
        products: SHA-256 of the files that later steps read, by name. None if there is no file.
    """

    identity: Identity
    state: str = BEGUN
    results: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    products: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str) -> StepState | None:
        """Read the state of a step from its folder. None if it was not begun.

        Raises:
            ValueError: the file is damaged, or was written by an earlier version.
        """
        path = os.path.join(folder, STATE_FILE)
        if not os.path.isfile(path):
            return None
        content = read_json(path)
        try:
            state = cls(**{**content, "identity": Identity(**content["identity"])})
        except (KeyError, TypeError):
            raise ValueError(
                f"{path} is damaged, or an earlier version has written it; expected what this one "
                "writes. Choose another OUTPUT_DIR, or move that folder away"
            ) from None
        return state

    def write(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)
        write_json(os.path.join(folder, STATE_FILE), asdict(self))

    def list_damages(self, folder: str) -> list[str]:
        """List the products that have changed since the step left them, with a sentence for each."""
        damages = []
        for name, sha256 in self.products.items():
            now = product_sha256(os.path.join(folder, name))
            if now != sha256:
                damages.append(f"{name} was changed" if now else f"{name} is not there any more")
        return damages

    def set_changes_aside(self, folder: str) -> None:
        """Rename changed products, as a training would resume from a changed ``model_final.pth``."""
        for name, sha256 in self.products.items():
            path = os.path.join(folder, name)
            if product_sha256(path) not in (sha256, None):
                os.replace(path, f"{path}.changed")
