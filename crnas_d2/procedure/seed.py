"""The weights of a trained network from which the trainings of a recipe start."""

from __future__ import annotations

import dataclasses

from detectron2.config import CfgNode

from ..checkpoint.remap import remap_backbone
from ..checkpoint.seed_network import SeedNetwork, read_seed_network
from ..checkpoint.settings import check_settings, take_settings
from ..checkpoint.start import build_on_meta

# Keys of MODEL.INIT that describe the file, and how to treat the settings that it needs
OF_THE_FILE = ("SOURCE", "PREFIX", "SETTINGS")


class Seed:
    """The weights in ``SEARCH.RECIPE.SEED_WEIGHTS``.

    Attributes:
        path: path of the file.
        network: the network in the file, with its tensors on the meta device.
    """

    def __init__(self, path: str, init: CfgNode):
        """
        Args:
            path: any path that ``MODEL.WEIGHTS`` takes.
            init: ``MODEL.INIT`` of the recipe.

        Raises:
            OSError, ValueError: as :func:`read_seed_network`. The message names the key.
        """
        self.path = path
        try:
            network = read_seed_network(path, init.SOURCE or None, init.PREFIX)
        except OSError as error:
            absent = isinstance(error, FileNotFoundError)
            reason = "there is no such file" if absent else f"it cannot be read: {error}"
            raise OSError(f"SEARCH.RECIPE.SEED_WEIGHTS is {path!r}; {reason}") from None
        except ValueError as error:
            raise ValueError(f"SEARCH.RECIPE.SEED_WEIGHTS: {error}") from None
        shapes = {name: tensor.to("meta") for name, tensor in network.weights.items()}
        self.network: SeedNetwork = dataclasses.replace(network, weights=shapes, rest={})

    @property
    def identity(self) -> dict[str, str]:
        """The name and SHA-256 that identify the file."""
        return {"name": self.network.name, "sha256": self.network.sha256}

    def take_settings(self, cfg: CfgNode) -> None:
        """Apply the settings that the weights need if ``MODEL.INIT.SETTINGS`` is "take"."""
        if cfg.MODEL.INIT.SETTINGS == "take":
            take_settings(self.network.settings, cfg, self.network.name)

    def check_settings(self, cfg: CfgNode) -> None:
        """Refuse a config with other settings.

        A config whose ``MODEL.INIT.SETTINGS`` is "ignore" is accepted, and each of its trainings
        warns.

        Raises:
            ValueError: as :func:`~crnas_d2.checkpoint.settings.check_settings`.
        """
        if cfg.MODEL.INIT.SETTINGS != "ignore":
            check_settings(self.network.settings, cfg, self.network.name)

    def put_into(self, cfg: CfgNode) -> None:
        """Make a training start from the weights, whatever the codes of its network are."""
        cfg.MODEL.WEIGHTS = self.path
        cfg.MODEL.INIT.REMAP = True

    def changes(self, cfg: CfgNode) -> dict[str, str]:
        """Check on the meta device that a network can start from the weights.

        Returns:
            The stages that differ from the seed network, see :meth:`RemapReport.changes`.

        Raises:
            ValueError: the network is of another kind, or wider.
        """
        init = cfg.MODEL.INIT
        options = (init.FUNCTION_PRESERVING, init.INTERPOLATE_DILATED)
        _, report = remap_backbone(self.network.weights, build_on_meta(cfg), *options)
        return report.changes()
