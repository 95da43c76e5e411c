"""The table at the end of a procedure."""

from types import SimpleNamespace

from crnas_d2 import ARCHITECTURES
from crnas_d2.procedure.networks import compare


def test_what_is_not_known_is_a_dash():
    """As the AP of small objects in a test set without any, which is NaN, and null in the state."""
    networks = [
        SimpleNamespace(name=name, architecture=ARCHITECTURES[network], numbers=numbers)
        for name, network, numbers in (
            ("baseline", "ResNet18", {"bbox AP": 30.0, "bbox APs": None, "bbox APl": 1.0}),
            ("found", "CR-ResNet18", {"bbox AP": 31.5, "bbox APs": None, "bbox APl": None}),
        )
    ]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in compare(*networks).splitlines()
        if "bbox" in line
    ]
    assert rows == [
        ["bbox AP", "30.00", "31.50", "+1.50"],
        ["bbox APs", "-", "-", "-"],
        ["bbox APl", "1.00", "-", "-"],
    ]
