"""Optimisers of regression.py: one minimum, the rates that theory promises, honest endings."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize

from logreg.estimator.objectives import Objective
from logreg.estimator.optimizers import OPTIMIZERS, minimize


def problem(n_classes=2, k=None, l2=1e-2, n=120, d=5, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, d)) + np.eye(max(n_classes, d))[y][:, :d]
    return Objective(X, y, n_classes, k=k, l2=l2)


def separable(k):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = rng.normal(size=(40, 2))
    X[:, 0] = np.where(y == 1, 0.5, -0.5) + np.where(y == 1, 1, -1) * abs(X[:, 0])
    return Objective(X, y, 2, k=k)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("k", [None, 2.0])
def test_all_optimizers_reach_the_minimum_that_scipy_finds_on_a_numpy_objective(n_classes, k):
    objective = problem(n_classes, k)
    X, y, d = objective.X, np.arange(120) % n_classes, 5

    def by_hand(w):
        W = w.reshape(-1, d + 1)
        Z = X @ W[:, :d].T + W[:, d]
        Z = np.column_stack([np.zeros(len(Z)), Z]) if n_classes == 2 else Z
        p = (np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True))[np.arange(len(y)), y]
        return (-np.log(p) if k is None else k * (p ** (-1 / k) - 1)).mean() + 0.005 * (W[:, :d] ** 2).sum()

    truth = scipy.optimize.minimize(by_hand, np.zeros(objective.size), method="BFGS", options={"gtol": 1e-7})
    for name in OPTIMIZERS:
        result = minimize(name, objective, tol=1e-8, max_iter=50000)
        assert result.status == "converged", name
        assert result.gradient_norms[-1] <= 1e-8
        assert result.values[-1] == pytest.approx(truth.fun, abs=1e-10), name
        if n_classes == 2:
            np.testing.assert_allclose(result.w, truth.x, atol=1e-4)


@pytest.mark.parametrize("k", [None, 2.0, 10.0])
def test_newton_converges_quadratically(k):
    norms = np.array(minimize("newton", problem(k=k), tol=1e-13, max_iter=30).gradient_norms)
    near = norms[(norms < 1e-1) & (norms > 1e-13)]
    assert len(near) >= 3
    # ‖g₊‖ ≤ c ‖g‖²: the digits double; the floor is float64's
    assert all(after <= max(50 * before**2, 1e-14) for before, after in pairwise(near))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("k", [None, 1.0, 10.0])
def test_gd_with_the_computed_step_decreases_by_what_the_descent_lemma_promises(n_classes, k):
    objective = problem(n_classes, k, l2=0.0)
    result = minimize("gd", objective, tol=1e-12, max_iter=300)
    values, norms = np.array(result.values), np.array(result.gradient_norms)
    promised = norms[:-1] ** 2 / (2 * objective.lipschitz())
    assert (values[1:] <= values[:-1] - promised + 1e-14).all()


def test_nesterov_needs_far_fewer_iterations_than_gd():
    objective = problem(l2=1e-3)
    objective.X *= [1, 1, 1, 0.1, 0.03]  # ill-conditioned
    gd, nesterov = (minimize(name, objective, tol=1e-6, max_iter=10**5) for name in ("gd", "nesterov"))
    assert gd.status == nesterov.status == "converged"
    assert nesterov.iterations < gd.iterations / 3


@pytest.mark.parametrize("k", [None, 2.0])
def test_separable_data_without_l2_are_reported_as_not_reached_while_the_weights_grow(k):
    objective = separable(k)
    short, long = (minimize("gd", objective, tol=1e-8, max_iter=n) for n in (200, 2000))
    assert short.status == long.status == "max_iter"
    assert objective.norm(long.w) > 1.2 * objective.norm(short.w)
    assert objective.smallest_margin(long.w) > 0


@pytest.mark.parametrize("k", [None, 2.0])
@pytest.mark.parametrize("name", ["gd", "nesterov"])
def test_a_step_far_too_large_is_reported_as_divergence(name, k):
    result = minimize(name, problem(k=k, l2=0.1), tol=1e-8, max_iter=500, lr=1e4)
    assert result.status == "diverged"


def test_a_result_keeps_one_entry_an_iterate_and_seconds_that_grow():
    ticks = []
    result = minimize("gd", problem(), tol=1e-30, max_iter=7, on_iterate=lambda: ticks.append(1))
    assert result.iterations == len(ticks) == 7
    assert len(result.values) == len(result.gradient_norms) == len(result.seconds) == 8
    assert result.seconds == sorted(result.seconds)


def test_newton_stops_when_float64_has_no_lower_value_left():
    result = minimize("newton", problem(k=2.0), tol=1e-30, max_iter=200)
    assert result.status in ("stalled", "max_iter")
    assert result.gradient_norms[-1] < 1e-12
