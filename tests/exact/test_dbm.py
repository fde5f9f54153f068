"""The deep Boltzmann machine against enumeration: fixed points, bound, sweeps, directions, annealed path, training."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators.enumeration import log_partition
from dgmbench.models.boltzmann import dbm, rbm
from dgmbench.training.session import Session

SHAPES = [
    [3, 2],
    [2, 3],
    [3, 2, 2],
    [2, 3, 1],
]  # either parity is the smaller one, of all layers and of the hidden ones


def states(bits: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=bits)), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def machine(visible: int, hidden: list[int], scale: float = 1.0, **spec) -> dbm.Model:
    model, drawn = dbm.Model(dbm.Spec(hidden=hidden, **spec), visible), generator(1)
    shapes = {name: value.shape for name, value in model.state().items()}
    model.load_state({n: scale * torch.randn(s, generator=drawn, dtype=torch.float64) for n, s in shapes.items()})
    return model


def dataset(x: np.ndarray) -> Dataset:
    return Dataset("small", "small", "binary", x.shape[1:], {n: Split(x) for n in ("train", "validation", "test")}, {})


def two_modes(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rate = np.where(rng.random((n, 1)) < 0.5, 0.85, 0.15)
    return (rng.random((n, d)) < rate).astype(np.uint8)


def all_layers(model: dbm.Model) -> list[Tensor]:
    """Every state of all units, layer by layer; v varies slowest."""
    return list(states(sum(model.widths)).split(model.widths, 1))


def negative_energy(model: dbm.Model, layers: list[Tensor]) -> Tensor:
    """-E as it is written, unit by unit: (n,)."""
    p = model.parameters
    found = sum(layer @ p[f"bias.{i}"] for i, layer in enumerate(layers))
    for i in range(1, len(layers)):
        found = found + torch.einsum("ni,ij,nj->n", layers[i - 1], p[f"weights.{i}"], layers[i])
    return found


def marginal(model: dbm.Model) -> Tensor:
    """log p*(v) of every v."""
    return torch.logsumexp(negative_energy(model, all_layers(model)).unflatten(0, (2 ** model.widths[0], -1)), 1)


def test_zero_upper_weights_leave_a_restricted_boltzmann_machine():
    deep, flat, every = machine(5, [3, 4]), rbm.Model(rbm.Spec(hidden=3), 5), states(5)
    deep.parameters["weights.2"].zero_()
    deep.parameters["bias.2"].zero_()
    p, free = deep.parameters, 4 * math.log(2)  # four units that see nothing
    names = {"weights": "weights.1", "visible_bias": "bias.0", "hidden_bias": "bias.1", "base_bias": "base"}
    flat.load_state({ours: p[theirs] for ours, theirs in names.items()})
    torch.testing.assert_close(marginal(deep), flat.log_unnormalised(every) + free)
    torch.testing.assert_close(deep.bound_unnormalised(every, 1, generator())[0], flat.log_unnormalised(every) + free)
    draws = deep.log_weights_unnormalised(every, 3, generator())
    torch.testing.assert_close(draws, (flat.log_unnormalised(every) + free).expand(3, -1))
    assert log_partition(deep.enumeration()) == pytest.approx(log_partition(flat.enumeration()) + free, abs=1e-12)
    data = dataset(two_modes(50, 5))
    ours, theirs = deep.annealed_path(data), flat.annealed_path(data)
    assert ours.log_z_base == pytest.approx(theirs.log_z_base + free, abs=1e-12)
    for beta in (0.0, 0.3, 1.0):  # states are other units, so that their sums are compared
        found = torch.logsumexp(ours.log_unnormalised(states(3), beta), 0).item()
        assert found == pytest.approx(torch.logsumexp(theirs.log_unnormalised(every, beta), 0).item() + free, abs=1e-10)


@pytest.mark.parametrize("hidden", SHAPES)
def test_enumeration_and_path_sum_to_the_partition_function(hidden):
    model = machine(4, hidden)
    log_z = torch.logsumexp(marginal(model), 0).item()
    assert log_partition(model.enumeration()) == pytest.approx(log_z, abs=1e-10)
    path = model.annealed_path(dataset(two_modes(50, 4)))
    side = states(path.sample_base(1, generator()).shape[1])
    assert len(side[0]) <= sum(model.widths) / 2
    assert torch.logsumexp(path.log_unnormalised(side, 1.0), 0).item() == pytest.approx(log_z, abs=1e-10)
    at_base = torch.logsumexp(path.log_unnormalised(side, 0.0), 0).item()
    assert at_base == pytest.approx(path.log_z_base, abs=1e-6)  # the pixels' base rates are kept in float32


def test_enumeration_refuses_many_units():
    with pytest.raises(CannotBeDone, match="25 units"):
        dbm.Model(dbm.Spec(hidden=[30, 1]), 24).enumeration()


@pytest.mark.parametrize("hidden", SHAPES)
def test_annealed_importance_sampling_agrees_with_enumeration(hidden):
    model = machine(4, hidden)
    path, drawn = model.annealed_path(dataset(two_modes(50, 4))), generator(2)
    betas = np.linspace(0, 1, 100)
    state, log_weights = path.sample_base(2000, drawn), 0.0
    for low, high in itertools.pairwise(betas):
        log_weights = log_weights + path.log_ratio(state, low, high)
        state = path.step(state, high, drawn)
    weights = torch.exp(log_weights + path.log_z_base - log_partition(model.enumeration()))
    # The weights' mean is Z_0 w / Z = 1 exactly; five standard errors, four machines: a false alarm in 400,000 seeds.
    assert abs(float(weights.mean()) - 1) < 5 * float(weights.std()) / math.sqrt(2000)
    assert float(weights.std()) < 1


@pytest.mark.parametrize("damping", [0.0, 0.6])
@pytest.mark.parametrize("hidden", SHAPES)
def test_fixed_points_are_stationary_points_of_the_bound(hidden, damping):
    """Central differences of the bound in every mean, one at a time."""
    model = machine(4, hidden, damping=damping, mean_field_iterations=2000, mean_field_tolerance=1e-13)
    x, step = states(4), 1e-5
    means, _ = model.mean_field(x)
    for level in model.levels:
        for unit in range(model.widths[level]):
            ends = []
            for sign in (1, -1):
                moved = [mean.clone() for mean in means]
                moved[level][:, unit] += sign * step
                ends.append(model.bound_of_means(moved))
            assert ((ends[0] - ends[1]) / (2 * step)).abs().max() < 1e-4, (level, unit)


@pytest.mark.parametrize("damping", [0.0, 0.6])
@pytest.mark.parametrize("hidden", SHAPES)
def test_every_pass_raises_the_bound_which_stays_below_the_exact_value(hidden, damping):
    model, x = machine(4, hidden, scale=1.5, damping=damping), states(4)
    bounds = torch.stack([model.bound_of_means(model.mean_field(x, passes)[0]) for passes in range(1, 15)])
    assert (bounds.diff(dim=0) > -1e-12).all()
    assert (bounds[-1] <= marginal(model) + 1e-12).all()
    assert (bounds[-1] < marginal(model) - 1e-3).any()


def test_bound_of_means_is_the_expected_energy_and_the_entropy():
    model = machine(3, [2, 3])
    means = [states(3), *(torch.rand(8, m, generator=generator(3), dtype=torch.float64) for m in (2, 3))]
    hidden = states(5)
    for row in range(8):
        mu = torch.cat([means[1][row], means[2][row]])
        q = torch.where(hidden > 0, mu, 1 - mu).prod(1)
        layers = [means[0][row].expand(32, -1), hidden[:, :2], hidden[:, 2:]]
        expected = (q * (negative_energy(model, layers) - q.log())).sum()
        assert model.bound_of_means(means)[row].item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("hidden", SHAPES)
def test_importance_weights_are_unbiased_and_above_the_bound_in_the_mean(hidden):
    model, x, k = machine(4, hidden), states(4), 20_000
    draws = model.log_weights_unnormalised(x, k, generator(4))
    weights = torch.exp(draws - marginal(model))
    z = (weights.mean(0) - 1) / (weights.std(0) / math.sqrt(k))
    # 16 means at 5 standard errors: a false alarm in 100,000 seeds where they are Gaussian.
    assert z.abs().max() < 5
    # Summing some units out exactly can only raise E_q[log w]: 5 standard errors.
    assert (draws.mean(0) + 5 * draws.std(0) / math.sqrt(k) > model.bound_unnormalised(x, 1, generator())[0]).all()


def chi_square_p(layers: list[Tensor], probability: Tensor) -> float:
    from scipy.stats import chi2

    bits = torch.cat(layers, 1)
    code = bits @ (2.0 ** torch.arange(bits.shape[1] - 1, -1, -1, dtype=bits.dtype))
    expected = len(bits) * probability
    observed = torch.bincount(code.long(), minlength=len(expected)).double()
    rare = expected < 5
    observed = torch.cat([observed[~rare], observed[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None] + 1e-9])
    return float(chi2.sf(float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1))


def draws_of(model: dbm.Model, n: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Exact draws of all layers, and the probability of every state."""
    every = all_layers(model)
    probability = torch.softmax(negative_energy(model, every), 0)
    rows = torch.multinomial(probability, n, replacement=True, generator=generator(seed))
    return [layer[rows] for layer in every], probability


