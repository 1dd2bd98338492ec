"""The fused node of root, rlo and focal against the plain operations, finite differences and closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F

import losses
import losses.base
import losses.rooted
from losses import focal_loss, rlo_loss, root_loss


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=g, dtype=torch.float64) * 3, torch.tensor([0, 4, 2, 2, 1, 3])


FUSED = {"root": root_loss, "rlo": rlo_loss, "focal": focal_loss}
FUSED_CASES = {
    "mean": {}, "sum": {"reduction": "sum"}, "some ignored": {"ignore_index": 2}, "beyond": {"ignore_index": 255},
    "all ignored": {"ignore_index": -1}, "weights": {"weight": torch.rand(5, dtype=torch.float64) + 0.1},
    "weights, ignored": {"weight": torch.rand(5, dtype=torch.float64), "ignore_index": 4},
}  # fmt: skip


def derivatives(loss, logits, target, **options):
    """Value, gradient, Hessian times a vector, third derivative twice along it."""
    z = logits.clone().requires_grad_()
    value = loss(z, target, **options)
    along = torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view_as(z)
    found = [value]
    for _ in range(3):
        (gradient,) = torch.autograd.grad(value, z, create_graph=True)
        found.append(gradient)
        value = (gradient * along).sum()
    return [x.detach() for x in found]


@pytest.mark.parametrize("case", FUSED_CASES)
@pytest.mark.parametrize("name", FUSED)
def test_the_fused_node_equals_the_plain_operations(name, case, monkeypatch):
    """On the CPU it looks at the values, elsewhere it does not: both, for every shape, to the third derivative."""
    options = FUSED_CASES[case]
    for shape in ((5,), (6, 5), (2, 5, 3)):
        g = torch.Generator().manual_seed(len(shape))
        logits = torch.randn(shape, generator=g, dtype=torch.float64) * 4
        if len(shape) == 2:
            logits[0], logits[1] = logits[0] * 1e4, 0  # the line of rlo, and ties
        target = torch.randint(5, shape[:1] + shape[2:] if len(shape) > 1 else (), generator=g)
        if case in ("all ignored", "beyond"):
            target = torch.full_like(target, options["ignore_index"])
            if case == "beyond" and target.dim():
                target.view(-1)[0] = 1
        used = []
        apply = losses.base._Summed.apply
        monkeypatch.setattr(
            losses.base._Summed, "apply", lambda *a, f=apply, used=used: used.append(1) or f(*a)
        )
        looking = derivatives(FUSED[name], logits, target, **options)
        with monkeypatch.context() as patch:
            patch.setattr(losses.base, "_is_plain", lambda x: False)
            patch.setattr(losses.rooted, "has_values", lambda x: False)
            blind = derivatives(FUSED[name], logits, target, **options)
            assert len(used) == 2
            patch.setattr(losses.base, "_is_differentiated_plainly", lambda *_: False)
            plain = derivatives(FUSED[name], logits, target, **options)
        assert len(used) == 2
        monkeypatch.undo()
        for order, (a, b, c) in enumerate(zip(looking, blind, plain, strict=True)):
            if order > 1 and math.isnan(plain[0]):
                break  # a mean over no sample
            for x in (a, b):
                torch.testing.assert_close(
                    x, c, rtol=1e-11, atol=1e-12, equal_nan=True, msg=f"{shape} {order}"
                )


@pytest.mark.parametrize("case", [*FUSED_CASES, "none", "masked class"])
@pytest.mark.parametrize("name", FUSED)
def test_few_operations_on_all_classes_equal_the_plain_ones(name, case, monkeypatch):
    """As on a GPU that waits for the host, to the third derivative; never where a compiler or a transform looks on."""
    options, ran = FUSED_CASES.get(case, {"reduction": "none"} if case == "none" else {}), []
    numbers = {"alpha": 0.3, "gamma": 2.5} if name == "focal" else {"k": 2.5, "m": 1.5}
    nll_loss = F.nll_loss

    def loss(z, target, **options):
        return FUSED[name](z, target, **numbers, **options).sum()

    def seen(each, *args, **kwargs):
        ran.append(each.requires_grad)
        return nll_loss(each, *args, **kwargs)

    monkeypatch.setattr(F, "nll_loss", seen)
    for shape in ((5,), (6, 5), (2, 5, 3)):
        g = torch.Generator().manual_seed(len(shape))
        logits = torch.randn(shape, generator=g, dtype=torch.float64) * 4
        target = torch.randint(4, shape[:1] + shape[2:] if len(shape) > 1 else (), generator=g)
        if len(shape) == 2:
            logits[0], logits[1] = logits[0] * 1e4, 0  # the line of rlo, and ties
            logits[2], target[2] = torch.tensor([0.0, 1.0, 2.0, 3.0, 1e9]), 1  # where it has ended
        if case == "masked class":
            logits.select(min(len(shape) - 1, 1), 4).fill_(-math.inf)
        plain = derivatives(loss, logits, target, **options)
        assert True not in ran  # not of autograd, within the fused node
        with monkeypatch.context() as patch:
            patch.setattr(losses.base, "_is_bound_by_launches", lambda x: not losses.base._is_transformed())
            got = derivatives(loss, logits, target, **options)
            assert True in ran
            ran.clear()
            torch.func.grad(loss)(logits, target)
            assert not ran
            z = (
                logits.clone().requires_grad_()
            )  # as what has gone through the operations on all classes would
            loss(z, target, label_smoothing=0.1)
            numbers = {name: torch.tensor(value) for name, value in numbers.items()}
            loss(z, target)
            numbers = {name: value.item() for name, value in numbers.items()}
            assert True not in ran
        for a, b in zip(got, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, equal_nan=True)
            if math.isnan(plain[0]):
                break  # a mean over no sample


@pytest.mark.parametrize("name", FUSED)
def test_the_fused_node_leaves_the_rest_of_autograd_as_it_was(name, batch):
    logits, target = batch
    loss = FUSED[name]
    assert (
        torch.autograd.gradcheck(  # gradients in batches, and forward mode, which takes the plain operations
            lambda z: loss(z, target), logits.requires_grad_(), check_batched_grad=True, check_forward_ad=True
        )
    )
    value = loss(logits, target)
    once = torch.autograd.grad(value, logits, retain_graph=True)
    assert torch.equal(once[0], torch.autograd.grad(value, logits)[0])
    with torch.no_grad():
        assert loss(logits, target) == value
    ignored = torch.where(target == 2, -100, target)
    traced = torch.jit.trace(loss, (logits.detach().requires_grad_(), target), check_trace=False)
    torch.testing.assert_close(traced(logits, ignored), loss(logits, ignored))  # no count is baked in


@pytest.mark.parametrize(
    "name,first", [("root", "k"), ("root", "m"), ("rlo", "k"), ("rlo", "m"), ("focal", "gamma")]
)
def test_a_parameter_that_is_learned_gets_its_gradient(name, first, batch):
    logits, target = batch[0].requires_grad_(), batch[1]
    value = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, p: FUSED[name](z, target, **{first: p}), (logits, value))


@pytest.mark.parametrize("name", ["root", "rlo"])
def test_a_masked_class_does_not_spoil_the_gradient_of_a_learned_k(name, batch):
    """A logit of −∞ has ℓ = ∞, whose slope is 0: their product is no gradient."""
    logits, target = (
        batch[0].float().index_fill(1, torch.tensor(2), -torch.inf),
        torch.tensor([0, 4, 1, 3, 1, 3]),
    )
    share = F.one_hot(target, 5) * 0.75 + F.one_hot(torch.tensor(0), 5) * 0.25
    kept = torch.tensor([0, 1, 3, 4])
    k = torch.nn.Parameter(torch.tensor(2.0))
    (got,) = torch.autograd.grad(FUSED[name](logits, share, k), k)
    (want,) = torch.autograd.grad(FUSED[name](logits[:, kept], share[:, kept], k), k)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.func.grad(lambda k: FUSED[name](logits, share, k))(k.detach()), want)
    assert torch.autograd.grad(FUSED[name](logits, target, k, label_smoothing=0.1), k)[0].isfinite()
    of_ce = getattr(losses, f"{name}_from_ce")(torch.tensor([torch.inf, 1.0]), k).sum()
    assert torch.autograd.grad(of_ce, k)[0].isfinite()


@pytest.mark.parametrize(
    "options", [{}, {"reduction": "none"}, {"label_smoothing": 0.1}, {"weight": torch.ones(2)}]
)
@pytest.mark.parametrize("k", [0.05, 1.0, 3.0])
def test_roots_gradient_is_precise_where_p_is_small(k, options):
    """(m/k) p^(1/k), which 1 − (1 − p^(1/k)) has lost long before it underflows."""
    for share in (0.5, 5.0, 20.0, 60.0):  # ell / k
        logits = torch.tensor([[0.0, -k * share]], requires_grad=True)
        exact = logits.detach().double().requires_grad_()
        target = torch.tensor([1])
        for z in (logits, exact):
            root_loss(z, target, k=k, m=1.0, **options).sum().backward()
        ell = -torch.log_softmax(exact.detach(), 1)[0, 1]
        if "label_smoothing" not in options:
            wanted = torch.exp(-ell / k) / k * (1 - torch.exp(-ell))
            torch.testing.assert_close(-exact.grad[0, 1], wanted, rtol=1e-9, atol=0)
            torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2e-5, atol=0)
        else:
            torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=2e-5, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.functional.jacobian(lambda ell: losses.root_from_ce(ell, k, 1.0), torch.tensor(40.0 * k)),
        torch.tensor(math.exp(-40) / k), rtol=1e-4, atol=0,
    )  # fmt: skip


@pytest.mark.parametrize("options", [{"reduction": "sum"}, {"weight": torch.tensor([1.0, 1e-6])}, {}])
def test_focal_without_focus_is_finite_where_a_sample_is_certain(options):
    """At γ near 0 the power (1 − p)^(γ − 1) of a sample whose ℓ is 0 is as large as its dtype allows."""
    for alpha in (0.25, 4.0, 1e6):
        for gamma in (0.0, 0.01, 0.5):
            logits = torch.tensor([[200.0, 0.0], [0.0, 1.0]], requires_grad=True)
            loss = focal_loss(logits, torch.tensor([0, 1]), alpha, gamma, **options)
            loss.backward()
            exact = logits.detach().double().requires_grad_()
            if "weight" in options:
                options = {"weight": options["weight"].double()}
            want = focal_loss(exact, torch.tensor([0, 1]), alpha, gamma, **options)
            want.backward()
            torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=0)
            torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-12)


def test_smoothing_over_many_words_does_not_overflow_where_the_mean_does_not():
    for k in (0.05, 0.5, 1.0):
        logits = torch.zeros(2, 1000, requires_grad=True)
        with torch.no_grad():
            logits[:, 0] = 3.4e38
        loss = rlo_loss(logits, torch.tensor([0, 1]), k=k, m=k, label_smoothing=0.1)
        loss.backward()
        assert loss.isfinite() and logits.grad.isfinite().all()
