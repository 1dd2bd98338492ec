"""One family, many names: docs/losses.md, section 6, a row each, in value and gradient."""

import math

import pytest
import torch
import torch.nn.functional as F

from losses import alpha_loss, gce, rlo_loss, root_loss

ROOTS = [0.05, 0.5, 1.0, 1.5, 3.0, 50.0, 1000.0]


def same(ours, published, z, rtol=1e-12):
    torch.testing.assert_close(ours, published, rtol=rtol, atol=1e-12)
    gradients = [torch.autograd.grad(x.sum(), z, retain_graph=True)[0] for x in (ours, published)]
    torch.testing.assert_close(*gradients, rtol=rtol, atol=1e-12)


@pytest.fixture
def problem():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(6, 5, generator=g, dtype=torch.float64).requires_grad_()
    y = torch.tensor([0, 4, 2, 2, 1, 3])
    return z, y, z.softmax(1).gather(1, y[:, None])[:, 0]


@pytest.mark.parametrize("a", [0.05, 0.3, 0.7, 1.0, 1.7])
def test_powers_of_the_probability(a, problem):
    z, y, p = problem
    each = {"reduction": "none"}
    same(gce(a, **each)(z, y), (1 - p**a) / a, z)  # Zhang & Sabuncu
    same(root_loss(z, y, 1 / a, 1 / a, **each), (1 - p**a) / a, z)  # arXiv 2510.00526
    # Lq-likelihood, L_q(u) = (u^(1−q) − 1)/(1 − q), maximised
    same(root_loss(z, y, 1 / a, 1 / a, **each), -(p ** (1 - (1 - a)) - 1) / (1 - (1 - a)), z)
    same(rlo_loss(z, y, 1 / a, 1 / a, **each), -(p ** (1 - (1 + a)) - 1) / (1 - (1 + a)), z)
    if a != 1:
        same(alpha_loss(a, **each)(z, y), a / (a - 1) * (1 - p ** (1 - 1 / a)), z)


def test_members_with_a_name_of_their_own(problem):
    z, y, p = problem
    each = {"reduction": "none"}
    same(
        root_loss(z, y, 1, 2, **each), (z.softmax(1) - F.one_hot(y, 5)).abs().sum(1), z
    )  # mean absolute error
    same(root_loss(z, y, 1, 1, **each), 1 - p, z)  # Taylor cross entropy of one term
    dft = -p.detach() * p.log()
    gradients = [
        torch.autograd.grad(x.sum(), z, retain_graph=True)[0] for x in (dft, root_loss(z, y, 1, 1, **each))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    two = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    label = y % 2
    margin = (two.gather(1, label[:, None]) - two.gather(1, 1 - label[:, None]))[:, 0]
    same(rlo_loss(two, label, 1, 1, **each), torch.exp(-margin), two)  # exponential loss


@pytest.mark.parametrize("k", ROOTS)
def test_the_series_in_the_probability_of_error(k):
    """Σ a_j (1 − p)^j, whose coefficients tend to Taylor cross entropy's 1/j."""
    z = torch.tensor([[2.0, 0.0], [0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    wrong = z.softmax(1)[:, 1]
    for loss, sign in ((root_loss, -1), (rlo_loss, 1)):
        a, series, taylor = 1.0, 0.0, 0.0
        for j in range(1, 120 if k >= 0.5 else 1200):
            series, taylor = series + a * wrong**j, taylor + wrong**j / j
            a *= (j + sign / k) / (j + 1)
        value = loss(z, torch.zeros(2).long(), k, k, reduction="none")
        same(value, series, z, rtol=1e-10)
        if k == 1000:
            torch.testing.assert_close(value, taylor, rtol=1 / k, atol=0)


@pytest.mark.parametrize("k", ROOTS)
def test_what_holds_at_3_holds_at_every_k(k):
    g = torch.Generator().manual_seed(2)
    z = torch.randn(5, 4, generator=g, dtype=torch.float64).requires_grad_()
    y = torch.tensor([0, 3, 1, 2, 2])
    root, rlo = root_loss(z, y, k, k, reduction="none"), rlo_loss(z, y, k, k, reduction="none")
    ce = F.cross_entropy(z, y, reduction="none")
    assert (root <= ce).all() and (ce <= rlo).all() and (root <= k).all()
    hessian = torch.func.hessian(lambda x: rlo_loss(x, y[0], k, k))(z[0].detach())
    eigenvalues = torch.linalg.eigvalsh(hessian)
    assert eigenvalues[0] > -1e-10 * eigenvalues[-1]  # convex
    for loss in (root_loss, rlo_loss):
        for options in ({}, {"label_smoothing": 0.1}):
            scale = 1 / loss(z, y, k, k, **options).item()
            assert torch.autograd.gradcheck(lambda x, f=loss, o=options, s=scale: s * f(x, y, k, k, **o), z)
        for spread in (1e2, 1e4, 1e30):  # finite, and pointing the right way
            far = torch.tensor([[spread, 0.0], [0.0, spread]], requires_grad=True)
            value = loss(far, torch.zeros(2).long(), k, k)
            (gradient,) = torch.autograd.grad(value, far)
            assert value.isfinite() and gradient.isfinite().all() and (gradient[:, 0] <= 0).all()
    assert math.isclose(alpha_loss(1 / (1 + 1 / k))(z, y).item(), rlo.mean().item(), rel_tol=1e-9)
