"""RootedLogisticRegression whatever the columns' units, storage and dtype; and what it says when it cannot."""

import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
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


@pytest.mark.filterwarnings("error")
def test_k_may_be_a_number_of_any_kind():
    Z, y = overlapping()
    want = RootedLogisticRegression(k=3.0).fit(Z, y).coef_
    for k in (3, np.float16(3), np.float32(3), np.int8(3), Fraction(3)):
        np.testing.assert_array_equal(RootedLogisticRegression(k=k).fit(Z, y).coef_, want)


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
    with pytest.raises(ValueError, match="class_weight gives class 2 the weight inf"):
        RootedLogisticRegression(class_weight="balanced").fit(Z, y, sample_weight=y != 2)
    # A penalty so small that its minimum is far beyond the first point where the gradient is below tol.
    apart = np.array([[-2.0], [-1.0], [1.0], [2.0]]), [0, 0, 1, 1]
    for C in (1e9, 1e30):
        with pytest.warns(ConvergenceWarning, match="tol is too large for the penalty"):
            RootedLogisticRegression(C=C).fit(*apart)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RootedLogisticRegression(C=1e30).fit(*overlapping())
        RootedLogisticRegression(C=10.0).fit(*apart)


@pytest.mark.parametrize("objective", ["rlo", "logistic"])
def test_a_finite_c_that_tol_cannot_see_on_data_separable_in_part_is_said(objective):
    X, y = quasi_separable()
    for C in (1e8, 1e12):
        for solver in ("lbfgs", "newton"):
            with pytest.warns(
                ConvergenceWarning, match="too large for the penalty to be seen: lower C or tol; one more"
            ):
                RootedLogisticRegression(objective, C=C, solver=solver).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RootedLogisticRegression(objective, C=1e4).fit(X, y)
        # At the minimum, if only just: no warning, though the classes are separable.
        RootedLogisticRegression(objective, C=1e9, tol=1e-12).fit(
            [[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1]
        )
        fine = [
            RootedLogisticRegression(objective, C=1e8, tol=1e-13, solver=s).fit(X, y)
            for s in ("lbfgs", "newton")
        ]
    np.testing.assert_allclose(fine[0].coef_, fine[1].coef_, rtol=1e-3)


def test_a_class_too_rare_for_tol_is_said():
    Z, y = overlapping()
    weight = np.where(y == 0, 1e-9, 1.0)
    with pytest.warns(ConvergenceWarning, match="tol is too large for class 0 to be seen"):
        RootedLogisticRegression(C=0.1).fit(Z, y, sample_weight=weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = RootedLogisticRegression("logistic", C=1e-9, tol=1e-15).fit(Z, y, sample_weight=weight)
    share = weight[y == 0].sum() / weight.sum()
    np.testing.assert_allclose(model.predict_proba(Z)[:, 0], share, rtol=1e-3)


@pytest.mark.parametrize("store", [np.asarray, scipy.sparse.csr_matrix])
def test_samples_of_weight_0_are_as_good_as_absent(store):
    Z, y = overlapping(3)
    more = np.vstack([Z, 1e300 * Z])
    weight = np.repeat([1.0, 0.0], len(Z))
    model = RootedLogisticRegression().fit(store(more), np.r_[y, 2 - y], sample_weight=weight)
    np.testing.assert_allclose(model.coef_, RootedLogisticRegression().fit(Z, y).coef_, rtol=1e-4)
    # Nor do they hide that the others are separable.
    side = (Z[:, 0] > 0).astype(int)
    with pytest.warns(ConvergenceWarning, match="classes are separable"):
        RootedLogisticRegression(C=1e12).fit(np.vstack([Z, Z]), np.r_[side, 1 - side], sample_weight=weight)


@pytest.mark.parametrize("k", [0.5, 3.0])
def test_a_sparse_column_without_a_gap_keeps_its_digits_at_a_large_offset(k):
    Z, y = overlapping(3)
    X = np.column_stack([Z * [1.0, 1e-4, 1.0] + [0, 1e5, 0], Z[:, 0] > 0.5])
    for solver in ("lbfgs", "newton"):
        dense = RootedLogisticRegression(k=k, C=100.0, solver=solver).fit(X, y)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sparse = RootedLogisticRegression(k=k, C=100.0, solver=solver).fit(scipy.sparse.csr_matrix(X), y)
        np.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-3, atol=1e-5)


def test_columns_at_the_end_of_float64_count_or_are_refused():
    Z, y = overlapping()
    model = RootedLogisticRegression(C=np.inf).fit(Z, y)
    for unit in (1e-300, 1e300):
        X = Z * [unit, 1, 1]
        for data in (X, scipy.sparse.csr_matrix(X)):
            other = RootedLogisticRegression(C=np.inf).fit(data, y)
            np.testing.assert_allclose(other.coef_ * [unit, 1, 1], model.coef_, rtol=1e-3)
    for unit, dtype in ((1e-322, float), (1e-42, np.float32)):
        with pytest.raises(ValueError, match="column 0 is so small that its weights overflow"):
            RootedLogisticRegression(C=np.inf).fit((Z * [unit, 1, 1]).astype(dtype), y)


def test_a_warm_start_in_other_units_is_no_worse_than_a_cold_one():
    Z, y = overlapping(3)
    for unit in (1e6, 1e200):
        model = RootedLogisticRegression(warm_start=True).fit(Z, y)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.fit(unit * Z, y)
        np.testing.assert_allclose(
            model.coef_, RootedLogisticRegression().fit(unit * Z, y).coef_, rtol=1e-3, atol=1e-3 / unit
        )


def test_nullable_labels_do_not_pass_through_floats():
    labels = pd.Series([2**53, 2**53 + 1, 5] * 4, dtype="Int64")
    X = np.tile(np.eye(3), (4, 1))
    model = RootedLogisticRegression().fit(X, labels)
    assert model.classes_.tolist() == [5, 2**53, 2**53 + 1]
    assert model.predict(np.eye(3)).tolist() == [2**53, 2**53 + 1, 5]
    with pytest.raises(ValueError, match="NaN"):
        RootedLogisticRegression().fit(X, labels.where(labels != 5))


@pytest.mark.slow
def test_importing_the_estimator_imports_no_nets_and_no_plots():
    code = "import sys, logreg.estimator\nassert not {'timm', 'torchvision', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
