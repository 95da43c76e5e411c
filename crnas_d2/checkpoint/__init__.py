from .checkpointer import CRCheckpointer
from .inherit import inherit_subnet
from .match_features import match_features
from .match_statistics import match_statistics
from .remap import remap_backbone
from .save import save_network
from .seed_network import read_seed_network

__all__ = [
    "CRCheckpointer",
    "inherit_subnet",
    "match_features",
    "match_statistics",
    "read_seed_network",
    "remap_backbone",
    "save_network",
]