# In float32 draws come from shared bits (`Draws`), and are what machines are trained, annealed and sampled with.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hidden", SHAPES)
def test_a_sweep_leaves_the_machine_invariant(hidden, dtype):
    model = machine(3, hidden, scale=1.2)
    drawn, probability = draws_of(model, 40_000, 5)
    model.load_state({name: value.to(dtype) for name, value in model.state().items()})
    # A false alarm in 12,500 seeds over the eight machines.
    assert chi_square_p(model.gibbs([m.to(dtype) for m in drawn], 3, generator(6)), probability) > 1e-5


def test_a_sweep_from_one_state_follows_the_enumerated_transition():
    """Odd layers given the even ones, then the even ones given those: a wrong order or input would show."""
    model, n = machine(3, [2, 2, 1], scale=1.2), 40_000
    log_p = negative_energy(model, all_layers(model)).reshape(8, 4, 4, 2)  # v, h1, h2, h3
    start = (5, 2, 1, 0)
    odd = torch.softmax(log_p[start[0], :, start[2], :].ravel(), 0).reshape(4, 2)
    even = torch.softmax(log_p.permute(1, 3, 0, 2).reshape(8, 32), 1).reshape(4, 2, 8, 4)
    joint = (odd[:, :, None, None] * even).permute(2, 0, 3, 1)
    begun = [states(m)[i].expand(n, -1) for m, i in zip(model.widths, start, strict=True)]
    assert chi_square_p(model.gibbs(begun, 1, generator(7)), joint.ravel()) > 1e-5


