"""linear_root_loss and linear_rlo_loss against the plain route: the losses of a matrix of all logits."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import losses
from losses import chunked, linear

PAIRS = {
    "root": (losses.linear_root_loss, losses.root_loss),
    "rlo": (losses.linear_rlo_loss, losses.rlo_loss),
}
both = pytest.mark.parametrize("name", PAIRS)


def problem(tokens=70, dim=24, words=300, dtype=torch.float32, spread=1.0, ignored=0.2):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, dim, generator=generator, dtype=torch.float64)
    weight = torch.randn(words, dim, generator=generator, dtype=torch.float64) * spread
    bias = torch.randn(words, generator=generator, dtype=torch.float64)
    target = torch.randint(words, (tokens,), generator=generator)
    target[torch.rand(tokens, generator=generator) < ignored] = -100
    return *(x.to(dtype).requires_grad_() for x in (hidden, weight, bias)), target


def value_and_gradients(value, inputs, weights=None):
    return value, *torch.autograd.grad(value, inputs, weights)


def relative(ours, truth):
    return ((ours.double() - truth.double()).norm() / truth.double().norm()).item()


def closed_form(name, logits, target, k, m, reduction, label_smoothing):
    """The plain route by formulas whose derivatives keep their digits: autograd's of expm1 loses a small e^x."""
    x = -logits.log_softmax(1) / k
    each = m * (torch.expm1(x) if name == "rlo" else torch.where(x < 1, -torch.expm1(-x), 1 - torch.exp(-x)))
    counted = target != -100
    of_label = each.gather(1, target.clamp(min=0)[:, None])[:, 0]
    loss = ((1 - label_smoothing) * of_label + label_smoothing * each.mean(1)) * counted
    return {"none": loss, "sum": loss.sum(), "mean": loss.sum() / counted.sum()}[reduction]


@both
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("k,m", [(0.05, 0.05), (0.5, 2.0), (1.0, 1.0), (3.0, 3.0), (8.0, 10.0), (1e3, 1e3)])
def test_value_and_gradients_are_those_of_the_plain_route(name, reduction, smoothing, k, m):
    hidden, weight, bias, target = problem(dtype=torch.float64, spread=0.3)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    weights = torch.linspace(-1, 2, len(target), dtype=torch.float64) if reduction == "none" else None
    truth = value_and_gradients(
        closed_form(name, F.linear(hidden, weight, bias), target, k, m, **options),
        (hidden, weight, bias),
        weights,
    )
    for chunk_size in (1, 16, 70, 1000, None):
        ours = value_and_gradients(
            PAIRS[name][0](hidden, weight, target, k, m, bias=bias, chunk_size=chunk_size, **options),
            (hidden, weight, bias),
            weights,
        )
        for mine, true in zip(ours, truth, strict=True):
            assert mine.shape == true.shape and relative(mine, true) < 1e-12


@both
@pytest.mark.parametrize("k", [0.05, 0.5, 1.0, 3.0, 1000.0])
def test_float32_is_within_a_millionth_of_float64(name, k):
    """Below k = 1 within that over k, which is what rounding ℓ alone does to e^(ℓ/k); and at 0.05 for few words."""
    ours_of, plain = PAIRS[name]
    inputs = problem(tokens=300, dim=64, words=2000 if k > 0.1 else 8, spread=0.2 if k > 0.1 else 0.02)
    if k < 0.1:
        inputs[2].data *= 0.1
    ours = value_and_gradients(
        ours_of(*inputs[:2], inputs[3], k, k, bias=inputs[2], chunk_size=64), inputs[:3]
    )
    exact = [x.detach().double().requires_grad_() for x in inputs[:3]]
    truth = value_and_gradients(plain(F.linear(*exact), inputs[3], k, k), exact)
    for mine, true in zip(ours, truth, strict=True):
        assert relative(mine, true) <= 1e-6 * max(1, 1 / k)


@both
def test_logits_far_apart_give_finite_values_and_gradients(name):
    for spread, k, smoothing in itertools.product((30.0, 1e4, 1e30), (0.05, 0.5, 1, 3, 1000), (0, 0.1)):
        hidden, weight, _, target = problem(spread=spread)
        value = PAIRS[name][0](hidden, weight, target, k, k, chunk_size=16, label_smoothing=smoothing)
        grads = torch.autograd.grad(value, (hidden, weight))
        assert value.isfinite()
        if spread < 1e30:  # there the product of a slope with the weight is itself no float32
            assert all(g.isfinite().all() for g in grads)


