"""Grids: the stated probabilities are those of the definition, and the draws follow them."""

import itertools
import math

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from dgmbench.data.catalogue import resolve
from dgmbench.data.datasets.grids import Options, entropy, probabilities
from dgmbench.data.prepare import open_dataset, prepare
from dgmbench.errors import UserError

FALSE_ALARM = 1e-6
SMALL = [
    Options(kind="bars", height=3, width=4),
    Options(kind="bars", height=1, width=5),
    Options(kind="shifter", height=2, width=4),
    Options(kind="ising", height=3, width=3, coupling=0.7),
    Options(kind="ising", height=2, width=4, coupling=-0.5),
]


def code(x) -> np.ndarray:
    return np.asarray(x).astype(np.int64) @ (1 << np.arange(np.shape(x)[-1]))


def by_definition(options: Options) -> dict[int, float]:
    """The distribution written out plainly, image by image."""
    h, w = options.height, options.width
    p: dict[int, float] = {}

    def add(image, weight):
        key = int(code(np.ravel(image)))
        p[key] = p.get(key, 0.0) + weight

    if options.kind == "bars":
        for bits in itertools.product((0, 1), repeat=h):
            add([[b] * w for b in bits], 0.5 / 2**h)
        for bits in itertools.product((0, 1), repeat=w):
            add([bits] * h, 0.5 / 2**w)
    elif options.kind == "shifter":
        for bits in itertools.product((0, 1), repeat=w):
            for moved in (bits, bits[1:] + bits[:1], bits[-1:] + bits[:-1]):
                add([bits, moved], 1 / (3 * 2**w))
    else:
        for bits in itertools.product((0, 1), repeat=h * w):
            s = 2 * np.reshape(bits, (h, w)) - 1
            total = sum(s[i, j] * s[i + 1, j] for i in range(h - 1) for j in range(w))
            total += sum(s[i, j] * s[i, j + 1] for i in range(h) for j in range(w - 1))
            add(bits, math.exp(options.coupling * total))
        z = sum(p.values())
        p = {key: value / z for key, value in p.items()}
    return p


@pytest.mark.parametrize("options", SMALL, ids=lambda o: f"{o.kind} {o.height} x {o.width}")
def test_probabilities_are_those_of_the_definition(options):
    states, p = probabilities(options)
    expected = by_definition(options)
    assert len(np.unique(code(states))) == len(states) == len(expected)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    # Ising levels are rounded to 2^-32, and the likeliest one takes what is left.
    np.testing.assert_allclose(p, [expected[key] for key in code(states).tolist()], rtol=1e-12, atol=2.0**-27)


@pytest.mark.parametrize("name", ["grid-bars", "grid-shifter", "grid-ising"])
def test_draws_follow_the_probabilities(name, tmp_path):
    """Chi-square over the images, those expected fewer than 10 times put together; false alarm 1e-6."""
    ref = resolve(name, {"train": 200_000})
    data = open_dataset(prepare(ref, tmp_path / "raw", tmp_path / "prepared"))
    states, p = probabilities(Options(**ref.options))
    number = {int(key): i for i, key in enumerate(code(states))}
    found = np.bincount([number[key] for key in code(data.train.x).tolist()], minlength=len(p))
    expected = p * len(data.train)
    common = expected >= 10
    found = np.append(found[common], found[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    found, expected = found[expected > 0], expected[expected > 0]
    assert len(expected) > 29
    assert stats.chisquare(found, expected).pvalue > FALSE_ALARM


@pytest.mark.parametrize("name", ["grid-bars", "grid-shifter", "grid-ising"])
def test_the_certificate_states_the_entropy_and_the_likelihood_of_the_truth(name, tmp_path):
    ref = resolve(name)
    data = open_dataset(prepare(ref, tmp_path / "raw", tmp_path / "prepared"))
    notes = data.certificate["notes"]
    states, p = probabilities(Options(**ref.options))
    assert notes["entropy_nats"] == pytest.approx(stats.entropy(p), abs=1e-8)
    assert notes["images_of_positive_probability"] == len(p)
    log_p = dict(zip(code(states).tolist(), np.log(p).tolist()))
    for split, parts in data.splits.items():
        scores = np.array([log_p[key] for key in code(parts.x).tolist()])
        told = notes["truth_log_likelihood_nats"][split]
        assert told == pytest.approx(scores.mean(), abs=1e-8)
        # Five standard errors of the mean.
        assert abs(told + notes["entropy_nats"]) < 5 * scores.std() / math.sqrt(len(scores))
    if name == "grid-bars":
        # 28 images have one origin of probability 2^-5, and the two constant ones have two.
        assert entropy(p) == pytest.approx(28 / 32 * math.log(32) + 2 / 16 * math.log(16))


def test_labels_name_what_made_the_image(tmp_path):
    for name in ("grid-bars", "grid-shifter", "grid-ising"):
        data = open_dataset(prepare(resolve(name), tmp_path / "raw", tmp_path / name))
        x, labels = np.asarray(data.train.x), np.asarray(data.train.labels)
        if name == "grid-bars":
            images = x.reshape(-1, 4, 4)
            assert (images[labels == 0] == images[labels == 0][:, :, :1]).all()
            assert (images[labels == 1] == images[labels == 1][:, :1]).all()
        elif name == "grid-shifter":
            for label in range(3):
                first, second = x[labels == label].reshape(-1, 2, 8).transpose(1, 0, 2)
                np.testing.assert_array_equal(np.roll(first, label - 1, axis=1), second)
        else:
            np.testing.assert_array_equal(x.sum(axis=1), labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 5}, "at most 16"),
        ({"kind": "shifter"}, "height 2"),
        ({"kind": "shifter", "height": 2, "width": 9}, "at most 16"),
    ],
)
def test_what_cannot_be_enumerated_is_refused_in_one_sentence(changes, message):
    with pytest.raises(ValidationError):
        Options(**changes)
    with pytest.raises(UserError, match=message) as caught:
        resolve("grid-bars", changes)
    assert "\n" not in str(caught.value)
