"""The importance-weighted autoencoder against the variational one, and against its gradient written out by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import Diverged
from dgmbench.models.variational import iwae, vae
from dgmbench.training.session import Session

LAYERS = [{}, {"upper_latent": 2, "upper_hidden": [3]}]


def network(module, dimension: int = 6, seed: int = 0, scale: float = 0.6, **spec):
    """A random machine in float64, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    model = module.Model(module.Spec(latent=2, hidden=[5, 4], **spec), dimension)
    drawn = {
        name: scale * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in model.state().items()
    }
    model.load_state({name: value.requires_grad_(True) for name, value in drawn.items()})
    return model


def every_x(d: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=d)), dtype=torch.float64)


def gradients(model, value: Tensor) -> dict[str, Tensor]:
    return dict(zip(model.parameters, torch.autograd.grad(value, list(model.parameters.values())), strict=True))


@pytest.mark.parametrize("layers", LAYERS)
def test_one_sample_is_the_elbo_in_value_and_gradient(layers):
    x, found = every_x(6)[::3], []
    for model in (network(iwae, samples_k=1, **layers), network(vae, divergence="sampled", **layers)):
        objective, bound = model.objective(x, torch.Generator().manual_seed(7), 1.0)
        torch.testing.assert_close(objective, bound, rtol=0, atol=0)
        found.append((objective, gradients(model, objective.mean())))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=1e-12)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-10, atol=1e-12)
        assert bool(gradient.any()), name


@pytest.mark.parametrize("layers", LAYERS)
def test_gradient_is_that_of_the_log_weights_by_normalised_weights(layers):
    """Equation 14: sum_i w_i / (sum_j w_j) times the gradient of log w_i, under the same noise."""
    model, x = network(iwae, samples_k=4, **layers), every_x(6)[7:8]
    objective, _ = model.objective(x, torch.Generator().manual_seed(3), 1.0)
    found = gradients(model, objective.sum())
    log_likelihood, divergence = model.terms(x, model.noise(4, len(x), torch.Generator().manual_seed(3)))
    log_weights = (log_likelihood - divergence)[:, 0]
    shares = log_weights.detach().softmax(0)
    assert 0.01 < shares.max() < 0.99
    by_draw = [
        torch.autograd.grad(one, list(model.parameters.values()), retain_graph=True) for one in log_weights.unbind()
    ]
    for place, name in enumerate(model.parameters):
        expected = sum(share * gradient[place] for share, gradient in zip(shares, by_draw, strict=True))
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layers", LAYERS)
def test_the_gradient_of_one_draw_is_that_of_all_on_average(layers):
    """Under the same noise, over which draw is taken: a mean of 4,000, within 5 standard errors for each parameter."""
    x, n = every_x(6)[7:8], 4000
    one, every = (network(iwae, samples_k=4, gradient_draws=draws, **layers) for draws in (1, None))
    objective, bound = every.objective(x, torch.Generator().manual_seed(3), 1.0)
    expected = gradients(every, objective.sum())
    noise = [part.expand(-1, n, -1) for part in one.noise(4, 1, torch.Generator().manual_seed(3))]
    values, bounds = one._through_some(x.expand(n, -1), noise, 1, torch.Generator().manual_seed(4))
    torch.testing.assert_close(bounds, bound.detach().expand(n), rtol=1e-10, atol=1e-12)
    parameters = list(one.parameters.values())
    mean = dict(zip(one.parameters, torch.autograd.grad(values.mean(), parameters, retain_graph=True), strict=True))
    # Of each possible draw once, for the spread of a single one.
    log_weights = values.detach()
    firsts = [int((log_weights == value).nonzero()[0]) for value in log_weights.unique()]
    assert len(firsts) == 4
    counts = torch.stack([(log_weights == log_weights[i]).double().mean() for i in firsts])
    singles = [torch.autograd.grad(values[i], parameters, retain_graph=True) for i in firsts]
    for place, name in enumerate(one.parameters):
        drawn = torch.stack([single[place] for single in singles])
        shape = (-1,) + (1,) * (drawn.dim() - 1)
        torch.testing.assert_close(mean[name], (counts.view(shape) * drawn).sum(0), rtol=1e-9, atol=1e-11)
        variance = (counts.view(shape) * (drawn - mean[name]).square()).sum(0)
        assert bool(((mean[name] - expected[name]).abs() < 5 * (variance / n).sqrt() + 1e-9).all()), name