@pytest.mark.parametrize("hidden", [[3, 2], [2, 2, 2]])
def test_samples_follow_the_machine(hidden):
    model = machine(4, hidden, sample_sweeps=150)
    assert chi_square_p([model.sample(20_000, generator(8))], torch.softmax(marginal(model), 0)) > 1e-5


@pytest.mark.parametrize("hidden", [[3, 2], [2, 2, 2]])
def test_reconstructions_forget_their_start(hidden):
    model, n = machine(4, hidden, scale=0.7), 20_000
    expected = torch.softmax(marginal(model), 0) @ states(4)
    for x in (torch.zeros(n, 4), torch.ones(n, 4)):
        found = model.reconstruct(x, 60, generator(9)).mean(0)
        # Means lie in [0, 1]: standard error at most 0.0036; 16 comparisons at 5 standard errors.
        assert (found - expected).abs().max() < 5 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize("hidden", [[3, 2], [2, 2, 2]])
def test_direction_is_the_gradient_of_the_bound(hidden):
    """With chains drawn from the machine itself; the exact gradient, at fixed means, by automatic differentiation."""
    model, x = machine(3, hidden), states(3)[[1, 4, 6, 7]]
    means, _ = model.mean_field(x)
    chains, _ = draws_of(model, 200_000, 10)
    found = {name: torch.ones_like(value) for name, value in model.state().items() if name != "base"}
    model.accumulate(found, 0.5, means, chains)
    leaves = {name: value.clone().requires_grad_(True) for name, value in model.state().items()}
    model.load_state(leaves)
    log_z = torch.logsumexp(negative_energy(model, all_layers(model)), 0)
    (model.bound_of_means(means).mean() - log_z).backward()
    for name, direction in found.items():
        # Every statistic lies in [0, 1]: standard error at most 0.0011; 5 of them, 40 comparisons.
        assert (direction - 0.5 - leaves[name].grad).abs().max() < 5 * 0.5 / math.sqrt(200_000), name