@both
@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_the_gradients_that_are_asked_for_are_made(name, needs, monkeypatch):
    *inputs, target = problem()
    made = []
    monkeypatch.setattr(chunked, "_add_product", lambda *args: made.append(args))
    hidden, weight, bias = (x.detach().requires_grad_(need) for x, need in zip(inputs, needs, strict=True))
    PAIRS[name][0](hidden, weight, target, bias=bias, chunk_size=16).backward()
    assert [x.grad is not None for x in (hidden, weight, bias)] == list(needs)
    assert bool(made) == needs[1]


@both
def test_without_gradients_none_are_made(name, monkeypatch):
    hidden, weight, bias, target = problem()
    monkeypatch.setattr(chunked, "_add_product", None)
    with torch.no_grad():
        value = PAIRS[name][0](hidden, weight, target, bias=bias)
    assert not value.requires_grad
    truth = PAIRS[name][1](F.linear(hidden, weight, bias), target)
    torch.testing.assert_close(value, truth.detach())


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("products", ["float32", "half"])
@pytest.mark.parametrize("by_words", [False, True])
def test_half_precision_is_summed_in_float32(name, dtype, products, by_words, monkeypatch):
    """Every way: CPUs multiply in float32 or half and go by words, GPUs in half and by chunks alone."""
    chosen = torch.float32 if products == "float32" else dtype
    monkeypatch.setattr(linear, "_product_dtype", lambda dtype, device: chosen)
    monkeypatch.setattr(linear, "_by_words", lambda weight: by_words)
    for size in ("WORDS_AT_A_TIME", "BLOCK"):
        monkeypatch.setattr(chunked, size, 17)
    hidden, weight, bias, target = problem(tokens=512, dim=16, words=40, dtype=dtype, spread=0.3)
    ours = value_and_gradients(
        PAIRS[name][0](hidden, weight, target, bias=bias, chunk_size=4), (hidden, weight, bias)
    )
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    truth = value_and_gradients(PAIRS[name][1](F.linear(*exact), target), exact)
    assert ours[0].dtype == torch.float32 and all(g.dtype == dtype for g in ours[1:])
    rounding = torch.finfo(dtype).eps
    for mine, true in zip(ours, truth, strict=True):
        assert relative(mine, true) < rounding


@both
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_weight_converted_block_by_block_gives_gradients_that_are_rounded_once(
    name, reduction, smoothing, monkeypatch
):
    """float32 multiplied in float64 shows what half precision multiplied in float32 does."""
    monkeypatch.setattr(linear, "_product_dtype", lambda dtype, device: torch.float64)
    monkeypatch.setattr(linear, "_by_words", lambda weight: True)
    monkeypatch.setattr(chunked, "BLOCK", 64)
    *inputs, target = problem(spread=0.3)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    weights = torch.linspace(-1, 2, len(target), dtype=torch.float64) if reduction == "none" else None
    exact = [x.detach().double().requires_grad_() for x in inputs]
    truth = value_and_gradients(PAIRS[name][1](F.linear(*exact), target, **options), exact, weights)
    for needs in ((True, True, True), (True, False, True), (False, True, False)):
        given = [x.detach().requires_grad_(need) for x, need in zip(inputs, needs, strict=True)]
        value = PAIRS[name][0](*given[:2], target, bias=given[2], chunk_size=16, **options)
        assert relative(value, truth[0]) < 1e-7
        value.backward(weights)
        for x, true, need in zip(given, truth[1:], needs, strict=True):
            assert relative(x.grad, true) < 1e-7 if need else x.grad is None


class Held(TorchDispatchMode):
    """The most bytes that tensors made inside have held at one time."""

    def __init__(self):
        super().__init__()
        self.peak, self.alive = 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {
            x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)
        }
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in before:
                self.alive[StorageWeakRef(x.untyped_storage())] = x.untyped_storage().nbytes()
        self.alive = {ref: size for ref, size in self.alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self.alive.values()))
        return out


