import gc

import pytest

from crnas_d2.gc_pause import without_garbage_collection


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_collector_is_paused_and_then_as_before(is_enabled):
    (gc.enable if is_enabled else gc.disable)()
    try:
        with pytest.raises(KeyError), without_garbage_collection():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == is_enabled
    finally:
        gc.enable()
