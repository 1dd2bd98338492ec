"""What accelerates logistic regression: the optimiser, the step, or the rooted objective?

    python paper/acceleration.py --out docs/images

Full batch, float64, no penalty, no intercept, `--seeds` draws of synthetic data (regression.py's, 200 × 5).
Separable data: iterations until the smallest margin y w·x / ‖w‖ is 95 % of the largest one, which an SVM finds.
Overlapping data: iterations to ‖∇F‖ ≤ 10⁻⁶. Medians over the draws, CPU milliseconds in brackets. The picture
shows the first draw beside the rates of theory (docs/results.md).
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.svm import SVC

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import OKABE_ITO
from logreg.datasets import synthetic
from logreg.estimator.objectives import Objective
from logreg.estimator.optimizers import OPTIMIZERS, minimize

MARGIN, TOLERANCE = 0.95, 1e-6
# Name → optimiser, and its step over 1/L (of normalised, over 1/c).
METHODS = {
    "gd": ("gd", 1),
    "gd, 10 × step": ("gd", 10),
    "gd, 100 × step": ("gd", 100),
    "nesterov": ("nesterov", 1),
    "polyak": ("polyak", None),
    "normalised": ("normalised", 1),
    "normalised, 10 × step": ("normalised", 10),
}


def polyak(objective, w, observe, fmin):
    """Polyak's step (1969): w ← w − (F − F*) / ‖∇F‖² · ∇F, with F* = `fmin`.

    For a convex F each step comes nearer to every minimiser, without any bound on the curvature.
    """
    while True:
        value, gradient = objective.value_and_gradient(w)
        if observe(w, value, gradient) or value <= fmin:
            return
        # Divided twice, since on the way to a loss of 0 the square of the norm underflows first.
        norm = np.linalg.norm(gradient)
        w = w - (value - fmin) / norm * (gradient / norm)


def normalised(objective, w, observe, step):
    """Gradient descent on log F: w ← w − step · ∇F / F.

    As F → 0 on separable data the margin comes within O(1/t) of the largest, where gradient descent on F has
    O(1/log t) (Ji, Telgarsky: Characterizing the implicit bias via a primal-dual analysis, 2021).
    """
    while True:
        value, gradient = objective.value_and_gradient(w)
        if observe(w, value, gradient) or value <= 0:
            return
        w = w - step / value * gradient


def relative_curvature(objective):
    """c = max(1, 1/k²) max ‖x‖², a bound on λ_max(∇²F) / F for two classes and no penalty, everywhere.

    For one sample φ″/φ tends to 1 where it is right and to 1/k² where it is wrong (logistic: 1 and 0).
    """
    return max(1.0, objective.power**2) * (objective.X**2).sum(axis=1).max()


def largest_margin(X, y):
    """max over ‖w‖ = 1 of min_i ± w·x_i: the hard margin of the data and of its mirror image."""
    machine = SVC(kernel="linear", C=1e8, tol=1e-6).fit(np.vstack([X, -X]), np.r_[y, 1 - y])
    return 1 / np.linalg.norm(machine.coef_)


def course(objective, method, goal, max_iter, fmin=0.0):
    """[(what is left, CPU seconds), …] a line an iterate, until `goal(w, gradient)`, what is left, is ≤ 0."""
    name, factor = METHODS[method]
    if name == "polyak":
        run, option = polyak, fmin
    elif name == "normalised":
        run, option = normalised, factor / relative_curvature(objective)
    else:
        run, option = OPTIMIZERS[name], factor / objective.lipschitz()
    lines, idle, began = [], 0.0, time.process_time()

    def observe(w, value, gradient):
        nonlocal idle
        now = time.process_time()
        gap = goal(w, gradient)
        lines.append((gap, now - began - idle))
        idle += time.process_time() - now
        return not np.isfinite(value) or value > 1e9 or gap <= 0 or len(lines) > max_iter

    with np.errstate(all="ignore"):
        run(objective, np.zeros(objective.size), observe, option)
    return np.array(lines)


def problems(seed, k):
    """Separable and overlapping data: (kind, objective, goal, F*, what the picture shows of what is left)."""
    for kind, margin in (("separable", 0.3), ("overlapping", 0.0)):
        X, y = synthetic(seed, n=200, d=5, margin=margin)
        objective = Objective(X, y, 2, k=k, fit_intercept=False)
        if margin:
            best = largest_margin(X, y)

            def goal(w, gradient, objective=objective, best=best):
                return MARGIN - objective.smallest_margin(w) / best

            yield kind, objective, goal, 0.0
        else:
            solution = minimize("newton", objective, tol=1e-12, max_iter=100)
            yield kind, objective, lambda w, g: np.linalg.norm(g) - TOLERANCE, min(solution.values)


def draw(path, courses, rates):
    """What is left against iterations: a row a kind of data, a column an objective."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    kinds, objectives = (list(dict.fromkeys(part)) for part in zip(*courses, strict=True))
    figure, axes = plt.subplots(
        len(kinds), len(objectives), figsize=(8, 6.4), sharex="row", sharey="row", layout="constrained"
    )
    dashes = ((), (4, 1.5), (1, 1), (), (), (5, 1.5, 1, 1.5), (2.5, 1))
    colours = [OKABE_ITO[i] for i in (0, 0, 0, 1, 2, 3, 3)]
    for (kind, name), lines in courses.items():
        axis = axes[kinds.index(kind), objectives.index(name)]
        shift = 1 - MARGIN if kind == "separable" else TOLERANCE
        for (method, line), colour, dash in zip(lines.items(), colours, dashes, strict=True):
            left = line[1:, 0] + shift
            axis.loglog(np.arange(1, len(line)), left, color=colour, dashes=dash, label=method, linewidth=1.5)
        t = np.geomspace(1, 1e4, 300)
        grey = [
            axis.loglog(t, rate(t), color="grey", linewidth=3, alpha=0.45, zorder=0, linestyle=style)[0]
            for rate, style in zip(rates[kind, name].values(), ("-", (0, (1, 0.7))), strict=True)
        ]
        axis.legend(grey, [f"theory: {rate}" for rate in rates[kind, name]], loc="lower left", fontsize=8)
        if kind == "separable":
            axis.set(title=f"{name}: separable data", ylim=(2e-2, 0.3))
        else:
            axis.set(title=f"{name}: overlapping data", ylim=(8e-7, 3), xlabel="iterations")
    axes[0, 0].set_ylabel("1 − margin / largest margin")
    axes[1, 0].set_ylabel("gradient norm ‖∇F‖")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})
    plt.close(figure)


