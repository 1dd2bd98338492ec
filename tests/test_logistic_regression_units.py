"""RootedLogisticRegression whatever the columns' units, storage and dtype; and what it says when it cannot."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from logreg.estimator import RootedLogisticRegression
from logreg.estimator.objectives import Objective
from logreg.estimator.separation import COMPLETE, NONE, QUASI, separation

KS = [0.05, 0.5, 1.0, 3.0, 1000.0]


def overlapping(n_classes=2, n=300):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(n, 3))
    noisy = Z[:, 0] + Z[:, 1] + rng.normal(size=n)
    return Z, np.digitize(noisy, [0.0] if n_classes == 2 else [-1.0, 1.0])


UNITS = {
    "1e-8 to 1e8": (np.array([1e-8, 1.0, 1e8]), np.zeros(3)),
    "age, income, year": (np.array([12.0, 2e4, 10.0]), np.array([40.0, 5e4, 2000.0])),
    "offset of a million": (np.ones(3), np.full(3, 1e6)),
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("units", UNITS)
def test_without_a_penalty_the_units_of_the_columns_change_nothing(units, k, n_classes):
    Z, y = overlapping(n_classes)
    size, offset = UNITS[units]
    options = {"k": k, "C": np.inf, "tol": 1e-8}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = RootedLogisticRegression(**options).fit(Z, y)
        other = RootedLogisticRegression(**options).fit(Z * size + offset, y)
    np.testing.assert_allclose(other.coef_ * size, plain.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        other.intercept_ + other.coef_ @ offset, plain.intercept_, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("k", [*KS, None])
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_with_a_penalty_a_common_unit_is_another_c(factor, k, n_classes):
    # C Σ φ(w·x) + ½‖w‖² at factor · x: the same problem with C · factor².
    Z, y = overlapping(n_classes)
    options = {"objective": "logistic"} if k is None else {"k": k}
    plain = RootedLogisticRegression(C=0.5, tol=1e-9, **options).fit(Z, y)
    other = RootedLogisticRegression(C=0.5 / factor**2, tol=1e-9, **options).fit(Z * factor, y)
    np.testing.assert_allclose(other.coef_ * factor, plain.coef_, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
@pytest.mark.parametrize("k", KS)
def test_raw_columns_end_where_the_gradient_in_their_own_units_is_below_tol(load, k):
    X, y = load(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = RootedLogisticRegression(k=k).fit(X, y)
    by_hand = Objective(X, y, len(set(y)), k=k, l2=1 / len(X))
    w = np.hstack([model.coef_, model.intercept_[:, None]]).ravel()
    assert np.abs(by_hand.value_and_gradient(w)[1]).max() <= 2e-6


@pytest.mark.parametrize("solver", ["lbfgs", "newton"])
def test_a_fit_that_ends_above_tol_always_warns(solver):
    Z, y = overlapping()
    words = {"lbfgs": "lbfgs failed to", "newton": "Newton solver did not"}[solver]  # scikit-learn's own
    for max_iter in (0, 1, 2):
        with pytest.warns(ConvergenceWarning, match=f"{words} converge after {max_iter} iter"):
            model = RootedLogisticRegression(solver=solver, max_iter=max_iter).fit(Z * 1e5 + 7, y)
        assert model.n_iter_[0] == max_iter
    with pytest.warns(ConvergenceWarning, match=words):
        RootedLogisticRegression(solver=solver, tol=1e-300).fit(Z, y)


@pytest.mark.parametrize("objective", ["rlo", "logistic"])
def test_parameters_set_after_fit_change_no_prediction(objective):
    Z, y = overlapping(3)
    model = RootedLogisticRegression(objective, k=2.0).fit(Z, y)
    before = model.predict_proba(Z), model.decision_function(Z)
    other = "logistic" if objective == "rlo" else "rlo"
    model.set_params(k=50.0, objective=other, fit_intercept=False, C=1e-9, class_weight={0: 9})
    np.testing.assert_array_equal(before[0], model.predict_proba(Z))
    np.testing.assert_array_equal(before[1], model.decision_function(Z))
    assert model.k_ == (2.0 if objective == "rlo" else np.inf)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("solver", ["lbfgs", "newton"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_sparse_equals_dense(n_classes, solver, fit_intercept, monkeypatch):
    Z, y = overlapping(n_classes)
    X = np.where(np.abs(Z) > 0.7, Z * [1, 100, 1e-3] + 1, 0)
    options = {"solver": solver, "fit_intercept": fit_intercept, "tol": 1e-9}
    dense = RootedLogisticRegression(**options).fit(X, y)
    csr = scipy.sparse.csr_matrix(X)
    monkeypatch.setattr(Objective, "design", property(lambda self: pytest.fail("a dense copy was made")))
    sparse = RootedLogisticRegression(**options).fit(csr, y)
    np.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(sparse.predict_proba(csr), dense.predict_proba(X), atol=1e-7)
    np.testing.assert_allclose(sparse.sparsify().predict_proba(csr), dense.predict_proba(X), atol=1e-7)


@pytest.mark.parametrize("weight", ["balanced", {0: 3.0, 1: 0.5}])
def test_class_weight_is_scikit_learns(weight):
    Z, y = overlapping()
    options = {"class_weight": weight, "tol": 1e-9, "max_iter": 5000}
    theirs = LogisticRegression(**options).fit(Z, y)
    ours = RootedLogisticRegression("logistic", **options).fit(Z, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)


def test_float32_stays_float32_and_a_warm_start_at_the_minimum_needs_no_iteration():
    Z, y = overlapping(3)
    model = RootedLogisticRegression().fit(Z.astype(np.float32), y)
    for array in (model.coef_, model.intercept_, model.predict_proba(Z.astype(np.float32))):
        assert array.dtype == np.float32
    again = RootedLogisticRegression(warm_start=True).fit(Z * 1e4 + 3, y)
    assert again.n_iter_[0] > 0
    assert again.set_params(tol=2e-6).fit(Z * 1e4 + 3, y).n_iter_[0] == 0


def quasi_separable(n=200):
    """As in ionosphere: a feature that is 0 in one class only; without it the classes overlap."""
    rng = np.random.default_rng(1)
    y = np.arange(n) % 2
    X = rng.normal(size=(n, 3)) + 0.3 * y[:, None]
    X[:, 2] = np.where(y == 1, rng.uniform(size=n) < 0.3, 0)
    return X, y


def test_separation_tells_three_kinds_apart():
    Z, y = overlapping()
    assert separation(Z, y, 2) == NONE
    assert separation(*overlapping(3), 3) == NONE
    assert separation(np.hstack([Z, Z[:, :1]]), y, 2) == NONE  # a doubled column separates nothing
    assert separation(*quasi_separable(), 2) == QUASI
    assert separation(np.column_stack([Z, 2.0 * y]), y, 2) == COMPLETE
    # Three classes, one of which has a feature of its own: class 2 against the rest, not 0 against 1.
    Z, y = overlapping(3)
    assert separation(np.column_stack([Z, y == 2]), y, 3) == QUASI
    # Complete only on one side of the border: x ≥ 0 in one class, x ≤ 0 in the other, both at 0.
    assert separation(np.array([[0.0], [1.0], [0.0], [-1.0]]), np.array([1, 1, 0, 0]), 2) == QUASI


@pytest.mark.parametrize("k", KS)
def test_quasi_separable_data_without_a_penalty_are_said_whatever_tol_and_storage(k):
    X, y = quasi_separable()
    for tol in (1e-3, 1e-6):
        for data in (X, scipy.sparse.csr_matrix(X)):
            with pytest.warns(ConvergenceWarning, match="classes are quasi-separable and C is infinite"):
                RootedLogisticRegression(k=k, C=np.inf, tol=tol).fit(data, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RootedLogisticRegression(k=k).fit(X, y)
        RootedLogisticRegression(k=k, C=np.inf).fit(*overlapping())


def test_other_ways_to_stop_far_from_a_minimum_are_said_too():
    Z, y = overlapping(3)
    # The intercept of a class without weight falls for ever, penalty or not.
    with pytest.warns(ConvergenceWarning, match="class 2 has no weight"):
        RootedLogisticRegression().fit(Z, y, sample_weight=y != 2)
    with pytest.warns(ConvergenceWarning, match="class 0 has no weight"):
        RootedLogisticRegression("logistic", class_weight={0: 0.0}).fit(Z, y)
    # A penalty so small that its minimum is far beyond the first point where the gradient is below tol.
    apart = np.array([[-2.0], [-1.0], [1.0], [2.0]]), [0, 0, 1, 1]
    for C in (1e9, 1e30):
        with pytest.warns(ConvergenceWarning, match="tol is too large for the penalty"):
            RootedLogisticRegression(C=C).fit(*apart)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RootedLogisticRegression(C=1e30).fit(*overlapping())
        RootedLogisticRegression(C=10.0).fit(*apart)


@pytest.mark.slow
def test_importing_the_estimator_imports_no_nets_and_no_plots():
    code = "import sys, logreg.estimator\nassert not {'timm', 'torchvision', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
