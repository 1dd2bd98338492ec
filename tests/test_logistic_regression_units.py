"""RootedLogisticRegression whatever the columns' units, storage and dtype."""

import numpy as np
import pytest
import scipy.sparse

from logreg.estimator import RootedLogisticRegression

OBJECTIVES = [("logistic", 3.0), ("rlo", 0.5), ("rlo", 3.0), ("root", 1.5)]
each_objective = pytest.mark.parametrize("objective, k", OBJECTIVES)
UNITS = {
    "1e-8 to 1e8": (np.array([1e-8, 1.0, 1e8]), np.zeros(3)),
    "age, income, year": (np.array([12.0, 2e4, 10.0]), np.array([40.0, 5e4, 2000.0])),
    "offset of ten thousand": (np.ones(3), np.full(3, 1e4)),
}


def overlapping(n_classes=2, n=300):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(n, 3))
    noisy = Z[:, 0] + Z[:, 1] + rng.normal(size=n)
    return Z, np.digitize(noisy, [0.0] if n_classes == 2 else [-1.0, 1.0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_classes", [2, 3])
@each_objective
@pytest.mark.parametrize("units", UNITS)
def test_without_a_penalty_the_units_of_the_columns_change_nothing(units, objective, k, n_classes):
    Z, y = overlapping(n_classes)
    size, offset = UNITS[units]
    options = {"objective": objective, "k": k, "C": np.inf, "tol": 1e-8}
    plain = RootedLogisticRegression(**options).fit(Z, y)
    other = RootedLogisticRegression(**options).fit(Z * size + offset, y)
    np.testing.assert_allclose(other.coef_ * size, plain.coef_, rtol=1e-5, atol=1e-6)
    intercept = other.intercept_ + other.coef_ @ offset
    np.testing.assert_allclose(intercept, plain.intercept_, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
@each_objective
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_with_a_penalty_a_common_unit_is_another_c(factor, objective, k, n_classes):
    # C Σ φ(w·x) + ½‖w‖² at factor · x: the same problem with C · factor².
    Z, y = overlapping(n_classes)
    options = {"objective": objective, "k": k, "tol": 1e-9}
    plain = RootedLogisticRegression(C=0.5, **options).fit(Z, y)
    other = RootedLogisticRegression(C=0.5 / factor**2, **options).fit(Z * factor, y)
    np.testing.assert_allclose(other.coef_ * factor, plain.coef_, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("solver", ["lbfgs", "newton"])
@pytest.mark.parametrize("n_classes", [2, 3])
@each_objective
def test_sparse_equals_dense_and_is_never_made_dense(
    objective, k, n_classes, solver, fit_intercept, monkeypatch
):
    Z, y = overlapping(n_classes)
    X = np.where(np.abs(Z) > 0.7, Z * [1, 100, 1e-3] + 1, 0)
    model = RootedLogisticRegression(objective, k, fit_intercept=fit_intercept, solver=solver, tol=1e-9)
    dense = model.fit(X, y).coef_, model.predict_proba(X)
    csr = scipy.sparse.csr_matrix(X)
    with monkeypatch.context() as patch:
        if solver == "lbfgs":
            patch.setattr(scipy.sparse.csr_matrix, "toarray", lambda self: pytest.fail("made dense"))
        model.fit(csr, y)
    np.testing.assert_allclose(model.coef_, dense[0], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(model.predict_proba(csr), dense[1], atol=1e-7)
    np.testing.assert_allclose(model.sparsify().predict_proba(csr), dense[1], atol=1e-7)
    assert fit_intercept or (model.intercept_ == 0).all()


@each_objective
def test_float32_stays_float32_and_a_warm_start_at_the_minimum_needs_no_iteration(objective, k):
    Z, y = overlapping(3)
    model = RootedLogisticRegression(objective, k).fit(Z.astype(np.float32), y)
    for array in (model.coef_, model.intercept_, model.predict_proba(Z.astype(np.float32))):
        assert array.dtype == np.float32
    again = RootedLogisticRegression(objective, k, warm_start=True).fit(Z * 1e4 + 3, y)
    assert again.n_iter_[0] > 0
    assert again.set_params(tol=2e-6).fit(Z * 1e4 + 3, y).n_iter_[0] == 0


def test_a_warm_start_from_other_features_or_classes_is_a_cold_one():
    Z, y = overlapping(3)
    model = RootedLogisticRegression(warm_start=True).fit(Z, y)
    for X, labels in ((Z[:, :2], y), (Z, y == 0)):
        cold = RootedLogisticRegression().fit(X, labels)
        np.testing.assert_array_equal(model.fit(X, labels).coef_, cold.coef_)
