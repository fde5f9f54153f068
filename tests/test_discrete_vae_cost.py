"""Cost of discrete autoencoders: every number is there, shares are those of the times, work is counted, refusals."""

import itertools
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from dgmbench.data.prepared import Dataset, Split
from dgmbench.errors import CannotBeDone
from dgmbench.estimators import _discrete_timing, discrete_vae_cost, importance_weighted, seeds_together_cost
from dgmbench.estimators._timing import Clocked, Timing
from dgmbench.estimators.base import Workbench
from dgmbench.models.boltzmann import dbn
from dgmbench.models.variational import dvae_sharp
from dgmbench.training.session import Session


@pytest.fixture(scope="module")
def data():
    x = (np.random.default_rng(1).random((110, 8)) < 0.4).astype(np.uint8)
    splits = {"train": Split(x[:90]), "validation": Split(x[90:100]), "test": Split(x[100:])}
    return Dataset("made-up", "made-up", "binary", (8,), splits, {})


def model(**spec):
    little = {**dvae_sharp.SMOKE, "iterations": 2, "validations": 1, "beta": 5.0}
    return dvae_sharp.Model(dvae_sharp.Spec(**little | spec), 8)


def bench():
    return Workbench(torch.Generator().manual_seed(0))


SECONDS = {
    "step": (0.02, 0.04, 0.03),
    "sampler": (0.01, 0.04, 0.024),
    "evaluation": (0.5, 0.25, 0.4),
    "square": (0.01, 0.011, 0.012),
}


def of_given_times(monkeypatch, data, rows_per_call=1000, **seconds):
    times = {name: Timing(values) for name, values in (SECONDS | seconds).items()}
    monkeypatch.setattr(discrete_vae_cost, "turns", lambda programs, repeats, task: times)
    settings = discrete_vae_cost.Settings(turns=3, steps=2, k=20, evaluated=10, rows_per_call=rows_per_call)
    return {n.metric: n for n in discrete_vae_cost.estimate(model(), data, settings, bench()).numbers}


@pytest.mark.parametrize("module", [discrete_vae_cost, seeds_together_cost])
def test_every_declared_number_comes_out_of_the_clock(data, module):
    numbers = module.estimate(model(), data, module.Settings(**module.SMOKE), bench()).numbers
    assert [number.metric for number in numbers] == list(module.METRICS)
    for number in numbers:
        assert math.isfinite(number.value)
        assert number.value > 0


def test_ratios_are_medians_of_the_turns_ratios(data, monkeypatch):
    found = of_given_times(monkeypatch, data)
    assert found["milliseconds_per_step"].value == pytest.approx(30)
    assert found["sampler_share"].value == pytest.approx(0.8)  # of 0.5, 1 and 0.8
    assert found["examples_per_second"].value == pytest.approx(10 / 0.4)
    # x (8) - 8 - z (4) and back, once up and twice down for two draws; three passes; sweeps of 2 x 2 units.
    step = 3 * 2 * 20 * ((8 * 8 + 8 * 4) + 2 * (4 * 8 + 8 * 8)) + 2 * 2 * 20 * 2 * 2 * 2
    square = 2 * 1024**3
    assert found["step_rate_share"].value == pytest.approx(step / square * 0.012 / 0.03)
    evaluation = 2 * 10 * ((8 * 8 + 8 * 4) + 20 * (4 * 8 + 8 * 8))
    assert found["evaluation_rate_share"].value == pytest.approx(evaluation / square * 0.012 / 0.4)
    assert all(number.converged is None for number in found.values())


@pytest.mark.parametrize("rows_per_call", [1000, 60, 20, 7, 1])
def test_the_evaluation_that_is_timed_calls_the_model_as_the_estimator_does(data, monkeypatch, rows_per_call):
    calls = []

    def log_weights(self, x, k, generator):
        calls.append((len(x), k))
        return torch.zeros(k, len(x), dtype=torch.float64)

    monkeypatch.setattr(discrete_vae_cost.Normalised, "log_weights", log_weights)
    settings = {"k": 20, "rows_per_call": rows_per_call}
    drawing = importance_weighted.Settings(**settings)
    importance_weighted.estimate(discrete_vae_cost.Normalised(model(), 0.0), data, drawing, bench())
    as_estimated, calls = calls, []
    timing = discrete_vae_cost.Settings(turns=2, steps=2, evaluated=10, **settings)
    discrete_vae_cost.estimate(model(), data, timing, bench())
    assert calls == as_estimated * 3  # two turns, and one before that warms up


