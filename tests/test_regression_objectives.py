"""Objectives of regression.py against NumPy written by hand, finite differences and autograd of losses/."""

import numpy as np
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from logreg.estimator.objectives import Objective
from losses import rlo_loss, root_loss

LOSSES = [(None, "logistic"), (0.5, "rlo"), (3.0, "rlo"), (1.2, "root"), (3.0, "root")]
each_loss = pytest.mark.parametrize("k, loss", LOSSES)


def make(n_classes, k, loss, l2=0.0, n=40, d=4, seed=0, **options):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.geomspace(1, 3, d)
    y = np.arange(n) % n_classes
    return Objective(X + y[:, None] * 0.3, y, n_classes, k, loss, l2=l2, **options), rng


def central_difference(function, w, step=1e-6):
    return np.array([(function(w + step * e) - function(w - step * e)) / (2 * step) for e in np.eye(len(w))])


@each_loss
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_value_is_the_formula_written_in_numpy(n_classes, k, loss):
    objective, rng = make(n_classes, k, loss, l2=0.1)
    w = rng.normal(size=objective.size)
    W = w.reshape(-1, 5)
    Z = objective.X @ W[:, :4].T + W[:, 4]
    Z = np.column_stack([np.zeros(40), Z]) if n_classes == 2 else Z
    p = (np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True))[np.arange(40), np.arange(40) % n_classes]
    phi = {
        "logistic": lambda: -np.log(p),
        "rlo": lambda: k * (p ** (-1 / k) - 1),
        "root": lambda: k * (1 - p ** (1 / k)),
    }
    expected = phi[loss]().mean() + 0.05 * (W[:, :4] ** 2).sum()
    assert objective.value_and_gradient(w)[0] == pytest.approx(expected, rel=1e-12)
    assert objective.name == ("logistic" if k is None else f"{loss} k={k:g}")


@each_loss
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_gradient_and_hessian_equal_finite_differences(n_classes, fit_intercept, k, loss):
    objective, rng = make(n_classes, k, loss, l2=0.05, fit_intercept=fit_intercept)
    w = 0.5 * rng.normal(size=objective.size)
    gradient = central_difference(lambda v: objective.value_and_gradient(v)[0], w)
    hessian = central_difference(lambda v: objective.value_and_gradient(v)[1], w)
    np.testing.assert_allclose(objective.value_and_gradient(w)[1], gradient, atol=1e-7, rtol=1e-6)
    np.testing.assert_allclose(objective.hessian(w), hessian, atol=1e-7, rtol=1e-6)
    X, y, share = scipy.sparse.csr_matrix(objective.X), objective.y, objective.share
    sparse = Objective(X, y, n_classes, k, loss, l2=0.05, fit_intercept=fit_intercept, sample_weight=share)
    np.testing.assert_allclose(sparse.value_and_gradient(w)[1], gradient, atol=1e-7, rtol=1e-6)
    np.testing.assert_allclose(sparse.hessian(w), hessian, atol=1e-7, rtol=1e-6)


@each_loss
@pytest.mark.parametrize("n_classes", [2, 3])
def test_gradient_equals_autograd_of_the_losses_and_far_out_it_is_finite(n_classes, k, loss):
    function = {"logistic": None, "rlo": rlo_loss, "root": root_loss}[loss]
    objective, rng = make(n_classes, k, loss)
    direction = rng.normal(size=objective.size)
    target = torch.arange(40) % n_classes
    for scale in (1.0, 30.0):
        leaf = torch.tensor(scale * direction.reshape(objective.rows, -1), requires_grad=True)
        logits = torch.from_numpy(objective.X) @ leaf[:, :-1].T + leaf[:, -1]
        if n_classes == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        total = F.cross_entropy(logits, target) if k is None else function(logits, target, k, k)
        total.backward()
        value, gradient = objective.value_and_gradient(scale * direction)
        assert value == pytest.approx(total.item(), rel=1e-10)
        want = leaf.grad.numpy().ravel()
        np.testing.assert_allclose(gradient, want, rtol=1e-9, atol=1e-9 * abs(want).max())
    value, gradient = objective.value_and_gradient(1e6 * direction)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@each_loss
