"""sce, apl and poly1: what is theirs alone (all that they share with the other losses is in test_losses.py)."""

import math

import pytest
import torch
import torch.nn.functional as F

from losses import apl_loss, poly1_loss, sce_loss


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(6, 5, generator=g, dtype=torch.float64) * 3
    return z.requires_grad_(), torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("alpha,beta,zero", [(0.1, 1.0, math.log(1e-4)), (6.0, 0.1, -4.0), (1.0, 0.0, -6.0)])
def test_values_and_gradients_are_those_of_the_published_formulas(alpha, beta, zero, batch):
    z, y = batch
    p, q = z.softmax(1), F.one_hot(y, 5).double()
    cross_entropy = -(q * p.log()).sum(1)
    reverse = -(p * (zero * (1 - q))).sum(1)  # −Σ p log q with log 1 = 0, log 0 = A
    normalised = cross_entropy / -(p.log().sum(1))  # −Σ_k q log p / −Σ_j Σ_k [k = j] log p
    first = (1 - p.gather(1, y[:, None]))[:, 0]
    for got, want in (
        (sce_loss(z, y, alpha, beta, zero, reduction="none"), alpha * cross_entropy + beta * reverse),
        (apl_loss(z, y, alpha, beta, zero, reduction="none"), alpha * normalised + beta * reverse),
        (poly1_loss(z, y, beta, reduction="none"), cross_entropy + beta * first),
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(x.sum(), z, retain_graph=True)[0] for x in (got, want)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    powers = first.detach()[:, None] ** torch.arange(1, 1000)  # PolyLoss is a series in 1 − p
    series = (powers / torch.arange(1, 1000)).sum(1) + 1.5 * powers[:, 0]
    near = first < 0.95
    torch.testing.assert_close(poly1_loss(z, y, 1.5, reduction="none")[near], series[near])


def test_the_robust_losses_sum_to_a_constant_over_the_labels(batch):
    """Ghosh et al. 2017: what makes a loss noise tolerant. NCE sums to 1, RCE to −A (C − 1)."""
    z = batch[0]
    each = torch.stack([apl_loss(z, torch.full((6,), c), 2.0, 3.0, -4.0, reduction="none") for c in range(5)])
    torch.testing.assert_close(each.sum(0), torch.full((6,), 2 + 3 * 4.0 * 4, dtype=torch.float64))


def test_a_single_class_costs_nothing():
    z = torch.tensor([[3.0], [-1e30]], requires_grad=True)
    for loss in (sce_loss, apl_loss, poly1_loss):
        value = loss(z, torch.zeros(2).long())
        assert value == 0 and (torch.autograd.grad(value, z)[0] == 0).all()
