"""Checkpoints hold nested state to the bit, and a damaged one is no checkpoint."""

import pytest
import torch

from dgmbench.training import checkpoint


def test_nested_state_comes_back_to_the_bit(tmp_path):
    shared = torch.randn(3, generator=torch.Generator().manual_seed(0))
    tree = {
        "tensors": [shared, shared, torch.tensor(1.5, dtype=torch.float64), torch.zeros(0, 4)],
        "numbers": {"step": 3, "loss": 0.1 + 0.2, "name": "x", "flag": True, "nothing": None},
        "by_integer": {0: {"a": torch.arange(3)}, 1: {}},
        "view": torch.arange(12).reshape(3, 4).T,
    }
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, tree)
    back = checkpoint.load(path)
    assert back["numbers"] == tree["numbers"]
    assert list(back["by_integer"]) == [0, 1]
    for one, other in zip(tree["tensors"], back["tensors"]):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert torch.equal(back["view"], tree["view"])


def test_adam_continues_as_if_nothing_had_happened(tmp_path):
    def network():
        torch.manual_seed(0)
        return torch.nn.Linear(3, 2)

    def steps(net, optimiser, count):
        for i in range(count):
            optimiser.zero_grad()
            net(torch.full((1, 3), float(i + 1))).square().sum().backward()
            optimiser.step()

    whole, optimiser = network(), None
    optimiser = torch.optim.Adam(whole.parameters(), lr=0.1)
    steps(whole, optimiser, 3)
    checkpoint.save(tmp_path / "c", {"network": whole.state_dict(), "optimiser": optimiser.state_dict()})
    steps(whole, optimiser, 4)

    stored = checkpoint.load(tmp_path / "c")
    resumed = network()
    again = torch.optim.Adam(resumed.parameters(), lr=0.1)
    resumed.load_state_dict(stored["network"])
    again.load_state_dict(stored["optimiser"])
    steps(resumed, again, 4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff" * 64 + b[64:]])
def test_a_damaged_checkpoint_is_none(tmp_path, damage):
    path = tmp_path / "c"
    checkpoint.save(path, {"x": torch.zeros(100)})
    path.write_bytes(damage(path.read_bytes()))
    assert checkpoint.load(path) is None


def test_what_it_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match="cannot hold a set"):
        checkpoint.save(tmp_path / "c", {"x": {1, 2}})
    assert not list(tmp_path.iterdir())
