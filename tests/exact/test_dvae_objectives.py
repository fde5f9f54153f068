"""What DVAE, DVAE++ and DVAE# maximise: the discrete bound where they are sharp, and gradients by differences."""

import math

import numpy as np
import pytest
import test_dvae as discrete
import torch
from torch import Tensor

from dgmbench.models.variational._boltzmann_prior import bernoulli_entropy, mean_log_unnormalised
from dgmbench.models.variational._normalised_networks import NormalisedNetworks
from dgmbench.models.variational.smoothing.base import Smoothing
from dgmbench.models.variational.smoothing.spike_and_exponential import SpikeAndExponential

every, rng = discrete.every, discrete.rng
OVERLAPPING = [method for method in discrete.METHODS if method != "dvae/spike-exp"]
# Where zeta is as good as z: the power function has 1 % of its mass further than 0.01 from z at beta = 460.
SHARP = {"exp": 1e5, "spike-exp": 1e5, "uniform-exp": 1e5, "gaussian": 1e8, "power": 3e3, "gaussian-integral": 400.0}


def network(method: str, beta: float, **spec):
    """A random machine as those beside this file, with gradients; mean field is run to its end."""
    if method.startswith("dvae#") and not method.endswith("integral"):
        spec = {"mean_field_sweeps": 300, **spec}
    model = discrete.network(method, **{"scale": 0.4, **spec})
    model.beta = beta
    model.load_state({name: value.requires_grad_(True) for name, value in model.state().items()})
    for value in (*model.networks.statistics.values(), model.mean):
        value.requires_grad_(False)
    return model


def exact_elbo(model, x: Tensor) -> Tensor:
    """ELBO + log Z of the discrete model, by enumeration of z: (n, d) -> (n,)."""
    states = every(sum(model.machine.weights.shape))
    log_q = torch.stack([discrete.log_posterior(model, one.expand(len(states), -1), states) for one in x])
    return (log_q.exp() * (discrete.log_joint(model, x) - log_q)).sum(1)


@pytest.mark.parametrize("groups", [{"groups": 1}, {"groups": 2, "latent": 2}])
@pytest.mark.parametrize("method", discrete.METHODS)
def test_the_sharp_relaxed_bound_is_the_discrete_elbo(method, groups):
    name = method.split("/")[1]
    options = {"epsilon": 1e-6} if name == "uniform-exp" else {}
    model, x, n = network(method, SHARP[name], **groups, **options), every(6)[21:22], 20_000
    with torch.no_grad():
        if name == "gaussian-integral":  # posterior components like those of the prior: sd 0.05, where z is
            model.others["posterior.sd"].zero_()
            for g in range(model.spec.groups):
                m = model.spec.latent
                model.networks.parameters[f"encoder{g}.0.weight"][m:] = 0.0
                model.networks.parameters[f"encoder{g}.0.bias"][m:] = 0.0
        objective, bound = model.objective(x.expand(n, -1), rng(1), 1.0)
        elbo = exact_elbo(model, x)
    assert torch.equal(objective, bound)
    # Beyond 5 standard errors in 1.7 million; what is left of the relaxation is below 0.02 nats.
    standard_error = bound.std().item() / math.sqrt(n)
    assert standard_error < 0.02
    assert bound.mean().item() == pytest.approx(elbo.item(), abs=5 * standard_error + 0.02)


