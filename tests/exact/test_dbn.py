"""The deep belief network against enumeration of all hidden units: bound, estimate, up-down directions, samples."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.estimators.enumeration import log_partition
from dgmbench.models.boltzmann import dbn, rbm
from dgmbench.models.boltzmann._bipartite import Path
from dgmbench.training.session import Session


def states(bits: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=bits)), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(visible: int, hidden: list[int], scale: float = 1.0, **spec) -> dbn.Model:
    """Random parameters, generative and recognition weights untied."""
    model, drawn = dbn.Model(dbn.Spec(hidden=hidden, **spec), visible), generator(1)
    shapes = {name: value.shape for name, value in model.state().items()}
    model.load_state({n: scale * torch.randn(s, generator=drawn, dtype=torch.float64) for n, s in shapes.items()})
    return model


def dataset(x: np.ndarray) -> Dataset:
    return Dataset("small", "small", "binary", x.shape[1:], {n: Split(x) for n in ("train", "validation", "test")}, {})


def two_modes(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rate = np.where(rng.random((n, 1)) < 0.5, 0.85, 0.15)
    return (rng.random((n, d)) < rate).astype(np.uint8)


def log_bernoulli(outcomes: Tensor, log_odds: Tensor) -> Tensor:
    """log p of every outcome given every row of log-odds: (o, m), (g, m) -> (g, o)."""
    return log_odds @ outcomes.T - F.softplus(log_odds).sum(1, keepdim=True)


def joint(model: dbn.Model) -> Tensor:
    """log p*(v, h1 ... h(L-1)) over all states, an axis for each layer."""
    found = model.top().log_unnormalised(states(model.widths[-2]))
    for level in reversed(range(1, len(model.widths) - 1)):
        above, below = states(model.widths[level]), states(model.widths[level - 1])
        conditional = log_bernoulli(below, model._generative_input(level, above)).T  # (below, above)
        found = conditional.reshape(*conditional.shape, *[1] * (found.dim() - 1)) + found
    return found


def posterior(model: dbn.Model) -> Tensor:
    """log q(h1 ... h(L-1) given v) over all states, with the axes of `joint`."""
    found = torch.zeros(2 ** model.widths[0], dtype=torch.float64)
    for level in range(1, len(model.widths) - 1):
        below, above = states(model.widths[level - 1]), states(model.widths[level])
        found = found[..., None] + log_bernoulli(above, model._recognition_input(level, below))
    return found


def marginal(model: dbn.Model) -> Tensor:
    """log p*(v) of every v."""
    return torch.logsumexp(joint(model).flatten(1), 1) if len(model.widths) > 2 else joint(model)


def test_one_layer_is_a_restricted_boltzmann_machine():
    deep, flat = network(5, [3], sample_sweeps=100), rbm.Model(rbm.Spec(hidden=3), 5)
    names = {"weights": "top.weights", "visible_bias": "top.below", "hidden_bias": "top.above", "base_bias": "top.base"}
    flat.load_state({ours: deep.parameters[theirs] for ours, theirs in names.items()})
    every = states(5)
    for found in (deep.log_weights_unnormalised(every, 2, generator()), deep.bound_unnormalised(every, 2, generator())):
        torch.testing.assert_close(found, flat.log_unnormalised(every).expand(2, -1))
    assert log_partition(deep.enumeration()) == pytest.approx(log_partition(flat.enumeration()), abs=1e-12)
    assert_follows([deep.sample(20_000, generator(2))], torch.softmax(flat.log_unnormalised(every), 0))
    data = dataset(two_modes(50, 5))
    theirs = Path(flat._bipartite(), deep.parameters["top.base"], torch.zeros(3))
    for beta in (0.0, 0.4, 1.0):
        ours = deep.annealed_path(data)
        torch.testing.assert_close(ours.log_unnormalised(every, beta), theirs.log_unnormalised(every, beta))


@pytest.mark.parametrize("above", [4, 6])
def test_a_transposed_layer_leaves_the_distribution_as_it_is_and_the_bound_tight(above):
    model = network(4, [3, above], weight_sd=0.0)
    bottom = model.layer(1)
    flat = rbm.Model(rbm.Spec(hidden=3), 4)
    names = {"weights": bottom.weights, "visible_bias": bottom.below, "hidden_bias": bottom.above}
    flat.load_state({**names, "base_bias": bottom.below})
    for name in ("weights", "below", "above"):
        model.parameters[f"top.{name}"].zero_()
    model._start(2, torch.zeros(5, 3, dtype=torch.float64), dataset(two_modes(30, 4)), generator())
    model._tie()
    every = states(4)
    expected = flat.log_unnormalised(every) - log_partition(flat.enumeration())
    log_z = log_partition(model.enumeration())
    torch.testing.assert_close(marginal(model) - log_z, expected, rtol=0, atol=1e-12)
    draws = model.log_weights_unnormalised(every, 20, generator(3)) - log_z
    torch.testing.assert_close(draws, expected.expand(20, -1), rtol=0, atol=1e-12)


def test_a_smaller_layer_starts_near_zero_at_the_base_rates_of_what_lies_below():
    model, data = network(4, [3, 2], weight_sd=0.0), dataset(two_modes(30, 4))
    model._start(2, torch.zeros(5, 3, dtype=torch.float64), data, generator())
    means = torch.sigmoid(model.layer(1).above + data.train.all().double() @ model.layer(1).weights)
    assert not model.parameters["top.weights"].any()
    torch.testing.assert_close(
        torch.sigmoid(model.parameters["top.base"]), (means.sum(0) + 5) / (30 + 10), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("hidden", [[3, 4], [3, 2, 3]])
def test_bound_and_estimate_against_enumeration_of_all_hidden_units(hidden):
    model, every, k = network(4, hidden), states(4), 20_000
    log_joint, log_q = joint(model).flatten(1), posterior(model).flatten(1)
    assert torch.logsumexp(marginal(model), 0).item() == pytest.approx(log_partition(model.enumeration()), abs=1e-10)
    bound = (log_q.exp() * (log_joint - log_q)).sum(1)
    assert (bound <= marginal(model)).all()
    draws = model.log_weights_unnormalised(every, k, generator(4))
    z = (draws.mean(0) - bound) / (draws.std(0) / math.sqrt(k))
    weights = torch.exp(draws - marginal(model))  # mean 1: the estimate is unbiased for p*(v)
    z_of_weights = (weights.mean(0) - 1) / (weights.std(0) / math.sqrt(k))
    # 32 comparisons at 5 standard errors: a false alarm in 50,000 seeds where the means are Gaussian.
    assert z.abs().max() < 5
    assert z_of_weights.abs().max() < 5


@pytest.mark.parametrize("phase", ["wake", "sleep"])
def test_up_down_directions_are_the_exact_gradients(phase):
    """Wake: of E_q E_data log p(v, h1 given what lies above); sleep: of E_p log q(h1, h2 given what lies below)."""
    model = network(3, [2, 2, 3])
    log_q = posterior(model)
    data = torch.softmax(torch.arange(8.0, dtype=torch.float64) / 3, 0)
    probability = torch.exp(log_q) * data[:, None, None] if phase == "wake" else torch.softmax(joint(model).ravel(), 0)
    own = "generative" if phase == "wake" else "recognition"
    leaves = {n: v.clone().requires_grad_(n.startswith(own)) for n, v in model.state().items()}
    model.load_state(leaves)
    down = sum(
        log_bernoulli(states(a), model._generative_input(level, states(b))).T.reshape(
            *(1,) * (level - 1), 2**a, 2**b, *(1,) * (2 - level)
        )
        for level, (a, b) in enumerate(((3, 2), (2, 2)), 1)
    )
    score = down if phase == "wake" else posterior(model)
    (probability.reshape(score.shape) * score).sum().backward()
    model.load_state({name: value.detach() for name, value in leaves.items()})
    find = model.generative_direction if phase == "wake" else model.recognition_direction
    sums: dict[str, Tensor] = {}
    for place in itertools.product(*(range(2**m) for m in (3, 2, 2))):
        rows = [states(m)[i : i + 1] for m, i in zip((3, 2, 2), place, strict=True)]
        for name, value in find(rows).items():
            sums[name] = sums.get(name, 0) + probability.reshape(score.shape)[place] * value
    assert len(sums) == 4
    for name, value in sums.items():
        torch.testing.assert_close(value, leaves[name].grad, rtol=1e-10, atol=1e-12)


def assert_follows(drawn: list[Tensor], probability: Tensor) -> None:
    """Chi-square over all states of some layers at once, those expected less than five times pooled."""
    bits = torch.cat(drawn, 1)
    code = bits @ (2.0 ** torch.arange(bits.shape[1] - 1, -1, -1, dtype=torch.float64))
    expected = len(bits) * probability.ravel()
    observed = torch.bincount(code.long(), minlength=len(expected)).double()
    rare = expected < 5
    observed = torch.cat([observed[~rare], observed[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None] + 1e-9])
    from scipy.stats import chi2

    # A false alarm in 100,000 seeds.
    assert chi2.sf(float(((observed - expected) ** 2 / expected).sum()), len(expected) - 1) > 1e-5


def test_passes_up_and_down_follow_the_enumerated_distributions():
    model, n = network(3, [2, 2, 3], sample_sweeps=100), 40_000
    start = states(3)[torch.randint(8, (n,), generator=generator(5))]
    assert_follows(model.recognise(start, generator(6)), posterior(model).exp() / 8)
    at_top = torch.softmax(model.top().log_unnormalised(states(2)), 0)
    highest = states(2)[torch.multinomial(at_top, n, replacement=True, generator=generator(7))]
    assert_follows(model.generate(highest, generator(8)), torch.softmax(joint(model).ravel(), 0))
    assert_follows([model.sample(n, generator(9))], torch.softmax(marginal(model), 0))


@pytest.mark.parametrize("hidden", [[3], [3, 4]])
def test_reconstructions_forget_their_start(hidden):
    """After many steps the pixels' means are those of the model, whatever the example."""
    model, n = network(4, hidden, scale=0.7), 20_000
    expected = torch.softmax(marginal(model), 0) @ states(4)
    for x in (torch.zeros(n, 4), torch.ones(n, 4)):
        found = model.reconstruct(x, 60, generator(10)).mean(0)
        # Means lie in [0, 1]: standard error at most 0.0036; 16 comparisons at 5 standard errors.
        assert (found - expected).abs().max() < 5 * 0.5 / math.sqrt(n)


