"""Logistic regression with a rooted objective, as a scikit-learn estimator."""

import warnings
from numbers import Integral, Real

import numpy as np
import scipy.optimize
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .objectives import Objective, one_torch_thread
from .optimizers import minimize

OBJECTIVES = ("rlo", "logistic")
SOLVERS = ("lbfgs", "newton")


class RootedLogisticRegression(ClassifierMixin, BaseEstimator):
    r"""Linear classifier that minimises C · Σ_i s_i φ(ℓ_i) + ½ ‖W‖², the intercept unpenalised.

    ℓ_i is the cross entropy of sample i. φ(ℓ) = k (e^(ℓ/k) − 1) is the rooted logistic objective, φ(ℓ) = ℓ
    logistic regression, to which it tends as k → ∞. Two classes have one weight vector, more have one each,
    as in scikit-learn's ``LogisticRegression``. Always computed in float64.

    Parameters
    ----------
    objective : {"rlo", "logistic"}
    k : float ≥ 1
        The root; not used by "logistic".
    C : float > 0
        Inverse strength of the L2 penalty.
    fit_intercept : bool
    solver : {"lbfgs", "newton"}
        "newton" forms the Hessian: for few features, many samples and high accuracy.
    tol : float > 0
        Stops when the gradient of the objective divided by C Σ_i s_i is at most this: in its largest entry
        (lbfgs, scikit-learn's rule) or its Euclidean norm (newton).
    max_iter : int ≥ 1

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    coef_ : ndarray, shape (1, n_features) or (n_classes, n_features)
    intercept_ : ndarray, shape (1,) or (n_classes,)
    n_iter_ : ndarray of int, shape (1,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X had column names.

    Notes
    -----
    The rooted objective is minimised, over all functions and for true class probabilities η, where
    η_c ∝ p_c^(1 + 1/k) with p = softmax(z): mistakes weigh more than in cross entropy, so the logits z are
    more cautious. ``predict_proba`` undoes this and returns softmax((1 + 1/k) z). docs/losses.md has the
    derivation.

    References
    ----------
    Wang, Veluswami, Mishra, Ravi: Accelerated Neural Network Training with Rooted Logistic Objectives,
    arXiv 2310.03890 (2023).

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from models import RootedLogisticRegression
    >>> X, y = load_wine(return_X_y=True)
    >>> RootedLogisticRegression(k=3).fit(X, y).score(X, y) > 0.95
    True
    """

    def __init__(
        self, objective="rlo", k=3.0, C=1.0, fit_intercept=True, solver="lbfgs", tol=1e-6, max_iter=1000
    ):
        self.objective = objective
        self.k = k
        self.C = C
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X, y, sample_weight=None):
        """Fit to X of shape (n_samples, n_features), labels y (n_samples,), weights ≥ 0 (n_samples,).

        Raises
        ------
        ValueError
            For a parameter out of range, NaN or infinity in X, or fewer than two classes in y.

        Warns
        -----
        ConvergenceWarning
            When `max_iter` iterations, or float64, were not enough for `tol`.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=np.float64, order="C")
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        n_classes = len(self.classes_)
        if n_classes < 2:
            raise ValueError(f"y must hold at least two classes, got one class only: {self.classes_[0]!r}")
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
            if sample_weight.min() < 0 or not sample_weight.any():
                raise ValueError("sample_weight must be ≥ 0, and > 0 for at least one sample")
        total = len(X) if sample_weight is None else sample_weight.sum()
        objective = Objective(
            X,
            codes,
            n_classes,
            k=self.k if self.objective == "rlo" else None,
            l2=1 / (self.C * total),
            fit_intercept=bool(self.fit_intercept),
            sample_weight=sample_weight,
        )
        w, n_iter, problem = self._solve(objective)
        if problem:
            message = f"{self.solver} stopped after {n_iter} iterations: {problem}; raise max_iter or scale X"
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        W = w.reshape(objective.rows, objective.columns)
        d = X.shape[1]
        self.coef_ = W[:, :d].copy()
        self.intercept_ = W[:, d].copy() if self.fit_intercept else np.zeros(objective.rows)
        self.n_iter_ = np.array([n_iter], dtype=np.int32)
        return self

    def _check_parameters(self):
        for name, known in (("objective", OBJECTIVES), ("solver", SOLVERS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        for name in ("C", "tol"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and value > 0):
                raise ValueError(f"{name} must be a number > 0, got {value!r}")
        if not (isinstance(self.max_iter, Integral) and self.max_iter >= 1):
            raise ValueError(f"max_iter must be an integer ≥ 1, got {self.max_iter!r}")

    def _solve(self, objective):
        """The weights, the number of iterations, and what went wrong if anything did."""
        if self.solver == "newton":
            result = minimize("newton", objective, tol=self.tol, max_iter=self.max_iter)
            problem = (
                "" if result.status == "converged" else f"gradient still {result.gradient_norms[-1]:.1e}"
            )
            return result.w, max(result.iterations, 1), problem
        # The options are scikit-learn's, so that `tol` means the same there and here.
        options = {"maxiter": self.max_iter, "maxls": 50, "gtol": self.tol, "ftol": 64 * np.finfo(float).eps}
        with one_torch_thread(), np.errstate(over="ignore", invalid="ignore"):
            result = scipy.optimize.minimize(
                objective.value_and_gradient,
                np.zeros(objective.size),
                jac=True,
                method="L-BFGS-B",
                options=options,
            )
        return result.x, max(result.nit, 1), "" if result.success else str(result.message)

    def decision_function(self, X):
        """Logits, shape (n_samples,) for two classes (> 0: ``classes_[1]``), else (n_samples, n_classes)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X):
        """The most probable class of every row of X, shape (n_samples,)."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    def predict_log_proba(self, X):
        """Logarithm of :meth:`predict_proba`, precise where that rounds to 0 or 1."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            scores = np.column_stack([np.zeros_like(scores), scores])
        return log_softmax(scores * (1 + 1 / self.k if self.objective == "rlo" else 1), axis=1)

    def predict_proba(self, X):
        """Class probabilities softmax((1 + 1/k) z), for logistic softmax(z); shape (n_samples, n_classes)."""
        return np.exp(self.predict_log_proba(X))
