"""Machines of two sides and layers with copies, against enumeration and against the restricted Boltzmann machine."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from dgmbench.errors import CannotBeDone
from dgmbench.estimators.enumeration import log_partition
from dgmbench.models.boltzmann._binary import Draws
from dgmbench.models.boltzmann._bipartite import Bipartite, Path
from dgmbench.models.boltzmann._layers import NAMES, Layer, counts
from dgmbench.models.boltzmann._training import Rule, update


def states(bits: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=bits)), dtype=torch.float64)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bipartite(own: int, other: int, scale: float = 1.0) -> Bipartite:
    return Bipartite(normal(own, other, scale=scale), normal(own, seed=1), normal(other, seed=2))


@pytest.mark.parametrize(("own", "other"), [(5, 3), (3, 5)])
def test_sums_are_those_of_the_joint(own, other):
    machine, s, o = bipartite(own, other), states(own), states(other)
    joint = (s @ machine.own)[:, None] + o @ machine.other + s @ machine.weights @ o.T
    torch.testing.assert_close(machine.log_unnormalised(s), torch.logsumexp(joint, 1), rtol=0, atol=1e-12)
    assert log_partition(machine.enumeration()) == pytest.approx(torch.logsumexp(joint.flatten(), 0).item(), abs=1e-12)


def test_enumeration_refuses_many_units():
    with pytest.raises(CannotBeDone, match="21 units"):
        bipartite(21, 22).enumeration()


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_path_without_base_rates_of_the_other_side_is_that_of_the_rbm(beta):
    machine, base = bipartite(5, 3), normal(5, seed=3)
    ours = Path(machine, base, torch.zeros(3, dtype=torch.float64))
    every = states(5)
    # Salakhutdinov and Murray's: base rates of the visible units alone, hidden biases and weights times beta.
    hidden = torch.log1p((beta * (machine.other + every @ machine.weights)).exp()).sum(1)
    torch.testing.assert_close(
        ours.log_unnormalised(every, beta), every @ ((1 - beta) * base + beta * machine.own) + hidden
    )
    assert ours.log_z_base == pytest.approx(float(torch.log1p(base.exp()).sum()) + 3 * math.log(2), abs=1e-12)


def test_states_of_the_enumeration_follow_the_machine_whichever_side_is_smaller():
    for machine in (bipartite(3, 5), bipartite(5, 3)):
        enumeration = machine.enumeration()
        log_p = enumeration.log_term(states(enumeration.bits))
        chosen = torch.multinomial(
            log_p.softmax(0), 40_000, replacement=True, generator=torch.Generator().manual_seed(0)
        )
        found = enumeration.state_given(states(enumeration.bits)[chosen], torch.Generator().manual_seed(1))
        every = states(len(machine.own))
        seen = torch.bincount(
            (found @ 2.0 ** torch.arange(len(machine.own)).flip(0).double()).long(), minlength=len(every)
        )
        expected = 40_000 * torch.softmax(machine.log_unnormalised(every), 0)
        # A false alarm once in a million.
        assert stats.chisquare(seen.numpy(), expected.numpy()).pvalue > 1e-6


def test_path_runs_from_independent_units_on_both_sides_to_the_machine():
    machine, own, other = bipartite(4, 3), normal(4, seed=3), normal(3, seed=4)
    path, every = Path(machine, own, other), states(4)
    torch.testing.assert_close(path.log_unnormalised(every, 1.0), machine.log_unnormalised(every))
    at_base = path.log_unnormalised(every, 0.0)
    assert torch.logsumexp(at_base, 0).item() == pytest.approx(path.log_z_base, abs=1e-12)
    torch.testing.assert_close(torch.softmax(at_base, 0) @ every, torch.sigmoid(own))


@pytest.mark.parametrize(("beta_from", "beta_to"), [(0.2, 0.2001), (0.5, 0.51), (0.3, 0.9), (1.0, 0.995)])
def test_log_ratio_is_the_difference_of_the_two_ends(beta_from, beta_to):
    path, every = Path(bipartite(5, 3, scale=20.0), normal(5, seed=3), normal(3, seed=4)), states(5)
    difference = path.log_unnormalised(every, beta_to) - path.log_unnormalised(every, beta_from)
    torch.testing.assert_close(path.log_ratio(every, beta_from, beta_to), difference, rtol=1e-10, atol=1e-10)


# In float32 draws come from shared bits (`Draws`), and are what annealing is done with.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_a_step_leaves_the_tempered_distribution_invariant(beta, dtype):
    exact, every, draws = Path(bipartite(4, 3, scale=1.2), normal(4, seed=3), normal(3, seed=4)), states(4), 40_000
    machine = Bipartite(*(t.to(dtype) for t in (exact.machine.weights, exact.machine.own, exact.machine.other)))
    path = Path(machine, exact.base_own.to(dtype), exact.base_other.to(dtype))
    tempered = torch.softmax(exact.log_unnormalised(every, beta), 0)
    generator = torch.Generator().manual_seed(7)
    state = every[torch.multinomial(tempered, draws, replacement=True, generator=generator)].to(dtype)
    for _ in range(3):
        state = path.step(state, beta, generator)
    seen = state @ torch.tensor([8.0, 4, 2, 1], dtype=dtype)
    observed, expected = torch.bincount(seen.long(), minlength=16), draws * tempered
    # P(chi-square with 15 degrees of freedom > 49) = 2e-5; 6 comparisons: a false alarm in 8,000 seeds.
    assert ((observed - expected) ** 2 / expected).sum() < 49


def copied(weights: Tensor, below: Tensor, above: Tensor, copies: tuple[int, int]) -> Bipartite:
    """The machine in which every copy is a unit of its own."""
    tiled = weights.repeat(copies[0], copies[1])
    return Bipartite(tiled, below.repeat(copies[0]), above.repeat(copies[1]))


@pytest.mark.parametrize("copies", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_layer_with_copies_is_the_machine_of_all_copies(copies):
    parameters = normal(2, 2), normal(2, seed=1), normal(2, seed=2)
    layer, whole = Layer(*parameters, *copies), copied(*parameters, copies)
    every = states(2 * copies[0])
    added = every.unflatten(1, (copies[0], 2)).sum(1)
    torch.testing.assert_close(layer.log_unnormalised(added), whole.log_unnormalised(every))
    torch.testing.assert_close(layer.hidden_input(added), whole.other_input(every)[:, :2])
    others = states(2 * copies[1])
    torch.testing.assert_close(
        layer.visible_input(others.unflatten(1, (copies[1], 2)).sum(1)), whole.own_input(others)[:, :2]
    )


@pytest.mark.parametrize("copies", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_direction_is_the_exact_gradient_divided_by_the_copies(copies):
    """With the model's phase summed over all states; the gradient by automatic differentiation of log p(data)."""
    leaves = [p.requires_grad_(True) for p in (normal(2, 2, scale=0.7), normal(2, seed=1), normal(2, seed=2))]
    whole, every = copied(*leaves, copies), states(2 * copies[0])
    data = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    log_prob = whole.log_unnormalised(every) - torch.logsumexp(whole.log_unnormalised(every), 0)
    tied = data.repeat(1, copies[0])
    (whole.log_unnormalised(tied) - torch.logsumexp(whole.log_unnormalised(every), 0)).mean().backward()
    exact = {"weights": leaves[0].grad / math.prod(copies), "below": leaves[1].grad / copies[0]}
    exact["above"] = leaves[2].grad / copies[1]
    layer = Layer(*(leaf.detach() for leaf in leaves), *copies)
    added = every.unflatten(1, (copies[0], 2)).sum(1)
    visible = torch.cat([layer.tied(data), added])
    sign = torch.cat([torch.full((3,), 1 / 3, dtype=torch.float64), -log_prob.exp().detach()])
    found = {name: torch.ones_like(getattr(layer, name)) for name in NAMES}
    layer.accumulate(found, 0.5, visible, torch.sigmoid(layer.hidden_input(visible)) * sign[:, None], sign)
    for name in NAMES:
        torch.testing.assert_close(found[name], 0.5 + exact[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("copies", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_sweeps_of_a_layer_leave_the_machine_of_all_copies_invariant(copies):
    parameters = normal(2, 2, scale=0.8), normal(2, seed=1), normal(2, seed=2)
    layer, every = Layer(*parameters, *copies), states(2 * copies[0])
    added = every.unflatten(1, (copies[0], 2)).sum(1)
    p = torch.softmax(copied(*parameters, copies).log_unnormalised(every), 0)
    start = added[torch.multinomial(p, 40_000, replacement=True, generator=generator(6))]
    visible, hidden = layer.gibbs(torch.sigmoid(layer.hidden_input(start)), 2, generator(7))
    assert visible.max() == copies[0]
    assert hidden.max() == copies[1]
    code = torch.tensor([3.0, 1.0], dtype=torch.float64)
    expected = 40_000 * torch.zeros(9, dtype=torch.float64).index_add(0, (added @ code).long(), p)
    observed, reached = torch.bincount((visible @ code).long(), minlength=9), expected > 0
    # At most 8 degrees of freedom, P(chi-square > 45) = 4e-7; 4 machines.
    assert ((observed - expected)[reached] ** 2 / expected[reached]).sum() < 45
    assert observed[~reached].sum() == 0


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_counts_are_binomial():
    p, n = 0.3, 60_000
    drawn = counts(torch.full((n, 1), p, dtype=torch.float64), 2, Draws(generator(4)))
    observed = torch.bincount(drawn.flatten().long(), minlength=3)
    expected = n * torch.tensor([(1 - p) ** 2, 2 * p * (1 - p), p**2])
    # P(chi-square with 2 degrees of freedom > 25) = 4e-6.
    assert ((observed - expected) ** 2 / expected).sum() < 25


@pytest.mark.parametrize("persistent", [False, True])
def test_update_moves_by_momentum_times_velocity_plus_direction(persistent):
    """The negative states are where persistent chains were, or where fresh ones end."""
    layer = Layer(normal(3, 2), normal(3, seed=1), normal(2, seed=2), 2, 1)
    before = {name: getattr(layer, name).clone() for name in NAMES}
    velocity = {name: torch.ones_like(before[name]) for name in NAMES}
    data, chains = layer.tied(states(3)), 2 * states(3)[:4] if persistent else None
    start = data if chains is None else chains.clone()
    ends, hidden = layer.gibbs(torch.sigmoid(layer.hidden_input(start)), 3, generator(5))
    negative = start if persistent else ends
    up, down = (torch.sigmoid(layer.hidden_input(x)) for x in (data, negative))
    expected = {
        "weights": (data.T @ up / 8 - negative.T @ down / len(negative)) / 2 - 0.1 * before["weights"],
        "below": (data.mean(0) - negative.mean(0)) / 2,
        "above": up.mean(0) - down.mean(0),
    }
    moved = update(layer, velocity, data, chains, Rule(3, 0.01, 0.5, 0.1), generator(5))
    torch.testing.assert_close(moved.visible, ends)
    torch.testing.assert_close(moved.hidden, hidden)
    torch.testing.assert_close(moved.activity, up.mean())
    for name in NAMES:
        torch.testing.assert_close(getattr(layer, name), before[name] + 0.01 * (0.5 + expected[name]))
    if persistent:
        torch.testing.assert_close(chains, ends)
