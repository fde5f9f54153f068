"""Centred deep Boltzmann machines: the direction against enumeration in centred coordinates, and training by it."""

import itertools

import numpy as np
import pytest
import torch
from test_dbm import dataset, generator, two_modes
from torch import Tensor

from dgmbench.estimators.enumeration import log_partition
from dgmbench.models.boltzmann import dbm
from dgmbench.training.session import Session


def layers_of(widths: list[int]) -> list[Tensor]:
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=sum(widths))), dtype=torch.float64)
    return list(every.split(widths, 1))


def log_unnormalised(p: dict[str, Tensor], layers: list[Tensor], centres: list[Tensor]) -> Tensor:
    """-E of states in the coordinates of units less their centres: (n,)."""
    moved = [layer - centre for layer, centre in zip(layers, centres, strict=True)]
    found = sum(layer @ p[f"bias.{i}"] for i, layer in enumerate(moved))
    for i in range(1, len(moved)):
        found = found + torch.einsum("ni,ij,nj->n", moved[i - 1], p[f"weights.{i}"], moved[i])
    return found


@pytest.mark.parametrize("hidden", [[3, 2], [2, 2, 3]])
def test_the_direction_is_the_gradient_in_centred_coordinates(hidden):
    """Of E_q[log p(v, h)] for given means under q, by automatic differentiation; carried back, it is `centred`.

    Own biases are b_l = c_l - W_l' lambda_(l-1) - W_(l+1) lambda_(l+1), of centred ones c_l.
    """
    widths, drawn = [4, *hidden], generator(1)
    model = dbm.Model(dbm.Spec(hidden=hidden), 4)
    own = {
        name: torch.randn(value.shape, generator=drawn, dtype=torch.float64)
        for name, value in model.state().items()
        if name != "base"
    }
    centres = [torch.rand(m, generator=drawn, dtype=torch.float64) for m in widths]
    means = [torch.rand(10, m, generator=drawn, dtype=torch.float64) for m in widths]
    zero, levels = [torch.zeros_like(c) for c in centres], range(1, len(widths))

    def biases(p: dict[str, Tensor], sign: int) -> dict[str, Tensor]:
        found = {}
        for i in range(len(widths)):
            below = centres[i - 1] @ p[f"weights.{i}"] if i > 0 else 0.0
            above = p[f"weights.{i + 1}"] @ centres[i + 1] if i < levels[-1] else 0.0
            found[f"bias.{i}"] = p[f"bias.{i}"] + sign * (below + above)
        return {**p, **found}

    def gradient(p: dict[str, Tensor], around: list[Tensor]) -> dict[str, Tensor]:
        leaves = {name: value.clone().requires_grad_(True) for name, value in p.items()}
        value = log_unnormalised(leaves, means, around).mean()
        value = value - torch.logsumexp(log_unnormalised(leaves, layers_of(widths), around), 0)
        return dict(zip(p, torch.autograd.grad(value, list(leaves.values())), strict=True))

    uphill = gradient(biases(own, 1), centres)
    expected, ordinary = biases(uphill, -1), gradient(own, zero)
    found = model.centred(ordinary, centres)
    assert found.keys() == ordinary.keys()
    for name, direction in found.items():
        torch.testing.assert_close(direction, expected[name], rtol=0, atol=1e-12)
    assert sum(float((found[name] * ordinary[name]).sum()) for name in found) > 0
    assert not torch.allclose(found["bias.1"], ordinary["bias.1"])


def test_training_from_small_weights_keeps_data_and_chains_together():
    spec = dbm.Spec(hidden=[6, 4], pretraining_epochs=0, epochs=60, batch_size=50, learning_rate=0.05, centred=True)
    model, session = dbm.Model(spec, 8), Session(generator())
    data = dataset(two_modes(500, 8))
    model.fit(data, session)
    gaps = [row["bound_gap"] for row in session.history if "bound_gap" in row]
    assert len(gaps) == 60
    assert max(map(abs, gaps[-20:])) < 2.0
    bound = model.bound_unnormalised(data.test.all(), 1, generator())[0].mean() - log_partition(model.enumeration())
    rates = data.test.x.mean(0)
    independent = float((rates * np.log(rates) + (1 - rates) * np.log(1 - rates)).sum())
    assert bound > independent + 1.0


def test_centres_are_running_means_of_the_data_that_the_first_minibatch_begins():
    model = dbm.Model(dbm.Spec(hidden=[3, 2], centred=True), 4)
    model.load_state({n: 0.5 * torch.randn(v.shape, generator=generator(2)) for n, v in model.state().items()})
    x = (torch.rand(20, 4, generator=generator(3)) < 0.4).float()
    chains = {f"{i}": torch.zeros(5, m) for i, m in enumerate(model.widths)}
    centres = {f"{i}": torch.zeros(m) for i, m in enumerate(model.widths)}
    velocity = {name: torch.zeros_like(value) for name, value in model.parameters.items() if name != "base"}
    for share in (1.0, 0.25):
        before, past = {n: v.clone() for n, v in model.parameters.items()}, [c.clone() for c in centres.values()]
        means, _ = model._update(x, chains, velocity, 0.1, generator(4), centres, share)
        expected = [(1 - share) * old + share * mean.mean(0) for old, mean in zip(past, means, strict=True)]
        torch.testing.assert_close(list(centres.values()), expected)
        for name, direction in model.centred(velocity, expected).items():
            torch.testing.assert_close(model.parameters[name], before[name] + 0.1 * direction)
