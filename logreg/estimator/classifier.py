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

from .objectives import Objective, check_real
from .optimizers import minimize, newton_step
from .scaling import Scaling
from .separation import COMPLETE, QUASI, separation_at

OBJECTIVES = ("rlo", "logistic")
SOLVERS = ("lbfgs", "newton")
# Newton steps continue where L-BFGS stops short of tol: at the precision of float64, or after FEW iterations
# and 10 times as many as there are weights. For this many weights at most.
LARGEST_POLISH = 1000
FEW = 300
# Far out along a direction that separates, every Newton step moves scores by about 1; at a minimum by nothing.
UNSETTLED = 0.1
ENDLESS = "; there is no minimum nearby, the coefficients only stopped growing"


def _whole(y):
    """Nullable whole numbers of pandas as NumPy's: through float64, as scikit-learn has it, 2⁵³ + 1 is 2⁵³."""
    dtype = getattr(y, "dtype", None)
    if isinstance(dtype, np.dtype) or getattr(dtype, "kind", "") not in ("i", "u") or y.isna().any():
        return y
    return y.to_numpy(dtype=dtype.numpy_dtype)


class RootedLogisticRegression(LinearClassifierMixin, SparseCoefMixin, BaseEstimator):
    r"""Linear classifier that minimises C · Σ_i s_i φ(ℓ_i) + ½ ‖W‖², the intercept unpenalised.

    ℓ_i is the cross entropy of sample i. φ(ℓ) = k (e^(ℓ/k) − 1) is the rooted logistic objective, φ(ℓ) = ℓ
    logistic regression, to which it tends as k → ∞. Two classes have one weight vector, more have one each,
    as in scikit-learn's ``LogisticRegression``. X may be dense or sparse (CSR, never made dense); the
    columns need not be scaled, the optimiser does that inside. Computed in float64; what is fitted and returned
    has the dtype of X, float32 or float64. Not offered: the l1 and elastic-net penalties, and with
    them the solvers liblinear, sag and saga; `intercept_scaling`, `dual`, callbacks and array API inputs.

    Parameters
    ----------
    objective : {"rlo", "logistic"}
    k : float > 0
        The root; not used by "logistic".
    C : float > 0
        Inverse strength of the L2 penalty; ``numpy.inf`` is none.
    fit_intercept : bool
    solver : {"lbfgs", "newton"}
        "newton" forms the Hessian: for few features, many samples and high accuracy.
    tol : float > 0
        Stops when the largest entry of the gradient of the objective divided by C Σ_i s_i is at most this,
        scikit-learn's rule, both in the units of X and in those in which every column has size 1.
    max_iter : int ≥ 0
    class_weight : dict, "balanced" or None
        Class → factor of its samples' weights; "balanced": n_samples / (n_classes · count).
    warm_start : bool
        Start the next fit from this one's coefficients.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    coef_ : ndarray, shape (1, n_features) or (n_classes, n_features)
    intercept_ : ndarray, shape (1,) or (n_classes,)
    k_ : float
        The root that the coefficients were fitted with; infinity for "logistic".
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
            For a parameter out of range, NaN or infinity in X, fewer than two classes in y, or a column so small
            that its coefficient overflows the dtype of X.

        Warns
        -----
        ConvergenceWarning
            When `max_iter` iterations, or float64, were not enough for `tol`; and when there is no minimum, or
            none that `tol` could see: because the classes are separable, were it in part, and there is next to no
            penalty, or because a class has next to no weight and its intercept falls for ever. (With a finite C
            and separable in part, or a class that is only rare: for up to 1,000 weights.)
        """
        self._check_parameters()
        dtypes = [np.float64, np.float32]
        X, y = validate_data(self, X, _whole(y), accept_sparse="csr", dtype=dtypes, order="C")
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must hold at least two classes, got one class only: {classes[0]!r}")
        weight = self._sample_weight(sample_weight, X, y, classes, codes)
        k = float(self.k) if self.objective == "rlo" else None
        with np.errstate(over="ignore", divide="ignore"):
            total = weight.sum()
            l2 = 1 / (self.C * total)
        if not (np.isfinite(total) and np.isfinite(l2)):
            raise ValueError(
                f"the sum of the weights, {total:.3g}, or 1 / (C · sum), {l2:.3g}, is not finite: change C "
                f"({self.C:.3g}) or the unit of the weights"
            )
        if (weight == 0).any():  # as if such samples were not there, whatever they hold
            seen = weight > 0
            X, codes, weight = X[seen], codes[seen], weight[seen]
        # Curvature of φ at 0, where the average sample has p = 1/C.
        bend = 0.25 if k is None else 0.25 * (1 + 1 / k) * len(classes) ** min(1 / k, 50)
        scaling = Scaling(X, weight / total, l2, bend, centre=bool(self.fit_intercept))
        objective = Objective(
            scaling.X,
            codes,
            len(classes),
            k=k,
            l2=scaling.l2,
            fit_intercept=bool(self.fit_intercept),
            sample_weight=weight,
            centre=scaling.centre,
        )
        w, n_iter, converged = self._solve(objective, scaling, self._start(classes, objective, scaling))
        self._warn_if_endless(objective, w, classes, converged)
        with np.errstate(over="ignore", invalid="ignore"):
            coef, intercept = (a.astype(X.dtype) for a in scaling.outwards(w, objective.rows))
        if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
            column = int(np.argmin(scaling.d))
            raise ValueError(f"column {column} is so small that its weights overflow {X.dtype}: rescale it")
        self.classes_, self.coef_, self.intercept_ = classes, coef, intercept
        self.k_ = np.inf if k is None else float(k)
        self.n_iter_ = np.array([n_iter], dtype=np.int32)
        return self

    def _sample_weight(self, sample_weight, X, y, classes, codes):
        """Weights of the samples times those of their classes, float64."""
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
            if sample_weight.min() < 0 or not sample_weight.any():
                raise ValueError("sample_weight must be ≥ 0, and > 0 for at least one sample")
        weight = np.ones(X.shape[0]) if sample_weight is None else sample_weight
        if self.class_weight is not None:
            options = {} if sample_weight is None else {"sample_weight": sample_weight}
            with np.errstate(divide="ignore"):
                factor = compute_class_weight(self.class_weight, classes=classes, y=y, **options)
            if not np.isfinite(factor).all():
                wrong = int(np.argmin(np.isfinite(factor)))
                raise ValueError(f"class_weight gives class {classes[wrong]} the weight {factor[wrong]}")
            weight = weight * factor[codes]
            if weight.min() < 0 or not weight.any():
                raise ValueError("class_weight must be ≥ 0, and > 0 for at least one class in y")
        return weight

    def _start(self, classes, objective, scaling):
        """The last fit's weights with warm_start, where they fit and are better than zeros; else None."""
        shape = objective.rows, len(scaling.d)
        if not self.warm_start or getattr(self, "coef_", None) is None or self.coef_.shape != shape:
            return None
        self.densify()
        intercept = self.intercept_.astype(float) if self.fit_intercept else None
        with np.errstate(over="ignore", invalid="ignore"):  # weights for columns of another unit
            start = scaling.inwards(self.coef_.astype(float), intercept)
            value = objective.value_and_gradient(start)[0]
        return start if value <= objective.value_and_gradient(np.zeros_like(start))[0] else None

    def _check_parameters(self):
        for name, known in (("objective", OBJECTIVES), ("solver", SOLVERS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        for name, largest in (("C", np.inf), ("tol", np.finfo(float).max)):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 < value <= largest):
                raise ValueError(f"{name} must be a number > 0, got {value!r}")
        for name in ("fit_intercept", "warm_start"):
            value = getattr(self, name)
            if not isinstance(value, (bool, np.bool_)) and value not in (0, 1):  # "False" is no False
                raise ValueError(f"{name} must be True or False, got {value!r}")
        if self.objective == "rlo":
            check_real("k", self.k, 0, inclusive=False)
        if not (isinstance(self.max_iter, Integral) and self.max_iter >= 0):
            raise ValueError(f"max_iter must be an integer ≥ 0, got {self.max_iter!r}")

    def _solve(self, objective, scaling, start):
        """The scaled weights, the number of iterations, and whether the gradient is below tol; else it warns."""

        def largest(gradient):
            return scaling.largest_gradient(gradient, objective.rows, self.tol, objective.mean_slope)

        options = {"tol": self.tol, "measure": largest}
        polish = self.solver == "lbfgs" and objective.size <= LARGEST_POLISH
        limit = min(self.max_iter, max(FEW, 10 * objective.size)) if polish else self.max_iter
        result = minimize(self.solver, objective, max_iter=limit, start=start, **options)
        n_iter = result.iterations
        if polish and result.status != "converged" and n_iter < self.max_iter:
            # L-BFGS compares values, whose last digits are gone before the gradient's are; and so many of its
            # iterations cost more than Newton's few.
            left = self.max_iter - n_iter
            result = minimize("newton", objective, max_iter=left, start=result.w, **options)
            n_iter += result.iterations
        if result.status != "converged":
            advice = (
                f"increase max_iter ({self.max_iter})"
                if n_iter >= self.max_iter
                else "raise tol, C may be too large"
            )
            words = "lbfgs failed to" if self.solver == "lbfgs" else "Newton solver did not"
            message = (
                f"{words} converge after {n_iter} iteration{'(s)' if self.solver == 'lbfgs' else 's'}: the "
                f"largest entry of the gradient is {result.gradient_norms[-1]:.1e}, tol is {self.tol:g}; {advice}"
            )
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        return result.w, n_iter, result.status == "converged"

    def _warn_if_endless(self, objective, w, classes, converged):
        """Say so where moving along some direction lowers the objective for ever, or beyond what tol can see."""
        share = np.bincount(objective.labels, objective.share, len(classes))
        W = w.reshape(objective.rows, -1)[:, : objective.X.shape[1]]
        faint = np.abs(objective.l2 * W).max(initial=0) <= self.tol
        rare = bool(self.fit_intercept) and share.min() <= self.tol / UNSETTLED
        message = ""
        if self.fit_intercept and not share.all():
            message = f"class {classes[share == 0][0]} has no weight: leave its samples out{ENDLESS}"
        elif np.isinf(self.C):
            kind = separation_at(objective, w)
            if kind in (COMPLETE, QUASI):
                message = f"the classes are {kind} and C is infinite: give a finite C{ENDLESS}"
        if not message and (faint or rare):
            apart = faint and objective.smallest_margin(w) > 0
            move = np.inf if apart else 0.0  # of a score, by one more Newton step
            if converged and objective.size <= LARGEST_POLISH:
                step = newton_step(objective, w, objective.value_and_gradient(w)[1])
                move = np.abs(objective.scores(w + step) - objective.scores(w)).max()
            if move > UNSETTLED and apart:
                message = (
                    f"the classes are separable and tol is too large for the penalty: lower C or tol{ENDLESS}"
                )
            elif move > UNSETTLED:
                unseen = f"class {classes[share.argmin()]}" if rare else "the penalty"
                message = (
                    f"tol is too large for {unseen} to be seen: lower {'' if rare else 'C or '}tol; one more Newton "
                    f"step would move a score by {move:.2g}"
                )
        if message:
            warnings.warn(message, ConvergenceWarning, stacklevel=3)

    def predict_log_proba(self, X):
        """Logarithm of :meth:`predict_proba`, precise where that rounds to 0 or 1."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            scores = np.column_stack([np.zeros_like(scores), scores])
        return log_softmax(scores * scores.dtype.type(1 + 1 / self.k_), axis=1)

    def predict_proba(self, X):
        """Class probabilities softmax((1 + 1/k) z), for logistic softmax(z); shape (n_samples, n_classes)."""
        return np.exp(self.predict_log_proba(X))
