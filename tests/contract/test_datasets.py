"""Every dataset of the catalogue, found by itself: it says what it is, and what can be prepared here is."""

from pathlib import Path

import numpy as np
import pytest

from dgmbench.data import certificate
from dgmbench.data.catalogue import LOADERS, describe, entries, entry, loader, resolve
from dgmbench.data.fetch import fetch
from dgmbench.data.loading import SPLITS
from dgmbench.data.prepare import open_dataset, prepare
from dgmbench.data.prepared import SPLITS as PREPARED_SPLITS
from dgmbench.data.prepared import VALUES

NAMES = sorted(entries())
HERE = [name for name in NAMES if all(file.package for file in entry(name).files)]
LOADER_NAMES = sorted(
    path.stem for path in Path(certificate.__file__).parent.joinpath("datasets").glob("*.py") if path.stem != "__init__"
)


def small(name: str) -> dict:
    """Fewer rows for the options that count them."""
    fields = loader(entry(name).loader).Options.model_fields
    return {split: 200 for split in SPLITS if split in fields and fields[split].annotation is int}


def test_the_splits_have_one_spelling():
    assert SPLITS == PREPARED_SPLITS


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_resolves_and_describes_itself_without_data(name):
    ref, about = resolve(name), describe(resolve(name))
    assert ref.key.startswith(f"{name}-")
    assert about.values in VALUES
    assert about.dimension >= 1
    assert set(about.binarize) <= set(SPLITS)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_from_the_network_has_an_address_or_says_that_it_was_derived(name):
    for file in entry(name).files:
        assert file.package or file.path or file.urls or "derived" in entry(name).description
        assert file.package or not file.is_local, "the catalogue of the package names no file of one machine"


@pytest.mark.parametrize("name", LOADER_NAMES)
def test_a_loader_documents_itself_and_every_option(name):
    module = loader(name)
    assert module.__doc__.strip()
    assert module.__name__ == f"{LOADERS}.{name}"
    for option, field in module.Options.model_fields.items():
        assert field.description, f"option '{option}' of loader '{name}' has no description"


@pytest.mark.parametrize("name", HERE)
def test_a_dataset_that_needs_no_network_is_prepared_twice_to_the_same_bytes(name, tmp_path):
    ref = resolve(name, small(name))
    fetch(name, tmp_path / "raw", offline=True)
    folders = [prepare(ref, tmp_path / "raw", tmp_path / where) for where in ("one", "two")]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]
    assert certificate.verify(folders[0]) == []
    data, about = open_dataset(folders[0]), describe(ref)
    assert (data.name, data.identity, data.values, data.shape) == (name, ref.identity, about.values, about.shape)
    for split in data.splits.values():
        assert split.x.shape == (len(split), about.dimension)
        assert split.x.dtype in (np.float32, np.uint8)
        assert split.all().shape == split.x.shape if not split.binarize else True
    assert set(data.certificate["shared_groups"].values()) <= {0}
    assert set(data.certificate["shared_rows"].values()) <= {0} or "duplicates" in data.certificate["notes"]
