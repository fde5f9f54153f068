"""Where every file lies. Small files that git holds stand under results/, large ones that DVC holds under data/."""

from dataclasses import dataclass
from pathlib import Path

from dgmbench.errors import UserError
from dgmbench.files import read_json, write_json

FORMAT = 1  # of the files under results/; raised whenever an older version could not read them


@dataclass(frozen=True)
class Layout:
    """The folders of one budget, below the project's root."""

    budget: str
    root: Path = Path(".")

    @property
    def results(self) -> Path:
        return self.root / "results" / self.budget

    @property
    def raw(self) -> Path:
        return self.root / "data" / "raw"

    @property
    def prepared(self) -> Path:
        return self.root / "data" / "prepared"

    @property
    def published(self) -> Path:
        return self.root / "results" / "published"

    def certificate(self, dataset_key: str) -> Path:
        return self.results / "datasets" / f"{dataset_key}.json"

    def run(self, run: str) -> Path:
        """Small files of a run: spec.yaml, manifest.json, history.csv and one <evaluation>.json each."""
        return self.results / "runs" / run

    def manifest(self, run: str) -> Path:
        return self.run(run) / "manifest.json"

    def evaluation(self, run: str, evaluation: str) -> Path:
        return self.run(run) / f"{evaluation}.json"

    def blobs(self, run: str) -> Path:
        """Large files of a run: model.safetensors, per-example values, arrays."""
        return self.root / "data" / "runs" / self.budget / run

    def work(self, run: str) -> Path:
        """Checkpoints: outside every rule's outputs, so that a failed job keeps them."""
        return self.root / "work" / self.budget / run


def check_format(results: Path) -> None:
    """Refuse a results folder that another format of this project wrote, before anything is overwritten.

    Raises:
        UserError: the folder's format is not this version's.
    """
    marker = results / "format.json"
    if marker.is_file():
        found = read_json(marker).get("format")
        if found != FORMAT:
            raise UserError(
                f"{results} was written in format {found}, and this version reads format {FORMAT}: move the folder "
                f"away (mv {results} {results}-format-{found}) or use the version that wrote it."
            )
    elif results.is_dir() and any(results.iterdir()):
        raise UserError(f"{results} holds files but no format.json: move the folder away, or remove it.")
    else:
        write_json(marker, {"format": FORMAT})
