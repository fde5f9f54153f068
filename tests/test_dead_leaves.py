"""Mini dead leaves: the fit of the texture, flat patches and edges, and what a mixture gains on them."""

import numpy as np
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture

from dgmbench.data.catalogue import resolve
from dgmbench.data.datasets import dead_leaves
from dgmbench.data.datasets.dead_leaves import Options, draw, fit_texture, flat, second_sides
from dgmbench.data.draws import stream
from dgmbench.data.fetch import fetch
from dgmbench.data.loading import Writer
from dgmbench.data.prepare import open_dataset, prepare
from dgmbench.data.scale_mixture import ScaleMixture, fit
from dgmbench.errors import UserError

TRUE = ScaleMixture(
    np.array([0.5, 0.3, 0.2]),
    np.array([0.5, 2.0, 8.0]),
    np.array([[1.2, 0.5, 0.1], [0.5, 1.0, -0.3], [0.1, -0.3, 0.8]]),
)


def drawn(mixture: ScaleMixture, n: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    scale = mixture.scales[rng.choice(len(mixture.weights), n, p=mixture.weights)]
    return scale[:, None] * (rng.normal(size=(n, len(mixture.shape))) @ np.linalg.cholesky(mixture.shape).T)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaves")
    fetch("mini-dead-leaves", folder / "raw", offline=True)
    ref = resolve("mini-dead-leaves", {"train": 20_000, "validation": 100, "test": 5_000})
    return open_dataset(prepare(ref, folder / "raw", folder / "prepared"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The texture of smoothed noise, small enough to be drawn from many times, and its options."""
    rng = np.random.default_rng(5)
    image = rng.normal(size=(120, 160)).cumsum(axis=0).cumsum(axis=1)
    contrast = rng.exponential(4, size=(12, 16)).repeat(10, axis=0).repeat(10, axis=1)
    image = 40 + 160 * (image - image.min()) / np.ptp(image) + rng.normal(size=image.shape) * contrast
    options = Options(patch=4, texture_patches=3000, scales=4, iterations=20)
    writer = Writer(tmp_path_factory.mktemp("made"), dead_leaves.describe(options))
    return fit_texture([image.clip(0, 255).astype(np.uint8)], options, writer), options


def streams(count: int, seed: int = 1):
    return [stream(seed, purpose) for purpose in range(1, count + 1)]


def test_the_density_is_scipys():
    y = drawn(TRUE, 50)
    parts = [
        w * stats.multivariate_normal(np.zeros(3), t**2 * TRUE.shape).pdf(y) for w, t in zip(TRUE.weights, TRUE.scales)
    ]
    np.testing.assert_allclose(TRUE.log_prob(y), np.log(np.sum(parts, axis=0)), rtol=1e-10)


@pytest.mark.parametrize("components", [1, 3, 6])
def test_no_step_of_the_fit_lowers_the_likelihood(components):
    _, history = fit(drawn(TRUE, 2000), components, 60)
    assert len(history) == 61
    assert min(np.diff(history)) > -1e-12
    if components > 1:
        assert history[-1] > history[0]


def test_one_scale_is_the_covariance():
    y = drawn(TRUE, 500)
    mixture, _ = fit(y, 1, 1)
    np.testing.assert_allclose(mixture.scales[0] ** 2 * mixture.shape, y.T @ y / len(y), rtol=1e-10)


def test_the_fit_recovers_a_known_scale_mixture():
    mixture, history = fit(drawn(TRUE, 40_000), 3, 400)
    np.testing.assert_allclose(mixture.weights, TRUE.weights, atol=0.02)
    np.testing.assert_allclose(mixture.scales, TRUE.scales, rtol=0.04)
    np.testing.assert_allclose(mixture.shape, TRUE.shape, atol=0.02)
    # The maximum is above the truth, by half a nat for each of 10 parameters over 40,000 rows on average.
    assert 0 < history[-1] - TRUE.log_prob(drawn(TRUE, 40_000)).mean() < 20 / 40_000


def test_the_fit_does_not_depend_on_the_order_of_sums(data):
    """Sums in another order differ in their last bits, and what is rounded before use is a million times coarser."""
    y = drawn(TRUE, 5000)
    a, _ = fit(y, 8, 60)
    b, _ = fit(y[::-1].copy(), 8, 60)
    for one, other in ((a.weights, b.weights), (a.scales, b.scales), (a.shape, b.shape)):
        assert abs(one - other).max() < 2.0**-12 * 1e-6


def test_products_of_normal_draws_with_the_factor_are_exact_in_any_order(made):
    (texture, _), _ = made
    e = np.rint(np.random.default_rng(0).normal(size=(500, 15)) * 2.0**16) * 2.0**-16
    whole = np.rint(e * 2.0**16).astype(np.int64) @ np.rint(texture.factor.T * 2.0**12).astype(np.int64)
    assert abs(whole).max() < 2**53
    np.testing.assert_array_equal((e @ texture.factor.T) * 2.0**28, whole)


def test_flat_patches_have_the_mean_and_covariance_of_the_fit(made):
    (texture, _), options = made
    assert texture.weights.sum() == 1 << 12
    np.testing.assert_array_equal(texture.factor.sum(axis=0), 0)
    n = 200_000
    x = flat(texture, n, *streams(3))
    means = x.mean(axis=1)
    assert means.mean() == pytest.approx(texture.means.mean(), abs=5 * texture.means.std() / np.sqrt(n))
    z = x - means[:, None]
    second = (texture.weights / (1 << 12)) @ texture.scales**2 * (texture.factor @ texture.factor.T)
    # The error of a covariance is that of a mean of products, five standard errors of each entry.
    error = np.sqrt(((z**2).T @ z**2 / n - (z.T @ z / n) ** 2) / n)
    assert (abs(z.T @ z / n - second) < 5 * error).all()
    assert options.patch**2 == x.shape[1]


def test_contrasts_and_means_of_flat_patches_are_independent(made):
    (texture, _), _ = made
    x = flat(texture, 20_000, *streams(3))
    r = stats.spearmanr(x.mean(axis=1), x.std(axis=1)).statistic
    assert abs(r) < 5 / np.sqrt(len(x))


@pytest.mark.parametrize("patch", [2, 5, 8])
def test_a_line_leaves_pixels_on_both_sides_and_splits_them_straight(patch):
    beyond = second_sides(patch, 5000, *streams(2))
    assert beyond.any(axis=1).all()
    assert not beyond.all(axis=1).any()
    y, x = np.divmod(np.arange(patch**2), patch)
    for row in beyond[:200]:
        # Straight: no pixel of one side is the middle of two of the other.
        for side in (row, ~row):
            inside = {(int(a), int(b)) for a, b in zip(y[side], x[side])}
            middle = {
                ((a + c) // 2, (b + d) // 2) for a, b in inside for c, d in inside if not ((a + c) % 2 or (b + d) % 2)
            }
            assert middle <= inside
    # By symmetry half of the pixels lie beyond on average, and each pixel as often as its mirror image on this side.
    assert abs(beyond.mean() - 0.5) < 5 * 0.5 / np.sqrt(5000)
    share = beyond.mean(axis=0)
    assert abs(share + share[::-1] - 1).max() < 5 / np.sqrt(5000)


def test_the_two_sides_of_an_edge_are_independent(made):
    (texture, _), options = made
    always = options.model_copy(update={"edge": 1.0})
    values, label = draw(texture, always, 40_000, streams(6))
    assert (label == 1).all()
    beyond = second_sides(options.patch, 40_000, *streams(6)[1:3])
    # Halves alone: a small side varies less and leaves the other one large, however independent the draws.
    big = beyond.sum(axis=1) == options.patch**2 // 2
    assert big.sum() > 3000
    near, far = (
        np.array([[v[s].mean(), v[s].std()] for v, s in zip(values[big], sides[big])]) for sides in (~beyond, beyond)
    )
    for i in range(2):
        for j in range(2):
            assert abs(stats.spearmanr(near[:, i], far[:, j]).statistic) < 5 / np.sqrt(big.sum())
    never, label = draw(texture, options.model_copy(update={"edge": 0.0}), 40_000, streams(6))
    assert (label == 0).all()
    near, far = (np.array([v[s].mean() for v, s in zip(never[big], sides[big])]) for sides in (~beyond, beyond))
    assert stats.spearmanr(near, far).statistic > 0.5


@pytest.mark.parametrize("edge", [0.2, 0.5])
def test_the_share_of_edges(made, edge):
    (texture, _), options = made
    values, label = draw(texture, options.model_copy(update={"edge": edge}), 20_000, streams(6))
    assert abs(label.mean() - edge) < 5 * np.sqrt(edge * (1 - edge) / len(label))
    assert (values.min() >= 0, values.max() <= 255) == (True, True)


def test_prepared_patches_are_on_the_scale_of_natural_ones(data):
    x, labels = np.asarray(data.train.x, dtype=float), np.asarray(data.train.labels)
    assert x.shape == (20_000, 63)
    assert abs(x).max() < 1
    assert set(np.unique(labels)) == {0, 1}
    # An edge is a step between two means, so that edge patches vary more than flat ones.
    assert x[labels == 1].std() > 1.3 * x[labels == 0].std()
    texture = data.certificate["notes"]["texture"]
    assert sum(texture["weights"]) == 1
    assert texture["scales_grey_levels"] == sorted(texture["scales_grey_levels"])


def test_a_mixture_beats_a_gaussian_by_the_contrast_and_the_edges(data):
    """The claim of the paper that can be tested: a mixture with enough components beats a single Gaussian."""
    train, test = np.asarray(data.train.x[:6000], dtype=float), np.asarray(data.test.x, dtype=float)
    scores = [
        GaussianMixture(k, max_iter=60, reg_covar=1e-7, random_state=0, tol=0.1).fit(train).score(test) for k in (1, 8)
    ]
    assert scores[1] > scores[0] + 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"texture_patches": 100}, "10 * patch^2 = 640"), ({"edge": 1.5}, "'edge'"), ({"patch": 17}, "'patch'")],
)
def test_wrong_options_are_one_sentence(changes, message):
    with pytest.raises(UserError) as caught:
        resolve("mini-dead-leaves", changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