def test_sample_weights_equal_repeated_samples(k, loss):
    rng = np.random.default_rng(1)
    X, y, times = rng.normal(size=(12, 3)), np.arange(12) % 3, np.arange(12) % 4
    weighted = Objective(X, y, 3, k, loss, l2=0.1, sample_weight=times)
    repeated = Objective(np.repeat(X, times, axis=0), np.repeat(y, times), 3, k, loss, l2=0.1)
    w = rng.normal(size=weighted.size)
    gradient = repeated.value_and_gradient(w)[1]
    np.testing.assert_allclose(weighted.value_and_gradient(w)[1], gradient, rtol=1e-12)
    np.testing.assert_allclose(weighted.hessian(w), repeated.hessian(w), rtol=1e-9, atol=1e-14)
    assert weighted.lipschitz() == pytest.approx(repeated.lipschitz())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_classes=st.integers(2, 4),
    loss=st.one_of(
        st.just((None, "logistic")),
        st.tuples(st.floats(0.2, 20), st.just("rlo")),
        st.tuples(st.floats(1.01, 20), st.just("root")),
    ),
    scale=st.floats(0.01, 5),
)
def test_lipschitz_bounds_the_curvature_wherever_the_value_is_below_its_start(seed, n_classes, loss, scale):
    objective, rng = make(n_classes, *loss, l2=0.01, n=9, seed=seed)
    start, slope = objective.value_and_gradient(np.zeros(objective.size))
    direction = scale * rng.normal(size=objective.size)
    # Downhill at first, so that there is a part of the ray in the level set; then its last such point.
    direction *= -np.sign(direction @ slope)
    while objective.value_and_gradient(direction)[0] > start:
        direction = direction * 0.7
    largest = np.abs(np.linalg.eigvalsh(objective.hessian(direction))).max()
    assert largest <= objective.lipschitz() * (1 + 1e-9)


@pytest.mark.parametrize("k, loss", [(None, "logistic"), (3.0, "rlo"), (3.0, "root")])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_condition_number_is_that_of_finite_differences_without_the_classes_common_shift(n_classes, k, loss):
    objective, rng = make(n_classes, k, loss, l2=1e-3 if n_classes == 2 else 0.0)
    w = 0.1 * rng.normal(size=objective.size)
    hessian = central_difference(lambda v: objective.value_and_gradient(v)[1], w)
    eigenvalues = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    # Of three classes one direction a column is flat: the same vector added to all of them.
    steep = eigenvalues if n_classes == 2 else eigenvalues[objective.columns :]
    assert objective.condition_number(w) == pytest.approx(steep[-1] / steep[0], rel=1e-4)
    doubled = Objective(np.hstack([objective.X, objective.X[:, :1]]), objective.y, n_classes, k, loss)
    assert np.isfinite(doubled.condition_number(np.zeros(doubled.size)))


def test_condition_number_is_infinite_where_root_is_not_convex():
    objective, _ = make(2, 1.2, "root")
    w = np.full(objective.size, -2.0)
    assert np.linalg.eigvalsh(objective.hessian(w))[0] < 0
    assert objective.condition_number(w) == np.inf


def test_margin_norm_and_accuracy_are_those_counted_by_hand():
    X, y = np.array([[0.0, 1.0], [3.0, 0.0]]), np.array([0, 1])
    w = np.array([3.0, -4.0, 1.0])  # scores −3 and 10: margins 3/5 and 2
    objective = Objective(X, y, 2)
    assert objective.norm(w) == 5.0
    assert objective.smallest_margin(w) == pytest.approx(0.6)
    assert objective.accuracy(w, X, y) == 1.0
    three = Objective(X, y, 3, fit_intercept=False)
    w = np.array([1.0, 2.0, 0.0, 0.0, 2.0, 0.0])  # scores 2, 0, 0 and 3, 0, 6: margins 2 and −6
    assert three.smallest_margin(w) == pytest.approx(-2.0)
    assert three.accuracy(w, X, y) == 0.5


@pytest.mark.parametrize("options", [{"k": 0.0}, {"k": np.inf}, {"k": 1.0, "loss": "root"}, {"l2": -1.0}])
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Objective(np.eye(2), np.array([0, 1]), 2, **options)
