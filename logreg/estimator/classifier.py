"""Logistic regression with a rooted objective, as a scikit-learn estimator."""

import warnings
from numbers import Integral, Real

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model._base import LinearClassifierMixin, SparseCoefMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

from .objectives import Objective, Standardised, check_number
from .optimizers import minimize

OBJECTIVES = ("rlo", "root", "logistic")
SOLVERS = ("lbfgs", "newton")
# Where L-BFGS stops short of tol, because its line search compares values whose last digits are gone before the
# gradient's are, Newton steps continue. For this many weights at most.
LARGEST_POLISH = 1000
# Steps in 1/k from the logistic solution to that of root, and the largest gradient at which the next one begins.
PATH_STEP, PATH_TOL = 1 / 4, 1e-3


class RootedLogisticRegression(LinearClassifierMixin, SparseCoefMixin, BaseEstimator):
    r"""Linear classifier that minimises C · Σ_i s_i φ(ℓ_i) + ½ ‖W‖², the intercept unpenalised.

    ℓ_i is the cross entropy of sample i and p_i = e^(−ℓ_i) the probability of its class. φ is

        logistic    ℓ                      logistic regression
        rlo         k (p^(−1/k) − 1)       weighs samples on the wrong side up; convex
        root        k (1 − p^(1/k))        weighs them down and is bounded: against wrong labels; not convex

    and all three agree as k → ∞. Two classes have one weight vector, more have one each,
    as in scikit-learn's ``LogisticRegression``. X may be dense or sparse (CSR, never made dense); its
    columns need not be scaled, the optimiser does that inside. Computed in float64; what is fitted and returned
    has the dtype of X, float32 or float64. Not offered: the l1 and elastic-net penalties, and with
    them the solvers liblinear, sag and saga; `intercept_scaling`, `dual`, callbacks and array API inputs.

    Parameters
    ----------
    objective : {"rlo", "root", "logistic"}
    k : float > 0, for "root" > 1
        The root; not used by "logistic". The smaller, the more "root" ignores samples on the wrong side.
    C : float > 0
        Inverse strength of the L2 penalty; ``numpy.inf`` is none.
    fit_intercept : bool
    solver : {"lbfgs", "newton"}
        "newton" forms the Hessian: for few features, many samples and high accuracy.
    tol : float > 0
        Stops when the largest entry of the gradient of the objective divided by C Σ_i s_i, scikit-learn's
        rule, is at most this, in the units in which every column of X has mean 0 and standard deviation 1.
    max_iter : int ≥ 0
    class_weight : dict, "balanced" or None
        Class → factor of its samples' weights; "balanced": Σ_i s_i / (n_classes · Σ_(i of the class) s_i).
    warm_start : bool
        Start the next fit from this one's coefficients. "root" may then end elsewhere than after a cold start.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    coef_ : ndarray, shape (1, n_features) or (n_classes, n_features)
    intercept_ : ndarray, shape (1,) or (n_classes,)
    k_ : float
        The root that the coefficients were fitted with; infinity for "logistic".
    logit_scale_ : float
        1 + 1/k for "rlo", 1 − 1/k for "root", 1 for "logistic".
    n_iter_ : ndarray of int, shape (1,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X had column names.

    Notes
    -----
    "root" is not convex. A fit is deterministic all the same: it starts at the logistic solution and follows the
    stationary point while 1/k grows from 0 in steps of at most 1/4 (to a gradient of 1e-3 on the way). Where it
    ends the gradient is below `tol`, which proves a stationary point and no more; there may be lower ones.

    Over all functions and for true class probabilities η, the minimisers have η_c ∝ p_c^a with p = softmax(z)
    and a = 1 + 1/k for "rlo", whose logits z are more cautious than those of cross entropy, a = 1 − 1/k for
    "root", whose logits are bolder. ``predict_proba`` undoes this and returns softmax(a z). For k ≤ 1 "root"
    has no such minimiser. docs/losses.md has the derivation.

    In statistics "root" is γ-logistic regression with γ = 1/(k − 1), in the units of the corrected logits.

    References
    ----------
    Wang, Veluswami, Mishra, Ravi: Accelerated Neural Network Training with Rooted Logistic Objectives,
    arXiv 2310.03890 (2023).
    Hung, Jou, Huang: Robust mislabel logistic regression without modeling mislabel probabilities,
    arXiv 1608.04503 (2016).

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from rooted_loss.sklearn import RootedLogisticRegression
    >>> X, y = load_wine(return_X_y=True)
    >>> RootedLogisticRegression(k=3).fit(X, y).score(X, y) > 0.95
    True
    """

    def __init__(
        self,
        objective="rlo",
        k=3.0,
        C=1.0,
        fit_intercept=True,
        solver="lbfgs",
        tol=1e-6,
        max_iter=1000,
        class_weight=None,
        warm_start=False,
    ):
        self.objective = objective
        self.k = k
        self.C = C
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.warm_start = warm_start

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Fit to X of shape (n_samples, n_features), labels y (n_samples,), weights ≥ 0 (n_samples,).

        Raises
        ------
        ValueError
            For a parameter out of range, NaN or infinity in X, or fewer than two classes in y.

        Warns
        -----
        ConvergenceWarning
            When `max_iter` iterations, or float64, were not enough for `tol`; and when C is infinite and the
            classes are separable, so that there is no minimum.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], order="C")
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must hold at least two classes, got one class only: {classes[0]!r}")
        weight = self._sample_weight(sample_weight, X, y, classes, codes)
        objective = Objective(
            X.astype(np.float64, copy=False), codes, len(classes), self.k, self.objective,
            l2=1 / (self.C * weight.sum()), fit_intercept=self.fit_intercept, sample_weight=weight,
        )  # fmt: skip
        scaled = Standardised(objective)
        result, n_iter = self._solve(scaled, self._start(scaled, classes))
        if np.isinf(self.C) and objective.smallest_margin(scaled.outwards(result.w)) > 0:
            warnings.warn(
                "the classes are separable and C is infinite, so there is no minimum: give a finite C",
                ConvergenceWarning, stacklevel=2,
            )  # fmt: skip
        W = scaled.outwards(result.w).reshape(objective.rows, -1).astype(X.dtype)
        d = X.shape[1]
        self.classes_, self.coef_ = classes, W[:, :d]
        self.intercept_ = W[:, d] if self.fit_intercept else np.zeros(len(W), X.dtype)
        self.k_ = np.inf if self.objective == "logistic" else float(self.k)
        self.logit_scale_ = 1 + objective.power
        self.n_iter_ = np.array([n_iter], dtype=np.int32)
        return self

    def _sample_weight(self, sample_weight, X, y, classes, codes):
        """Weights of the samples times those of their classes, float64."""
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if weight.min() < 0 or not weight.any():
            raise ValueError("sample_weight must be ≥ 0, and > 0 for at least one sample")
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            # By hand: compute_class_weight takes sample weights from scikit-learn 1.7 on.
            total = np.bincount(codes, weight)
            factor = weight.sum() / (len(classes) * np.where(total > 0, total, np.inf))
        else:
            factor = compute_class_weight(self.class_weight, classes=classes, y=y)
        weight = weight * factor[codes]
        if not (weight.min() >= 0 and 0 < weight.sum() < np.inf):
            raise ValueError("class_weight must be finite, ≥ 0, and > 0 for at least one class in y")
        for weightless in classes[np.bincount(codes, weight) == 0]:
            warnings.warn(
                f"class {weightless!r} has no weight: its probability tends to 0", UserWarning, stacklevel=3
            )
        return weight

    def _start(self, scaled, classes):
        """The last fit's weights with warm_start, where classes and features are the same; else None."""
        if self.warm_start and hasattr(self, "coef_") and np.array_equal(self.classes_, classes):
            coef = self.densify().coef_.astype(np.float64)
            if coef.shape[1] == len(scaled.d):
                return scaled.inwards(coef, self.intercept_)
        return None

    def _check_parameters(self):
        for name, choices in (("objective", OBJECTIVES), ("solver", SOLVERS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not (isinstance(self.C, Real) and self.C > 0):
            raise ValueError(f"C must be a number > 0, got {self.C!r}")
        check_number("tol", self.tol, 0)
        if not (isinstance(self.max_iter, Integral) and self.max_iter >= 0):
            raise ValueError(f"max_iter must be an integer ≥ 0, got {self.max_iter!r}")

    def _solve(self, scaled, start):
        """The optimiser's result and the number of iterations; warns unless the gradient is below tol."""
        n_iter, power = 0, scaled.objective.power
        path = [power]
        if power < 0 and start is None:
            path = np.linspace(0, power, 1 + int(np.ceil(-power / PATH_STEP)))
        solvers = [self.solver] + ["newton"] * (scaled.size <= LARGEST_POLISH)
        for scaled.objective.power in path:
            tol = self.tol if scaled.objective.power == power else max(self.tol, PATH_TOL)
            for solver in solvers:
                result = minimize(
                    solver, scaled, tol=tol, max_iter=self.max_iter - n_iter, start=start,
                    norm=lambda gradient: np.abs(gradient).max(),
                )  # fmt: skip
                n_iter, start = n_iter + result.iterations, result.w
                if result.status != "stalled":
                    break
        if result.status != "converged":
            # The first words are scikit-learn's own, which its users' filters look for.
            words = "lbfgs failed to" if self.solver == "lbfgs" else "Newton solver did not"
            advice = (
                f"increase max_iter ({self.max_iter})" if n_iter >= self.max_iter else "raise tol, or lower C"
            )
            warnings.warn(
                f"{words} converge after {n_iter} iteration(s): the largest entry of the gradient is "
                f"{result.gradient_norms[-1]:.1e}, tol is {self.tol:g}; {advice}",
                ConvergenceWarning, stacklevel=3,
            )  # fmt: skip
        return result, n_iter

    def predict_log_proba(self, X):
        """Logarithm of :meth:`predict_proba`, precise where that rounds to 0 or 1."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            scores = np.column_stack([np.zeros_like(scores), scores])
        return log_softmax(scores * scores.dtype.type(self.logit_scale_), axis=1)

    def predict_proba(self, X):
        """Class probabilities softmax(`logit_scale_` · z), shape (n_samples, n_classes)."""
        return np.exp(self.predict_log_proba(X))