@both
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_half_precision_on_a_cpu_holds_little_more_than_its_gradients(name, reduction):
    """Not the float32 copy of the weight that it is multiplied in, nor a float32 gradient."""
    hidden, weight, _, target = problem(tokens=256, dim=96, words=6000, dtype=torch.bfloat16)
    with Held() as held:
        PAIRS[name][0](hidden, weight, target, reduction=reduction, chunk_size=32).sum().backward()
    gradients = hidden.grad.nbytes + weight.grad.nbytes
    copy = 4 * weight.numel()
    assert gradients < held.peak < gradients + copy / 3


@both
def test_a_mean_over_no_token_is_nan_as_in_torch_and_a_sum_is_zero(name):
    hidden, weight, _, _ = problem()
    nothing = torch.full((70,), -100)
    assert PAIRS[name][0](hidden, weight, nothing).isnan()
    assert PAIRS[name][0](hidden, weight, nothing, reduction="sum") == 0
    for dtype in (torch.float32, torch.bfloat16):
        head = weight.detach().to(dtype).requires_grad_()
        none = PAIRS[name][0](hidden[:0].to(dtype), head, nothing[:0], reduction="none")
        none.sum().backward()
        assert none.shape == (0,) and not head.grad.any()


@both
def test_sequences_may_have_any_shape(name):
    hidden, weight, _, target = problem()
    flat = PAIRS[name][0](hidden, weight, target, reduction="none")
    shaped = PAIRS[name][0](hidden.view(7, 10, -1), weight, target.view(7, 10).int(), reduction="none")
    assert torch.equal(flat.view(7, 10), shaped)
    one = PAIRS[name][0](hidden[0], weight, torch.tensor(5), reduction="none")
    assert one.shape == ()


@both
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_create_graph_is_refused_by_name(name, reduction):
    hidden, weight, _, target = problem()
    value = PAIRS[name][0](hidden, weight, target, reduction=reduction).sum()
    with pytest.raises(RuntimeError, match=f"linear_{name}_loss has no second derivatives.*create_graph"):
        torch.autograd.grad(value, hidden, create_graph=True)


@both
def test_a_retained_graph_gives_the_same_gradients_again(name):
    hidden, weight, _, target = problem()
    value = 3 * PAIRS[name][0](hidden, weight, target, chunk_size=16)
    first = torch.autograd.grad(value, (hidden, weight), retain_graph=True)
    kept = [g.clone() for g in first]
    again = torch.autograd.grad(value, (hidden, weight))
    assert all(map(torch.equal, first, kept)) and all(map(torch.equal, first, again))


@both
def test_accumulated_micro_batches_are_one_batch(name):
    hidden, weight, _, target = problem()
    whole = torch.autograd.grad(PAIRS[name][0](hidden, weight, target, reduction="sum"), weight)[0]
    for rows in torch.arange(70).split(13):
        PAIRS[name][0](hidden[rows], weight, target[rows], reduction="sum").backward()
    torch.testing.assert_close(weight.grad, whole)


@both
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(name, reentrant):
    hidden, weight, _, target = problem()

    def loss(x):
        return PAIRS[name][0](torch.tanh(x), weight, target, chunk_size=16)

    plain = torch.autograd.grad(loss(hidden), (hidden, weight))
    checkpoint(loss, hidden, use_reentrant=reentrant).backward()
    torch.testing.assert_close((hidden.grad, weight.grad), plain)


@both
def test_autocast_takes_float32_inputs_and_returns_float32_gradients(name):
    hidden, weight, bias, target = problem(spread=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        ours = PAIRS[name][0](torch.relu(hidden).bfloat16(), weight, target, bias=bias)
        truth = PAIRS[name][1](F.linear(torch.relu(hidden), weight, bias), target)
    ours = value_and_gradients(ours, (hidden, weight, bias))
    truth = value_and_gradients(truth, (hidden, weight, bias))
    assert all(g.dtype == torch.float32 for g in ours)
    for mine, true in zip(ours, truth, strict=True):
        assert relative(mine, true) < 0.02


@both
def test_a_wrapped_model_trains_as_with_the_plain_loss(name):
    """DistributedDataParallel over one gloo process: its hooks must see the head's gradient."""
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self, loss):
            super().__init__()
            self.body, self.head, self.loss = torch.nn.Linear(24, 24), torch.nn.Linear(24, 300), loss

        def forward(self, x, target):
            return self.loss(self.body(x), self.head.weight, target, self.head.bias)

    class Plain(torch.nn.Module):
        def forward(self, hidden, weight, target, bias):
            return PAIRS[name][1](F.linear(hidden, weight, bias), target)

    model = Model({"root": losses.LinearRootLoss, "rlo": losses.LinearRLOLoss}[name](chunk_size=16))
    reference = copy.deepcopy(model)
    reference.loss = Plain()
    hidden, _, _, target = problem()
    x = hidden.detach()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        for net in (torch.nn.parallel.DistributedDataParallel(model), reference):
            optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
            for _ in range(3):
                optimizer.zero_grad()
                net(x, target).backward()
                optimizer.step()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(list(model.parameters()), list(reference.parameters()))


