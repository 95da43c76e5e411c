"""Lines of metrics.json, as strict readers of JSON take them."""

import json
import math

import pytest

from crnas_d2.engine.metrics_writer import MetricsWriter

from detectron2.utils.events import EventStorage


def test_what_is_not_finite_is_null(tmp_path):
    path = tmp_path / "metrics.json"
    writer = MetricsWriter(str(path))
    with EventStorage(3) as storage:
        storage.put_scalars(**{"bbox/AP": 0.1, "bbox/APs": math.nan}, smoothing_hint=False)
        writer.write()
        storage.step()
        storage.put_scalar("bbox/AP", -math.inf, smoothing_hint=False)
        writer.write()
    writer.close()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.open()]
    assert lines == [
        {"bbox/AP": 0.1, "bbox/APs": None, "iteration": 3},
        {"bbox/AP": None, "iteration": 4},
    ]
