"""losses/ against closed forms in float64, torch's own cross entropy, finite differences and extremes."""

import copy
import doctest
import fractions
import functools
import importlib
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import losses
from losses import apl_loss, focal_loss, poly1_loss, rlo_loss, root_loss, rooted_logistic_loss, sce_loss
from losses.rooted import LINEAR_RANGE, exact_range, expm1_then_linear

CLASS_LOSSES = {
    "root": root_loss, "rlo": rlo_loss, "focal": focal_loss,
    "sce": sce_loss, "apl": apl_loss, "poly1": poly1_loss,
}  # fmt: skip
KS = (0.05, 0.5, 1.0, 3.0, 1000.0)
# The same and, beside their k = 3, the rooted losses at a small k, m = k.
SEVERAL_K = CLASS_LOSSES | {
    f"{name} 0.5": functools.partial(CLASS_LOSSES[name], k=0.5, m=0.5) for name in ("root", "rlo")
}
KM = [(0.05, 0.2), (0.5, 2.0), (1000.0, 1000.0), (3.0, 3.0), (2.5, 0.1)]
every_loss = pytest.mark.parametrize("name", SEVERAL_K)


def closed_form(name, logits, label, **p):
    """The textbook formula of one sample in NumPy's float64, by way of the probability itself."""
    z = np.asarray(logits, dtype=np.float64)
    probs = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    prob, one_hot = probs[label], np.arange(len(z)) == int(label)
    k, m = p.get("k", 3.0), p.get("m", 3.0)
    alpha, gamma = p.get("alpha", 0.25), p.get("gamma", 2.0)
    beta, log_of_zero, epsilon = p.get("beta"), p.get("A"), p.get("epsilon")
    reverse = -np.sum(probs * np.where(one_hot, 0.0, log_of_zero)) if log_of_zero else None  # log 1 and log 0
    return {
        "root": lambda: m * (1 - prob ** (1 / k)),
        "rlo": lambda: m * (prob ** (-1 / k) - 1),
        "focal": lambda: -alpha * (1 - prob) ** gamma * np.log(prob),
        "sce": lambda: -alpha * np.sum(one_hot * np.log(probs)) + beta * reverse,
        "apl": lambda: alpha * np.log(prob) / np.sum(np.log(probs)) + beta * reverse,
        "poly1": lambda: -np.log(prob) + epsilon * (1 - prob),
    }[name]()


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=g, dtype=torch.float64) * 3, torch.tensor([0, 4, 2, 2, 1, 3])