def theory(kind, objective):
    """Rates: on separable data of the margin, on overlapping ones of ‖∇F‖ near the minimum; t → value."""
    if kind == "separable":
        return {"1 / log t (gd)": lambda t: 0.8 / np.log(t + 1e-9), "1 / t (normalised)": lambda t: 50 / t}
    w = minimize("newton", objective, tol=1e-12, max_iter=100).w
    share = np.linalg.eigvalsh(objective.hessian(w))[0] / objective.lipschitz()
    return {
        "(1 − μ/L)$^t$ (gd)": lambda t: 0.5 * (1 - share) ** t,
        "(1 − √(μ/L))$^t$ (nesterov)": lambda t: 0.5 * (1 - np.sqrt(share)) ** t,
    }


def cell(counts, seconds, max_iter):
    """Median iterations and CPU milliseconds; `> N` where the median draw did not get there."""
    middle = np.median(counts)
    if not np.isfinite(middle):
        return f"> {max_iter:,}"
    spread = (
        f"{min(counts):,.0f}–{max(counts):,.0f}" if np.isfinite(max(counts)) else f"{min(counts):,.0f}–never"
    )
    return f"{middle:,.0f} [{spread}] ({1e3 * np.median(seconds):.3g})"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--k", type=float, nargs="+", default=[10.0, 3.0, 1.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-iter", type=int, default=10000)
    parser.add_argument("--out", default="", metavar="DIR", help="write acceleration.png there")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    counts, courses, rates = {}, {}, {}
    pictured = ("logistic", f"rlo k={args.k[len(args.k) // 2]:g}")
    for seed in range(args.seeds):
        for k in (None, *args.k):
            for kind, objective, goal, fmin in problems(seed, k):
                lines = {m: course(objective, m, goal, args.max_iter, fmin) for m in METHODS}
                for method, line in lines.items():
                    there = line[-1, 0] <= 0
                    result = (len(line) - 1 if there else np.inf, line[-1, 1])
                    counts.setdefault((kind, method, objective.name), []).append(result)
                if seed == 0 and objective.name in pictured:
                    courses[kind, objective.name], rates[kind, objective.name] = (
                        lines,
                        theory(kind, objective),
                    )
    names = list(dict.fromkeys(name for _, _, name in counts))
    for kind in dict.fromkeys(kind for kind, _, _ in counts):
        print(f"\n| {kind} | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
        for method in METHODS:
            cells = (cell(*zip(*counts[kind, method, name], strict=True), args.max_iter) for name in names)
            print(f"| {method} | " + " | ".join(cells) + " |")
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        draw(Path(args.out) / "acceleration.png", courses, rates)


if __name__ == "__main__":
    main()
