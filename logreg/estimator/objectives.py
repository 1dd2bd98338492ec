"""Logistic and rooted logistic regression as functions of the weights: value, gradient, Hessian, bounds."""

import functools
import math
from numbers import Real

import numpy as np
import scipy.sparse

# Beyond k · 500 rlo continues as its tangent: e^500 times any number of samples is finite in float64.
LARGEST_EXPONENT = 500.0


class Objective:
    r"""F(W, b) = Σ_i s_i φ(ℓ_i) / Σ_i s_i + (l2/2) ‖W‖², ℓ_i the cross entropy of sample i at W x_i + b.

    With p = e^(−ℓ), the probability of the sample's own class, and a = 0, 1/k or −1/k

        logistic:  φ = ℓ                     φ′ = 1          φ″ = 0
        rlo:       φ = k (p^(−1/k) − 1)      φ′ = e^(ℓ/k)    φ″ = φ′/k
        root:      φ = k (1 − p^(1/k))       φ′ = e^(−ℓ/k)   φ″ = −φ′/k

    are one family, φ = (e^(aℓ) − 1)/a. With two classes the logits are (0, w·x + b), with more one row of W a
    class. The intercept b is never penalised. F is convex for logistic and rlo, not for root; on separable
    data without l2 it has no minimiser.

    X is an ndarray or a CSR matrix of float64, y holds classes 0 … n_classes − 1. Unless given, `loss` is rlo with
    a k and logistic without, and the sample weights s_i ≥ 0 are all 1. ``ValueError`` if k or l2 is out of range.

    The weights travel as one flat vector of ``size`` numbers: row by row, the row's intercept last.
    """

    def __init__(self, X, y, n_classes, k=None, loss=None, *, l2=0.0, fit_intercept=True, sample_weight=None):
        self.name, self.power = "logistic", 0.0
        loss = loss or ("logistic" if k is None else "rlo")
        if loss != "logistic":
            check_number(f"k of {loss}", k, 1 if loss == "root" else 0)
            k = float(k)
            self.name, self.power = f"{loss} k={k:g}", (-1 if loss == "root" else 1) / k
        if l2 != 0:
            check_number("l2", l2, 0)
        self.X, self.y, self.k, self.l2 = X, y, k, float(l2)
        self.n_classes, self.fit_intercept = n_classes, fit_intercept
        self.rows = 1 if n_classes == 2 else n_classes
        self.columns = X.shape[1] + bool(fit_intercept)
        self.size = self.rows * self.columns
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        self.share = weight / weight.sum()
        self._sign = 2.0 * y - 1  # of two classes

    @functools.cached_property
    def design(self):
        """X with the intercept's column of ones, as sparse as X, shape (n, columns)."""
        if not self.fit_intercept:
            return self.X
        ones = np.ones((self.X.shape[0], 1))
        sparse = scipy.sparse.issparse(self.X)
        return scipy.sparse.hstack([self.X, ones], format="csr") if sparse else np.hstack([self.X, ones])

    def scores(self, w, X=None):
        """W x + b for every row of X (default: the training data), shape (1 or n_classes, n)."""
        X = self.X if X is None else X
        W = w.reshape(self.rows, self.columns)
        d = X.shape[1]
        # For one row a matrix-vector product: BLAS spends threads on the product of a flat matrix.
        scores = (X @ W[0, :d])[None] if self.rows == 1 else W[:, :d] @ X.T
        return scores + W[:, d:] if self.fit_intercept else scores

    def _cross_entropy(self, w):
        """ℓ of every sample, shape (n,), and its gradient in the scores, shape (1 or n_classes, n)."""
        scores = self.scores(w)
        if self.rows == 1:
            t = self._sign * scores[0]
            e = np.exp(-np.abs(t))
            ell = np.log1p(e) + np.maximum(-t, 0)  # all its digits, also where it is 1e-300
            return ell, (-self._sign * np.where(t > 0, e, 1) / (1 + e))[None]
        label = self.y, np.arange(len(self.y))
        scores = np.ascontiguousarray(scores)
        scores -= scores.max(axis=0)
        ell = -scores[label]
        p = np.exp(scores)
        total = p.sum(axis=0)
        p /= total
        p[label] -= 1
        return ell + np.log(total), p

    def _phi(self, ell):
        """φ and φ′ of cross entropies."""
        if not self.power:
            return ell, np.ones_like(ell)
        x = self.power * ell
        inside = np.minimum(x, LARGEST_EXPONENT)
        slope = np.exp(inside)
        return (np.expm1(inside) + slope * (x - inside)) / self.power, slope

    def value_and_gradient(self, w):
        """F and ∇F at the flat weights `w`: float, ndarray of shape (size,)."""
        ell, residual = self._cross_entropy(w)
        phi, slope = self._phi(ell)
        value = float(phi @ self.share)
        residual *= slope * self.share
        W = w.reshape(self.rows, self.columns)
        d = self.X.shape[1]
        gradient = np.empty_like(W)
        gradient[:, :d] = residual[0] @ self.X if self.rows == 1 else residual @ self.X
        if self.fit_intercept:
            gradient[:, d] = residual.sum(axis=1)
        if self.rows > 1:
            # A shift common to all classes changes no loss. What rounding says of it can outweigh the penalty.
            gradient -= gradient.mean(axis=0)
        if self.l2:
            gradient[:, :d] += self.l2 * W[:, :d]
            value += 0.5 * self.l2 * float(np.vdot(W[:, :d], W[:, :d]))
        return value, gradient.ravel()

    def hessian(self, w):
        """∇²F at the flat weights `w`, ndarray of shape (size, size)."""
        ell, residual = self._cross_entropy(w)
        slope = self.share * self._phi(ell)[1]
        bend = np.where(self.power * ell < LARGEST_EXPONENT, self.power * slope, 0)
        P = residual + (self.y if self.rows == 1 else self.y == np.arange(self.rows)[:, None])
        rows, columns, design = self.rows, self.columns, self.design
        H = np.empty((rows, columns, rows, columns))
        for a in range(rows):
            for b in range(a + 1):
                # Of samples in the scores a and b: φ′ times the covariance of softmax, φ″ times its square.
                weight = slope * P[a] * ((a == b) - P[b]) + bend * residual[a] * residual[b]
                weight = weight[:, None]
                if scipy.sparse.issparse(design):
                    block = (design.T @ design.multiply(weight).tocsr()).toarray()
                else:
                    block = design.T @ (weight * design)
                H[a, :, b, :] = block
                H[b, :, a, :] = block.T
        H = H.reshape(self.size, self.size)
        penalty = np.zeros((rows, columns))
        penalty[:, : self.X.shape[1]] = self.l2
        H[np.diag_indices(self.size)] += penalty.ravel()
        return H

    def lipschitz(self) -> float:
        r"""A bound L on the curvature wherever F(w) ≤ F(0), so that gradient steps of 1/L from 0 descend.

        With x the rows of the design, R² = max ‖x‖² and Λ = λ_max(Σ s_i x_i x_iᵀ / Σ s_i),

            logistic, root:  L = Λ/4 + l2 for 2 classes, Λ/2 + l2 for more, which hold everywhere,
            rlo, 2 classes:  L = a(k) Λ + (2^(1/k) − 1) R² / k + l2,  a(k) = 1/k + ((k − 2)₊ / (2k − 1))^(2 − 1/k),
                             for k ≤ 1 a(k) = 0,
            rlo, C classes:  L = 2 h(k) [Λ + (C^(1/k) − 1) R²] + l2,  h(k) = k / (4 (k − 1)), for k < 2 1/k.

        Root's slope is at most 1, and what its negative φ″ adds is smaller than what it takes away. rlo has
        no bound that holds everywhere: a sample's curvature grows like e^(ℓ/k) = 1 + φ/k. But the mean of φ
        cannot rise above its start, k (C^(1/k) − 1), and at worst is all on the longest row. A step of 1/L
        cannot leave that level set: to reach its edge, F would have to stop falling on the way.
        docs/losses.md has the proof.
        """
        design, k = self.design, self.k
        spread = np.linalg.eigvalsh(design.T @ (self.share[:, None] * design))[-1]
        if self.power <= 0:
            return float(spread / (4 if self.rows == 1 else 2) + self.l2)
        excess = math.expm1(math.log(self.n_classes) / k) * (design[self.share > 0] ** 2).sum(axis=1).max()
        if self.rows == 1:
            common = 1 / k + ((k - 2) / (2 * k - 1)) ** (2 - 1 / k) if k > 2 else (k > 1) / k
            return float(common * spread + excess / k + self.l2)
        steepest = k / (4 * (k - 1)) if k >= 2 else 1 / k
        return float(2 * steepest * (spread + excess) + self.l2)

    def condition_number(self, w) -> float:
        """λ_max / λ_min of ∇²F at `w`, in the directions that the data determine.

        Those are the weights that the iterates of every optimiser here stay in when they start at zero: the
        row space of the design and, with more than two classes, rows that sum to zero (adding one vector to
        all rows changes no prediction). Infinite where even there the smallest eigenvalue is not above rounding.
        """
        _, singular, Vt = np.linalg.svd(self.design, full_matrices=False)
        basis = Vt[singular > singular[0] * max(self.design.shape) * np.finfo(float).eps].T
        if self.rows > 1:
            sum_zero = np.linalg.svd(np.ones((1, self.rows)))[2][1:].T
            basis = np.kron(sum_zero, basis)
        values = np.linalg.eigvalsh(basis.T @ self.hessian(w) @ basis)
        floor = values[-1] * len(values) * np.finfo(float).eps
        return float(values[-1] / values[0]) if values[0] > floor else math.inf

    def accuracy(self, w, X, y) -> float:
        """Share of the rows of X whose largest logit is that of y."""
        scores = self.scores(w, X)
        predicted = scores[0] > 0 if self.rows == 1 else scores.argmax(axis=0)
        return float((predicted == y).mean())

    def norm(self, w) -> float:
        """‖W‖, the intercept left out."""
        return float(np.linalg.norm(w.reshape(self.rows, self.columns)[:, : self.X.shape[1]]))

    def smallest_margin(self, w) -> float:
        """min_i (z_y − max_{c≠y} z_c) / ‖W‖ over the training data; positive: every sample is on its side."""
        scores = self.scores(w)
        if self.rows == 1:
            margins = self._sign * scores[0]
        else:
            label = self.y, np.arange(len(self.y))
            margins = scores[label]
            scores[label] = -np.inf
            margins = margins - scores.max(axis=0)
        norm = self.norm(w)
        return float(margins[self.share > 0].min()) / norm if norm else 0.0


