"""Objectives of regression.py against NumPy written by hand, finite differences and autograd of losses/."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from logreg.estimator.objectives import Objective
from losses import rlo_loss

KS = [None, 0.5, 1.0, 2.0, 3.0, 10.0]


def make(n_classes, k, l2=0.0, n=40, d=4, seed=0, **options):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.geomspace(1, 3, d)
    y = np.arange(n) % n_classes
    return Objective(X + y[:, None] * 0.3, y, n_classes, k=k, l2=l2, **options), rng


def central_difference(function, w, step=1e-6):
    return np.array([(function(w + step * e) - function(w - step * e)) / (2 * step) for e in np.eye(len(w))])


@pytest.mark.parametrize("k", KS)
def test_binary_value_is_the_papers_formula_written_in_numpy(k):
    objective, rng = make(2, k, l2=0.1)
    w = rng.normal(size=objective.size)
    t = np.where(np.arange(40) % 2 == 1, 1, -1) * (objective.X @ w[:-1] + w[-1])
    per_sample = np.log1p(np.exp(-t)) if k is None else k * (1 + np.exp(-t)) ** (1 / k) - k
    expected = per_sample.mean() + 0.05 * (w[:-1] ** 2).sum()
    assert objective.value_and_gradient(w)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("k", KS)
def test_multinomial_value_is_the_formula_written_in_numpy(k):
    objective, rng = make(3, k, l2=0.1)
    W = rng.normal(size=(3, 5))
    Z = objective.X @ W[:, :4].T + W[:, 4]
    p = (np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True))[np.arange(40), np.arange(40) % 3]
    per_sample = -np.log(p) if k is None else k * (p ** (-1 / k) - 1)
    expected = per_sample.mean() + 0.05 * (W[:, :4] ** 2).sum()
    assert objective.value_and_gradient(W.ravel())[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("k", KS)
def test_gradient_and_hessian_equal_finite_differences(n_classes, fit_intercept, k):
    objective, rng = make(n_classes, k, l2=0.05, fit_intercept=fit_intercept)
    w = 0.5 * rng.normal(size=objective.size)
    gradient = central_difference(lambda v: objective.value_and_gradient(v)[0], w)
    hessian = central_difference(lambda v: objective.value_and_gradient(v)[1], w)
    np.testing.assert_allclose(objective.value_and_gradient(w)[1], gradient, atol=1e-7, rtol=1e-6)
    np.testing.assert_allclose(objective.hessian(w), hessian, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0, 3000.0])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("k", [None, 1.0, 3.0])
def test_gradient_equals_autograd_of_the_losses_far_out_too(n_classes, k, scale):
    objective, rng = make(n_classes, k)
    w = scale * rng.normal(size=objective.size)
    leaf = torch.tensor(w.reshape(objective.rows, -1), requires_grad=True)
    logits = torch.from_numpy(objective.X) @ leaf[:, :-1].T + leaf[:, -1]
    if n_classes == 2:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    target = torch.arange(40) % n_classes
    none = {"reduction": "none"}
    each = F.cross_entropy(logits, target, **none) if k is None else rlo_loss(logits, target, k, k, **none)
    loss = (each / len(each)).sum()
    loss.backward()
    value, gradient = objective.value_and_gradient(w)
    assert value == pytest.approx(loss.item(), rel=1e-10)
    np.testing.assert_allclose(
        gradient, leaf.grad.numpy().ravel(), rtol=1e-9, atol=1e-9 * abs(gradient).max()
    )


@pytest.mark.parametrize("k", [None, 2.0])
def test_sample_weights_equal_repeated_samples(k):
    rng = np.random.default_rng(1)
    X, y, times = rng.normal(size=(12, 3)), np.arange(12) % 3, np.arange(12) % 4
    weighted = Objective(X, y, 3, k=k, l2=0.1, sample_weight=times)
    repeated = Objective(np.repeat(X, times, axis=0), np.repeat(y, times), 3, k=k, l2=0.1)
    w = rng.normal(size=weighted.size)
    np.testing.assert_allclose(
        weighted.value_and_gradient(w)[1], repeated.value_and_gradient(w)[1], rtol=1e-12
    )
    np.testing.assert_allclose(weighted.hessian(w), repeated.hessian(w), rtol=1e-9, atol=1e-14)
    assert weighted.lipschitz() == pytest.approx(repeated.lipschitz())


def test_rlo_tends_to_logistic_as_k_grows():
    logistic, rng = make(3, None, l2=0.1)
    rooted, _ = make(3, 1e7, l2=0.1)
    w = rng.normal(size=logistic.size)
    assert rooted.value_and_gradient(w)[0] == pytest.approx(logistic.value_and_gradient(w)[0], rel=1e-5)
    assert rooted.lipschitz() == pytest.approx(logistic.lipschitz(), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_classes=st.integers(2, 4),
    k=st.one_of(st.none(), st.floats(0.2, 20)),
    scale=st.floats(0.01, 5),
)
def test_lipschitz_bounds_the_curvature_wherever_the_value_is_below_its_start(seed, n_classes, k, scale):
    objective, rng = make(n_classes, k, l2=0.01, n=9, seed=seed)
    start = objective.value_and_gradient(np.zeros(objective.size))[0]
    direction = scale * rng.normal(size=objective.size)
    # Downhill at first, so that there is a part of the ray in the level set; then its last such point.
    direction *= -np.sign(direction @ objective.value_and_gradient(np.zeros(objective.size))[1])
    while objective.value_and_gradient(direction)[0] > start:
        direction = direction * 0.7
    largest = np.linalg.eigvalsh(objective.hessian(direction))[-1]
    assert largest <= objective.lipschitz() * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_classes=st.integers(2, 4),
    k=st.one_of(st.none(), st.floats(0.2, 20)),
    scale=st.floats(0.01, 20),
)
def test_relative_curvature_bounds_the_curvature_over_the_value_everywhere(seed, n_classes, k, scale):
    objective, rng = make(n_classes, k, n=1 + n_classes, seed=seed)
    w = scale * rng.normal(size=objective.size)
    largest = np.linalg.eigvalsh(objective.hessian(w))[-1]
    value = objective.value_and_gradient(w)[0]
    # Of more than two classes a loss below 1e-16 has no digits.
    assert largest <= objective.relative_curvature() * value * (1 + 1e-9) + (
        1e-290 if n_classes == 2 else 1e-14
    )


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_curvature_over_logistic_is_the_ratio_of_second_differences_at_0(n_classes, k):
    ratio = []
    for root in (k, None):
        objective = Objective(np.eye(n_classes), np.arange(n_classes), n_classes, k=root, fit_intercept=False)
        H = central_difference(lambda w, o=objective: o.value_and_gradient(w)[1], np.zeros(objective.size))
        ratio.append(np.trace(H))
    assert objective.name == "logistic"
    expected = ratio[0] / ratio[1]
    rooted = Objective(np.eye(n_classes), np.arange(n_classes), n_classes, k=k)
    assert rooted.curvature_over_logistic() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("k", [None, 2.0, 5.0])
def test_condition_number_equals_that_of_a_finite_difference_hessian(k):
    objective, rng = make(2, k, l2=1e-3)
    w = 0.3 * rng.normal(size=objective.size)
    hessian = central_difference(lambda v: objective.value_and_gradient(v)[1], w)
    assert objective.condition_number(w) == pytest.approx(np.linalg.cond((hessian + hessian.T) / 2), rel=1e-5)


@pytest.mark.parametrize("k", [None, 2.0])
def test_condition_number_of_three_classes_leaves_their_common_shift_out(k):
    objective, rng = make(3, k)
    w = 0.3 * rng.normal(size=objective.size)
    hessian = central_difference(lambda v: objective.value_and_gradient(v)[1], w)
    eigenvalues = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    # One flat direction for every column of the design: the same vector added to all classes.
    flat, steep = eigenvalues[: objective.columns], eigenvalues[objective.columns :]
    assert abs(flat).max() < 1e-8
    assert objective.condition_number(w) == pytest.approx(steep[-1] / steep[0], rel=1e-4)


def test_condition_number_is_not_spoilt_by_a_doubled_feature():
    objective, _ = make(2, 3.0)
    doubled = Objective(np.hstack([objective.X, objective.X[:, :1]]), np.arange(40) % 2, 2, k=3.0)
    assert np.isfinite(doubled.condition_number(np.zeros(doubled.size)))


def test_smallest_margin_and_norm_leave_the_intercept_out_of_the_norm():
    X, y = np.array([[0.0, 1.0], [3.0, 0.0]]), np.array([0, 1])
    objective = Objective(X, y, 2)
    w = np.array([3.0, -4.0, 1.0])  # scores −3 and 10: margins 3/5 and 2
    assert objective.norm(w) == 5.0
    assert objective.smallest_margin(w) == pytest.approx(0.6)
    assert objective.accuracy(w, X, y) == 1.0


@pytest.mark.parametrize("options", [{"k": 0.0}, {"k": np.inf}, {"l2": -1.0}])
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Objective(np.eye(2), np.array([0, 1]), 2, **options)
