"""Networks of other projects, and images for them."""

import pytest
import torch


def from_timm(name):
    def make():
        return pytest.importorskip("timm").create_model(name)

    make.__name__ = f"timm {name}"
    return make


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
