"""Optimisers of regression.py: one minimum, the rates that theory promises, honest endings."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.svm import SVC

from logreg.estimator.objectives import Objective, one_torch_thread
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
@pytest.mark.parametrize("k", [None, 2.0, 5.0])
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
    lowest = minimize("newton", objective, tol=1e-12, max_iter=50).values[-1]
    results = {}
    for name in OPTIMIZERS:
        tol = 1e-6 if name == "polyak" else 1e-8  # F - F*, which polyak divides by, has no more digits
        results[name] = result = minimize(name, objective, tol=tol, max_iter=50000, fmin=lowest)
        assert result.status == "converged", name
        assert result.gradient_norms[-1] <= tol
        assert result.values[-1] == pytest.approx(truth.fun, abs=1e-10), name
    if n_classes == 2:
        for name, result in results.items():
            np.testing.assert_allclose(result.w, results["newton"].w, atol=1e-5 if name == "polyak" else 1e-6)


@pytest.mark.parametrize("k", [None, 2.0, 10.0])
def test_newton_converges_quadratically(k):
    norms = np.array(minimize("newton", problem(k=k), tol=1e-13, max_iter=30).gradient_norms)
    near = norms[(norms < 1e-1) & (norms > 1e-13)]
    assert len(near) >= 3
    # ‖g₊‖ ≤ c ‖g‖²: the digits double; the floor is float64's
    assert all(after <= max(50 * before**2, 1e-14) for before, after in pairwise(near))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("k", [None, 1.0, 2.0, 10.0])
def test_gd_with_the_computed_step_decreases_by_what_the_descent_lemma_promises(n_classes, k):
    objective = problem(n_classes, k, l2=0.0)
    result = minimize("gd", objective, tol=1e-12, max_iter=300)
    values, norms = np.array(result.values), np.array(result.gradient_norms)
    promised = norms[:-1] ** 2 / (2 * objective.lipschitz())
    assert (values[1:] <= values[:-1] - promised + 1e-14).all()


def test_nesterov_needs_far_fewer_iterations_than_gd():
    objective = problem(l2=1e-4)
    objective.X *= [1, 1, 1, 0.1, 0.03]  # ill-conditioned
    gd, nesterov = (minimize(name, objective, tol=1e-8, max_iter=10**5) for name in ("gd", "nesterov"))
    assert gd.status == nesterov.status == "converged"
    assert nesterov.iterations < gd.iterations / 3


@pytest.mark.parametrize("k", [None, 2.0])
def test_separable_data_without_l2_are_reported_as_not_reached_while_the_weights_grow(k):
    objective = separable(k)
    short, long = (minimize("gd", objective, tol=1e-8, max_iter=n) for n in (200, 2000))
    assert short.status == long.status == "max_iter"
    assert objective.norm(long.w) > 1.2 * objective.norm(short.w)
    assert objective.smallest_margin(long.w) > 0


@pytest.mark.parametrize("k", [None, 0.5, 2.0])
def test_polyak_takes_the_step_of_the_formula_and_never_leaves_the_minimiser_behind(k):
    objective = problem(k=k)
    best = minimize("newton", objective, tol=1e-12, max_iter=50)
    iterates = [np.zeros(objective.size)]
    for n in range(1, 40):
        iterates.append(minimize("polyak", objective, tol=1e-9, max_iter=n, fmin=best.values[-1]).w)
    signs, design = np.where(np.arange(120) % 2 == 1, 1, -1), np.column_stack([objective.X, np.ones(120)])
    for before, after in pairwise(iterates[:10]):
        # φ and φ′ over the margin, by hand
        t = signs * (design @ before)
        root = 1 if k is None else (1 + np.exp(-t)) ** (1 / k)
        slope = -root / (1 + np.exp(t))
        each = np.log1p(np.exp(-t)) if k is None else k * (root - 1)
        penalised = np.r_[np.ones(5), 0] * before
        gradient = design.T @ (signs * slope) / 120 + 0.01 * penalised
        gap = each.mean() + 0.005 * penalised @ penalised - best.values[-1]
        np.testing.assert_allclose(after, before - gap / (gradient @ gradient) * gradient, rtol=1e-6)
    distances = [np.linalg.norm(w - best.w) for w in iterates]
    assert all(after <= before + 1e-6 for before, after in pairwise(distances))


def test_polyak_stops_at_its_fmin_and_does_not_call_that_converged():
    objective = problem()
    first = objective.value_and_gradient(np.zeros(objective.size))[0]
    result = minimize("polyak", objective, tol=1e-8, max_iter=500, fmin=0.9 * first)
    assert result.status == "stalled" and result.values[-1] <= 0.9 * first and result.iterations < 100


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("k", [None, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("l2", [0.0, 1e-2])
def test_normalised_decreases_by_what_its_bound_promises_from_anywhere(l2, k, n_classes):
    objective = problem(n_classes, k, l2)
    for far in (0.0, 3.0):  # far out, where rlo's curvature is beyond the bound that gd relies on
        start = far * np.random.default_rng(1).normal(size=objective.size)
        result = minimize("normalised", objective, tol=1e-12, max_iter=100, start=start)
        values, norms = np.array(result.values), np.array(result.gradient_norms)
        step = 1 / (objective.relative_curvature() * values[:-1] + l2)
        assert (values[1:] <= values[:-1] - step * norms[:-1] ** 2 / 2 + 1e-14).all()


@pytest.mark.parametrize("k", [None, 2.0])
def test_normalised_and_polyak_reach_the_largest_margin_that_an_svm_finds_and_gd_does_not(k):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 3))
    X[:, 0] = np.where(y == 1, 1, -1) * (0.3 + abs(X[:, 0]))
    objective = Objective(X, y, 2, k=k, fit_intercept=False)
    # The hard margin without an intercept: x and −x of the other class are one problem.
    svm = SVC(kernel="linear", C=1e8).fit(np.vstack([X, -X]), np.r_[y, 1 - y])
    largest = 1 / np.linalg.norm(svm.coef_)
    reached = {
        name: objective.smallest_margin(minimize(name, objective, tol=1e-100, max_iter=1500).w) / largest
        for name in ("gd", "normalised", "polyak")
    }
    assert reached["gd"] < 0.95 < 0.98 < reached["normalised"] <= 1 + 1e-6
    assert 0.99 < reached["polyak"] <= 1 + 1e-6
    far = minimize("polyak", objective, tol=1e-150, max_iter=1500)  # without underflow on the way
    assert far.status == "converged" and 0 < far.values[-1] < 1e-140


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


def test_torch_keeps_its_number_of_threads():
    before = torch.get_num_threads()
    minimize("gd", problem(), tol=1e-3, max_iter=3)
    assert torch.get_num_threads() == before
    # In threads that overlap too: the second one to begin must not remember the first one's 1.
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(2) as pool:
            begun, ended = threading.Event(), threading.Event()

            def first():
                with one_torch_thread():
                    begun.set()
                    ended.wait(10)

            def second():
                begun.wait(10)
                with one_torch_thread():
                    ended.set()
                    waiting.result(10)

            waiting = pool.submit(first)
            pool.submit(second).result(10)
        with ThreadPoolExecutor(1) as pool:  # a new thread begins with what the last one set
            assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