def frozen_quantiles(self: Smoothing, logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draws by the inverse distribution function, which move with the logits where draws of z first would jump."""
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    return self.icdf(0.02 + 0.96 * uniform, logits)


@pytest.mark.parametrize(
    "structure", [{"groups": 1}, {"groups": 2, "latent": 2, "hidden": [3], "samples_k": 3}], ids=["linear", "groups"]
)
@pytest.mark.parametrize("method", [*OVERLAPPING, "dvae/spike-exp"])
def test_gradient_by_finite_differences(method, structure, monkeypatch):
    """Of every network and of the prior, noise held fixed; one group alone of the spike, whose draws of z jump."""
    if method == "dvae/spike-exp":
        structure = {**structure, "groups": 1}
    monkeypatch.setattr(Smoothing, "sample", frozen_quantiles)
    beta = {"power": 3.0, "gaussian": 9.0, "gaussian-integral": 8.0}.get(method.split("/")[1], 5.0)
    model, x = network(method, beta, **structure), every(6)[::7]

    def objective() -> Tensor:
        return model.objective(x, rng(7), 0.7)[0].mean()

    objective().backward()
    step = 1e-5
    for name, value in model.parameters.items():
        place = tuple(side // 2 for side in value.shape)
        with torch.no_grad():
            value[place] += step
            above = objective()
            value[place] -= 2 * step
            below = objective()
            value[place] += step
        found = ((above - below) / (2 * step)).item()
        assert found == pytest.approx(value.grad[place].item(), rel=2e-5, abs=2e-8), name


def test_the_jump_of_the_spike_is_in_the_gradient_of_the_prior():
    """E[log p(z)] of two units in two groups, zeta integrated over its uniform number, against its exact derivative.

    With zeta = r^-1(t given 1) where z_1 = 1, E = (1 - q_1) h(0) + q_1 (integral of h(zeta(t)) over t), whose bounds
    do not move with q_1.
    """
    model, x = network("dvae/spike-exp", 3.0, groups=2, latent=1, scale=1.0), every(6)[21:22]
    machine, smoothing, seen = model.machine, SpikeAndExponential(3.0), x - model.mean
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(40))
    t, weights = 0.5 * (nodes + 1), 0.5 * weights
    parameters = [value for name, value in model.parameters.items() if "decoder" not in name]

    first = model.networks.apply("encoder0", [seen])[0, 0]
    q = torch.sigmoid(first)
    zeta = torch.cat((torch.zeros(1), smoothing.draws(t)[1])).double()[:, None]
    q_other = torch.sigmoid(model.networks.apply("encoder1", [seen, zeta])[:, 0])
    on = (weights * q_other[1:]).sum()
    linear = machine.own[0] * q + machine.other[0] * ((1 - q) * q_other[0] + q * on)
    exact = linear + machine.weights[0, 0] * q * on
    expected = torch.autograd.grad(exact, parameters, retain_graph=True)

    share = torch.cat(((1 - q)[None], q * weights)).detach()
    rho = torch.cat(((0.5 * (1 - q))[None], 1 - q + q * t)).detach()
    drawn = smoothing.icdf(rho, first)
    second = model.networks.apply("encoder1", [seen, drawn[:, None]])[:, 0]
    logits = torch.stack((first.expand(len(drawn)), second), 1)
    log_prior = model.log_prior(torch.stack((drawn, torch.full_like(drawn, 0.5)), 1), logits)
    assert (share * log_prior).sum().item() == pytest.approx(exact.item(), abs=1e-12)
    found = torch.autograd.grad((share * log_prior).sum(), parameters, retain_graph=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)
    jumping = linear + machine.weights[0, 0] * (share[1:] * torch.sigmoid(second[1:])).sum()
    without = torch.autograd.grad(jumping, parameters)
    assert any((one - other).abs().max() > 1e-3 for one, other in zip(without, expected, strict=True))


def test_the_prior_ascends_the_likelihood():
    """One group: with exact samples, each as often as its probability, the prior's gradient is that of the ELBO."""
    model, x = network("dvae/spike-exp", 5.0, scale=0.8), every(6)[::5]
    prior = [model.others[f"prior.{name}"] for name in ("weights", "own", "other")]
    exact = exact_elbo(model, x).mean() - discrete.log_z(model.machine)
    expected = torch.autograd.grad(exact, prior)
    share = torch.softmax(discrete.log_joint_of_prior(model.machine).detach(), 0)
    chains = torch.repeat_interleave(every(4), (1e6 * share).round().long(), 0).split([2, 2], 1)
    objective = model.objective(x, rng(3), 1.0)[0].mean() - mean_log_unnormalised(model.machine, *chains)
    for found, wanted in zip(torch.autograd.grad(objective, prior), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", discrete.METHODS)
def test_one_draw_is_the_elbo_and_the_warm_up_weighs_its_divergence(method):
    x = every(6)[::3]
    beta = 3.0 if method.endswith("power") else 8.0
    found = [network(method, beta).objective(x, rng(2), weight) for weight in (0.0, 0.25, 1.0)]
    model = network(method, beta)
    zeta, logits, smoothings = model.relaxed(x, 1, rng(2))
    log_likelihood = model.log_prob_x(x, zeta)[0]
    bernoulli = torch.distributions.Bernoulli(torch.sigmoid(model.networks.apply("decoder", [zeta[0]])))
    torch.testing.assert_close(log_likelihood, bernoulli.log_prob(x).sum(1))
    torch.testing.assert_close(found[0][0], log_likelihood)
    torch.testing.assert_close(found[2][0], found[2][1])
    torch.testing.assert_close(found[1][0], 0.75 * log_likelihood + 0.25 * found[2][0])
    if method.startswith("dvae#"):
        by_hand = model.log_prior(zeta)[0] - smoothings[0].mixture_log_prob(zeta, logits)[0].sum(-1)
    else:
        by_hand = bernoulli_entropy(logits[0]) + log_energy_of_means(model, logits[0])
    torch.testing.assert_close(found[2][1], log_likelihood + by_hand)


def log_energy_of_means(model, logits: Tensor) -> Tensor:
    own, other = torch.sigmoid(logits).split([2, 2], 1)
    machine = model.machine
    return own @ machine.own + other @ machine.other + torch.einsum("ni,ij,nj->n", own, machine.weights, other)


def test_more_draws_tighten_the_importance_weighted_bound_and_not_the_mean_of_bounds():
    x, n, found = every(6)[21:22], 5000, {}
    for method in ("dvae#/power", "dvae++/power"):
        for k in (1, 10):
            with torch.no_grad():
                model = discrete.network(method, samples_k=k)
                model.beta = 3.0
                bound = model.objective(x.expand(n, -1), rng(k), 1.0)[1]
            found[method, k] = (bound.mean().item(), bound.std().item() / math.sqrt(n))
    (one, se_one), (ten, se_ten) = found["dvae#/power", 1], found["dvae#/power", 10]
    assert ten - one > 10 * math.hypot(se_one, se_ten)
    (one, se_one), (ten, se_ten) = found["dvae++/power", 1], found["dvae++/power", 10]
    # Beyond 5 standard errors in 1.7 million.
    assert abs(ten - one) < 5 * math.hypot(se_one, se_ten)
    assert se_ten < 0.5 * se_one


def normalised(seed: int) -> NormalisedNetworks:
    nets = NormalisedNetworks({"net": [4, 5, 3, 2]}, True)
    nets.initialise(rng(seed))
    for group in (nets.parameters, nets.statistics):
        group.update({name: value.double() for name, value in group.items()})
    return nets


def test_training_and_evaluation_agree_on_a_batch_with_the_running_statistics():
    nets, generator = normalised(1), rng(2)
    x = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    before = {name: value.clone() for name, value in nets.statistics.items()}
    first = x @ nets.parameters["net.0.weight"].T
    in_training = nets.apply("net", [x], training=True)
    # A fifth of the way to the batch's mean and unbiased variance.
    torch.testing.assert_close(nets.statistics["net.0.mean"], 0.8 * before["net.0.mean"] + 0.2 * first.mean(0))
    torch.testing.assert_close(nets.statistics["net.0.variance"], 0.8 * before["net.0.variance"] + 0.2 * first.var(0))
    assert (nets.apply("net", [x]) - in_training).abs().max() > 1e-3

    u = x
    for i in range(2):
        v = u @ nets.parameters[f"net.{i}.weight"].T
        mean, variance = v.mean(0), v.var(0, unbiased=False)
        nets.statistics[f"net.{i}.mean"], nets.statistics[f"net.{i}.variance"] = mean, variance
        u = (v - mean) / torch.sqrt(variance + 0.01)
        u = torch.tanh(nets.parameters[f"net.{i}.scale"] * u + nets.parameters[f"net.{i}.shift"])
    by_hand = u @ nets.parameters["net.2.weight"].T + nets.parameters["net.2.bias"]
    torch.testing.assert_close(in_training, by_hand)
    torch.testing.assert_close(nets.apply("net", [x]), in_training)
    # Evaluation looks at each row alone, training at all of them.
    torch.testing.assert_close(nets.apply("net", [x[:3]]), in_training[:3])
    assert (nets.apply("net", [x[:3]], training=True) - in_training[:3]).abs().max() > 1e-3


def test_evaluation_normalises_by_the_running_statistics_in_value_and_gradient():
    """Against torch's batch normalisation, with scales, shifts and statistics that are not their first ones."""
    nets, generator = normalised(1), rng(6)
    for group in (nets.parameters, nets.statistics):
        for name, value in group.items():
            group[name] = torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5
    for value in nets.parameters.values():
        value.requires_grad_(True)
    x = torch.randn(9, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    u = x
    for i in range(2):
        of = nets.parameters, nets.statistics
        scale, shift, mean, variance = (
            of[name in ("mean", "variance")][f"net.{i}.{name}"] for name in ("scale", "shift", "mean", "variance")
        )
        v = u @ nets.parameters[f"net.{i}.weight"].T
        u = torch.tanh(torch.nn.functional.batch_norm(v, mean, variance, scale, shift, eps=0.01))
    expected = u @ nets.parameters["net.2.weight"].T + nets.parameters["net.2.bias"]
    found, inputs = nets.apply("net", [x]), [x, *nets.parameters.values()]
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_parts_of_an_input_broadcast_as_their_concatenation(training):
    x = torch.randn(6, 3, generator=rng(3), dtype=torch.float64)
    z = torch.randn(7, 6, 1, generator=rng(4), dtype=torch.float64)
    whole = torch.cat((x.expand(7, 6, 3), z), -1)
    found, expected = (normalised(1).apply("net", parts, training) for parts in ([x, z], [whole]))
    torch.testing.assert_close(found, expected)


def test_first_weights_have_their_variance_and_no_tails():
    nets = NormalisedNetworks({"net": [200, 300, 1]}, True)
    nets.initialise(rng(5))
    weights, sd = nets.parameters["net.0.weight"], math.sqrt(2 / 200)
    # 60,000 weights: the standard error of the standard deviation is below 0.3 %.
    assert weights.std().item() == pytest.approx(sd, rel=0.015)
    assert weights.abs().max().item() <= 2.0001 / 0.8796 * sd
    assert torch.equal(nets.parameters["net.0.scale"], torch.ones(300))