class Standardised:
    r"""An objective in the weights of standardised columns, w̃ = d w and b̃ = b + μ·w: the same logits.

    μ is a column's mean, 0 without an intercept, and d² = σ² + 4 l2, so that near w = 0 logistic regression
    bends about alike in every direction, whatever the columns' units. X is neither changed nor copied.
    """

    def __init__(self, objective):
        self.objective, self.size = objective, objective.size
        X, share = objective.X, objective.share
        mean = share @ X
        square = share @ (X.multiply(X) if scipy.sparse.issparse(X) else X * X)
        self.mean = mean if objective.fit_intercept else np.zeros_like(mean)
        # Below 1e-12 of the mean square is rounding: a constant column.
        self.d = np.sqrt(np.maximum(square - self.mean**2, 1e-12 * square) + 4 * objective.l2)
        self.d[self.d == 0] = 1

    def inwards(self, coef, intercept):
        """Coefficients (rows, d) and intercepts (rows,) as flat weights of this problem."""
        W = np.column_stack([coef * self.d, intercept + coef @ self.mean])
        return W[:, : self.objective.columns].ravel()

    def outwards(self, v):
        """`inwards` undone, as flat weights of the objective."""
        W = v.reshape(self.objective.rows, -1).copy()
        n = len(self.d)
        W[:, :n] /= self.d
        W[:, n:] -= (W[:, :n] @ self.mean)[:, None]
        return W.ravel()

    def value_and_gradient(self, v):
        """F and its gradient by the chain rule."""
        value, gradient = self.objective.value_and_gradient(self.outwards(v))
        G = gradient.reshape(self.objective.rows, -1)
        n = len(self.d)
        if self.objective.fit_intercept:
            G[:, :n] -= G[:, n:] * self.mean
        G[:, :n] /= self.d
        return value, gradient

    def hessian(self, v):
        """∇²F by the chain rule."""
        columns = self.objective.columns
        A = np.diag(np.r_[1 / self.d, 1][:columns])
        A[len(self.d) :, : len(self.d)] = -self.mean / self.d
        A = np.kron(np.eye(self.objective.rows), A)
        return A.T @ self.objective.hessian(self.outwards(v)) @ A


def check_number(name, value, minimum):
    """``ValueError`` unless `value` is a finite real number > `minimum`."""
    if not (isinstance(value, Real) and minimum < value < math.inf):
        raise ValueError(f"{name} must be a finite number > {minimum}, got {value!r}")
