"""Training of DVAE, DVAE++ and DVAE#: chains and populations, schedules, what the exact likelihood gains."""

import pytest
import test_dvae as discrete
import torch
from pydantic import ValidationError
from torch import Tensor

from dgmbench.models.variational import dvae, dvae_pp, dvae_sharp
from dgmbench.models.variational._boltzmann_prior import GaussianIntegralRelaxation
from dgmbench.models.variational._discrete_training import (
    divergence_weight,
    learning_rate,
    measured_after,
    sharpness,
)
from dgmbench.models.variational._negative_phase import NegativePhase
from dgmbench.training.session import Session

every, rng = discrete.every, discrete.rng


@pytest.mark.parametrize("method", ["pcd", "population"])
def test_chains_that_have_the_prior_keep_it(method):
    machine = discrete.network("dvae/spike-exp", scale=1.0).machine
    exact = torch.log_softmax(discrete.log_joint_of_prior(machine), 0)
    negative = NegativePhase(machine, method, 20_000, 1, rng(5))
    start = every(4)[torch.multinomial(exact.exp(), 20_000, replacement=True, generator=rng(6))]
    negative.kept["chains"].copy_(start[:, :2])
    if method == "population":
        negative.kept["log_weight_from"].copy_(machine.log_unnormalised(start[:, :2]))
    own, other = negative.samples(machine, rng(7))
    # 15 degrees of freedom: P(chi-squared > 49) = 2e-5.
    discrete.assert_frequencies(torch.cat((own, other), 1), exact, 49)
    assert torch.equal(negative.kept["chains"], own)


def test_a_population_follows_an_update_at_once_and_chains_lag_behind():
    then, now = (
        discrete.network("dvae/spike-exp", seed=seed, scale=scale).machine for seed, scale in ((0, 1.2), (3, 2.4))
    )
    exact, before = (torch.log_softmax(discrete.log_joint_of_prior(machine), 0) for machine in (now, then))
    start = every(4)[torch.multinomial(before.exp(), 20_000, replacement=True, generator=rng(6))][:, :2]
    found = {}
    for method in ("pcd", "population"):
        negative = NegativePhase(then, method, 20_000, 1, rng(5))
        negative.kept["chains"].copy_(start)
        if method == "population":
            negative.kept["log_weight_from"].copy_(then.log_unnormalised(start))
        found[method] = discrete.chi_squared(torch.cat(negative.samples(now, rng(7)), 1), exact)
    # Copies of one chain make the population's counts a few times more variable than independent ones.
    assert found["population"] < 120 < 5 * 120 < found["pcd"]


@pytest.mark.parametrize("method", discrete.METHODS)
def test_training_raises_the_exact_likelihood(method):
    module, options = discrete.METHODS[method]
    options = {**options, "groups": 2, "latent": 2, "chains": 50, "sweeps": 3, "negative_phase": "population"}
    spec = module.Spec(
        **options,
        hidden=[8],
        samples_k=3 if module is dvae_sharp else 1,
        iterations=200,
        batch_size=100,
        learning_rate=0.03,
        validations=6,
        validation_temperatures=50,
    )
    data = discrete.dataset(discrete.blobs(1500, 6))
    model, session = module.Model(spec, 6), Session(rng(0))
    model.fit(data, session)
    x = data.test.all().double()
    rates = x.mean(0)
    independent = (rates * rates.log() + (1 - rates) * (1 - rates).log()).sum().item()
    model.load_state({name: value.double() for name, value in model.state().items()})
    # Independent pixels: -4.16; the source itself: -2.64.
    assert independent + 1 < discrete.log_prob(model, x).mean().item() < -2.5
    seen = [row["validation_bound"] for row in session.history if "validation_bound" in row]
    assert len(seen) == 6
    assert seen[0] < max(seen)


class Killed(Exception):
    pass


class Judged(dvae_sharp.Model):
    """A model whose validation bounds are made up, and its states whenever they were asked for."""

    bounds = (-5.0, -3.0, -4.0, -6.0)

    def validation_bound(self, x):
        self.seen = [*getattr(self, "seen", []), {name: value.clone() for name, value in self.state().items()}]
        return 0.0, self.bounds[len(self.seen) - 1]


