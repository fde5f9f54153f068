"""One node's M-step of a Deep GMM: gradients by finite differences, the Kronecker form, and the same optimum by all."""

import itertools

import numpy as np
import pytest
import torch

from dgmbench.models.mixtures import _network, _node

D, U = 3, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def problem(d: int = D, paths: int = U, seed: int = 0) -> _node.Node:
    """Moments of made examples that came by `paths` paths above, of total weight one."""
    entering = normal(paths, 40, d, seed=seed) @ normal(paths, d, d, seed=seed + 1) + normal(paths, 1, d, seed=seed + 2)
    extended = torch.cat([entering, torch.ones(paths, 40, 1, dtype=torch.float64)], 2)
    weights = torch.arange(1.0, paths + 1, dtype=torch.float64)
    moments = weights[:, None, None] * (extended.mT @ extended)
    above = _network.homogeneous(normal(paths, d, d, seed=seed + 3), normal(paths, d, seed=seed + 4))
    return _node.Node(moments / moments[:, d, d].sum(), above)


def point(d: int = D, seed: int = 9) -> torch.Tensor:
    return _network.homogeneous(torch.eye(d, dtype=torch.float64) + 0.3 * normal(d, d, seed=seed), normal(d, seed=seed))


def forms(node: _node.Node) -> dict:
    by_paths = node.by_paths()
    return {"paths": by_paths, "kronecker": _node.Kronecker(node.moments, by_paths.quadratic)}


def plain(node: _node.Node, q: torch.Tensor) -> float:
    """Equation 11 with biases, path by path: log |Q| - 1/2 sum_u E |R~_u Q~ (v, 1)|^2, its last coordinate left out."""
    total = torch.linalg.slogdet(q[:-1, :-1]).logabsdet
    for moment, above in zip(node.moments, node.above, strict=True):
        rows = (above @ q)[:-1]
        total = total - 0.5 * torch.trace(rows @ moment @ rows.T)
    return float(total)


@pytest.mark.parametrize("form", ["paths", "kronecker"])
def test_the_objective_is_equation_11_with_biases(form):
    node = problem()
    for seed in range(3):
        q = point(seed=seed)
        assert float(forms(node)[form](q)[0]) == pytest.approx(plain(node, q), rel=1e-12)


@pytest.mark.parametrize("form", ["paths", "kronecker"])
def test_the_gradient_is_that_of_finite_differences(form):
    node, q, step = problem(), point(), 1e-6
    gradient = forms(node)[form](q)[1]
    for row, column in itertools.product(range(D), range(D + 1)):
        ends = []
        for sign in (1, -1):
            moved = q.clone()
            moved[row, column] += sign * step
            ends.append(plain(node, moved))
        assert float(gradient[row, column]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-7)


def test_the_printed_gradient_and_quadratic_form_are_wrong_and_the_corrected_ones_right():
    """Equations 12 to 14 as printed, without biases, against the derivative by autograd."""
    node = problem()
    omega = node.by_paths().quadratic[:, :D, :D]
    gamma = node.moments[:, :D, :D]
    q = point()[:D, :D].clone().requires_grad_(True)
    objective = torch.linalg.slogdet(q).logabsdet - 0.5 * torch.einsum("uij,kj,ukl,li->", gamma, q, omega, q)
    (true,) = torch.autograd.grad(objective, q)
    q = q.detach()
    inverse = torch.linalg.inv(q).T
    torch.testing.assert_close(inverse - (omega @ q @ gamma).sum(0), true)
    assert not torch.allclose(inverse - (gamma @ q.T @ omega).sum(0), true)
    matrix = sum(torch.kron(o.contiguous(), g.contiguous()) for o, g in zip(omega, gamma, strict=True))
    torch.testing.assert_close(inverse - (matrix @ q.flatten()).view(D, D), true)
    assert not torch.allclose(inverse + 2 * (matrix @ q.flatten()).view(D, D), true)
    torch.testing.assert_close(torch.linalg.slogdet(q).logabsdet - 0.5 * q.flatten() @ matrix @ q.flatten(), objective)


def test_paths_and_kronecker_reach_the_same_optimum_where_the_gradient_vanishes():
    node, start = problem(), point()
    found = {form: _node.maximise(node, start, 500, form)[0] for form in ("paths", "kronecker")}
    torch.testing.assert_close(found["paths"], found["kronecker"], rtol=1e-5, atol=1e-6)
    for q in found.values():
        assert float(node.by_paths()(q)[1].abs().max()) < 1e-5
        assert plain(node, q) > plain(node, start)
        for seed in range(5):
            nearby = q.clone()
            nearby[:D] += 1e-2 * normal(D, D + 1, seed=seed)
            assert plain(node, nearby) < plain(node, q)


def test_the_closed_form_is_the_optimum_of_the_other_forms():
    node, start = problem(paths=1), point()
    closed, evaluations = _node.maximise(node, start, 3)
    assert evaluations == 0
    assert float(node.by_paths()(closed)[1].abs().max()) < 1e-10
    # Two equal halves of the one path are not a single path: the solver has to find the same value.
    halves = _node.Node(node.moments.repeat(2, 1, 1) / 2, node.above.repeat(2, 1, 1))
    for form in ("paths", "kronecker"):
        q, evaluations = _node.maximise(halves, start, 500, form)
        assert evaluations > 0
        assert plain(halves, q) == pytest.approx(plain(node, closed), abs=1e-9)


def test_what_leaves_a_node_with_one_path_above_is_standard_normal():
    node = problem(paths=1)
    whole = node.above[0] @ _node.maximise(node, point(), 3)[0]
    torch.testing.assert_close(whole @ node.moments[0] @ whole.T, torch.eye(D + 1, dtype=torch.float64))


@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_few_iterations_never_lower_the_objective(iterations):
    for seed in range(5):
        node, start = problem(seed=seed), point(seed=seed)
        assert plain(node, _node.maximise(node, start, iterations)[0]) >= plain(node, start)


def test_a_start_at_the_optimum_stays_there():
    node = problem()
    best = _node.maximise(node, point(), 500)[0]
    again = _node.maximise(node, best, 20)[0]
    assert plain(node, again) >= plain(node, best) - 1e-12
    torch.testing.assert_close(again, best, rtol=1e-4, atol=1e-5)


def test_the_cheaper_form_follows_the_counted_work():
    few, many = _node.work(2, 8, 20), _node.work(5000, 8, 20)
    assert few["paths"] < few["kronecker"]
    assert _node.cheaper(2, 8, 20) == "paths"
    assert many["kronecker"] < many["paths"]
    assert _node.cheaper(5000, 8, 20) == "kronecker"
    # A matrix too large for memory is never chosen.
    assert _node.cheaper(10**9, 400, 20) == "paths"


def test_a_singular_covariance_is_an_error():
    node = problem()
    flat = node.moments.clone()
    flat[:, 0] = flat[:, :, 0] = 0.0
    with pytest.raises(_node.Singular):
        _node.maximise(_node.Node(flat, node.above), point(), 5)


def test_the_scale_of_what_enters_changes_nothing_but_the_solution_s_scale():
    node, start = problem(), point()
    scale = np.array([1e-3, 1.0, 1e3, 1.0])
    change = torch.diag(torch.from_numpy(scale))
    scaled = _node.Node(change @ node.moments @ change, node.above)
    plainly = _node.maximise(node, start, 500)[0]
    moved = _node.maximise(scaled, start @ torch.linalg.inv(change), 500)[0]
    torch.testing.assert_close(moved @ change, plainly, rtol=1e-4, atol=1e-5)
