"""RootedLogisticRegression against scikit-learn, SciPy and what its API promises."""

import doctest
import pickle
import sys

import numpy as np
import pytest
import scipy.optimize
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from logreg.estimator import RootedLogisticRegression, classifier
from logreg.estimator.objectives import Objective


@parametrize_with_checks(
    [
        RootedLogisticRegression(),
        RootedLogisticRegression("logistic"),
        RootedLogisticRegression(k=0.5, solver="newton"),
        RootedLogisticRegression("root"),
        RootedLogisticRegression("root", k=1.2, solver="newton"),
    ]
)
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


def standardised(load):
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_digits])
@pytest.mark.parametrize("weights", [None, "balanced", {0: 3.0, 1: 0.5}])
def test_logistic_is_scikit_learns_logistic_regression(load, weights):
    X, y = standardised(load)
    options = {"C": 0.1, "tol": 1e-10, "max_iter": 5000, "class_weight": weights}
    theirs = LogisticRegression(solver="newton-cholesky", **options).fit(X, y)
    ours = RootedLogisticRegression("logistic", **options).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    assert ours.intercept_.shape == theirs.intercept_.shape


@pytest.mark.parametrize("objective, k", [("rlo", 0.5), ("rlo", 2.5), ("root", 1.2), ("root", 3.0)])
@pytest.mark.parametrize("solver", ["lbfgs", "newton"])
def test_coefficients_minimise_c_times_the_sum_plus_half_the_squared_norm(solver, objective, k):
    rng = np.random.default_rng(0)
    X, C = rng.normal(size=(80, 3)), 0.7
    y = (X[:, 0] + rng.normal(size=80) > 0.2).astype(int)
    weight = rng.uniform(0.2, 2, size=80)

    def by_hand(w):
        t = np.where(y == 1, 1, -1) * (X @ w[:3] + w[3])
        root = (1 + np.exp(-t)) ** (1 / k)  # p^(−1/k)
        phi = k * (root - 1) if objective == "rlo" else k * (1 - 1 / root)
        return C * (weight * phi).sum() + 0.5 * (w[:3] ** 2).sum()

    options = {"C": C, "tol": 1e-9, "solver": solver}
    start = RootedLogisticRegression("logistic", **options).fit(X, y, sample_weight=weight)
    start = [*start.coef_[0], start.intercept_[0]]
    truth = scipy.optimize.minimize(by_hand, start, method="BFGS", options={"gtol": 1e-6}).x
    model = RootedLogisticRegression(objective, k, **options).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose([*model.coef_[0], model.intercept_[0]], truth, atol=1e-5)


@pytest.mark.parametrize("objective, k", [("rlo", 0.5), ("rlo", 3.0), ("root", 1.2), ("root", 3.0)])
@pytest.mark.parametrize("eta", [(0.8, 0.2), (0.6, 0.3, 0.1)])
def test_predict_proba_returns_the_true_probabilities_where_the_model_can_hold_them(objective, k, eta):
    # One constant feature, samples weighted by η: the fitted probabilities must be η itself.
    X, y = np.zeros((len(eta), 1)), np.arange(len(eta))
    model = RootedLogisticRegression(objective, k, tol=1e-10).fit(X, y, sample_weight=eta)
    np.testing.assert_allclose(model.predict_proba(X), np.tile(eta, (len(eta), 1)), atol=1e-6)


@pytest.mark.parametrize("objective", ["rlo", "root"])
def test_with_a_large_k_all_objectives_are_logistic(objective):
    X, y = standardised(load_wine)
    logistic = RootedLogisticRegression("logistic", tol=1e-8).fit(X, y)
    model = RootedLogisticRegression(objective, k=1e7, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), logistic.predict_proba(X), atol=1e-5)


def test_root_is_gamma_logistic_regression_of_the_corrected_probabilities():
    X, y = standardised(load_wine)
    model = RootedLogisticRegression("root", k=1.5, C=0.1).fit(X, y)
    gamma = 1 / (1.5 - 1)
    power = model.predict_proba(X) ** (gamma + 1)
    theirs = (power / power.sum(axis=1, keepdims=True))[np.arange(len(y)), y] ** (gamma / (gamma + 1))
    W = np.column_stack([model.coef_, model.intercept_]).ravel()
    ours = Objective(X, y, 3, 1.5, "root").value_and_gradient(W)[0]
    assert ours == pytest.approx(1.5 * (1 - theirs.mean()), rel=1e-12)


