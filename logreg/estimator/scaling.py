"""A change of variables after which every column bends the objective about alike, whatever its unit."""

import numpy as np
import scipy.sparse

# Of a gradient in the units of X, float64 resolves no more than this share of a column's size.
RESOLUTION = 4e-15


class Scaling:
    r"""x̃ = (x − μ) / d and w̃ = d w, b̃ = b + μ·w: the same logits, with a Hessian near a multiple of 1.

    μ is a column's mean (0 without an intercept), d² = σ² + l2/κ, σ² its mean square about μ and κ the
    curvature of φ at 0: the diagonal of the Hessian at w = 0 is κ in every direction. The penalty stays that
    of w: l2/d² for w̃. Income beside age, a sensor's counts, a year around 2000 no longer send the first
    step of a line search into the exponential, or leave F flat where its gradient is large.

    Parameters
    ----------
    X : ndarray or CSR matrix of float64, shape (n, d)
    share : ndarray, shape (n,)
        Weights of the samples; they sum to 1.
    l2 : float ≥ 0
    curvature : float > 0
        κ.
    centre : bool
        With an intercept only, which takes up the shift.

    Attributes
    ----------
    X : ndarray or CSR matrix
        x/d, dense ones centred; a copy.
    centre : ndarray or None
        What is still to be subtracted from the rows of a sparse X, 0 for columns without a gap.
    l2 : ndarray, shape (d,)
    """

    def __init__(self, X, share, l2, curvature, centre):
        sparse = scipy.sparse.issparse(X)
        # Powers of two, so that dividing rounds nothing; squares of 1e200 would overflow, those of 1e-200 vanish.
        largest, smallest = X.max(axis=0), X.min(axis=0)
        if sparse:
            largest, smallest = largest.toarray().ravel(), smallest.toarray().ravel()
        largest = np.maximum(largest, -smallest).astype(float)
        unit = np.where(largest > 0, np.exp2(np.floor(np.log2(np.maximum(largest, 1e-200)))), 1)
        if sparse:
            Z = X.multiply(1 / unit).tocsr()
            mean = share @ Z if centre else np.zeros(Z.shape[1])
            # A column without a gap loses its mean in place: subtracted later, a large one takes digits along.
            full = np.bincount(Z.indices, minlength=Z.shape[1]) == Z.shape[0]
            Z.data -= np.where(full, mean, 0)[Z.indices]
            rest = np.where(full, 0, mean)
            # Σ s (z − μ)² over the entries that are stored, and s μ² for those that are not.
            row = np.repeat(np.arange(Z.shape[0]), np.diff(Z.indptr))
            stored = np.bincount(Z.indices, share[row], Z.shape[1])
            apart = np.bincount(Z.indices, share[row] * (Z.data - rest[Z.indices]) ** 2, Z.shape[1])
            square = apart + np.maximum(1 - stored, 0) * rest**2
        else:
            Z = X / unit
            mean = share @ Z if centre else np.zeros(Z.shape[1])
            Z -= mean
            square = np.einsum("i,ij,ij->j", share, Z, Z)
        # A constant column, to rounding, says nothing: its mean is not exact, and dividing by what is left
        # of it would blow rounding up.
        eps = len(share) * np.finfo(float).eps
        constant = square <= (eps * mean) ** 2
        square = np.where(constant, 0, square)
        size = np.hypot(np.sqrt(square), np.sqrt(l2 / curvature) / unit)
        size = np.where(size > 0, size, 1)
        self.d, self.mean = size * unit, mean * unit
        self.l2 = l2 / self.d / self.d
        if sparse:
            self.X, self.centre = Z.multiply(np.where(constant, 0, 1 / size)).tocsr(), rest / size
            self.centre[constant] = 0
            if not centre:
                self.centre = None
        else:
            Z /= size
            Z[:, constant] = 0
            self.X, self.centre = Z, None
        self._floor = RESOLUTION * (self.d + np.abs(self.mean))

    def inwards(self, coef, intercept):
        """Weights of X as the flat weights of the scaled problem (`intercept` None: there is none)."""
        rows = [coef * self.d]
        if intercept is not None:
            rows.append((intercept + coef @ self.mean)[:, None])
        return np.hstack(rows).ravel()

    def outwards(self, w, rows):
        """`inwards` undone: coefficients (rows, d) and intercepts (rows,) in the units of X."""
        W = w.reshape(rows, -1)
        d = len(self.d)
        coef = W[:, :d] / self.d
        intercept = W[:, d] - coef @ self.mean if W.shape[1] > d else np.zeros(rows)
        return coef, intercept

    def largest_gradient(self, gradient, rows, tol, slope=1.0):
        """The largest entry of ∇F, in the scaled variables and in those of X, whichever is larger.

        A small gradient in X's units alone means nothing for a column of 1e-8, one in the scaled
        variables nothing to someone who checks it in X's units. Where `tol` is below what float64 resolves
        of a column's gradient, whose terms are as large as φ's mean `slope`, that is asked for instead; in the
        scaled variables at most `slope` times `tol`.
        """
        scaled = np.abs(gradient).max() / max(1, min(slope, RESOLUTION * slope / tol))
        if not scaled <= tol:  # far from the end, where most calls are, the rest would not matter
            return scaled
        G = gradient.reshape(rows, -1)
        d = len(self.d)
        own = self.d * G[:, :d]
        if G.shape[1] > d:
            own = own + self.mean * G[:, d:]
        own = np.abs(own) / np.maximum(1, self._floor * (slope / tol))
        return max(scaled, own.max())
