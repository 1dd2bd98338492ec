"""The arguments and semantics of nn.CrossEntropyLoss: at k = m = 10⁷ root and rlo are cross entropy itself."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from losses import focal_loss, rlo_loss, root_loss

LOSSES = {
    "root": lambda *args, **options: root_loss(*args, 1e7, 1e7, **options),
    "rlo": lambda *args, **options: rlo_loss(*args, 1e7, 1e7, **options),
    "focal": lambda *args, **options: focal_loss(*args, 1.0, 0.0, **options),
}
C = 4
SHAPES = {"one": (C,), "batch": (6, C), "images": (3, C, 2, 5), "empty": (0, C), "empty images": (2, C, 0)}
TARGETS = {
    **{str(d).removeprefix("torch."): d for d in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)},
    "bool": torch.bool, "probabilities": torch.float64, "nothing counted": torch.int64,
    "out of range": torch.int64, "negative": torch.int64, "of another batch": torch.int64,
    "probabilities of another shape": torch.float64, "floating indices": torch.float64,
    "as many dimensions": torch.int64,
}  # fmt: skip
WEIGHTS = {
    "none": None, "some": torch.tensor([0.5, 2.0, 1.0, 0.0]), "zero": torch.zeros(C), "few": torch.ones(C - 1),
}  # fmt: skip
OPTIONS = {
    "ignore_index": (-100, 2, -1),
    "reduction": ("mean", "sum", "none", "average"),
    "label_smoothing": (0.0, 0.3, 1.5),
}


def target_of(kind, dtype, shape, generator):
    of_indices = shape[:1] + shape[2:] if len(shape) > 1 else ()
    if kind.startswith("probabilities"):
        shape = (*shape[:-1], shape[-1] + 1) if "another" in kind else shape
        return torch.rand(shape, generator=generator, dtype=dtype)
    indices = torch.randint(2 if dtype == torch.bool else C, of_indices, generator=generator)
    if kind == "nothing counted":
        indices.fill_(-100)
    elif kind == "out of range":
        indices = indices + C
    elif kind == "negative":
        indices = indices - 7
    elif kind == "of another batch":
        indices = indices.new_zeros((*of_indices, 2))
    elif kind == "as many dimensions":
        indices = indices.new_zeros(shape)
    return indices.to(dtype)


def outcome(loss, logits, target, options):
    """Value and gradient, or the error."""
    z = logits.clone().requires_grad_()
    try:
        value = loss(z, target, **options)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    except (RuntimeError, ValueError, IndexError) as error:
        return error
    return value, gradient


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", TARGETS)
def test_every_product_of_arguments_is_cross_entropy_or_refused_as_it_is(kind, shape):
    g = torch.Generator().manual_seed(2)
    logits = torch.randn(SHAPES[shape], generator=g, dtype=torch.float64)
    target = target_of(kind, TARGETS[kind], SHAPES[shape], g)
    # Torch takes small integers in some versions and with some options, and uint8 then has no −100: see the table.
    small = TARGETS[kind] in (torch.int32, torch.int16, torch.int8)
    for weight, *values in itertools.product(WEIGHTS, *OPTIONS.values()):
        options = dict(zip(OPTIONS, values, strict=True))
        if WEIGHTS[weight] is not None:
            options["weight"] = WEIGHTS[weight].double()
        want = outcome(F.cross_entropy, logits, target, options)
        if TARGETS[kind] == torch.uint8 or (small and not isinstance(want, Exception)):
            want = outcome(F.cross_entropy, logits, target.long(), options)
        for name, loss in LOSSES.items():
            got = outcome(loss, logits, target, options)
            case = (name, weight, options, got, want)
            assert isinstance(got, Exception) == isinstance(want, Exception), case
            if not isinstance(want, Exception):
                for ours, theirs in zip(got, want, strict=True):
                    if theirs is want[1] and want[0].isnan().any():
                        continue  # whose gradient means nothing
                    assert (
                        torch.allclose(ours, theirs, 1e-5, 1e-5, equal_nan=True)
                        and ours.shape == theirs.shape
                    ), case


def test_gradients_of_probabilities_are_those_of_cross_entropy():
    logits = torch.randn(6, C, dtype=torch.float64)
    target = torch.rand(6, C, dtype=torch.float64, requires_grad=True)
    for smoothing in (0.0, 0.2):
        (want,) = torch.autograd.grad(F.cross_entropy(logits, target, label_smoothing=smoothing), target)
        for loss in LOSSES.values():
            (got,) = torch.autograd.grad(loss(logits, target, label_smoothing=smoothing), target)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-9)


def test_where_they_differ_from_cross_entropy_is_what_the_table_says():
    """docs/losses.md, "Where we differ from nn.CrossEntropyLoss", a row each."""
    half = torch.randn(6, C).half()
    target = torch.arange(6) % C
    masked = torch.tensor([[0.0, 1.0, -torch.inf]])
    for loss in LOSSES.values():
        assert loss(half, target).dtype == torch.float32 != F.cross_entropy(half, target).dtype
        assert loss(half, target, weight=torch.ones(C)).isfinite()
        assert loss(half.float(), torch.rand(6, C).double()).dtype == torch.float32
        assert (
            loss(masked, torch.tensor([2])).isfinite() and F.cross_entropy(masked, torch.tensor([2])).isinf()
        )
        no_mass = torch.tensor([[0.5, 0.5, 0.0]])
        assert loss(masked, no_mass).isfinite() and F.cross_entropy(masked, no_mass).isnan()
        with pytest.raises(ValueError, match="each of the 4 classes"):
            loss(half, target, weight=torch.ones(3))
        with pytest.raises(ValueError, match="integers"):
            loss(half, target.float())
        with pytest.raises(ValueError, match="between 0 and 1"):
            loss(half, target, label_smoothing=2.0)
        with pytest.raises(ValueError, match="ignore_index is for class indices"):
            loss(half, torch.rand(6, C), ignore_index=1)
        with pytest.raises(IndexError, match="9"):
            loss(half, target.fill_(9))
        target = torch.arange(6) % C
