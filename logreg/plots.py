"""The figures of ``regression.py``. A colour is a k, a dash a family: told apart in grey print, too."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from common import OKABE_ITO, draw, printable

DASHES = {"logistic": "-", "rlo": "-", "root": (0, (4, 1.5))}
MARKERS = "osD^vP"


def _style(loss, index) -> dict:
    """The line of a loss at the index-th k."""
    colour = "black" if loss == "logistic" else OKABE_ITO[1 + index % 6]
    return {"color": colour, "linestyle": DASHES[loss], "linewidth": 1.6}


def _subplots(rows, columns, height, **options):
    matplotlib.rc("font", size=9)  # common.draw gives the user's settings back
    matplotlib.rc("axes", grid=True, titlesize=9.5)
    matplotlib.rc("grid", alpha=0.3)
    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _legend_below(figure, axis, columns=5):
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False)


def _plain(text) -> str:
    """A name from a file as it is: no dollars that mean mathematics, no end of a length."""
    return printable(text[:60]).replace("$", r"\$")


def plot_losses(path, ks):
    """The losses of one sample at m = k, and their derivatives, over the margin t = y f(x)."""
    t = np.linspace(-4, 4, 401)
    ell, wrong = np.logaddexp(0, -t), 1 / (1 + np.exp(t))  # cross entropy, minus its derivative

    def make():
        figure, axes = _subplots(2, 2, 6.4, sharex=True, sharey="row")
        for column, sign in enumerate((1, -1)):  # rlo, root
            axes[0, column].plot(t, ell, label="logistic (k → ∞)", **_style("logistic", 0))
            axes[1, column].plot(t, -wrong, **_style("logistic", 0))
            for index, k in enumerate(ks):
                with np.errstate(all="ignore"):
                    value, slope = sign * k * np.expm1(sign * ell / k), -wrong * np.exp(sign * ell / k)
                style = _style("rlo", index)
                axes[0, column].plot(t, value, label=f"k = {k:g}", **style)
                axes[1, column].plot(t, slope, **style)
            axes[1, column].set_xlabel("margin t = y·f(x)")
        axes[0, 0].set_title("rlo: k (1 + e$^{−t}$)$^{1/k}$ − k, weighs mistakes up")
        axes[0, 1].set_title("root: k (1 − (1 + e$^{−t}$)$^{−1/k}$), weighs mistakes down")
        axes[0, 0].set(ylabel="loss (m = k)", ylim=(-0.2, 8))
        axes[1, 0].set(ylabel="derivative in t", ylim=(-4, 0.15))
        _legend_below(figure, axes[0, 0], 6)
        return figure

    draw(path, make, dpi=100)


def plot_convergence(path, runs, x, title):
    """Gradient norm and sub-optimality of the runs with one l2, a row for each optimiser.

    Parameters
    ----------
    path : path
    runs : list of dict
        With `loss`, `index` of its k, `optimizer`, `result`, `row`; diverged ones are named, not drawn.
    x : {"iterations", "seconds"}
    title : str
    """
    gone = [f"{r['row']['objective']} {r['optimizer']}" for r in runs if r["row"]["status"] == "diverged"]
    runs = [run for run in runs if run["row"]["status"] != "diverged"]
    optimizers = list(dict.fromkeys(run["optimizer"] for run in runs))
    endless = any(run["row"]["separable"] for run in runs)
    lowest = {}
    for run in runs:
        name = run["row"]["objective"]
        lowest[name] = 0.0 if endless else min(lowest.get(name, np.inf), *run["result"].values)

    def make():
        figure, axes = _subplots(len(optimizers), 2, 1.5 + 1.9 * len(optimizers), sharey="col")
        for run in runs:
            row, result, name = optimizers.index(run["optimizer"]), run["result"], run["row"]["objective"]
            steps = np.arange(len(result.values)) if x == "iterations" else 1e3 * np.array(result.seconds)
            for axis, y in zip(
                axes[row],
                (np.array(result.gradient_norms), np.array(result.values) - lowest[name]),
                strict=True,
            ):
                # Below 1e-16 is rounding. The start, 0 iterations, has no place on a logarithmic axis.
                shown = (y > 1e-16) & np.isfinite(y) & (steps > 0)
                axis.loglog(steps[shown], y[shown], label=name, **_style(run["loss"], run["index"]))
        for axis in axes.flat:
            low, high = axis.get_xlim()
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        for axis, optimizer in zip(axes[:, 0], optimizers, strict=True):
            axis.set_ylabel(optimizer, fontweight="bold")
        axes[0, 0].set_title("gradient norm ‖∇F‖")
        axes[0, 1].set_title("F (its infimum is 0)" if endless else "sub-optimality F − lowest F found")
        for axis in axes[-1]:
            axis.set_xlabel("iterations" if x == "iterations" else "milliseconds")
        away = f"\nnot drawn, diverged: {', '.join(gone[:4])}{', …' * (len(gone) > 4)}" if gone else ""
        figure.suptitle(f"{_plain(title)}{away}", fontsize=10)
        _legend_below(figure, axes[0, 0])
        return figure

    draw(path, make, dpi=100)


def plot_condition(path, runs, title):
    """Condition number of the Hessian at the solutions `runs`, against k; logistic regression as a level."""

    def make():
        figure, ((axis,),) = _subplots(1, 1, 4.2)
        axis.set(xscale="log", xlabel="k", ylabel="λ$_{max}$ / λ$_{min}$ of the Hessian")
        for i, l2 in enumerate(dict.fromkeys(run["l2"] for run in runs)):
            colour, marker = OKABE_ITO[1 + i % 6], MARKERS[i % 6]
            for loss in ("rlo", "root"):
                at = [(r["k"], r["row"]["condition"]) for r in runs if (r["l2"], r["loss"]) == (l2, loss)]
                points = np.array(sorted(at), dtype=float).reshape(-1, 2)
                points = points[np.isfinite(points[:, 1])]
                if len(points):
                    axis.plot(
                        *points.T, marker, color=colour, linestyle=DASHES[loss], label=f"{loss}, l2 = {l2:g}"
                    )
            for run in runs:
                if (run["l2"], run["loss"]) == (l2, "logistic") and np.isfinite(run["row"]["condition"]):
                    axis.axhline(
                        run["row"]["condition"], color=colour, linestyle=":", label=f"logistic, l2 = {l2:g}"
                    )
        low, high = axis.get_ylim()
        if low <= 0 or high / low > 10:
            axis.set_yscale("log")
        ticks = sorted({run["k"] for run in runs if run["k"] is not None})
        axis.set_xticks(ticks, [f"{k:g}" for k in ticks])
        axis.set_xticks([], minor=True)
        axis.set_title(f"{_plain(title)}: condition number at the solution")
        if axis.get_legend_handles_labels()[0]:  # and not all of them infinite
            _legend_below(figure, axis, 3)
        return figure

    draw(path, make, dpi=100)
