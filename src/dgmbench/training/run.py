"""Train one run: from its identity to a model file and a manifest, through any number of kills.

A failure is data: a run that diverges, is refused or breaks ends with a manifest that says so, and the job
succeeds, so that every other cell still comes out. What is not the run's own fault (a full disk, missing data,
an interruption) is an error, and leaves the checkpoint for the next try.
"""

import csv
import hashlib
import io
import os
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import save as serialize

from dgmbench import files, machine
from dgmbench.config import checked
from dgmbench.data.prepare import open_dataset
from dgmbench.data.prepared import Dataset
from dgmbench.errors import CannotBeDone, Diverged, UserError
from dgmbench.fingerprint import code_fingerprint
from dgmbench.layout import FORMAT, Layout
from dgmbench.models.base import Model
from dgmbench.models.registry import model_class, model_module
from dgmbench.progress import NoProgress, Progress
from dgmbench.runs import Run
from dgmbench.training import distributed
from dgmbench.training.session import Session

LOG_TAIL = 8  # lines of a failure's traceback that the manifest keeps


def seed_from(*identity: str) -> int:
    """A 63-bit seed for a generator from what a computation is: the order of execution never changes a number."""
    return int.from_bytes(hashlib.sha256("/".join(identity).encode()).digest()[:8], "big") >> 1


def generator_for(device: str, *identity: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed_from(*identity))


def check_run(run: Run) -> None:
    """Refuse a run whose spec or code is no longer what its identity was made from."""
    checked(model_class(run.model).Spec, run.spec, f"run {run.id}, spec")
    now = code_fingerprint(model_module(run.model))
    if run.code != now:
        raise UserError(
            f"run {run.id} was planned with code {run.code} of model '{run.model}', and the code is now {now}: "
            "plan again (start snakemake again)."
        )


def use_threads(threads: int) -> None:
    """Fix torch's threads: the order of floating-point sums, and so the bits, depend on them."""
    torch.set_num_threads(threads)


@contextmanager
def denormals_are_zero() -> Iterator[None]:
    """Weights of importance samples underflow, and arithmetic below 1e-38 takes a hundred times as long as above."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def speaks() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


class _Follower(Session):
    """The session of a process that is not the first: all hold the same state, and the first one writes it."""

    def save(self) -> None:
        pass


def train(run: Run, layout: Layout, *, threads: int, checkpoint_seconds: float, progress: Progress) -> dict[str, Any]:
    """Train `run`, or continue it from its checkpoint; write its files and return its manifest.

    Started by torchrun in several processes, all of them train it together, and the first one writes.

    Raises:
        UserError: the run is not what it was planned as, or its model trains in one process only.
    """
    check_run(run)
    use_threads(threads)
    with distributed.joined(run.device) as group:
        if group.size > 1 and not getattr(model_class(run.model), "distributed", False):
            raise UserError(f"model '{run.model}' trains in one process: start it without torchrun.")
        return _train(run, layout, group, threads, checkpoint_seconds, progress if group.rank == 0 else NoProgress())


def _train(
    run: Run, layout: Layout, group: distributed.Group, threads: int, checkpoint_seconds: float, progress: Progress
) -> dict[str, Any]:
    data = open_dataset(layout.prepared / run.dataset_key)
    model = model_class(run.model)(model_class(run.model).Spec.model_validate(run.spec), data.dimension)
    session = (Session if group.rank == 0 else _Follower)(
        generator_for(run.device, "train", run.id),
        checkpoint_path=layout.work(run.id) / "checkpoint.safetensors",
        checkpoint_seconds=checkpoint_seconds,
        fingerprint=f"{run.id} {certificate_sha256(data)} {run.device} {threads} {torch.__version__} {group.size}",
        progress=progress,
    )
    status, reason, tail = _fit(model, data, session, group)
    manifest = {
        "format": FORMAT,
        "run": {"id": run.id, **run.document},
        "status": status,
        "reason": reason,
        "log_tail": tail,
        "steps": session.step,
        "parameters": None,
        "certificate_sha256": certificate_sha256(data),
        "files": {},
    }
    manifest["measured"] = machine.measured(session.seconds, run.device, threads) | {"processes": group.size}
    if group.rank > 0:
        return manifest
    if status == "done":
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state().items()}
        path = layout.blobs(run.id) / "model.safetensors"
        files.write_bytes(path, serialize(state))
        stored = sum(tensor.numel() for tensor in state.values())
        manifest["parameters"] = getattr(model, "free_parameters", stored)
        manifest["files"]["model"] = describe_file(path, layout)
    folder = layout.run(run.id)
    files.write_text(folder / "history.csv", _history_csv(session.history))
    files.write_yaml(folder / "spec.yaml", {"id": run.id, **run.document})
    # The manifest comes last: where it is, everything that it names is.
    files.write_json(folder / "manifest.json", manifest)
    # With it goes what a kill in the middle of writing a checkpoint left beside it.
    shutil.rmtree(layout.work(run.id), ignore_errors=True)
    return manifest


def _fit(model: Model, data: Dataset, session: Session, group: distributed.Group) -> tuple[str, str | None, list[str]]:
    # An interruption writes no checkpoint: in the middle of a step the state is neither the last one nor the next. The
    # last checkpoint between two steps is the one to continue from.
    try:
        with denormals_are_zero():
            model.fit(data, session)
    except (UserError, OSError, MemoryError):
        raise
    except (Diverged, CannotBeDone) as refusal:
        return "failed", str(refusal), []
    except Exception as error:  # whatever a model's own code raises is this run's status, with its last lines
        if group.size > 1:
            # The others may wait for this process, or it lost one of them: that is no property of the run. Refusals
            # above are of what all processes share, and are raised by all of them.
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(
                f"process {group.rank + 1} of {group.size} stopped ({said}): start the run again, and it continues "
                "from its last checkpoint."
            ) from error
        lines = traceback.format_exc().strip().splitlines()[-LOG_TAIL:]
        return "failed", f"{type(error).__name__}: {error}".splitlines()[0], lines
    return "done", None, []


def certificate_sha256(data: Dataset) -> str:
    return files.short_hash(data.certificate, 64)


def describe_file(path, layout: Layout) -> dict[str, Any]:
    """Path below the project's root, sha256 and size: what a manifest says of a large file."""
    return {
        "path": str(path.relative_to(layout.root)),
        "sha256": files.sha256_file(path),
        "bytes": path.stat().st_size,
    }


def load_model(manifest: dict[str, Any], data: Dataset, layout: Layout) -> Model:
    """The trained model that a manifest names, on the device that it was trained on.

    Raises:
        UserError: the model file is missing or altered.
    """
    from safetensors.torch import load_file

    stored = manifest["files"]["model"]
    path = layout.root / stored["path"]
    if not path.is_file() or files.sha256_file(path) != stored["sha256"]:
        what = "is missing" if not path.is_file() else "is not the file that the run wrote"
        raise UserError(
            f"{path} {what}: run 'dgmbench restore --budget {layout.budget}' to pull it, or remove "
            f"{layout.manifest(manifest['run']['id'])} to train the run again."
        )
    cls = model_class(manifest["run"]["model"])
    model = cls(cls.Spec.model_validate(manifest["run"]["spec"]), data.dimension)
    model.load_state(load_file(path, device=device_of(manifest)))
    return model


def device_of(manifest: dict[str, Any]) -> str:
    return manifest["run"].get("device", "cpu")


def _history_csv(history: list[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in history for name in row)) or ["step"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
