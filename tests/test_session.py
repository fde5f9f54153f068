"""Sessions: a history of means, divergence at its step, and a resume that is exact at every step."""

import pytest
import torch

from dgmbench.errors import Diverged
from dgmbench.progress import plural
from dgmbench.training.session import Session

STEPS = 7


def walk(session: Session, stop_after: int | None = None) -> torch.Tensor:
    """A random walk with momentum: the next step depends on the tensor, on a number and on the generator."""
    state = {"x": torch.zeros(2), "momentum": 0.0}
    alias = state["x"]
    session.track(state=state)
    for step in session.steps(STEPS):
        if step == stop_after:
            raise KeyboardInterrupt
        state["momentum"] = 0.5 * state["momentum"] + float(torch.rand((), generator=session.generator))
        alias += state["momentum"] * torch.randn(2, generator=session.generator)
        session.record(loss=alias.sum(), norm=alias.norm())
    return state["x"]


def session(path=None, fingerprint="run", **more) -> Session:
    return Session(
        torch.Generator().manual_seed(3),
        checkpoint_path=path,
        checkpoint_seconds=0,
        fingerprint=fingerprint,
        **more,
    )


@pytest.mark.parametrize("stop_after", range(STEPS))
def test_resume_is_exact_at_every_step(tmp_path, stop_after):
    whole = session()
    expected = walk(whole)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        walk(session(path), stop_after)
    again = session(path)
    assert again.resumable == (stop_after > 0)
    assert torch.equal(walk(again), expected)
    assert again.history == whole.history
    assert again.step == STEPS


def test_two_interruptions_are_as_good_as_none(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    for stop in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            walk(session(path), stop)
    assert torch.equal(walk(session(path)), walk(session()))


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        walk(session(path), 4)
    other = session(path, fingerprint="another run")
    assert not other.resumable
    assert torch.equal(walk(other), walk(session()))


def test_a_damaged_checkpoint_starts_again(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"not a checkpoint")
    assert torch.equal(walk(session(path)), walk(session()))


def test_a_training_that_stops_early_keeps_its_last_steps():
    it = session(history_rows=2)
    for step in it.steps(10):
        if step == 7:
            break
        it.record(loss=float(step))
    assert it.history == [{"step": 5, "loss": 2.0}, {"step": 7, "loss": 5.5}]


def test_history_rows_are_means_over_the_steps_since_the_last():
    it = session(history_rows=2)
    for step in it.steps(6):
        it.record(loss=step)
        if step == 4:
            it.record(seldom=10.0)
    assert it.history == [{"step": 3, "loss": 1.0}, {"step": 6, "loss": 4.0, "seldom": 10.0}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_divergence_stops_at_its_step_and_says_what_was_last_finite(value):
    it = session()

    def train():
        for step in it.steps(10):
            it.record(loss=value if step == 3 else 2.0 * step, other=1.0)

    with pytest.raises(Diverged, match=r"diverged at step 3: loss = .*last finite values: loss = 4, other = 1") as stop:
        train()
    assert stop.value.step == 3
    assert stop.value.last_finite == {"loss": 4.0, "other": 1.0}


def test_discard_removes_the_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    it = session(path)
    walk(it)
    assert path.is_file()
    it.discard()
    assert not path.exists()


@pytest.mark.parametrize(
    ("unit", "units"), [("epoch", "epochs"), ("minibatch", "minibatches"), ("patch", "patches"), ("step", "steps")]
)
def test_units_of_progress_in_the_plural(unit, units):
    assert plural(unit) == units
