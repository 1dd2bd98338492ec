"""One family, many names: docs/losses.md, section 6, a row each, in value and gradient; and what its rivals promise."""

import pytest
import torch
import torch.nn.functional as F

from losses import alpha_loss, apl_loss, gce, poly1_loss, rlo_loss, root_loss, sce_loss

ROOTS = [0.05, 0.5, 1.0, 3.0, 1000.0]


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


def test_the_robust_rivals_sum_to_a_constant_over_the_labels(problem):
    """Ghosh et al. 2017: what makes a loss noise tolerant. NCE sums to 1, RCE to −A (C − 1)."""
    z = problem[0]
    each = [apl_loss(z, torch.full((6,), c), 2.0, 3.0, -4.0, reduction="none") for c in range(5)]
    torch.testing.assert_close(sum(each), torch.full((6,), 2 + 3 * 4.0 * 4, dtype=torch.float64))
    each = [sce_loss(z, torch.full((6,), c), 0.0, 3.0, -4.0, reduction="none") for c in range(5)]
    torch.testing.assert_close(sum(each), torch.full((6,), 3 * 4.0 * 4, dtype=torch.float64))


def test_poly1_is_the_series_of_cross_entropy_with_another_first_coefficient(problem):
    z, y, p = problem
    powers = (1 - p)[:, None] ** torch.arange(1, 1000)
    series = (powers / torch.arange(1, 1000)).sum(1) + 1.5 * powers[:, 0]
    near = p > 0.05
    assert near.any()
    torch.testing.assert_close(poly1_loss(z, y, 1.5, reduction="none")[near], series[near])


def test_a_single_class_costs_nothing():
    z = torch.tensor([[3.0], [-1e30]], requires_grad=True)
    for loss in (root_loss, rlo_loss, sce_loss, apl_loss, poly1_loss):
        value = loss(z, torch.zeros(2).long())
        assert value == 0 and (torch.autograd.grad(value, z)[0] == 0).all()