# --- values and gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASS_LOSSES)
@pytest.mark.parametrize("k,m", KM)
def test_value_is_the_closed_form(name, k, m, batch):
    logits, target = batch
    options = {
        "focal": {"alpha": 0.5, "gamma": 1.5}, "sce": {"alpha": m, "beta": k, "A": -k},
        "apl": {"alpha": m, "beta": k, "A": -k}, "poly1": {"epsilon": k},
    }.get(name, {"k": k, "m": m})  # fmt: skip
    got = CLASS_LOSSES[name](logits, target, **options, reduction="none")
    want = [closed_form(name, z, y, **options) for z, y in zip(logits, target, strict=True)]
    # At large k the formula itself loses digits to 1 − p^(1/k).
    np.testing.assert_allclose(got, want, rtol=1e-12 * max(1, k))
    # A soft target is the weighted sum over the classes; one-hot probabilities are indices.
    t = torch.rand(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    of_classes = [[closed_form(name, z, c, **options) for c in range(5)] for z in logits]
    want = (t.numpy() * np.array(of_classes)).sum(1).mean()
    np.testing.assert_allclose(
        CLASS_LOSSES[name](logits, t, **options).item(), want, rtol=1e-10 * max(1, k / 10)
    )
    one_hot = F.one_hot(target, 5).double()
    torch.testing.assert_close(CLASS_LOSSES[name](logits, one_hot, **options, reduction="none"), got)


@pytest.mark.parametrize("name,sign", [("root", 1), ("rlo", -1)])
@pytest.mark.parametrize("k,m", KM)
def test_rooted_gradient_is_the_cross_entropy_gradient_times_a_power_of_p(name, sign, k, m, batch):
    logits, target = batch
    logits.requires_grad_()
    (got,) = torch.autograd.grad(CLASS_LOSSES[name](logits, target, k, m, reduction="sum"), logits)
    softmax = logits.detach().softmax(1)
    p = softmax.gather(1, target[:, None])
    want = m / k * p ** (sign / k) * (softmax - F.one_hot(target, 5))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


@every_loss
def test_first_and_second_derivatives_agree_with_finite_differences(name, batch):
    logits, target = batch[0][:3].clone().requires_grad_(), batch[1][:3]
    soft = torch.softmax(torch.arange(15.0, dtype=torch.float64).reshape(3, 5).cos(), 1)
    for t, options in ((target, {}), (target, {"label_smoothing": 0.2}), (soft, {})):
        scale = 1 / SEVERAL_K[name](logits.detach(), t, **options)

        def f(z, t=t, options=options, scale=scale):
            return scale * SEVERAL_K[name](z, t, **options)

        assert torch.autograd.gradcheck(f, logits, check_batched_grad=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, logits)


def test_root_lies_below_ce_and_rlo_above_and_both_tend_to_it():
    ell = torch.linspace(0, 30, 301, dtype=torch.float64)
    logits = torch.stack([-torch.log(torch.expm1(ell)), torch.zeros_like(ell)], 1)[1:]  # p_0 = e^(-ell)
    target = torch.zeros(300, dtype=torch.long)
    ce = F.cross_entropy(logits, target, reduction="none")
    gaps = []
    for k in (0.5, 1.0, 3.0, 10.0, 1e3, 1e6):
        root = root_loss(logits, target, k, k, reduction="none")
        rlo = rlo_loss(logits, target, k, k, reduction="none")
        assert (root <= ce).all() and (ce <= rlo).all() and (root >= 0).all() and (root <= k).all()
        gaps.append(max((ce - root).max().item(), (rlo - ce).max().item()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] <= 30**2 / 2 / 1e6 * 1.01  # the second term of the series, ell²/2k


@pytest.mark.parametrize("k", KS)
def test_rlo_is_convex_in_the_logits_and_root_is_not(k):
    hessian = torch.func.hessian(lambda z, f: f(z, torch.tensor(0), k, k), argnums=0)
    g = torch.Generator().manual_seed(1)
    smallest = {root_loss: math.inf, rlo_loss: math.inf}
    for _ in range(50):
        z = torch.randn(4, generator=g, dtype=torch.float64) * 4
        for f in smallest:
            eigenvalues = torch.linalg.eigvalsh(hessian(z, f))
            smallest[f] = min(smallest[f], (eigenvalues[0] / eigenvalues.abs().max()).item())
    assert smallest[rlo_loss] > -1e-12
    assert smallest[root_loss] < -0.1


def test_m_is_a_pure_scale_and_adam_does_not_see_it():
    def train(k, m):
        torch.manual_seed(0)
        net = torch.nn.Linear(5, 3).double()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, eps=0)
        x, y = torch.randn(20, 5, dtype=torch.float64), torch.randint(3, (20,))
        for _ in range(20):
            optimizer.zero_grad()
            root_loss(net(x), y, k=k, m=m).backward()
            optimizer.step()
        return net.weight.detach()

    for k in (0.5, 3.0):
        torch.testing.assert_close(train(k, 1.0), train(k, 1000.0), rtol=1e-9, atol=1e-12)


# --- extremes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_value_and_gradient_are_finite_for_every_finite_logit(name, dtype):
    rooted = [{"k": k, "m": m} for k in KS for m in (k, 10.0)]
    others = {"focal": [{"gamma": 0.5}], "root": rooted, "rlo": rooted}
    for v in (0.0, 1.0, 30.0, 100.0, 1e4, torch.finfo(dtype).max):
        for options in ({}, *others.get(name, [])):
            for smoothing in (0.0, 0.1):
                logits = torch.tensor([[v, -v, 0.0], [-v, v, 0.0]] * 64, dtype=dtype, requires_grad=True)
                loss = CLASS_LOSSES[name](
                    logits, torch.ones(128).long(), **options, label_smoothing=smoothing
                )
                (grad,) = torch.autograd.grad(loss, logits)
                assert loss.dtype == torch.float32 and loss.isfinite() and grad.isfinite().all()


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=6),
    k=st.floats(0.05, 1000),
    m=st.floats(1e-3, 50),
    data=st.data(),
)
def test_any_finite_float32_gives_a_finite_value_and_gradient(logits, k, m, data):
    z = torch.tensor([logits], requires_grad=True)
    y = torch.tensor([data.draw(st.integers(0, len(logits) - 1))])
    for loss in (root_loss(z, y, k, m), rlo_loss(z, y, k, m), focal_loss(z, y)):
        (grad,) = torch.autograd.grad(loss, z)
        assert loss >= 0 and loss.isfinite() and grad.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"weight": torch.ones(2)}])
