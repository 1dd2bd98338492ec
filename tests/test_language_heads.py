"""Rooted losses on other people's heads: check_per_token, and equality with root_loss on all logits."""

import math

import pytest
import torch
import torch.nn.functional as F

from losses import check_per_token, linear_rlo_loss, linear_root_loss, rlo_loss, root_from_ce, root_loss


def cross_entropy(logits, target):
    return F.cross_entropy(logits, target, reduction="none")


class Uniform(torch.autograd.Function):
    """A kernel that made its gradients for a mean: every token gets the first one's scale."""

    @staticmethod
    def forward(ctx, logits, target):
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            (ctx.gradient,) = torch.autograd.grad(cross_entropy(logits, target).sum(), logits)
        return cross_entropy(logits, target)

    @staticmethod
    def backward(ctx, grad):
        return ctx.gradient * grad[0], None


WRONG = {
    "has one scale, .* for all tokens": Uniform.apply,
    "gives no gradient: its losses": lambda z, t: cross_entropy(z.detach(), t),
    "no gradient in logits": lambda z, t: cross_entropy(z.detach(), t) + 0 * z.sum(),
    "log-probabilities, pass their negative": lambda z, t: -cross_entropy(z, t),
    "losses of base 2": lambda z, t: cross_entropy(z, t) / math.log(2),
    "-1.443 times.*log-probabilities of base 2": lambda z, t: -cross_entropy(z, t) / math.log(2),
    "gives one number, of shape": lambda z, t: cross_entropy(z, t).sum(),
    "gives every token the same number": lambda z, t: cross_entropy(z, t).mean().expand(len(t)),
    r"the shape \(25,\), for 32 tokens": lambda z, t: cross_entropy(z, t)[t != -100],
    "it must be 0 there": lambda z, t: cross_entropy(z, t.clamp(min=0)),
    "is not 0 where the target is ignore_index": lambda z, t: (
        cross_entropy(z, t) + (z - z.detach()).sum(1) * (t == -100)
    ),
    "gives a tuple": lambda z, t: (cross_entropy(z, t),),
    "the losses are off by": lambda z, t: cross_entropy(z, t.roll(1)),
    "the gradient of logits is off by": lambda z, t: (
        cross_entropy(z, t) + (z - z.detach())[:, 0] * (t != -100)
    ),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_kernel_that_is_wrong_by_token_is_told_what_is_wrong(said):
    with pytest.raises(ValueError, match=said):
        check_per_token(WRONG[said])


def test_kernels_that_are_right_pass():
    check_per_token(cross_entropy)
    check_per_token(cross_entropy, dtype=torch.bfloat16)
    check_per_token(lambda h, w, t: cross_entropy(h @ w.T, t), linear=True)


def torch_head(hidden, weight, target):
    if not hasattr(F, "linear_cross_entropy"):
        pytest.skip("this torch has no linear_cross_entropy")
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, target, reduction="none", options=options)


def cut_cross_entropy(hidden, weight, target):
    cce = pytest.importorskip("cut_cross_entropy")
    return cce.linear_cross_entropy(hidden, weight, target, reduction="none", impl="torch_compile")


def liger(hidden, weight, target):
    kernel = pytest.importorskip("liger_kernel.transformers.functional")
    if not torch.cuda.is_available():
        pytest.skip("Liger's kernels run on CUDA alone")
    return kernel.liger_fused_linear_cross_entropy(hidden, weight, target, reduction="none")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head", [torch_head, cut_cross_entropy, liger])
def test_root_of_another_librarys_head_is_root_of_all_logits(head):
    device = "cuda" if head is liger and torch.cuda.is_available() else "cpu"
    check_per_token(head, linear=True, device=device)
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 24, generator=g).to(device).requires_grad_() for n in (50, 200))
    target = torch.randint(200, (50,), generator=g).to(device)
    target[::7] = -100
    count = (target != -100).sum()
    ours = root_from_ce(head(hidden, weight, target), 5, 5).sum() / count
    want = root_loss(hidden @ weight.T, target, 5, 5)
    torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(x, (hidden, weight)) for x in (ours, want)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_root_of_trls_fused_head_is_root_of_all_logits():
    utils = pytest.importorskip("trl.trainer.utils")
    transformers = pytest.importorskip("transformers")
    if not hasattr(utils, "add_fused_lm_head"):
        pytest.skip("TRL has a fused head from 1.16 on")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
    )
    ids = torch.randint(50, (3, 12))
    labels = ids.masked_fill(torch.rand(3, 12) < 0.3, -100)
    want = root_loss(model(input_ids=ids).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), 5, 5)
    wanted = torch.autograd.grad(want, list(model.parameters()))
    utils.add_fused_lm_head(model)
    outputs = model(input_ids=ids, labels=labels, fused_lm_head=True)
    ours = (root_from_ce(-outputs.log_probs, 5, 5) * outputs.label_mask).sum() / outputs.label_mask.sum()
    torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(ours, list(model.parameters()))
    torch.testing.assert_close(gradients, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pair", [(linear_root_loss, root_loss), (linear_rlo_loss, rlo_loss)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_scaled_and_capped_logits_are_those_of_cohere_and_gemma(pair, reduction):
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 24, generator=g, dtype=torch.float64).requires_grad_() for n in (50, 90))
    target = torch.randint(90, (50,), generator=g)
    for scale, cap in ((0.0625, None), (1.0, 3.0), (0.5, 30.0)):
        logits = scale * hidden @ weight.T
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        want = pair[1](logits, target, reduction=reduction)
        ours = pair[0](
            hidden, weight, target, reduction=reduction, chunk_size=16, logit_scale=scale, softcap=cap
        )
        torch.testing.assert_close(ours, want)
        upstream = torch.linspace(1, 2, 50, dtype=torch.float64) if reduction == "none" else None
        gradients = [torch.autograd.grad(x, (hidden, weight), upstream) for x in (ours, want)]
        torch.testing.assert_close(*gradients)


def test_a_weight_that_is_sharded_or_empty_and_a_cap_below_zero_are_refused_in_a_line():
    hidden, target = torch.zeros(3, 4), torch.zeros(3).long()
    with pytest.raises(ValueError, match=r"the weight is empty, of shape \(0,\).*ZeRO-3"):
        linear_root_loss(hidden, torch.zeros(0), target)
    with pytest.raises(ValueError, match="softcap must be"):
        linear_root_loss(hidden, torch.zeros(5, 4), target, softcap=-1.0)
