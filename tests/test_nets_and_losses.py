"""Every net of the table learns with every loss (the largest with root): a step downhill lowers the batch's loss."""

import pytest
import torch

import losses
import models


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models())
def test_a_step_along_the_gradient_lowers_every_loss(name):
    torch.manual_seed(0)
    size = models.net_facts(name).native_size or 32
    net = models.build_model(name, 10, size, load_weights=False).eval()  # no dropout: the same function twice
    for module in net.modules():  # but without batch statistics a deep new net says one class with certainty
        module.train(isinstance(module, torch.nn.BatchNorm2d))
    images, labels = torch.randn(2, 3, size, size), torch.tensor([3, 7])
    parameters = list(net.parameters())
    large = sum(p.numel() for p in parameters) > 3e7
    for loss_name in ["root"] if large else losses.LOSSES:
        loss = losses.build_loss(loss_name)
        before = loss(net(images), labels)
        gradients = torch.autograd.grad(before, parameters)
        norm = torch.stack([g.norm() for g in gradients]).norm()
        assert norm.isfinite() and norm > 0
        step = 1e-3 * before.item() / norm.item() ** 2  # to first order, a drop of a thousandth
        with torch.no_grad():
            torch._foreach_sub_(parameters, torch._foreach_mul(gradients, step))
            after = loss(net(images), labels)
            torch._foreach_add_(parameters, torch._foreach_mul(gradients, step))
        drop = (before.item() - after.item()) / before.item()
        assert 3e-4 < drop < 3e-3, f"{loss_name}: the loss fell by {drop:.1e} instead of 1e-3"