def test_features_are_the_means_of_the_pass_up():
    model, x = network(4, [3, 2]), states(4)
    first = torch.sigmoid(model.parameters["recognition.1.bias"] + x @ model.parameters["recognition.1.weights"])
    expected = torch.sigmoid(model.parameters["top.above"] + first @ model.parameters["top.weights"])
    torch.testing.assert_close(model.features(x), expected)


def trained(training: str, up_down_epochs: int) -> tuple[float, dbn.Model, Session]:
    """Gain in mean training log-likelihood over independent pixels, exact."""
    data = dataset(two_modes(600, 6))
    options = {"epochs": 60, "batch_size": 50, "learning_rate": 0.1, "weight_decay": 0.0, "chains": 50}
    spec = dbn.Spec(hidden=[4, 6], training=training, up_down_epochs=up_down_epochs, **options)
    model, session = dbn.Model(spec, 6), Session(generator())
    model.fit(data, session)
    model.load_state({name: value.double() for name, value in model.state().items()})
    log_prob = marginal(model) - log_partition(model.enumeration())
    code = (data.train.all() @ (2.0 ** torch.arange(5, -1, -1))).long()
    rates = data.train.all().double().mean(0)
    independent = (rates * rates.log() + (1 - rates) * (1 - rates).log()).sum()
    return float(log_prob[code].mean() - independent), model, session


@pytest.mark.parametrize("training", ["cd", "pcd", "cd_growing"])
def test_training_beats_independent_pixels(training):
    gain, model, session = trained(training, 0)
    # Over six seeds the gains are 0.82 to 0.89 nats; no model of these examples gains more than 1.06.
    assert 0.7 < gain < 1.06
    assert torch.equal(model.parameters["generative.1.weights"], model.parameters["recognition.1.weights"])
    monitors = ("hidden_activity", "free_energy_gap", "change_rate")
    assert session.history[0].keys() - {"step"} <= {f"{name}_1" for name in monitors}
    assert session.history[-1].keys() == {"step"} | {f"{name}_2" for name in monitors}


def test_up_down_unties_the_weights_and_raises_the_likelihood():
    (before, _, _), (after, model, session) = trained("cd", 0), trained("cd", 40)
    # The same start: by 0.019 to 0.024 nats in each of six seeds.
    assert after > before + 0.01
    assert not torch.equal(model.parameters["generative.1.weights"], model.parameters["recognition.1.weights"])
    assert "wake_log_likelihood" in session.history[-1]
