"""What the numbers of every model must prove: sums and integrals of one, samplers, weights, paths, posteriors.

Stochastic tests compare at five standard errors (false alarms: 6e-7 each, two-sided) or at p = 1e-6, under fixed
seeds.
"""

import math

import pytest
import torch
from contract import models as made

from dgmbench.models import base

all_states, assert_frequencies, fitted, having = made.all_states, made.assert_frequencies, made.fitted, made.having
plane, rng, tiny = made.plane, made.rng, made.tiny


@pytest.mark.parametrize(("name", "values"), having(base.Density, "binary"))
def test_a_mass_function_sums_to_one_and_its_sampler_agrees(name, values):
    model, states = fitted(name, values), all_states(tiny(values).dimension)
    log_prob = model.log_prob(states)
    assert float(log_prob.double().exp().sum()) == pytest.approx(1, rel=1e-6)
    if isinstance(model, base.Sampler):
        assert_frequencies(model.sample(20_000, rng(6)), log_prob.double().exp())


@pytest.mark.parametrize(("name", "values"), having(base.Density, "unit", "real"))
def test_a_density_integrates_to_one_and_its_sampler_agrees(name, values):
    model = fitted(name, values)
    points, area = plane(values)
    log_prob = model.log_prob(points.float()).double()
    probability = log_prob.exp() * area
    assert float(probability.sum()) == pytest.approx(1, abs=1e-3)
    if not isinstance(model, base.Sampler):
        return
    x = model.sample(20_000, rng(6)).double()
    on_grid = torch.cat([points, points.square(), points.prod(1, keepdim=True), log_prob[:, None]], 1)
    on_samples = torch.cat([x, x.square(), x.prod(1, keepdim=True), model.log_prob(x.float()).double()[:, None]], 1)
    expected = (probability[:, None] * on_grid.nan_to_num(neginf=0.0)).sum(0)
    z = (on_samples.mean(0) - expected) / (on_samples.std(0) / math.sqrt(len(x)) + 1e-4)
    assert float(z.abs().max()) < 5


@pytest.mark.parametrize(("name", "values"), having(base.Density))
def test_a_density_beats_the_independent_control_unless_it_is_independent(name, values):
    model, data = fitted(name, values), tiny(values)
    x = data.test.all()
    a, b = x[:20], x[20:40]
    crossed = torch.cat([a[:, :1], b[:, 1:]], 1), torch.cat([b[:, :1], a[:, 1:]], 1)
    interaction = model.log_prob(a) + model.log_prob(b) - model.log_prob(crossed[0]) - model.log_prob(crossed[1])
    if float(interaction.abs().max()) < 1e-6:
        return  # p(x) = p(x_1) p(x_2 ...): dimensions are independent, and there is nothing to beat
    train = data.train.all().double()
    if values == "binary":
        control = torch.distributions.Bernoulli(probs=train.mean(0))
    else:
        control = torch.distributions.Normal(train.mean(0), train.std(0))
    independent = control.log_prob(x.double()).sum(1).mean()
    assert float(model.log_prob(x).mean()) > float(independent) + 0.1


@pytest.mark.parametrize(("name", "values"), having(base.LatentVariable, "binary"))
def test_importance_weights_are_unbiased_and_sum_to_one(name, values):
    model, states = fitted(name, values), all_states(tiny(values).dimension)
    few, many = (model.log_weights(states, k, rng(k)).double().exp() for k in (1000, 4000))
    estimates = [(w.mean(0).sum(), w.var(0).sum() / len(w)) for w in (few, many)]
    for total, variance in estimates:
        assert abs(float(total) - 1) < 5 * math.sqrt(float(variance)) + 1e-5
    spread = few.var(0) / len(few) + many.var(0) / len(many)
    z = (few.mean(0) - many.mean(0)) / (spread.sqrt() + 1e-7)
    assert float(z.abs().max()) < 6  # 64 comparisons with skewed weights: false alarms about 1e-7 where Gaussian


@pytest.mark.parametrize(("name", "values"), having(base.Energy, "binary"))
def test_an_annealed_path_leads_from_its_base_to_the_model(name, values):
    model, data = fitted(name, values), tiny(values)
    states, path = all_states(data.dimension), model.annealed_path(data)
    target = model.log_unnormalised(states).double()
    assert path.sample_base(5, rng(7)).shape == (5, data.dimension)
    torch.testing.assert_close(path.log_unnormalised(states, 1.0).double(), target, rtol=1e-5, atol=1e-5)
    base_terms = path.log_unnormalised(states, 0.0).double()
    assert float(base_terms.logsumexp(0)) == pytest.approx(path.log_z_base, abs=1e-4)
    ratio = path.log_ratio(states, 0.3, 0.7).double()
    expected = (path.log_unnormalised(states, 0.7) - path.log_unnormalised(states, 0.3)).double()
    torch.testing.assert_close(ratio, expected, rtol=1e-4, atol=1e-4)
    assert_frequencies(path.sample_base(20_000, rng(8)), base_terms.softmax(0))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("name", "values"), having(base.Energy, "binary"))
def test_a_transition_leaves_its_temperature_invariant(name, values, beta):
    model, data = fitted(name, values), tiny(values)
    states, path = all_states(data.dimension), model.annealed_path(data)
    probability = path.log_unnormalised(states, beta).double().softmax(0)
    start = states[torch.multinomial(probability, 20_000, replacement=True, generator=rng(9))]
    assert_frequencies(path.step(start, beta, rng(10)), probability)


@pytest.mark.parametrize(("name", "values"), having(base.Energy, "binary"))
def test_the_partition_function_by_enumeration_is_the_sum_over_all_states(name, values):
    model = fitted(name, values)
    enumeration = model.enumeration()
    over_model = model.log_unnormalised(all_states(tiny(values).dimension)).double().logsumexp(0)
    over_side = enumeration.log_term(all_states(enumeration.bits).double()).double().logsumexp(0)
    assert float(over_side) == pytest.approx(float(over_model), abs=1e-4)


@pytest.mark.parametrize(("name", "values"), having(base.PatchPrior))
def test_posteriors_tend_to_the_observation_as_noise_vanishes(name, values):
    model, y = fitted(name, values), tiny(values).test.all()
    for estimate in (model.posterior_mode, model.posterior_mean):
        torch.testing.assert_close(estimate(y, 1e-5), y, rtol=0, atol=1e-3)
    assert float((model.posterior_mean(y, 100.0) - y).abs().max()) > 0
