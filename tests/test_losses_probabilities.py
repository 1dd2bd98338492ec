"""Which probabilities the losses are minimal at, the scores behind them, and the quality of labels."""

import numpy as np
import pytest
import torch

import losses
from losses import label_quality, rlo_loss, root_loss


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=g, dtype=torch.float64) * 3, torch.tensor([0, 4, 2, 2, 1, 3])


def pseudospherical(q, target, order):
    """S = q_y^(β − 1) / (Σ_c q_c^β)^((β − 1)/β), strictly proper (Gneiting & Raftery 2007)."""
    norm = (q**order).sum(1) ** ((order - 1) / order)
    return q.gather(1, target[:, None])[:, 0] ** (order - 1) / norm


@pytest.mark.parametrize("k", [1.25, 2.0, 3.0, 10.0])
def test_the_rooted_losses_are_pseudospherical_scores_of_the_corrected_probabilities(k, batch):
    z, y = batch
    score = pseudospherical(((1 - 1 / k) * z).softmax(1), y, k / (k - 1))
    torch.testing.assert_close(root_loss(z, y, k, k, reduction="none"), k * (1 - score), rtol=0, atol=1e-12)
    for root in (k, 0.5, 1.0):
        score = pseudospherical(((1 + 1 / root) * z).softmax(1), y, root / (root + 1))
        value = rlo_loss(z, y, root, root, reduction="none")
        torch.testing.assert_close(value, root * (score - 1), rtol=1e-12, atol=1e-12)
    spherical = z.mul(0.5).softmax(1)
    want = 2 * (1 - spherical.gather(1, y[:, None])[:, 0] / spherical.norm(dim=1))
    torch.testing.assert_close(root_loss(z, y, 2, 2, reduction="none"), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name,k", [("root", 2.0), ("root", 5.0), ("rlo", 0.5), ("rlo", 3.0), ("ce", None)])
def test_the_loss_is_smallest_where_the_corrected_probabilities_are_the_true_ones(name, k):
    loss = losses.build_loss(name, **({"k": k, "m": k} if k else {}))
    truth = torch.tensor([[0.55, 0.3, 0.1, 0.05]], dtype=torch.float64)
    scale = getattr(loss, "logit_scale", 1.0)
    z = (truth.log() / scale).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z, truth), z)
    assert gradient.abs().max() < 1e-12
    hessian = torch.func.hessian(lambda z: loss(z[None], truth))(z.detach()[0])
    assert torch.linalg.eigvalsh(hessian)[1] > 1e-3  # but for a number added to all logits
    torch.testing.assert_close(label_quality(z, torch.tensor([2]), loss), truth[:, 2])


def test_what_cannot_be_corrected_says_so(batch):
    for loss in ("focal", "poly1", "sce", "apl"):
        assert losses.build_loss(loss).logit_scale is None
    for k in (0.5, 1.0):
        loss = losses.RootLoss(k, k)
        assert loss.logit_scale is None
        # The infimum puts all mass on the most probable class, which no finite logits reach.
        truth, z = torch.tensor([[0.6, 0.4]]), torch.tensor([[0.0, 0.0]])
        values = [loss(z + torch.tensor([[t, 0.0]]), truth).item() for t in (0.0, 1.0, 4.0, 16.0)]
        assert values == sorted(values, reverse=True)
    plain = batch[0].softmax(1).gather(1, batch[1][:, None])[:, 0]
    torch.testing.assert_close(label_quality(*batch, losses.FocalLoss()), plain)


def test_quality_is_a_probability_of_arrays_logarithms_and_extremes(batch):
    logits, labels = batch
    p = logits.softmax(1)
    want = p.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(label_quality(p.log(), labels), want)
    np.testing.assert_allclose(label_quality(logits.numpy(), labels.numpy().astype(np.uint8)), want)
    assert label_quality(logits.half(), labels).dtype == torch.float32
    far = torch.tensor([[3e38, -3e38, 0.0], [-torch.inf, 0.0, 0.0]])
    quality = label_quality(far, torch.tensor([1, 1]), losses.RLOLoss(0.5))
    assert quality.tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    "logits,labels,said",
    [
        (torch.zeros(3, 4), torch.zeros(2).long(), r"\(3, 4\) and \(2,\)"),
        (torch.zeros(3), torch.zeros(3).long(), r"\(N, C\)"),
        (torch.zeros(3, 4), torch.tensor([0, 4, 1]), "label 4 of sample 1 is no class: 0 to 3"),
        (torch.zeros(3, 4), torch.tensor([0, 1, -1]), "label -1 of sample 2"),
        (torch.zeros(3, 4), torch.zeros(3), "integers"),
        (torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]), torch.zeros(2).long(), "sample 1 have no softmax"),
    ],
)
def test_bad_input_of_label_quality_is_named(logits, labels, said):
    with pytest.raises(ValueError, match=said):
        label_quality(logits, labels)


@pytest.mark.parametrize("name,sign", [("root", -1), ("rlo", 1)])
def test_annealing_moves_k_keeps_m_over_k_and_is_not_rounded_with_the_net(name, sign, batch):
    function = {"root": root_loss, "rlo": rlo_loss}[name]
    loss = losses.build_loss(name, k=4, m=8)
    for k in (0.5, 2.3, 100.0):
        loss.anneal(k)
        for convert in (torch.nn.Module.float, torch.nn.Module.half, torch.nn.Module.bfloat16):
            convert(torch.nn.Sequential(torch.nn.Linear(2, 2), loss))
            torch.testing.assert_close(loss(*batch), function(*batch, k, 2 * k), rtol=1e-6, atol=0)
        assert loss.logit_scale == (None if sign < 0 and k <= 1 else pytest.approx(1 + sign / k))
    address = loss.k.data_ptr()
    loss.anneal(7.0)
    assert loss.k.data_ptr() == address and not list(loss.state_dict())  # a graph has its address
