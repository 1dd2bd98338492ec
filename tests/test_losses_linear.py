"""linear_root_loss and linear_rlo_loss against the plain route: the losses of a matrix of all logits."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import losses

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


@both
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_and_gradients_are_those_of_the_plain_route(name, reduction, smoothing):
    hidden, weight, bias, target = inputs = problem(dtype=torch.float64, spread=0.3)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    weights = torch.linspace(-1, 2, len(target), dtype=torch.float64) if reduction == "none" else None
    for k, m in ((0.05, 0.05), (0.5, 2.0), (1.0, 1.0), (3.0, 3.0), (1e3, 1e3)):
        truth = PAIRS[name][1](F.linear(hidden, weight, bias), target, k, m, **options)
        truth = value_and_gradients(truth, inputs[:3], weights)
        for chunk_size in (1, 16, 70, 1000, None):
            ours = PAIRS[name][0](hidden, weight, target, k, m, bias=bias, chunk_size=chunk_size, **options)
            ours = value_and_gradients(ours, inputs[:3], weights)
            for mine, true in zip(ours, truth, strict=True):
                assert mine.shape == true.shape and relative(mine, true) < 1e-12


@both
@pytest.mark.parametrize("k", [0.5, 3.0, 1000.0])
def test_float32_is_within_a_millionth_of_float64(name, k):
    """Below k = 1 within that over k, which is what rounding ℓ alone does to e^(ℓ/k)."""
    inputs = problem(tokens=300, dim=64, words=2000, spread=0.2)
    exact = [x.detach().double().requires_grad_() for x in inputs[:3]]
    ours = PAIRS[name][0](*inputs[:2], inputs[3], k, k, bias=inputs[2], chunk_size=64)
    ours = value_and_gradients(ours, inputs[:3])
    truth = value_and_gradients(PAIRS[name][1](F.linear(*exact), inputs[3], k, k), exact)
    for mine, true in zip(ours, truth, strict=True):
        assert relative(mine, true) <= 1e-6 * max(1, 1 / k)


@both
def test_logits_far_apart_give_finite_values_and_gradients(name):
    for spread, k, smoothing in itertools.product((30.0, 1e4, 1e30), (0.05, 1, 1000), (0, 0.1)):
        hidden, weight, _, target = problem(spread=spread)
        value = PAIRS[name][0](hidden, weight, target, k, k, chunk_size=16, label_smoothing=smoothing)
        grads = torch.autograd.grad(value, (hidden, weight))
        assert value.isfinite()
        if spread < 1e30:  # there the product of a slope with the weight is itself no float32
            assert all(g.isfinite().all() for g in grads)


class LargestTensor(TorchDispatchMode):
    """How many numbers the largest tensor has that is made inside."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return out


@both
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    "needs", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3]
)
def test_only_the_gradients_that_are_asked_for_are_made_and_never_all_logits(name, reduction, needs):
    *inputs, target = problem(tokens=256, words=2000)
    hidden, weight, bias = (x.detach().requires_grad_(need) for x, need in zip(inputs, needs, strict=True))
    with LargestTensor() as largest:
        value = PAIRS[name][0](hidden, weight, target, bias=bias, reduction=reduction, chunk_size=16)
        if any(needs):
            value.sum().backward()
    assert [x.grad is not None for x in (hidden, weight, bias)] == list(needs)
    assert largest.numbers == weight.numel() < 256 * 2000
    with torch.no_grad():
        without = PAIRS[name][0](hidden, weight, target, bias=bias, reduction=reduction, chunk_size=16)
    assert not without.requires_grad and torch.equal(without, value)


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(name, dtype):
    hidden, weight, bias, target = problem(tokens=512, dim=16, words=40, dtype=dtype, spread=0.3)
    ours = value_and_gradients(
        PAIRS[name][0](hidden, weight, target, bias=bias, chunk_size=4), (hidden, weight, bias)
    )
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    truth = value_and_gradients(PAIRS[name][1](F.linear(*exact), target), exact)
    assert ours[0].dtype == torch.float32 and all(g.dtype == dtype for g in ours[1:])
    for mine, true in zip(ours, truth, strict=True):
        assert relative(mine, true) < torch.finfo(dtype).eps


@both
def test_a_mean_over_no_token_is_nan_as_in_torch_and_a_sum_is_zero(name):
    hidden, weight, _, _ = problem()
    nothing = torch.full((70,), -100)
    assert PAIRS[name][0](hidden, weight, nothing).isnan()
    assert PAIRS[name][0](hidden, weight, nothing, reduction="sum") == 0
    none = PAIRS[name][0](hidden[:0], weight, nothing[:0], reduction="none")
    none.sum().backward()
    assert none.shape == (0,) and not weight.grad.any()


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
def test_a_graph_may_be_retained_but_has_no_second_derivatives(name, reduction):
    hidden, weight, _, target = problem()
    value = 3 * PAIRS[name][0](hidden, weight, target, reduction=reduction, chunk_size=16).nansum()
    with pytest.raises(RuntimeError, match=f"linear_{name}_loss has no second derivatives.*create_graph"):
        torch.autograd.grad(value, hidden, create_graph=True)
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
        ({"chunk_size": 0}, "chunk_size must be an integer > 0"),
        ({"chunk_size": 2.5}, "chunk_size must be an integer > 0"),
        ({"reduction": "average"}, "mean, sum, none"),
        ({"label_smoothing": 1.5}, "between 0 and 1"),
        ({"k": 0}, "k must be"),
        ({"m": -1}, "m must be"),
        (
            {"k": torch.nn.Parameter(torch.tensor(3.0))},
            r"linear_root_loss gives k and m no gradient.*root_loss\(",
        ),
    ],
)
def test_bad_input_is_a_value_error_that_names_what_would_be_right(change, said):
    hidden, weight, bias, target = problem()
    arguments = {"hidden": hidden, "weight": weight, "target": target, "bias": bias, **change}
    with pytest.raises(ValueError, match=said):
        losses.linear_root_loss(**arguments)
    if not {"hidden", "target", "weight", "bias"} & set(change) and not isinstance(
        change.get("k"), torch.Tensor
    ):
        with pytest.raises(ValueError, match=said):
            losses.LinearRLOLoss(**change)


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
    compiled = torch.compile(
        lambda h, w: losses.linear_root_loss(torch.tanh(h), w, target, chunk_size=40), backend="aot_eager"
    )
    ours = value_and_gradients(compiled(hidden, weight), (hidden, weight))
    truth = value_and_gradients(losses.root_loss(torch.tanh(hidden) @ weight.T, target), (hidden, weight))
    torch.testing.assert_close(ours, truth)
