"""Does some direction separate the classes? Then, without a penalty, no weights are the best."""

import numpy as np
import scipy.sparse
from scipy.optimize import linprog

# Seconds for the linear program.
PATIENCE = 30.0
NONE, QUASI, COMPLETE, UNKNOWN = "none", "quasi-separable", "separable", "unknown"


def separation(X, y, n_classes, fit_intercept=True) -> str:
    r"""Whether weights exist that put no sample on the wrong side, and some not on the border.

    With z_ic = (W_{y_i} − W_c)·x_i for c ≠ y_i, one linear program maximises Σ z_ic over |W| ≤ 1 and
    all z_ic ≥ 0. Its value is 0 exactly where Σ φ(ℓ_i) has a minimum, for every decreasing loss here; where
    not, moving along W lowers the loss for ever.

    Parameters
    ----------
    X : ndarray, shape (n, d)
        Columns of comparable size.
    y : ndarray of int, shape (n,)
        Classes 0 … n_classes − 1.

    Returns
    -------
    str
        ``separable``: a direction has all z > 0; ``quasi-separable``: some stay 0 at the best one;
        ``none``; ``unknown``: no answer after 30 s.

    References
    ----------
    Albert, Anderson: On the existence of maximum likelihood estimates in logistic regression models, 1984.
    Konis: Linear programming algorithms for detecting separated data in binary logistic regression models, 2007.
    """
    if scipy.sparse.issparse(X):
        design = X.tocsr()
        if fit_intercept:
            design = scipy.sparse.hstack([design, np.ones((X.shape[0], 1))], format="csr")
    else:
        design = np.column_stack([X, np.ones(len(X))]) if fit_intercept else np.asarray(X)
        # Rows that occur twice say the same twice; unused columns nothing.
        kept = np.unique(np.column_stack([design, y]), axis=0)
        design, y = kept[:, :-1][:, kept[:, :-1].any(axis=0)], kept[:, -1].astype(int)
    if n_classes == 2:
        sign = np.where(y == 1, 1.0, -1.0)[:, None]
        Z = design.multiply(sign).tocsr() if scipy.sparse.issparse(design) else design * sign
    else:
        design = scipy.sparse.csr_matrix(design)
        # Row (i, c): x_i in the block of its own class, −x_i in that of c.
        sample = np.repeat(np.arange(len(y)), n_classes - 1)
        other = np.concatenate([np.delete(np.arange(n_classes), c) for c in y])
        rows = np.arange(len(sample))
        own = scipy.sparse.csr_matrix((np.ones(len(sample)), (rows, y[sample])), (len(sample), n_classes))
        rival = scipy.sparse.csr_matrix((np.ones(len(sample)), (rows, other)), (len(sample), n_classes))
        blocks = own - rival
        Z = scipy.sparse.hstack(
            [design[sample].multiply(blocks[:, [c]].toarray()).tocsr() for c in range(n_classes)],
            format="csr",
        )
    total = np.asarray(Z.sum(axis=0)).ravel()
    scale = max(np.abs(total).max(), 1e-300)
    answer = linprog(
        -total / scale, A_ub=-Z, b_ub=np.zeros(Z.shape[0]), bounds=(-1, 1), method="highs",
        options={"time_limit": PATIENCE, "primal_feasibility_tolerance": 1e-10,
                 "dual_feasibility_tolerance": 1e-10},
    )  # fmt: skip
    if answer.x is None or answer.status not in (0, 4):
        return UNKNOWN
    margins = Z @ answer.x
    if margins.max() <= 1e-6 or margins.min() < -1e-7 * margins.max():
        return NONE if answer.status == 0 else UNKNOWN
    # A sum that is the largest need not leave every sample off the border: the smallest z decides, max-min.
    return COMPLETE if margins.min() > 1e-9 * margins.max() else _strict(Z)


def _strict(Z) -> str:
    """``separable`` if some direction leaves no sample on the border: maximise t with Z β ≥ t, |β| ≤ 1."""
    n, p = Z.shape
    column = np.ones((n, 1))
    A = scipy.sparse.hstack([-Z, column]) if scipy.sparse.issparse(Z) else np.hstack([-Z, column])
    answer = linprog(
        np.r_[np.zeros(p), -1.0], A_ub=A, b_ub=np.zeros(n), bounds=[(-1, 1)] * p + [(None, 1)],
        method="highs", options={"time_limit": PATIENCE},
    )  # fmt: skip
    return COMPLETE if answer.x is not None and answer.x[-1] > 1e-6 else QUASI


def separation_at(objective, w) -> str:
    """:func:`separation` of an ``Objective``'s data, answered by its last iterate `w` where that settles it."""
    if objective.smallest_margin(w) > 0:
        return COMPLETE
    if not scipy.sparse.issparse(objective.X) and _has_none(objective, w):
        return NONE
    seen = objective.share > 0
    return separation(objective.X[seen], objective.labels[seen], objective.n_classes, objective.fit_intercept)


def _has_none(objective, w) -> bool:
    """True if the gradient at `w` proves it, without a linear program (False proves nothing).

    At a minimum Σ λ_ic z_ic = 0 for all W, with the samples' pulls λ_ic > 0: a W with all z_ic ≥ 0 has all
    z_ic = 0 (Stiemke's lemma). The samples with clear pulls are enough if they span the others. At `w` their
    sum is almost 0; if the smallest change of the λ that makes it 0 leaves them positive, that is as good.
    """
    pull, seen = objective.pulls(w), objective.share > 0
    each = abs(pull)
    if objective.rows > 1:
        each[objective.labels, np.arange(len(objective.labels))] = np.inf  # the own class, minus the sum
    least = each.min(axis=0)
    clear = least > 1e-6 * least.max()
    design = objective.design
    narrow = design[clear]
    if np.linalg.matrix_rank(narrow, 1e-9 * np.linalg.norm(narrow)) < np.linalg.matrix_rank(design[seen]):
        return False
    change = (pull[:, clear] @ narrow) @ np.linalg.pinv(narrow, 1e-9)
    return bool((abs(change) < 0.5 * least[clear]).all())
