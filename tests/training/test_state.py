"""States appear whole or not at all, and a damaged one does not cost the run."""

import pytest
import torch

from slicewise.errors import TrainingError
from slicewise.training.state import StateKeeper, digest_of


@pytest.fixture
def keeper(tmp_path):
    return StateKeeper(tmp_path / "states")


def state(number):
    return {"weights": torch.arange(6.0) + number, "nested": {"list": [1, 2.5, None, "word"], "step": number}}


def test_the_newest_of_two_is_loaded(keeper):
    assert keeper.load() is None
    assert not keeper.exists
    for step in (1, 2, 10):
        keeper.save(state(step), step)
    assert digest_of(keeper.load()) == digest_of(state(10))
    assert len(list(keeper.folder.iterdir())) == 2
    keeper.discard()
    assert not keeper.folder.exists()


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-1], lambda content: b"", lambda content: content[:50] + b"x" + content[51:]]
)
def test_a_damaged_state_is_passed_over(keeper, damage):
    keeper.save(state(1), 1)
    keeper.save(state(2), 2)
    newest = max(keeper.folder.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    assert digest_of(keeper.load()) == digest_of(state(1))


def test_a_damaged_newest_state_does_not_push_out_the_good_ones(keeper):
    keeper.save(state(9), 9)
    keeper.save(state(10), 10)
    newest = max(keeper.folder.iterdir())
    newest.write_bytes(b"damaged")
    keeper.load()
    keeper.save(state(95), 9)
    keeper.save(state(96), 8)
    assert digest_of(keeper.load()) == digest_of(state(95))
    assert len(list(keeper.folder.iterdir())) == 2


def test_damaged_states_alone_are_refused_and_stay(keeper):
    keeper.save(state(1), 1)
    (file,) = keeper.folder.iterdir()
    file.write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="all 1 are damaged"):
        keeper.load()
    assert file.is_file()


def test_a_write_that_was_killed_leaves_no_state(keeper):
    keeper.save(state(1), 1)
    (keeper.folder / ".step_000000002.state.99.tmp").write_bytes(b"half of")
    assert digest_of(keeper.load()) == digest_of(state(1))


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.0]), "b": [1, 3]},
        {"a": torch.tensor([1.0, 2.1]), "b": [1, 2]},
        {"a": torch.tensor([[1.0, 2.0]]), "b": [1, 2]},
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64), "b": [1, 2]},
        {"a": torch.tensor([1.0, 2.0]), "c": [1, 2]},
        {"a": torch.tensor([1.0, 2.0]), "b": [[1], 2]},
    ],
)
def test_a_digest_tells_content_apart(other):
    one = {"a": torch.tensor([1.0, 2.0]), "b": [1, 2]}
    assert digest_of(one) == digest_of({"a": torch.tensor([1.0, 2.0]), "b": [1, 2]})
    assert digest_of(one) != digest_of(other)
