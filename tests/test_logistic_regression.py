"""RootedLogisticRegression against scikit-learn, SciPy and what its API promises."""

import numpy as np
import pytest
import scipy.optimize
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from models import RootedLogisticRegression


@parametrize_with_checks(
    [
        RootedLogisticRegression(),
        RootedLogisticRegression("logistic"),
        RootedLogisticRegression(solver="newton"),
        RootedLogisticRegression(k=0.05),
        RootedLogisticRegression(k=1000),
    ]
)
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


def standardised(load):
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_digits])
@pytest.mark.parametrize("C", [0.1, 1.0])
def test_logistic_probabilities_equal_scikit_learns(load, C):
    X, y = standardised(load)
    theirs = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(X, y)
    ours = RootedLogisticRegression("logistic", C=C, tol=1e-8, max_iter=5000).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    assert ours.intercept_.shape == theirs.intercept_.shape


@pytest.mark.parametrize("k", [0.05, 0.5, 1.0, 2.5, 1000.0])
@pytest.mark.parametrize("solver", ["lbfgs", "newton"])
def test_rlo_coefficients_minimise_c_times_the_sum_plus_half_the_squared_norm(solver, k):
    rng = np.random.default_rng(0)
    X, C = rng.normal(size=(80, 3)), 0.7
    y = (X[:, 0] + rng.normal(size=80) > 0.2).astype(int)
    weight = rng.uniform(0.2, 2, size=80)

    def by_hand(w):
        t = np.where(y == 1, 1, -1) * (X @ w[:3] + w[3])
        phi = k * np.expm1(np.log1p(np.exp(-t)) / k)
        return C * (weight * phi).sum() + 0.5 * (w[:3] ** 2).sum()

    truth = scipy.optimize.minimize(by_hand, np.zeros(4), method="BFGS", options={"gtol": 1e-6}).x
    model = RootedLogisticRegression(k=k, C=C, tol=1e-9, solver=solver).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose([*model.coef_[0], model.intercept_[0]], truth, atol=1e-5)


def test_large_k_is_logistic_regression():
    X, y = standardised(load_wine)
    rooted = RootedLogisticRegression(k=1e7, tol=1e-8).fit(X, y)
    logistic = RootedLogisticRegression("logistic", tol=1e-8).fit(X, y)
    np.testing.assert_allclose(rooted.predict_proba(X), logistic.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("k", [0.05, 0.5, 1.0, 3.0, 1000.0])
@pytest.mark.parametrize("eta", [(0.8, 0.2), (0.6, 0.3, 0.1)])
def test_predict_proba_returns_the_true_probabilities_where_the_model_can_hold_them(k, eta):
    # One constant feature, samples weighted by η: the fitted probabilities must be η itself.
    X, y = np.zeros((len(eta), 1)), np.arange(len(eta))
    model = RootedLogisticRegression(k=k, tol=1e-10).fit(X, y, sample_weight=eta)
    np.testing.assert_allclose(model.predict_proba(X), np.tile(eta, (len(eta), 1)), atol=1e-6)


def test_the_link_of_predict_proba_has_a_lower_log_loss_than_plain_softmax():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 5))
    y = (X @ rng.normal(size=5) + rng.logistic(size=4000) > 0).astype(int)
    model = RootedLogisticRegression(k=2).fit(X[:2000], y[:2000])
    plain = 1 / (1 + np.exp(-model.decision_function(X[2000:])))
    assert log_loss(y[2000:], model.predict_proba(X[2000:])) < log_loss(y[2000:], plain)


def test_it_works_in_a_pipeline_and_in_a_grid_search_with_string_labels():
    X, y = load_wine(return_X_y=True)
    names = np.array(["barolo", "grignolino", "barbera"])[y]
    pipeline = make_pipeline(StandardScaler(), RootedLogisticRegression())
    search = GridSearchCV(pipeline, {"rootedlogisticregression__k": [2.0, 5.0]}, cv=3).fit(X, names)
    assert search.best_score_ > 0.95
    assert set(search.predict(X)) == set(names)
    assert search.best_estimator_[-1].coef_.shape == (3, 13)
    assert clone(RootedLogisticRegression(k=7)).k == 7


def test_without_intercept_the_intercept_is_zero():
    X, y = standardised(load_breast_cancer)
    assert (RootedLogisticRegression(fit_intercept=False).fit(X, y).intercept_ == 0).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "hinge"},
        {"k": 0.0},
        {"C": 0},
        {"tol": -1},
        {"tol": np.inf},
        {"solver": "sag"},
        {"max_iter": -1},
        {"fit_intercept": "False"},
        {"warm_start": "no"},
        {"class_weight": {1: np.inf}},
        {"C": 1e-320},
    ],
)
def test_a_parameter_out_of_range_is_named_at_fit(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        RootedLogisticRegression(**parameters).fit([[0.0], [1.0]], [0, 1])


def test_one_class_and_negative_weights_are_refused_and_predicting_needs_a_fit():
    with pytest.raises(ValueError, match="class"):
        RootedLogisticRegression().fit([[0.0], [1.0]], [1, 1])
    with pytest.raises(ValueError, match="sample_weight"):
        RootedLogisticRegression().fit([[0.0], [1.0]], [0, 1], sample_weight=[1, -1])
    with pytest.raises(NotFittedError):
        RootedLogisticRegression().predict([[0.0]])


def test_too_few_iterations_give_a_convergence_warning():
    X, y = standardised(load_breast_cancer)
    for solver in ("lbfgs", "newton"):
        with pytest.warns(ConvergenceWarning, match="max_iter"):
            RootedLogisticRegression(solver=solver, max_iter=2).fit(X, y)


def test_logits_far_apart_give_probabilities_and_no_nan():
    model = RootedLogisticRegression(C=1e6, max_iter=100000).fit([[-1.0], [1.0]], [0, 1])
    probabilities = model.predict_proba([[-1e6], [1e6]])
    np.testing.assert_allclose(probabilities, [[1, 0], [0, 1]])
    assert np.isfinite(model.predict_log_proba([[1e6]])).all()