def test_each_call_of_the_evaluation_encodes_anew(data, monkeypatch):
    one, three = (of_given_times(monkeypatch, data, rows) for rows in (1000, 7))
    once, each = 8 * 8 + 8 * 4, 20 * (4 * 8 + 8 * 8)
    ratio = three["evaluation_rate_share"].value / one["evaluation_rate_share"].value
    assert ratio == pytest.approx((3 * once + each) / (once + each))


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        ({"sampler": (0.03, 0.05, 0.02)}, "sampler alone took 1.25"),
        ({"square": (0.01, 0.011, 0.03)}, r"square products took 1\.86 times"),
    ],
)
def test_a_busy_machine_is_told_by_its_readings(data, monkeypatch, seconds, reason):
    for number in of_given_times(monkeypatch, data, **seconds).values():
        assert number.converged is False
        assert re.search(reason, number.evidence["not_converged_because"])


def test_seeds_together_are_beside_seeds_apart(data, monkeypatch):
    seconds = {"apart": (3.0, 4.0, 2.0), "together": (1.0, 4.0, 1.0), "square": (0.01, 0.011, 0.012)}
    times = {name: Timing(values) for name, values in seconds.items()}
    monkeypatch.setattr(seeds_together_cost, "turns", lambda programs, repeats, task: times)
    settings = seeds_together_cost.Settings(turns=3, steps=2)
    found = {n.metric: n for n in seeds_together_cost.estimate(model(), data, settings, bench()).numbers}
    assert found["together_speedup"].value == pytest.approx(2)  # of 3, 1 and 2
    assert (found["seconds_apart"].value, found["seconds_together"].value) == (3, 1)


def test_every_seed_trains_once_each_way(data, monkeypatch):
    trained = []

    def updates(model, data, steps, seed, device, barrier):
        trained.append((seed, barrier.parties, torch.get_num_threads()))
        return 10.0 * seed, 10.0 * seed + 1 + seed

    monkeypatch.setattr(seeds_together_cost, "time_updates", updates)
    monkeypatch.setattr(seeds_together_cost, "mark_busy", lambda numbers, reason: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        settings = seeds_together_cost.Settings(turns=2, steps=4, seeds=3)
        found = {n.metric: n for n in seeds_together_cost.estimate(model(), data, settings, bench()).numbers}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    # Alone with both threads, at once with one each.
    assert sorted(trained) == sorted([(0, 1, 2), (1, 1, 2), (2, 1, 2), (0, 3, 1), (1, 3, 1), (2, 3, 1)] * 3)
    assert found["seconds_apart"].value == 1 + 2 + 3
    assert found["seconds_together"].value == 23  # from 0 to 23


def test_updates_are_timed_alone_and_begin_at_once(data, monkeypatch):
    """By a clock that counts its readings: one seed reads it before each step and after the last, and once more when
    all begin."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    made = model(), data, 7, 0, torch.device("cpu")
    began, ended = seeds_together_cost.time_updates(*made, Barrier(1))
    assert ended - began == 7
    barrier = Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        clocks = list(pool.map(lambda seed: seeds_together_cost.time_updates(*made, barrier), range(3)))
    assert max(began for began, _ in clocks) < min(ended for _, ended in clocks)
    assert sum(ended - began for began, ended in clocks) >= 3 * 7


def test_seeds_that_wait_for_one_that_failed_stop(data):
    barrier = Barrier(2)
    good, bad = model(), model()
    bad.spec = good.spec.model_copy(update={"batch_size": "many"})
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(seeds_together_cost.time_updates, m, data, 3, 0, torch.device("cpu"), barrier)
            for m in (good, bad)
        ]
        assert all(job.exception(timeout=60) is not None for job in jobs)


def test_work_of_later_groups_is_counted_for_every_draw():
    once, each = discrete_vae_cost.multiplications(model(groups=2))
    # encoder0: 8 -> 8 -> 4 once; encoder1: 8 + 4 -> 8 -> 4, x once; decoder: 8 -> 8 -> 8.
    assert once == (64 + 32) + 64
    assert each == (32 + 32) + (64 + 64)


def test_steps_after_the_warm_up_are_timed_and_no_validation_is_in_them(data, monkeypatch):
    timed = model()
    monkeypatch.setattr(dvae_sharp.Model, "validation_bound", lambda self, x: pytest.fail("measured"))
    assert len(_discrete_timing.time_steps(timed, data, 7, 0, torch.device("cpu")).all_seconds) == 7
    assert not any(value.abs().sum() for value in timed.machine.weights)


def test_a_clocked_session_takes_at_most_so_many_steps():
    session = Clocked(torch.Generator(), every=2, most=5)
    assert list(session.steps(100)) == [0, 1, 2, 3, 4]
    assert len(session.clock) == 3 + 1
    assert list(Session(torch.Generator()).steps(3)) == [0, 1, 2]


@pytest.mark.parametrize("module", [discrete_vae_cost, seeds_together_cost])
def test_other_models_are_refused(data, module):
    other = dbn.Model(dbn.Spec(**dbn.SMOKE), 8)
    with pytest.raises(CannotBeDone, match="write 'model: dvae', 'dvae_pp' or 'dvae_sharp'"):
        module.estimate(other, data, module.Settings(), bench())