def test_layers_by_themselves_compose_to_the_machine():
    """In every hidden layer between two others, the mean of the inputs that its two machines give, each with the
    opposite side twice, is the whole machine's; the highest layer and the pixels get theirs from one machine."""
    model = machine(4, [3, 2, 2], chains=5)
    drawn = generator(11)
    alone = {f"below.{i}": torch.randn(model.widths[i - 1], generator=drawn, dtype=torch.float64) for i in (1, 2, 3)}
    alone |= {f"above.{i}": torch.randn(model.widths[i], generator=drawn, dtype=torch.float64) for i in (1, 2, 3)}
    layers = {i: model._layer(i, alone) for i in (1, 2, 3)}
    chains = {f"{i}": torch.zeros(5, m, dtype=torch.float64) for i, m in enumerate(model.widths)}
    model._compose(alone, chains, generator())
    every = all_layers(model)

    def from_below(i: int) -> Tensor:
        return layers[i].hidden_input(layers[i].tied(every[i - 1]))

    def from_above(i: int) -> Tensor:
        return layers[i + 1].visible_input(layers[i + 1].copies_above * every[i + 1])

    torch.testing.assert_close(model.input(0, every), from_above(0))
    torch.testing.assert_close(model.input(1, every), (from_below(1) + from_above(1)) / 2)
    torch.testing.assert_close(model.input(2, every), (from_below(2) + from_above(2)) / 2)
    torch.testing.assert_close(model.input(3, every), from_below(3))
    assert [(m.copies_below, m.copies_above) for m in layers.values()] == [(2, 1), (2, 2), (1, 2)]
    assert all(chain.unique().tolist() in ([0, 1], [0], [1]) for chain in chains.values())


@pytest.mark.parametrize(("hidden", "pretraining_epochs"), [([4, 3], 20), ([4, 3], 0), ([4, 3, 2], 20)])
def test_training_beats_independent_pixels(hidden, pretraining_epochs):
    data = dataset(two_modes(600, 6))
    spec = dbm.Spec(
        hidden=hidden,
        pretraining_epochs=pretraining_epochs,
        epochs=60,
        batch_size=50,
        learning_rate=0.1,
        weight_decay=0.0,
    )
    model, session = dbm.Model(spec, 6), Session(generator())
    model.fit(data, session)
    model.load_state({name: value.double() for name, value in model.state().items()})
    code = (data.train.all() @ (2.0 ** torch.arange(5, -1, -1))).long()
    log_prob = (marginal(model) - log_partition(model.enumeration()))[code].mean()
    rates = data.train.all().double().mean(0)
    independent = (rates * rates.log() + (1 - rates) * (1 - rates).log()).sum()
    # Over five seeds the gains are 0.91 to 0.99 nats; no model of these examples gains more than 1.065.
    assert independent + 0.8 < log_prob < independent + 1.07
    assert {"reconstruction_log_likelihood", "mean_field_passes"} <= session.history[-1].keys()
    assert ("free_energy_gap_1" in session.history[0]) == (pretraining_epochs > 0)