@pytest.mark.parametrize("k", [0.05, 1.0, 3.0])
def test_roots_gradient_is_precise_where_p_is_small(k, options):
    """(m/k) p^(1/k), which 1 − (1 − p^(1/k)) has lost long before it underflows."""
    for share in (0.5, 5.0, 20.0, 60.0):  # ell / k
        logits = torch.tensor([[0.0, -k * share]], requires_grad=True)
        ell = F.cross_entropy(logits.detach().double(), torch.tensor([1]))
        root_loss(logits, torch.tensor([1]), k=k, m=1.0, **options).sum().backward()
        want = torch.exp(-ell / k) / k * (1 - torch.exp(-ell))
        torch.testing.assert_close(-logits.grad[0, 1].double(), want, rtol=2e-5, atol=0)
    textbook = torch.tensor([[0.0, 200.0]], requires_grad=True)
    (3 * (1 - textbook.softmax(1)[:, 0] ** (1 / 3))).sum().backward()
    assert textbook.grad.isnan().any()  # the published route


@pytest.mark.parametrize("options", [{"reduction": "sum"}, {"weight": torch.tensor([1.0, 1e-6])}, {}])
def test_focal_without_focus_is_finite_where_a_sample_is_certain(options):
    """At γ near 0 the power (1 − p)^(γ − 1) of a sample whose ℓ is 0 is as large as its dtype allows."""
    for alpha, gamma in ((0.25, 0.0), (1e6, 0.01), (4.0, 0.5)):
        logits = torch.tensor([[200.0, 0.0], [0.0, 1.0]], requires_grad=True)
        exact = logits.detach().double().requires_grad_()
        found = [focal_loss(z, torch.tensor([0, 1]), alpha, gamma, **options) for z in (logits, exact)]
        gradients = [
            torch.autograd.grad(f, z)[0].double() for f, z in zip(found, (logits, exact), strict=True)
        ]
        torch.testing.assert_close(found[0].double(), found[1].double(), rtol=1e-6, atol=0)
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("k", KS)
def test_rlo_is_exact_where_float32_can_hold_it_then_continues_linearly(k):
    start = k * exact_range(torch.float32, k, k)
    z = torch.tensor([[0.0, 0.95 * start]])
    ell = F.cross_entropy(z.double(), torch.tensor([0])).item()
    torch.testing.assert_close(
        rlo_loss(z, torch.tensor([0]), k, k).item(), k * math.expm1(ell / k), rtol=1e-5, atol=0
    )
    far = torch.tensor([[0.0, 5 * start], [0.0, 50 * start], [0.0, 100 * start], [0.0, 150 * start]])
    far.requires_grad_()
    values = rlo_loss(far, torch.zeros(4).long(), k, k, reduction="none")
    (grad,) = torch.autograd.grad(values.sum(), far)
    torch.testing.assert_close(values[3] - values[2], values[2] - values[1])
    torch.testing.assert_close(grad[:, 1], grad[:1, 1].expand(4))
    torch.testing.assert_close(grad[0, 1] * (50 * start), values.detach()[2] - values.detach()[1])