@pytest.mark.parametrize(
    "change,said",
    [
        ({"hidden": torch.zeros(70, 9)}, r"same D, got \(70, 9\) and \(300, 24\)"),
        ({"hidden": torch.zeros(70, 24, dtype=torch.long)}, "floating point.*token ids"),
        ({"target": torch.zeros(69, dtype=torch.long)}, r"\(70,\), got \(69,\)"),
        ({"target": torch.zeros(70)}, "integers"),
        ({"target": torch.full((70,), 300)}, "target 300 is no word: it must be 0 to 299"),
        ({"target": torch.full((70,), -1)}, "target -1 is no word"),
        ({"bias": torch.zeros(24)}, "300 words"),
        ({"weight": torch.zeros(300, 24).double()}, "one dtype"),
        ({"weight": torch.zeros(300, 24, device="meta")}, "one device"),
        ({"chunk_size": 0}, "chunk_size must be an integer > 0"),
        ({"chunk_size": 2.5}, "chunk_size must be an integer > 0"),
        ({"reduction": "average"}, "mean, sum, none"),
        ({"label_smoothing": 1.5}, "between 0 and 1"),
        ({"k": 0}, "k must be"),
        ({"m": -1}, "m must be"),
    ],
)
@both
def test_bad_input_is_a_value_error_that_names_what_would_be_right(name, change, said):
    hidden, weight, bias, target = problem()
    arguments = {"hidden": hidden, "weight": weight, "target": target, "bias": bias, **change}
    with pytest.raises(ValueError, match=said):
        PAIRS[name][0](**arguments)


@pytest.mark.parametrize("module", [losses.LinearRootLoss, losses.LinearRLOLoss])
def test_the_modules_check_their_options_when_they_are_made(module):
    for wrong in ({"k": 0}, {"m": 0}, {"reduction": "average"}, {"chunk_size": 0}, {"label_smoothing": 2}):
        with pytest.raises(ValueError):
            module(**wrong)
    assert "k=2, m=5" in repr(module(2, 5))


@both
def test_a_k_or_m_that_asks_for_a_gradient_is_refused_by_name(name):
    """It would get none without a word."""
    hidden, weight, _, target = problem()
    learned = torch.nn.Parameter(torch.tensor(3.0))
    for numbers in ((learned, 3.0), (3.0, learned)):
        with pytest.raises(ValueError, match=rf"linear_{name}_loss gives k and m no gradient.*{name}_loss\("):
            PAIRS[name][0](hidden, weight, target, *numbers)
        with torch.no_grad():
            value = PAIRS[name][0](hidden, weight, target, *numbers)
        torch.testing.assert_close(value, PAIRS[name][0](hidden, weight, target, 3.0, 3.0).detach())


@pytest.mark.skipif(
    not hasattr(torch.compiler, "is_exporting"), reason="torch 2.6 does not say that it exports"
)
def test_export_which_would_lose_its_gradient_is_refused_by_name():
    hidden, weight, _, target = problem()

    class Model(torch.nn.Module):
        def forward(self, *arguments):
            return losses.LinearRLOLoss()(*arguments)

    with pytest.raises(RuntimeError, match=r"linear_rlo_loss cannot be exported.*rlo_loss\("):
        torch.export.export(Model(), (hidden, weight, target), strict=False)


@pytest.mark.slow
def test_a_compiled_model_may_hold_the_loss():
    hidden, weight, _, target = problem()
    compiled = torch.compile(lambda h, w: losses.linear_root_loss(torch.tanh(h), w, target, chunk_size=16))
    ours = value_and_gradients(compiled(hidden, weight), (hidden, weight))
    truth = value_and_gradients(losses.root_loss(torch.tanh(hidden) @ weight.T, target), (hidden, weight))
    torch.testing.assert_close(ours, truth)