def test_the_state_with_the_best_validation_bound_is_kept():
    spec = dvae_sharp.Spec(latent=4, hidden=[8], iterations=20, batch_size=10, chains=9, sweeps=2, validations=4)
    model = Judged(spec, 6)
    model.fit(discrete.dataset(discrete.blobs(90, 6)), Session(rng(2)))
    best, last = model.seen[1], model.seen[-1]
    assert all(torch.equal(value, best[name]) for name, value in model.state().items())
    assert any(not torch.equal(value, last[name]) for name, value in model.state().items())


class Watched(Session):
    """A session that keeps a copy of the state after so many steps."""

    after = 7

    def track(self, **objects):
        super().track(**objects)
        self.state = objects["state"]

    def steps(self, total, unit="step"):
        for step in super().steps(total, unit):
            if step == self.after:
                self.then = {name: value.clone() for name, value in self.state.items()}
            yield step


def test_a_stopped_training_is_the_beginning_of_the_whole_one():
    data = discrete.dataset(discrete.blobs(90, 6))
    options = {"latent": 4, "hidden": [8], "iterations": 20, "batch_size": 10, "chains": 9, "sweeps": 2}
    options |= {"validations": 4, "validation_temperatures": 5}
    whole, stopped = Watched(rng(1)), Session(rng(1))
    dvae_sharp.Model(dvae_sharp.Spec(**options), 6).fit(data, whole)
    model = dvae_sharp.Model(dvae_sharp.Spec(**options, stop_after=Watched.after), 6)
    model.fit(data, stopped)
    assert stopped.step == Watched.after
    assert model.state().keys() == whole.then.keys()
    assert all(torch.equal(value, whole.then[name]) for name, value in model.state().items())


class KilledAtRecord(Session):
    """A session that is killed in the middle of a step, after so many records."""

    left = 9

    def record(self, **values):
        super().record(**values)
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("method", ["dvae/spike-exp", "dvae#/gaussian-integral"])
def test_populations_and_groups_resume_to_the_same_bits_after_a_kill(method, tmp_path):
    data, (module, options) = discrete.dataset(discrete.blobs(90, 6)), discrete.METHODS[method]
    options = {**options, **discrete.TWO_GROUPS, "iterations": 10, "batch_size": 10, "chains": 9, "sweeps": 2}
    spec = module.Spec(**options, negative_phase="population", validations=5, validation_temperatures=5)

    def trained(session: Session) -> dict[str, Tensor]:
        model = module.Model(spec, 6)
        model.fit(data, session)
        return model.state()

    checkpoints = {"checkpoint_path": tmp_path / "checkpoint", "checkpoint_seconds": 0.0}
    whole = trained(Session(rng(1)))
    with pytest.raises(Killed):
        trained(KilledAtRecord(rng(1), **checkpoints))
    resumed = trained(Session(rng(99), **checkpoints))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_published_schedules_stretch_with_the_iterations():
    for iterations in (1000, 1_000_000):
        spec = dvae.Spec(iterations=iterations)
        places = [0, 0.019, 0.02, 0.599, 0.6, 0.749, 0.75, 0.949, 0.95, 0.999]
        factors = [0.1, 0.1, 1, 1, 1 / 3, 1 / 3, 0.1, 0.1, 1 / 33, 1 / 33]
        rates = [learning_rate(spec, round(place * iterations)) for place in places]
        assert rates == pytest.approx([3e-3 * factor for factor in factors])
        weights = [divergence_weight(spec, round(place * iterations)) for place in (0, 0.15, 0.3, 0.9)]
        assert weights == pytest.approx([0, 0.5, 1, 1])
    assert sum(measured_after(dvae.Spec(iterations=1000), step) for step in range(1000)) == 50
    assert divergence_weight(dvae.Spec(warm_up=0), 0) == 1
    few = dvae.Spec(iterations=3, validations=50)
    assert [measured_after(few, step) for step in range(3)] == [True] * 3


