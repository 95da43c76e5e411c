import pytest

from crnas_d2.data.class_names import tell_apart


@pytest.mark.parametrize(
    "names, apart",
    [
        ([], []),
        (["cup", "ball"], ["cup", "ball"]),
        (["cell", "cup", "cell", "cell"], ["cell", "cup", "cell#2", "cell#3"]),
        (["cell#2", "cell", "cell"], ["cell#2", "cell", "cell#3"]),
        (["cell", "cell", "cell#2", "cell"], ["cell", "cell#3", "cell#2", "cell#4"]),
    ],
)
def test_each_name_once(names, apart):
    assert tell_apart(names) == apart == tell_apart(apart)
    assert len(set(apart)) == len(names)
