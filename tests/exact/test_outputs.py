"""What the Bernoulli decoder subtracts: the fast sum of softplus against the slow one."""

import pytest
import torch
import torch.nn.functional as F

from dgmbench.models.variational._outputs import bernoulli_log_normaliser


def layer(m: int, d: int, scale: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(d)
    return scale * torch.randn(d, m, generator=g, dtype=dtype), scale * torch.randn(d, generator=g, dtype=dtype)


@pytest.mark.parametrize("d", [1, 2, 3, 17, 31, 100, 784])
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_without_gradients_it_is_the_sum_of_softplus(d, scale):
    weight, bias = layer(5, d, scale, torch.float64)
    u = torch.randn(3, 101, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slow = bernoulli_log_normaliser(u, weight, bias)
    with torch.no_grad():
        fast = bernoulli_log_normaliser(u, weight, bias)
    a = u @ weight.T + bias
    exact = torch.logaddexp(a, torch.zeros_like(a)).sum(-1)
    # torch's softplus of more than 20 is its argument, 2e-9 too little.
    torch.testing.assert_close(slow, exact, rtol=1e-9, atol=2e-9 * d)
    torch.testing.assert_close(fast, exact, rtol=1e-12, atol=1e-12)


def test_in_float32_it_is_as_exact_as_softplus():
    weight, bias = layer(20, 784, 1.0, torch.float32)
    u = torch.randn(1000, 20, generator=torch.Generator().manual_seed(1))
    exact = F.softplus(u.double() @ weight.double().T + bias.double()).sum(-1)
    slow = bernoulli_log_normaliser(u, weight, bias)
    with torch.no_grad():
        fast = bernoulli_log_normaliser(u, weight, bias)
    error, of_softplus = ((found.double() - exact).abs().max().item() for found in (fast, slow))
    assert error < 3 * of_softplus < 1e-2


def test_arguments_are_left_as_they_are():
    weight, bias = layer(4, 9, 1.0, torch.float32)
    u = torch.randn(7, 4)
    copies = [tensor.clone() for tensor in (u, weight, bias)]
    with torch.no_grad():
        bernoulli_log_normaliser(u, weight, bias)
    assert all(torch.equal(now, before) for now, before in zip((u, weight, bias), copies))
