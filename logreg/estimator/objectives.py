"""Logistic and rooted logistic regression as functions of the weights: value, gradient, Hessian, bounds."""

import contextlib
import math
import threading

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F

if __name__.startswith("rooted_loss."):  # in the wheel, where a project may own a folder called losses
    from rooted_loss.base import check_real
    from rooted_loss.rooted import exact_range, expm1_then_linear
else:
    from losses.base import check_real
    from losses.rooted import exact_range, expm1_then_linear


_turnstile = threading.Lock()
_inside: list[int] = []  # the number of threads, then once more for each fit


@contextlib.contextmanager
def one_torch_thread():
    """Keep torch from sharing out vectors as short as these to threads, for which it has to wait.

    Beside the threads of BLAS that made fits of milliseconds take a second on two busy cores. The products
    with X, where the time goes on large data, are NumPy's and keep their threads. Of fits side by side in threads
    only the first sees what the number was.
    """
    with _turnstile:
        if not _inside:
            _inside.append(torch.get_num_threads())
        threads = _inside[0]
        _inside.append(threads)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _turnstile:
            torch.set_num_threads(threads)
            _inside.pop()
            if len(_inside) == 1:
                _inside.clear()


class Objective:
    r"""F(W, b) = Σ_i s_i φ(ℓ_i) / Σ_i s_i + (l2/2) ‖W‖², ℓ_i the cross entropy of sample i at W x_i + b.

    φ(ℓ) = ℓ is logistic regression; φ(ℓ) = k (e^(ℓ/k) − 1), ``rlo_loss`` at m = k, the rooted objective,
    which tends to it as k → ∞. With two classes the logits are (0, w·x + b), with more one row of W a class.
    The intercept b is never penalised. F is convex; on separable data without l2 it has no minimiser.

    Parameters
    ----------
    X : ndarray or CSR matrix of float64, shape (n, d)
    y : ndarray of int, shape (n,)
        Classes 0 … n_classes − 1.
    n_classes : int ≥ 2
    k : float > 0, optional
        The root; None is logistic regression.
    l2 : float ≥ 0, or one a column, shape (d,)
        Each column's own penalty Σ_j l2_j w_j² / 2 is what a change of units makes of one for all.
    fit_intercept : bool
    sample_weight : ndarray of float, shape (n,), optional
        s_i ≥ 0; all ones unless given.
    centre : ndarray, shape (d,), optional
        The rows are x_i − centre, without being written down: a sparse X stays sparse.

    Raises
    ------
    ValueError
        If k ≤ 0 or l2 < 0, or either is not a finite real number.

    Notes
    -----
    The weights travel as one flat vector of ``size`` numbers: row by row, the row's intercept last.
    """

    def __init__(
        self, X, y, n_classes, *, k=None, l2=0.0, fit_intercept=True, sample_weight=None, centre=None
    ):
        if k is not None:
            k = check_real("k", k, 0, inclusive=False)
        for value in np.atleast_1d(l2).tolist():
            check_real("l2", value, 0)
        self.X, self.k, self.l2, self.centre = X, k, l2, centre
        self._penalised = bool(np.any(l2))
        self.n_classes, self.fit_intercept = n_classes, fit_intercept
        self.rows = 1 if n_classes == 2 else n_classes
        self.columns = X.shape[1] + fit_intercept
        self.size = self.rows * self.columns
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        self.share = weight / weight.sum()
        self.mean_slope = 1.0  # Σ s_i φ′(ℓ_i) / Σ s_i where the gradient was computed last
        # Classes before samples, (1, C, n): torch vectorises a softmax over a dimension that is not the last,
        # which makes it several times faster for few classes.
        self._target = torch.as_tensor(y, dtype=torch.int64)[None]
        self._other = 1 - 2.0 * self._target[0]  # the sign of a score that is wrong
        self._one_hot = F.one_hot(self._target, n_classes).transpose(1, 2).to(torch.float64).contiguous()
        if k is not None:
            # Beyond ℓ/k ≈ 691 the loss continues as its tangent, so its slope stops growing there.
            self._exact_range = exact_range(torch.float64, k, k)
            self._largest_factor = self.share * math.exp(self._exact_range)
            self._share_over_k = self.share / k

    @property
    def name(self) -> str:
        """``logistic``, or ``rlo k=3``."""
        return "logistic" if self.k is None else f"rlo k={self.k:g}"

    def scores(self, w, X=None):
        """W x + b for every row of X (default: the training data), shape (1 or n_classes, n)."""
        X = self.X if X is None else X
        W = w.reshape(self.rows, self.columns)
        d = X.shape[1]
        # For one row a matrix-vector product: BLAS spends threads on the product of a flat matrix.
        if self.rows == 1:
            scores = (X @ W[0, :d])[None]
        else:
            scores = (X @ W[:, :d].T).T if scipy.sparse.issparse(X) else W[:, :d] @ X.T
        if self.centre is not None:
            scores = scores - (W[:, :d] @ self.centre)[:, None]
        return scores + W[:, d:] if self.fit_intercept else scores

    def _sample_losses(self, scores):
        """φ(ℓ) of every sample: ``rlo_loss`` at m = k, less its checks, which weigh on small data.

        Of two classes ℓ = log(1 + e^(−t)) has all its digits also where it is 1e-300, far out on separable data.
        """
        if self.rows == 1:
            entropy = F.softplus(self._other * scores[0], threshold=50)  # beyond, the log1p rounds to this
        else:
            entropy = F.cross_entropy(scores[None], self._target, reduction="none")[0]
        if self.k is None:
            return entropy
        x = entropy * (1 / self.k)
        if x.max() <= self._exact_range:  # nearly always; the rest of the function weighs on small data
            return torch.expm1(x) * self.k
        return expm1_then_linear(x, self._exact_range) * self.k

    def value_and_gradient(self, w):
        """F and ∇F at the flat weights `w`: float, ndarray of shape (size,).

        The gradient of φ in the logits is φ′(ℓ) (softmax(z) − e_y), and φ′ = e^(ℓ/k) = 1 + φ/k: the loss
        that is computed anyway also gives its slope. Autograd gets there too (a test compares), in twice
        the time on small data.
        """
        losses, residual = self._losses_and_pulls(w)
        W = w.reshape(self.rows, self.columns)
        d = self.X.shape[1]
        gradient = np.empty_like(W)
        gradient[:, :d] = residual[0] @ self.X if self.rows == 1 else residual @ self.X
        if self.centre is not None:
            gradient[:, :d] -= np.outer(residual.sum(axis=1), self.centre)
        if self.fit_intercept:
            gradient[:, d] = residual.sum(axis=1)
        if self.rows > 1:
            # A shift common to all classes changes no loss. What rounding says of it can outweigh the penalty.
            gradient -= gradient.mean(axis=0)
        value = float(losses @ self.share)
        if self.k is not None:
            self.mean_slope = 1 + value / self.k
        if self._penalised:
            pull = self.l2 * W[:, :d]
            gradient[:, :d] += pull
            value += 0.5 * float(np.vdot(pull, W[:, :d]))
        return value, gradient.ravel()

    def _losses_and_pulls(self, w):
        scores = torch.from_numpy(np.ascontiguousarray(self.scores(w)))
        losses = self._sample_losses(scores).numpy()
        if self.rows == 1:
            residual = torch.sigmoid(self._other * scores).mul_(self._other).numpy()
        else:
            residual = torch.softmax(scores[None], dim=1).sub_(self._one_hot)[0].numpy()
        factor = self.share
        if self.k is not None:
            factor = np.minimum(losses * self._share_over_k + factor, self._largest_factor)
        return losses, residual * factor

    def pulls(self, w):
        """∂(F − penalty)/∂scores at `w`, shape (1 or n_classes, n): what each sample asks of each score."""
        return self._losses_and_pulls(w)[1]

    @property
    def labels(self):
        """Class of every sample, shape (n,)."""
        return self._target[0].numpy()

    def hessian(self, w):
        """∇²F at the flat weights `w`, ndarray of shape (size, size)."""
        scores = torch.from_numpy(np.ascontiguousarray(self.scores(w))).requires_grad_()
        total = self._sample_losses(scores) @ torch.from_numpy(self.share)
        (slope,) = torch.autograd.grad(total, scores, create_graph=True)
        rows, columns = self.rows, self.columns
        H = np.empty((rows, columns, rows, columns))
        for a in range(rows):
            # Samples do not interact: differentiating a column's sum gives every sample's own entry.
            (curvature,) = torch.autograd.grad(slope[a].sum(), scores, retain_graph=True)
            curvature = curvature.numpy()
            for b in range(a + 1):
                block = self._gram(curvature[b])
                H[a, :, b, :] = block
                H[b, :, a, :] = block.T
        H = H.reshape(self.size, self.size)
        penalty = np.zeros((rows, columns))
        penalty[:, : self.X.shape[1]] = self.l2
        H[np.diag_indices(self.size)] += penalty.ravel()
        return H

    def _gram(self, weight):
        """Σ_i weight_i x_i x_iᵀ over the rows x_i of the design, shape (columns, columns)."""
        if not scipy.sparse.issparse(self.X):
            design = self.design
            return design.T @ (weight[:, None] * design)
        d = self.X.shape[1]
        inner = (self.X.T @ self.X.multiply(weight[:, None]).tocsr()).toarray()
        border, total = weight @ self.X, weight.sum()
        if self.centre is not None:
            c = self.centre
            inner = inner - np.outer(border, c) - np.outer(c, border) + total * np.outer(c, c)
            border = border - total * c
        if not self.fit_intercept:
            return inner
        G = np.empty((d + 1, d + 1))
        G[:d, :d], G[:d, d], G[d, :d], G[d, d] = inner, border, border, total
        return G

    @property
    def design(self):
        """Dense X, centred, with the intercept's column of ones, shape (n, columns)."""
        X = self.X.toarray() if scipy.sparse.issparse(self.X) else self.X
        X = X if self.centre is None else X - self.centre
        return np.column_stack([X, np.ones(len(X))]) if self.fit_intercept else X

    def lipschitz(self) -> float:
        r"""A bound L on the curvature wherever F(w) ≤ F(0), so that gradient steps of 1/L from 0 descend.

        With x the rows of the design, R² = max ‖x‖² and Λ = λ_max(Σ s_i x_i x_iᵀ / Σ s_i),

            2 classes:  L = a(k) Λ + (2^(1/k) − 1) R² / k + l2,  a(k) = 1/k + ((k − 2)₊ / (2k − 1))^(2 − 1/k),
                        for k ≤ 1 a(k) = 0,
            C classes:  L = 2 h(k) [Λ + (C^(1/k) − 1) R²] + l2,  h(k) = k / (4 (k − 1)), for k < 2 1/k;

        k → ∞ leaves Λ/4 + l2 and Λ/2 + l2, the bounds of logistic regression, which hold everywhere. The
        rooted loss has none that does: a sample's curvature grows like e^(ℓ/k) = 1 + φ/k. But the mean of φ
        cannot rise above its start, k (C^(1/k) − 1), and at worst is all on the longest row. A step of 1/L
        cannot leave that level set: to reach its edge, F would have to stop falling on the way.
        docs/losses.md has the proof.
        """
        design, k = self.design, self.k
        spread = np.linalg.eigvalsh(design.T @ (self.share[:, None] * design))[-1]
        if k is None:
            return float(spread / (4 if self.rows == 1 else 2) + np.max(self.l2))
        excess = math.expm1(math.log(self.n_classes) / k) * (design[self.share > 0] ** 2).sum(axis=1).max()
        if self.rows == 1:
            common = 1 / k + ((k - 2) / (2 * k - 1)) ** (2 - 1 / k) if k > 2 else (k > 1) / k
            return float(common * spread + excess / k + np.max(self.l2))
        steepest = k / (4 * (k - 1)) if k >= 2 else 1 / k
        return float(2 * steepest * (spread + excess) + np.max(self.l2))

    def relative_curvature(self) -> float:
        r"""A bound c on λ_max(∇²F − l2) / (F − penalty), everywhere: no sample's curvature is above c φ.

        c = max(1, 1/k²) R² for two classes, twice that for more; R² = max ‖x‖². For one sample the
        ratio φ″/φ tends to 1 where it is right and to 1/k² where it is wrong (both 1 at k = 1; for the
        logistic loss 1 and 0). So log F is smooth, though for ``rlo`` F is not.
        """
        longest = (self.design[self.share > 0] ** 2).sum(axis=1).max()
        each = 1.0 if self.k is None else max(1.0, self.k**-2)
        return float(each * longest * (1 if self.rows == 1 else 2))

    def curvature_over_logistic(self) -> float:
        """φ″ at 0 over that of the logistic loss, C^(1/k) (1 + 1/k): how much more this loss bends at w = 0."""
        return 1.0 if self.k is None else self.n_classes ** (1 / self.k) * (1 + 1 / self.k)

    def condition_number(self, w) -> float:
        """λ_max / λ_min of ∇²F at `w`, in the directions that the data determine.

        Those are the weights that the iterates of every optimiser here stay in when they start at zero: the
        row space of the design and, with more than two classes, rows that sum to zero (adding one vector to
        all rows changes no prediction). Infinite where even there the smallest eigenvalue drowns in rounding.
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
        W = w.reshape(self.rows, self.columns)
        return float(np.linalg.norm(W[:, : self.X.shape[1]]))

    def smallest_margin(self, w) -> float:
        """min_i (z_y − max_{c≠y} z_c) / ‖W‖ over the training data; positive: every sample is on its side."""
        scores = torch.from_numpy(self.scores(w))
        if self.rows == 1:
            margins = -self._other * scores
        else:
            margins = scores.gather(0, self._target) - scores.masked_fill(
                self._one_hot[0].bool(), -math.inf
            ).amax(0)
        smallest = float(margins.min())
        norm = self.norm(w)
        return smallest / norm if norm else 0.0
