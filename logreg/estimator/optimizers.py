"""Ways to a minimum. Each sees an objective's values, gradients and Hessians, and nothing else.

An optimiser is a function ``(objective, w, observe, …)`` that shows every iterate to
``observe(w, value, gradient)`` and returns when that answers True. What counts as done, and the clock, are
thus in one place, :func:`minimize`. A new one is a function and a line in ``OPTIMIZERS``.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize

ARMIJO = 1e-4
# A value this many times the first one is not a detour any more.
DIVERGED = 1e6


@dataclass
class Result:
    """Where an optimiser got: the last iterate, and the course of it.

    ``status`` is ``converged`` (‖gradient‖ ≤ tol), ``max_iter``, ``stalled`` (the line search finds no lower
    value in float64) or ``diverged``. The lists have one entry an iterate, the start included; ``seconds``
    are since the start.
    """

    w: np.ndarray
    status: str = "stalled"
    values: list = field(default_factory=list)
    gradient_norms: list = field(default_factory=list)
    seconds: list = field(default_factory=list)

    @property
    def iterations(self) -> int:
        return len(self.values) - 1


def gd(objective, w, observe, step):
    """Gradient descent with a fixed step: w ← w − step · ∇F(w)."""
    while True:
        value, gradient = objective.value_and_gradient(w)
        if observe(w, value, gradient):
            return
        w = w - step * gradient


def nesterov(objective, w, observe, step):
    """Nesterov's accelerated gradient, momentum (t − 1)/t₊ with t₊ = (1 + √(1 + 4t²))/2, restarted.

    The momentum starts again when it points uphill, ∇F(y)·(x₊ − x) > 0, which makes the rate that of a
    strongly convex problem without knowing its modulus; and when it carried y above the first value, outside
    the level set on which ``Objective.lipschitz`` holds: the last x, always inside, is then the next y.

    References
    ----------
    Nesterov: A method of solving a convex programming problem with convergence rate O(1/k²), 1983.
    O'Donoghue, Candès: Adaptive restart for accelerated gradient schemes, 2015.
    """
    x = y = w
    t, first = 1.0, None
    while True:
        value, gradient = objective.value_and_gradient(y)
        if observe(y, value, gradient):
            return
        first = value if first is None else first
        if value > first and t > 1:
            y, t = x, 1.0
            continue
        ahead = y - step * gradient
        if gradient @ (ahead - x) > 0:
            x = y = ahead
            t = 1.0
        else:
            following = (1 + math.sqrt(1 + 4 * t * t)) / 2
            x, y, t = ahead, ahead + (t - 1) / following * (ahead - x), following


class _Done(Exception):
    """Leaves SciPy's loop from its callback, in every version of SciPy."""


def lbfgs(objective, w, observe):
    """SciPy's L-BFGS-B, stopped by `observe` only: its own tolerances are zero."""
    last = {"w": None}

    def evaluate(w):
        if not np.array_equal(w, last["w"]):
            last["w"], (last["value"], last["gradient"]) = w.copy(), objective.value_and_gradient(w)
        return last["value"], last["gradient"]

    def callback(w):
        if observe(w.copy(), *evaluate(w)):  # nearly always the point that was evaluated last
            raise _Done

    try:
        callback(w)
        options = {"maxiter": 10**9, "maxfun": 10**9, "maxls": 50, "gtol": 0.0, "ftol": 0.0}
        scipy.optimize.minimize(evaluate, w, jac=True, method="L-BFGS-B", callback=callback, options=options)
    except _Done:
        pass


def newton(objective, w, observe):
    """Newton's method, damped: steps halved from 1 until Armijo's rule holds.

    Eigenvalues of the Hessian are taken by their size, so that a step descends where F is not convex.
    Directions in which it is flat to rounding (the unused pixels of digits, the common shift of all classes)
    are left alone: there the gradient is rounding too.
    """
    eps = np.finfo(float).eps
    value, gradient = objective.value_and_gradient(w)
    while not observe(w, value, gradient):
        curvature, basis = np.linalg.eigh(objective.hessian(w))
        curvature = np.abs(curvature)
        steep = curvature > curvature.max() * len(curvature) * eps
        direction = -basis[:, steep] @ ((basis[:, steep].T @ gradient) / curvature[steep])
        slope = gradient @ direction
        # Next to the minimum the decrease drowns in the value's own rounding, which must not stop the step.
        rounding = 1e-10 * abs(value)
        step = 1.0
        while True:
            ahead = w + step * direction
            value_ahead, gradient_ahead = objective.value_and_gradient(ahead)
            if value_ahead <= value + ARMIJO * step * slope + rounding:
                break
            step /= 2
            if step < 1e-12:
                return
        # At the end of float64 neither the value nor the gradient falls any more, whatever `observe` waits for.
        if value_ahead >= value - rounding and np.abs(gradient_ahead).max() > 0.5 * np.abs(gradient).max():
            return
        w, value, gradient = ahead, value_ahead, gradient_ahead


OPTIMIZERS: dict[str, Callable[..., None]] = {f.__name__: f for f in (gd, nesterov, lbfgs, newton)}


def minimize(
    name, objective, *, tol, max_iter, lr=None, start=None, norm=np.linalg.norm, on_iterate=None
) -> Result:
    """Minimise `objective` with the optimiser called `name`, from `start` or zero, until `norm`(gradient) ≤ tol.

    `objective` has ``size``, ``value_and_gradient(w)``, for newton ``hessian(w)``, and for gd and nesterov, whose
    step is 1/L unless `lr` is given, ``lipschitz()``. `on_iterate()` is called after every iteration. The status
    is ``diverged`` where a value is not finite or 10⁶ times the first one, or where after `max_iter` iterations it
    is above the first one.
    """
    options = {}
    if name in ("gd", "nesterov"):
        options["step"] = 1 / objective.lipschitz() if lr is None else lr
    w = np.zeros(objective.size) if start is None else start
    result = Result(w)
    began = time.perf_counter()

    def observe(w, value, gradient) -> bool:
        size = float(norm(gradient))
        result.w = w
        result.values.append(value)
        result.gradient_norms.append(size)
        result.seconds.append(time.perf_counter() - began)
        if on_iterate is not None and result.iterations:
            on_iterate()
        first = result.values[0]
        if not (math.isfinite(value) and math.isfinite(size)) or value > DIVERGED * (1 + first):
            result.status = "diverged"
        elif size <= tol:
            result.status = "converged"
        elif result.iterations >= max_iter:
            result.status = "max_iter" if value <= first else "diverged"
        else:
            return False
        return True

    # A diverging run overflows on its way; `observe` says so in words.
    with np.errstate(over="ignore", invalid="ignore"):
        OPTIMIZERS[name](objective, w, observe, **options)
    return result