def test_the_exponential_and_its_line_join_in_value_and_slope_for_every_kind_of_derivative():
    x = torch.tensor([1.0, 2.0 - 1e-9, 2.0, 3.0, 2.0 + 2 * LINEAR_RANGE], dtype=torch.float64)

    def f(x):
        return expm1_then_linear(x, 2.0)

    slopes = torch.tensor([math.e, *[math.exp(2)] * 3, 0.0], dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(f))(x), slopes)
    torch.testing.assert_close(torch.func.jvp(f, (x,), (torch.ones_like(x),))[1], slopes)
    curvature = torch.func.vmap(torch.func.grad(torch.func.grad(f)))(x)
    torch.testing.assert_close(curvature[[0, 3]], torch.tensor([math.e, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("dtype,k,m", [(torch.float16, 0.01, 1e4), (torch.float32, 1e33, 1e33)])
def test_rlo_begins_at_zero_however_large_its_scale(dtype, k, m):
    """There the line begins at 0 and no earlier, where the loss of a sure sample would be below 0."""
    logits, target = torch.tensor([[0.0, -60.0], [0.0, 0.0], [0.0, 0.01]]).to(dtype), torch.zeros(3).long()
    ell = F.cross_entropy(logits.float(), target, reduction="none")
    for as_given in (float, torch.tensor):
        value = rlo_loss(logits, target, as_given(k), as_given(m), reduction="none")
        torch.testing.assert_close(value, m / k * ell, rtol=1e-5, atol=0)


def test_a_mean_does_not_overflow_where_its_terms_do_not():
    logits, wrong = torch.tensor([[3e38, 0.0]] * 8, requires_grad=True), torch.ones(8).long()
    for k in (0.05, 0.5, 1.0):
        many = torch.zeros(2, 1000)
        many[:, 0] = 3.4e38  # smoothing sums over as many words
        assert rlo_loss(many, torch.tensor([0, 1]), k, k, label_smoothing=0.1).isfinite()
        assert rlo_loss(logits, wrong, k, k).isfinite()
    assert F.cross_entropy(logits, wrong).isinf()  # whose sum overflows, and with it the mean


@every_loss
def test_a_logit_that_is_nan_gives_a_loss_that_is_nan(name, batch):
    logits, target = batch
    logits[2, 1] = math.nan
    loss = SEVERAL_K[name](logits, target, reduction="none")
    assert loss.isnan().tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_half_precision_is_computed_in_float32(name, dtype, batch):
    logits, target = batch
    half = logits.to(dtype)
    torch.testing.assert_close(
        CLASS_LOSSES[name](half, target), CLASS_LOSSES[name](half.float(), target), rtol=0, atol=0
    )


@every_loss
def test_float64_stays_float64_in_every_reduction(name):
    g = torch.Generator().manual_seed(5)
    logits, target = torch.randn(7, 3, generator=g, dtype=torch.float64), torch.arange(7) % 3
    each = SEVERAL_K[name](logits, target, reduction="none")
    for reduction, want in (("mean", math.fsum(each.tolist()) / 7), ("sum", math.fsum(each.tolist()))):
        assert SEVERAL_K[name](logits, target, reduction=reduction).item() == pytest.approx(want, rel=1e-15)


# --- arguments (all of their products are in test_losses_semantics.py) -----------------------


def test_ignored_samples_get_no_gradient_whatever_they_hold(batch):
    logits, target = batch[0].requires_grad_(), batch[1]
    target[1] = -100
    for loss in CLASS_LOSSES.values():
        (grad,) = torch.autograd.grad(loss(logits, target, label_smoothing=0.1), logits)
        assert (grad[1] == 0).all() and (grad[0] != 0).any()
        assert loss(logits, target, reduction="none")[1] == 0


def test_subclasses_of_tensors_are_computed_with_as_what_they_hold(batch):
    class Mask(torch.Tensor):
        pass

    logits, target = batch
    for weight in (None, torch.arange(1.0, 6, dtype=torch.float64)):
        z = logits.clone().requires_grad_()
        (want,) = torch.autograd.grad(root_loss(z, target, weight=weight), z)
        loss = root_loss(z.as_subclass(Mask), target.as_subclass(Mask), weight=weight)
        assert type(loss) is torch.Tensor
        torch.testing.assert_close(torch.autograd.grad(loss, z)[0], want)


def test_the_functions_of_a_cross_entropy_are_the_losses(batch):
    ell = F.cross_entropy(*batch, reduction="none")
    for name, km in (("focal", ()), *((name, (k, k)) for name in ("root", "rlo") for k in KS)):
        of_ce = getattr(losses, f"{name}_from_ce")
        want = CLASS_LOSSES[name](*batch, *km, reduction="none")
        torch.testing.assert_close(of_ce(ell, *km), want, rtol=1e-12, atol=1e-14)
        rounded = ell.bfloat16()  # as some kernels return it
        assert torch.equal(of_ce(rounded, *km), of_ce(rounded.float(), *km)), name
        for_fp16 = torch.tensor([0.0, 0.5, 11.0, 6e4]).half().requires_grad_()
        value = of_ce(for_fp16, *km)
        value.sum().backward()
        assert value.dtype == torch.float32 and value.isfinite().all() and for_fp16.grad.isfinite().all()


# --- k, m and their like ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_a_learned_k_is_printed_saved_and_never_moved_by_annealing(batch):
    for name in CLASS_LOSSES:
        first = next(iter(losses.loss_parameters(name)))
        loss = losses.build_loss(name, **{first: torch.nn.Parameter(torch.tensor(2.0))})
        again = pickle.loads(pickle.dumps(copy.deepcopy(loss)))
        assert f"{first}=2" in repr(again) and again(*batch) == loss(*batch)
        again(*batch).backward()
        assert dict(again.named_parameters())[first].grad.isfinite()
    for name in ("k", "m"):
        with pytest.raises(ValueError, match="learned"):
            losses.RootLoss(**{name: torch.nn.Parameter(torch.tensor(2.0))}).anneal(3.0)


@pytest.mark.parametrize(
    "name,first", [("root", "k"), ("root", "m"), ("rlo", "k"), ("rlo", "m"), ("focal", "gamma")]
)
def test_a_parameter_that_is_learned_gets_its_gradient(name, first, batch):
    logits, target = batch[0].requires_grad_(), batch[1]
    value = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, p: CLASS_LOSSES[name](z, target, **{first: p}), (logits, value))
    # A logit of −∞ has ℓ = ∞, whose slope is 0: their product is no gradient.
    masked = logits.detach().index_fill(1, torch.tensor(2), -torch.inf)
    share = F.one_hot(torch.tensor([0, 4, 1, 3, 1, 3]), 5) * 0.75 + F.one_hot(torch.tensor(0), 5) * 0.25
    kept = torch.tensor([0, 1, 3, 4])

    def f(p, z, t, **options):
        return CLASS_LOSSES[name](z, t, **{first: p}, **options)

    (got,) = torch.autograd.grad(f(value, masked, share), value)
    (want,) = torch.autograd.grad(f(value, masked[:, kept], share[:, kept]), value)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.func.grad(f)(value.detach(), masked, share), want)
    assert torch.autograd.grad(f(value, masked, target, label_smoothing=0.1), value)[0].isfinite()


@pytest.mark.parametrize(
    "number", [np.float16(2.5), np.int64(2), fractions.Fraction(5, 2), torch.tensor(2.5).bfloat16()]
)
def test_a_number_of_any_kind_is_the_float_that_it_stands_for(number, batch):
    logits, target = (batch[0].float() * 4).requires_grad_(), batch[1]
    calls = (
        functools.partial(root_loss, logits, target, label_smoothing=0.1),
        functools.partial(rlo_loss, logits, target),
        lambda k: losses.linear_rlo_loss(logits, torch.eye(5), target, k, k),
        lambda m: rlo_loss(logits, target, 3.0, m),
        lambda gamma: focal_loss(logits, target, gamma, gamma),
        lambda k: rooted_logistic_loss(logits, logits > 0, k),
    )
    for call in calls:
        got, want = call(number), call(float(number))
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
        gradients = [torch.autograd.grad(x, logits)[0] for x in (got, want)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    "bad", [0, -3, math.nan, math.inf, "3", None, True, *map(torch.tensor, (-1.0, math.inf, True))]
)
def test_k_not_above_zero_or_no_number_is_an_error(bad, batch):
    calls = (
        lambda: root_loss(*batch, k=bad), lambda: rlo_loss(*batch, k=bad), lambda: losses.RLOLoss(bad),
        lambda: rooted_logistic_loss(torch.zeros(2), torch.zeros(2), k=bad),
        lambda: losses.root_from_ce(batch[0], bad), lambda: losses.RootLoss().anneal(bad),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match="k must be"):
            call()
    with pytest.raises(ValueError, match="m must be"):
        root_loss(*batch, m=bad)
    with pytest.raises(ValueError, match="alpha must be"):
        focal_loss(*batch, alpha=bad)


def test_wrong_options_are_errors(batch):
    logits, target = batch
    with pytest.raises(ValueError, match="gamma must be"):
        focal_loss(logits, target, gamma=-1)
    for f in (sce_loss, apl_loss):
        for bad in ({"alpha": -1}, {"beta": math.nan}, {"A": 0.0}, {"A": -math.inf}):
            with pytest.raises(ValueError, match=f"{next(iter(bad))} .*must be"):
                f(logits, target, **bad)
    with pytest.raises(ValueError, match="epsilon must be"):
        losses.build_loss("poly1", epsilon=-1.5)
    for wrong in ({"reduction": "average"}, {"label_smoothing": 1.5}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            root_loss(logits, target, **wrong)
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            losses.RootLoss(**wrong)


# --- the binary form -------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [*KS, 2.0])
def test_binary_value_is_the_closed_form_and_two_class_rlo_plus_k(k, batch):
    f = torch.linspace(-1, 1, 41, dtype=torch.float64) * min(40, 300 * k)  # float64 ends at e^709
    for y in (0, 1):
        t = (2 * y - 1) * f.numpy()
        got = rooted_logistic_loss(f, torch.full((41,), y), k, reduction="none")
        np.testing.assert_allclose(got, k * (1 + np.exp(-t)) ** (1 / k), rtol=1e-13 * max(1, 1 / k))
    scale = 1 / rooted_logistic_loss(f / 16, torch.ones(41), k)
    assert torch.autograd.gradcheck(
        lambda z: scale * rooted_logistic_loss(z, torch.ones(41), k), (f / 16).requires_grad_()
    )
    f, y = batch[0][:, 0], torch.tensor([0, 1, 1, 0, 1, 0])
    two_class = rlo_loss(torch.stack([torch.zeros_like(f), f], 1), y, k, k)
    torch.testing.assert_close(rooted_logistic_loss(f, y, k), two_class + k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_binary_value_and_gradient_are_finite_at_both_ends(dtype):
    for v in (88.0, 200.0, 6e4, torch.finfo(dtype).max):
        f = torch.tensor([v, -v], dtype=dtype, requires_grad=True)
        for k in (*KS, 2.0):
            for y in (0.0, 1.0):
                loss = rooted_logistic_loss(f, torch.full((2,), y), k)
                (grad,) = torch.autograd.grad(loss, f)
                assert loss.isfinite() and grad.isfinite().all()


def test_the_binary_form_reduces_compiles_and_maps_and_refuses_other_labels():
    f, y = torch.randn(4), torch.tensor([0, 1, 1, 0])
    each = rooted_logistic_loss(f, y, reduction="none")
    torch.testing.assert_close(each.sum(), rooted_logistic_loss(f, y, reduction="sum"))
    torch.testing.assert_close(each.mean(), rooted_logistic_loss(f, y))
    compiled = torch.compile(rooted_logistic_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(f, y), each.mean())
    torch.testing.assert_close(torch.func.vmap(rooted_logistic_loss)(f, y), each)
    with pytest.raises(ValueError, match="shape"):
        rooted_logistic_loss(f, y[:2])
    for bad in ([1.0, -1.0], [0.0, 2.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 1\].*pass \(y \+ 1\) / 2"):
            rooted_logistic_loss(torch.zeros(2), torch.tensor(bad))


# --- where they must run ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_compiles_without_graph_breaks(name, batch):
    logits, target = batch[0].float(), batch[1]
    for options in ({}, {"label_smoothing": 0.1, "weight": torch.arange(5.0)}):
        torch._dynamo.reset()

        def f(z, y, options=options):
            return CLASS_LOSSES[name](z, y, **options)

        compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
        a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        compiled(a, target).backward()
        f(b, target).backward()
        torch.testing.assert_close(a.grad, b.grad)


def test_compiled_k_may_be_any_number_from_call_to_call(batch):
    compiled = torch.compile(root_loss, fullgraph=True, backend="aot_eager")
    for k in (2, 3, 4, 2.5, 3.5):
        torch.testing.assert_close(compiled(*batch, k), root_loss(*batch, k))


@pytest.mark.parametrize("name", ["root", "rlo", "focal"])
def test_transforms_inside_a_compiled_function_are_those_outside(name, batch):
    """Second derivatives above all: none may be missing without a word."""
    loss, (logits, target) = CLASS_LOSSES[name], batch

    def hessian_vector(z):
        inner = torch.func.grad(lambda q: loss(q, target))
        return torch.func.grad(lambda q: inner(q).square().sum())(z)

    per_sample = torch.func.vmap(torch.func.grad(loss))
    for f, arguments in ((hessian_vector, (logits,)), (per_sample, (logits, target))):
        torch._dynamo.reset()
        compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*arguments), f(*arguments))


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_model_with_its_loss_can_be_trained(strict, batch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.loss = torch.nn.Linear(5, 5).double(), losses.RLOLoss()

        def forward(self, x, y):
            return self.loss(self.head(x), y)

    logits, target = batch
    size = torch.export.Dim("size")
    model = Model()
    exported = torch.export.export(
        model, (logits, target), dynamic_shapes=({0: size}, {0: size}), strict=strict
    )
    fewer, targets = logits[:3], torch.where(torch.arange(3) == 1, -100, target[:3])
    got, want = exported.module()(fewer, targets), model(fewer, targets)
    torch.testing.assert_close(got, want)
    gradients = torch.autograd.grad(want, list(model.parameters()))
    trained = exported.module()
    trained(fewer, targets).backward()
    torch.testing.assert_close([p.grad for p in trained.parameters()], list(gradients))


@pytest.mark.slow
def test_root_and_rlo_compile_to_machine_code(batch):
    logits, target = batch[0].float(), batch[1]
    for f in (root_loss, rlo_loss):
        torch.testing.assert_close(torch.compile(f, fullgraph=True)(logits, target), f(logits, target))


@every_loss
def test_torch_func_gives_per_sample_gradients(name, batch):
    logits, target = batch
    for weight in (None, torch.arange(1.0, 6.0, dtype=logits.dtype)):
        loss = functools.partial(SEVERAL_K[name], reduction="sum", weight=weight)
        per_sample = torch.func.vmap(torch.func.grad(loss))(logits, target)
        z = logits.clone().requires_grad_()
        (want,) = torch.autograd.grad(loss(z, target), z)
        torch.testing.assert_close(per_sample, want)


def test_under_autocast_the_loss_is_float32(batch):
    for loss in CLASS_LOSSES.values():
        linear = torch.nn.Linear(5, 5)
        with torch.autocast("cpu", torch.bfloat16):
            logits = linear(batch[0].float())
            value = loss(logits, batch[1])
        value.backward()
        assert logits.dtype == torch.bfloat16 and value.dtype == torch.float32
        assert linear.weight.grad.isfinite().all() and linear.weight.grad.abs().sum() > 0


# --- modules, registry ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name,options,functional",
    [
        ("ce", {}, F.cross_entropy),
        ("focal", {"alpha": 0.5, "gamma": 1.0}, focal_loss),
        ("root", {"k": 8, "m": 10}, root_loss),
        ("RLO", {"k": 2.5, "m": 1}, rlo_loss),
        ("sce", {"alpha": 6, "beta": 0.1, "A": -4}, sce_loss),
        ("apl", {"alpha": 10, "beta": 0.1}, apl_loss),
        ("poly1", {"epsilon": -1}, poly1_loss),
    ],
)
def test_build_loss_gives_the_module_of_the_function(name, options, functional, batch):
    logits, target = batch
    shared = {"weight": torch.arange(1.0, 6, dtype=torch.float64), "label_smoothing": 0.1, "ignore_index": 2}
    module = losses.build_loss(name, **options, **shared)
    torch.testing.assert_close(module(logits, target), functional(logits, target, **options, **shared))
    assert "weight" in module.state_dict()


def test_the_registry_knows_names_and_parameters():
    assert (
        losses.loss_names() == tuple(losses.LOSSES) == ("ce", "focal", "root", "rlo", "sce", "apl", "poly1")
    )
    with pytest.raises(ValueError, match=r"did you mean root.*ce, focal, root, rlo, sce, apl, poly1"):
        losses.build_loss("rooot")
    with pytest.raises(TypeError):
        losses.build_loss("root", gamma=2)
    assert losses.loss_parameters("rlo") == {"k": 3.0, "m": 3.0}
    assert losses.loss_parameters("focal") == {"alpha": 0.25, "gamma": 2.0}
    assert losses.loss_parameters("sce") == {"alpha": 0.1, "beta": 1.0, "A": math.log(1e-4)}
    assert losses.loss_parameters("poly1") == {"epsilon": 2.0}
    assert losses.loss_parameters("ce") == {}


def test_examples_in_docstrings_are_true():
    files = Path(losses.__file__).parent.glob("*.py")
    modules = [importlib.import_module(f"losses.{path.stem}") for path in files if path.stem != "__init__"]
    results = [doctest.testmod(module) for module in (losses, *modules)]
    assert sum(result.attempted for result in results) > 10 and not any(result.failed for result in results)