def with_gross_flips():
    """Breast cancer with a tenth of the labels wrong, all among the fifth with the largest margin."""
    X, y = standardised(load_breast_cancer)
    margin = np.abs(RootedLogisticRegression("logistic", C=0.1).fit(X, y).decision_function(X))
    flipped = np.random.default_rng(0).permutation(np.argsort(-margin)[: len(y) // 5])[: len(y) // 10]
    noisy = y.copy()
    noisy[flipped] = 1 - y[flipped]
    return X, y, noisy, flipped


def test_root_finds_the_wrong_labels_that_logistic_regression_believes():
    X, y, noisy, flipped = with_gross_flips()
    logistic = RootedLogisticRegression("logistic", C=0.1).fit(X, noisy)
    root = RootedLogisticRegression("root", k=1.5, C=0.1).fit(X, noisy)
    assert root.score(X, y) > logistic.score(X, y) + 0.03
    quality = root.predict_proba(X)[np.arange(len(y)), noisy]
    assert np.isin(np.argsort(quality)[: len(flipped)], flipped).mean() > 0.9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("k", [1.05, 1.5, 4.0])
def test_root_ends_where_the_logistic_solution_leads_when_k_falls_slowly(k):
    X, _, y, _ = with_gross_flips()
    slow = RootedLogisticRegression("logistic", C=0.02, tol=1e-8, warm_start=True).fit(X, y)
    for inverse in np.linspace(0, 1 / k, 20)[1:]:
        slow.set_params(objective="root", k=1 / inverse).fit(X, y)
    model = RootedLogisticRegression("root", k=k, C=0.02, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(model.coef_, slow.coef_, atol=1e-5)
    np.testing.assert_array_equal(model.coef_, RootedLogisticRegression(**model.get_params()).fit(X, y).coef_)
    W = np.append(model.coef_, model.intercept_)
    l2 = 1 / (0.02 * len(y))
    assert np.abs(Objective(X, y, 2, k, "root", l2=l2).value_and_gradient(W)[1]).max() <= 2e-8


def test_it_works_in_a_grid_search_of_a_pipeline_with_string_labels():
    X, y = load_wine(return_X_y=True)
    names = np.array(["barolo", "grignolino", "barbera"])[y]
    pipeline = make_pipeline(StandardScaler(), RootedLogisticRegression())
    search = GridSearchCV(pipeline, {"rootedlogisticregression__k": [2.0, 5.0]}, cv=3).fit(X, names)
    assert search.best_score_ > 0.95
    assert set(search.predict(X)) == set(names)
    assert search.best_estimator_[-1].coef_.shape == (3, 13)


@pytest.mark.parametrize("ensemble", [AdaBoostClassifier, BaggingClassifier])
def test_balanced_classes_meet_sample_weights_within_ensembles(ensemble):
    X, y = standardised(load_wine)
    model = ensemble(RootedLogisticRegression(class_weight="balanced"), n_estimators=3, random_state=0)
    assert model.fit(X, y).score(X, y) > 0.95


def test_balanced_counts_by_weight_and_a_class_without_weight_is_as_good_as_absent():
    X, y = standardised(load_wine)
    weight = np.where(y == 0, 3.0, 1.0)
    balanced = RootedLogisticRegression(class_weight="balanced", tol=1e-9).fit(X, y, sample_weight=weight)
    total = np.bincount(y, weight)
    by_hand = weight * weight.sum() / (3 * total)[y]
    expected = RootedLogisticRegression(tol=1e-9).fit(X, y, sample_weight=by_hand)
    np.testing.assert_allclose(balanced.coef_, expected.coef_, atol=1e-6)
    two = RootedLogisticRegression(class_weight="balanced").fit(X, y, sample_weight=y != 2)
    assert two.predict_proba(X)[:, 2].max() < 0.05


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "hinge"},
        {"k": 0.0},
        {"k": 1.0, "objective": "root"},
        {"k": None},
        {"C": 0},
        {"tol": -1},
        {"tol": np.inf},
        {"solver": "sag"},
        {"max_iter": -1},
        {"class_weight": {1: np.inf}},
    ],
)
def test_a_parameter_out_of_range_is_named_at_fit(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        RootedLogisticRegression(**parameters).fit([[0.0], [1.0]], [0, 1])


def test_one_class_and_negative_weights_are_refused():
    with pytest.raises(ValueError, match="class"):
        RootedLogisticRegression().fit([[0.0], [1.0]], [1, 1])
    with pytest.raises(ValueError, match="sample_weight"):
        RootedLogisticRegression().fit([[0.0], [1.0]], [0, 1], sample_weight=[1, -1])


@pytest.mark.parametrize("solver", ["lbfgs", "newton"])
def test_a_fit_that_ends_above_tol_always_warns(solver):
    X, y = standardised(load_breast_cancer)
    words = {"lbfgs": "lbfgs failed to", "newton": "Newton solver did not"}[solver]  # scikit-learn's own
    for max_iter in (0, 2):
        with pytest.warns(
            ConvergenceWarning, match=f"{words} converge after {max_iter} iter.*increase max_iter"
        ):
            model = RootedLogisticRegression(solver=solver, max_iter=max_iter).fit(X, y)
        assert model.n_iter_[0] == max_iter
    with pytest.warns(ConvergenceWarning, match=words):
        RootedLogisticRegression(solver=solver, tol=1e-300).fit(X, y)


def test_separable_classes_without_a_penalty_are_said():
    with pytest.warns(ConvergenceWarning, match="separable and C is infinite"):
        RootedLogisticRegression(C=np.inf).fit([[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1])


def test_logits_far_apart_give_probabilities_and_no_nan():
    model = RootedLogisticRegression(C=1e6).fit([[-1.0], [1.0]], [0, 1])
    probabilities = model.predict_proba([[-1e6], [1e6]])
    np.testing.assert_allclose(probabilities, [[1, 0], [0, 1]])
    assert np.isfinite(model.predict_log_proba([[1e6]])).all()


@pytest.mark.parametrize("objective", ["rlo", "root", "logistic"])
def test_a_pickle_and_parameters_set_after_fit_change_no_prediction(objective):
    X, y = standardised(load_wine)
    model = RootedLogisticRegression(objective, k=2.0).fit(X, y)
    before = model.predict_proba(X)
    other = "logistic" if objective == "root" else "root"
    model.set_params(k=50.0, objective=other, fit_intercept=False, C=1e-9, class_weight={0: 9})
    np.testing.assert_array_equal(before, model.predict_proba(X))
    np.testing.assert_array_equal(before, pickle.loads(pickle.dumps(model)).predict_proba(X))
    assert model.k_ == (np.inf if objective == "logistic" else 2.0)


def test_the_example_of_the_docstring_runs_where_the_wheel_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "rooted_loss.sklearn", classifier)
    monkeypatch.setitem(sys.modules, "rooted_loss", sys.modules[__name__])
    assert doctest.testmod(classifier).failed == 0
    assert "from rooted_loss.sklearn import RootedLogisticRegression" in RootedLogisticRegression.__doc__