def test_one_sample_has_one_gradient():
    x, found = every_x(6)[::3], []
    for draws in (1, 3, None):
        model = network(iwae, samples_k=1, gradient_draws=draws)
        objective, _ = model.objective(x, torch.Generator().manual_seed(7), 1.0)
        found.append(gradients(model, objective.mean()))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[2][name], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found[1][name], found[2][name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("draws", [1, 3])
def test_some_draws_are_independent_ones_by_the_weights(draws):
    """The objective over 20,000 copies of an example: mean and variance of a mean of `draws` by the weights."""
    n = 20_000
    model, x = network(iwae, samples_k=4, gradient_draws=draws), every_x(6)[7:8]
    single = model.noise(4, 1, torch.Generator().manual_seed(3))
    log_likelihood, divergence = model.terms(x, single)
    log_weights = (log_likelihood - divergence).detach()[:, 0]
    shares = log_weights.softmax(0)
    mean = (shares * log_weights).sum()
    variance = (shares * (log_weights - mean).square()).sum() / draws
    model.noise = lambda k, count, generator: [part.expand(-1, n, -1) for part in single]
    values, _ = model.objective(x.expand(n, -1), torch.Generator().manual_seed(4), 1.0)
    # 4 standard errors: a false alarm in 16,000 seeds; of the variance, whose error depends on the fourth moment, 10 %.
    assert abs(values.mean() - mean) < 4 * (variance / n).sqrt()
    assert values.var().item() == pytest.approx(variance.item(), rel=0.1)


@pytest.mark.parametrize("draws", [4, 9, None])
def test_as_many_draws_as_samples_are_all_of_them(draws):
    x = every_x(6)[::3]
    objective, bound = network(iwae, samples_k=4, gradient_draws=draws).objective(
        x, torch.Generator().manual_seed(7), 1.0
    )
    assert torch.equal(objective, bound)


def test_weights_that_are_not_finite_end_the_training_as_diverged():
    data = Dataset("small", "small", "binary", (6,), {n: Split(np.eye(6)) for n in ("train", "validation")}, {})
    model = iwae.Model(iwae.Spec(latent=2, hidden=[4], samples_k=4, gradient_draws=1, learning_rate=1e6, epochs=50), 6)
    with pytest.raises(Diverged):
        model.fit(data, Session(torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("layers", LAYERS)
def test_bound_rises_with_k(layers):
    x, n = every_x(6)[11:12], 20_000
    bounds = []
    for k in (1, 3, 9, 27):
        with torch.no_grad():
            drawn = network(iwae, samples_k=k, **layers).objective(
                x.expand(n, -1), torch.Generator().manual_seed(k), 1.0
            )[1]
        bounds.append((drawn.mean().item(), drawn.std().item() / math.sqrt(n)))
    for (lower, se), (upper, se_upper) in itertools.pairwise(bounds):
        # The true gains are many standard errors: a fall by more than 4 of them happens in 30,000 seeds.
        assert upper - lower > -4 * math.hypot(se, se_upper)
    assert bounds[-1][0] - bounds[0][0] > 10 * math.hypot(bounds[0][1], bounds[-1][1])


def test_both_models_give_the_same_weights_and_samples_with_the_same_parameters():
    ours, theirs = network(iwae, **LAYERS[1]), network(vae, **LAYERS[1])
    x = every_x(6)[::5]
    weights, samples = [], []
    for model in (ours, theirs):
        weights.append(model.log_weights(x, 6, torch.Generator().manual_seed(1)))
        samples.append(model.sample(9, torch.Generator().manual_seed(1)))
    assert torch.equal(*weights)
    assert torch.equal(*samples)


class Killed(Exception):
    pass


class KilledAtRecord(Session):
    """A session that is killed in the middle of a step, after so many records."""

    left = 5

    def record(self, **values):
        super().record(**values)
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize(("module", "spec"), [(vae, {"warm_up_epochs": 2}), (iwae, {}), (iwae, {"averaging": 0.7})])
def test_two_layers_resume_to_the_same_bits_after_a_kill(module, spec, tmp_path):
    x = (np.random.default_rng(0).random((60, 6)) < 0.3).astype(np.uint8)
    data = Dataset("small", "small", "binary", (6,), {name: Split(x) for name in ("train", "validation")}, {})
    options = {"latent": 2, "hidden": [4], "upper_latent": 2, "upper_hidden": [3], "epochs": 3, "batch_size": 20}
    spec = module.Spec(**options, samples_k=2, validate_every=1, **spec)

    def trained(session: Session) -> dict[str, Tensor]:
        model = module.Model(spec, 6)
        model.fit(data, session)
        return model.state()

    checkpoints = {"checkpoint_path": tmp_path / "checkpoint", "checkpoint_seconds": 0.0}
    whole = trained(Session(torch.Generator().manual_seed(1)))
    with pytest.raises(Killed):
        trained(KilledAtRecord(torch.Generator().manual_seed(1), **checkpoints))
    resumed = trained(Session(torch.Generator().manual_seed(99), **checkpoints))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
