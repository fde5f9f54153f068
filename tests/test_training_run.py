"""The train verb's own promises: an interruption is no checkpoint, a failure is data, and seeds never move."""

import pytest
import torch

from dgmbench.errors import CannotBeDone, UserError
from dgmbench.training.distributed import Group
from dgmbench.training.run import _fit, generator_for, seed_from
from dgmbench.training.session import Session

STEPS = 6


class Walk:
    """Changes its state and draws, then may be interrupted before the step is over."""

    def __init__(self, interrupt_at: int | None = None, before_track: bool = False):
        self.interrupt_at, self.before_track = interrupt_at, before_track

    def fit(self, data, session):
        self.x = torch.zeros(3)
        if self.before_track:
            raise KeyboardInterrupt
        session.track(state={"x": self.x})
        for step in session.steps(STEPS):
            self.x += torch.randn(3, generator=session.generator)
            if step == self.interrupt_at:
                raise KeyboardInterrupt
            session.record(norm=self.x.norm())


def session(path) -> Session:
    return Session(torch.Generator().manual_seed(1), checkpoint_path=path, checkpoint_seconds=0, fingerprint="x")


@pytest.mark.parametrize("interrupt_at", range(STEPS))
def test_an_interruption_in_the_middle_of_a_step_leaves_the_last_whole_one(tmp_path, interrupt_at):
    straight, path = Walk(), tmp_path / "checkpoint.safetensors"
    whole = session(None)
    _fit(straight, None, whole, Group())
    with pytest.raises(KeyboardInterrupt):
        _fit(Walk(interrupt_at), None, session(path), Group())
    with pytest.raises(KeyboardInterrupt):  # a second one, while the model is still being set up
        _fit(Walk(before_track=True), None, session(path), Group())
    resumed, again = Walk(), session(path)
    assert _fit(resumed, None, again, Group()) == ("done", None, [])
    assert torch.equal(resumed.x, straight.x)
    assert again.history == whole.history


class Broken:
    def __init__(self, error: BaseException):
        self.error = error

    def fit(self, data, session):
        raise self.error


def test_a_models_own_error_is_a_status_with_its_last_lines():
    status, reason, tail = _fit(Broken(ZeroDivisionError("division by zero")), None, session(None), Group())
    assert (status, reason) == ("failed", "ZeroDivisionError: division by zero")
    assert any("raise self.error" in line for line in tail)
    assert _fit(Broken(CannotBeDone("too few examples")), None, session(None), Group()) == (
        "failed",
        "too few examples",
        [],
    )


@pytest.mark.parametrize("error", [UserError("x"), OSError(28, "no space"), MemoryError(), KeyboardInterrupt()])
def test_what_is_not_the_runs_fault_is_raised(error):
    with pytest.raises(type(error)):
        _fit(Broken(error), None, session(None), Group())


def test_of_several_processes_one_alone_may_fail_and_that_is_no_status_of_the_run():
    group = Group()
    group.rank, group.size = 1, 2
    with pytest.raises(UserError, match=r"process 2 of 2 stopped \(RuntimeError: lost\): start the run again"):
        _fit(Broken(RuntimeError("lost")), None, session(None), group)
    # A refusal is of what all share: every process raises it, and the run has failed.
    assert _fit(Broken(CannotBeDone("too few")), None, session(None), group) == ("failed", "too few", [])


def test_seeds_are_what_they_always_were():
    """Runs that exist were made with these: another seed for the same identity needs another results format."""
    assert seed_from("train", "0123456789ab") == 856292481965269104
    drawn = torch.rand(2, generator=generator_for("cpu", "train", "0123456789ab"), dtype=torch.float64)
    assert drawn.tolist() == [0.34851024024548904, 0.7518385334766235]