# One line for each structure: spike-exp, exp and power of DVAE++, then the relaxations of DVAE# in METHODS' order.
SHARPNESS = {
    "mnist-static": ([5, 12, 40, 40, 40, 12, 40, 40], [5, 14, 30, 30, 30, 12, 30, 40], [4, 10, 30, 30, 25, 10, 16, 30]),
    "omniglot-28": ([4, 14, 40, 40, 40, 12, 40, 40], [4, 12, 40, 30, 25, 10, 16, 30], [4, 10, 30, 25, 25, 8, 16, 20]),
}


@pytest.mark.parametrize("dataset", SHARPNESS)
def test_published_sharpness_by_method_structure_and_data(dataset):
    nonlinear = {"hidden": [200, 200]}
    structures = ({}, nonlinear, {**nonlinear, "groups": 2}, {**nonlinear, "groups": 4, "latent": 100})
    by_structure = (*SHARPNESS[dataset], SHARPNESS[dataset][2])
    for structure, published in zip(structures, by_structure, strict=True):
        for (method, (module, options)), beta in zip(discrete.METHODS.items(), published, strict=True):
            assert sharpness(module.Spec(**options, **structure), method, dataset) == beta


def test_a_sharpness_of_ones_own_is_taken():
    assert sharpness(dvae_sharp.Spec(beta=7.5), "dvae#/power", "omniglot-28") == 7.5
    for method, (module, options) in discrete.METHODS.items():
        assert module.Model(module.Spec(**options), 6).method == method
        assert sharpness(module.Spec(**options), method, "digits") > 1


@pytest.mark.parametrize(
    ("module", "spec", "says"),
    [
        (dvae, {"latent": 1}, "set 'latent' or 'groups' to 2 or more"),
        (dvae_pp, {"hidden": [0]}, "1 or more"),
        (dvae_pp, {"normalise": False}, "'normalise' is read only with hidden units: leave it out"),
        (dvae, {"iterations": 10, "stop_after": 11}, "'stop_after' is at most 'iterations', here 10"),
        (dvae_sharp, {"epsilon": 0.1}, "'epsilon' is read only with relaxation: uniform-exp"),
        (dvae_sharp, {"relaxation": "exp", "formulas": "code"}, "'formulas' is read only with relaxation: power"),
        (dvae_pp, {"smoothing": "exp", "formulas": "code"}, "changes nothing with smoothing: exp: leave it out"),
        (dvae_sharp, {"margin": 1.0}, "'margin' is read only with relaxation: gaussian-integral"),
        (dvae_sharp, {"relaxation": "gaussian-integral", "mean_field_sweeps": 3}, "leave it out"),
        (dvae, {"relaxation": "power"}, "Extra inputs"),
    ],
)
def test_refusals_say_what_to_write(module, spec, says):
    with pytest.raises(ValidationError, match=says):
        module.Spec(**spec)


def test_precision_stays_positive_definite_all_along_a_training(monkeypatch):
    """At every W that the Gaussian integral's density is asked for, with couplings that outgrow the first lambda."""
    least, norms = [], []
    density = GaussianIntegralRelaxation.log_unnormalised

    def watched(self, zeta):
        weights = self.machine.weights.detach().double()
        zeros = [torch.zeros(side, side, dtype=torch.float64) for side in weights.shape]
        full = torch.cat([torch.cat([zeros[0], weights], 1), torch.cat([weights.T, zeros[1]], 1)])
        precision = full + self.shift().item() * torch.eye(len(full), dtype=torch.float64)
        least.append(torch.linalg.eigvalsh(precision)[0].item())
        norms.append(torch.linalg.matrix_norm(weights, 2).item())
        return density(self, zeta)

    monkeypatch.setattr(GaussianIntegralRelaxation, "log_unnormalised", watched)
    hurried = {"iterations": 80, "learning_rate": 0.3, "warm_up": 0.0, "weight_decay": 0.0, "beta": 2.0, "margin": 0.5}
    spec = dvae_sharp.Spec(**{**dvae_sharp.SMOKE, **hurried, "relaxation": "gaussian-integral"})
    dvae_sharp.Model(spec, 6).fit(discrete.dataset(discrete.blobs(60, 6)), Session(torch.Generator().manual_seed(0)))
    assert len(norms) >= 80
    assert norms[0] < 2.0 < 2.5 < max(norms)
    # lambda - ||W|| >= margin but for the rounding of single precision.
    assert min(least) > 0.49
