"""The figures of ``regression.py``: 800 pixels wide, told apart by colour-blind eyes and in grey print."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from common import OKABE_ITO, picture, printable, write_atomically
from losses import root_loss, rooted_logistic_loss

COLOURS = OKABE_ITO[1:]  # black is kept for logistic regression
# Five, so that with the six colours the first thirty lines all differ.
DASHES = ((4, 1.5), (1, 1), (5, 1.5, 1, 1.5), (2.5, 1), (6, 2, 2, 2))
MARKERS = "osD^vP"
DPI = 100
STYLE = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.titlesize": 9.5, "figure.dpi": DPI}


def _style(i: int | None) -> dict:
    """Line style of the i-th k, or for None of logistic regression."""
    if i is None:
        return {"color": "black", "linewidth": 1.6}
    return {"color": COLOURS[i % 6], "dashes": DASHES[i % 5], "linewidth": 1.6}


def _plain(text: str) -> str:
    """A name from a file as it is: no dollars that mean mathematics, no line breaks, no end of a length."""
    return printable(text[:60]).replace("$", r"\$")


def _save(figure, path):
    content = picture(figure, dpi=DPI, pil_kwargs={"optimize": True})
    write_atomically(path, lambda file: file.write(content))
    plt.close(figure)


def _say_coinciding(axis):
    """Name the curves that lie on one another, since an eye sees only the last of them.

    Two do where they cover the same stretch and are nowhere two pixels apart.
    """
    axis.figure.draw_without_rendering()
    curves = []
    for line in axis.get_lines():
        if line.get_label().startswith("_") or len(line.get_xdata()) == 0:
            continue
        # Levels (axhline) have their x in shares of the axis.
        pixels = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
        curves.append((line.get_label(), pixels[np.isfinite(pixels).all(axis=1)]))

    def coincide(a, b):
        if not len(a) or not len(b) or abs(a[[0, -1], 0] - b[[0, -1], 0]).max() > 3:
            return False
        grid = np.linspace(a[0, 0], a[-1, 0], 200)
        return abs(np.interp(grid, *a.T) - np.interp(grid, *b.T)).max() < 2

    groups = []
    for label, points in curves:
        for group in groups:
            if coincide(group[0][1], points):
                group.append((label, points))
                break
        else:
            groups.append([(label, points)])
    words = [" = ".join(label for label, _ in group) for group in groups if len(group) > 1]
    if words:
        axis.text(
            0.02, 0.03, "on one line: " + "; ".join(words), transform=axis.transAxes, fontsize=7.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )  # fmt: skip


def _logarithmic_x(axis):
    """A logarithmic axis that is labelled with plain numbers, in a panel of six steps too."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _legend_below(figure, axis, columns=5):
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False)


def plot_losses(path, ks):
    """Root and rooted logistic losses at m = k, and their derivatives, over the margin t = y f(x)."""
    t = torch.linspace(-4, 4, 401, dtype=torch.float64)
    label = torch.ones(len(t), dtype=torch.int64)

    def logits(t):
        return torch.stack([torch.zeros_like(t), t], dim=1)

    families = (
        lambda t, k: rooted_logistic_loss(t, label, k, reduction="none") - k,
        lambda t, k: root_loss(logits(t), label, k, k, reduction="none"),
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(8, 6.4), layout="constrained", sharex=True, sharey="row")
        for column, loss in enumerate(families):
            curves = [
                (None, "logistic (k → ∞)", lambda t, _: F.cross_entropy(logits(t), label, reduction="none"))
            ]
            curves += [(i, f"k = {k:g}", loss) for i, k in enumerate(ks)]
            for i, name, function in curves:
                x = t.clone().requires_grad_()
                value = function(x, None if i is None else ks[i])
                (slope,) = torch.autograd.grad(value.sum(), x)
                axes[0, column].plot(t, value.detach(), label=name, **_style(i))
                axes[1, column].plot(t, slope, **_style(i))
            axes[1, column].set_xlabel("margin t = y·f(x)")
        axes[0, 0].set_title("rlo: k (1 + e$^{−t}$)$^{1/k}$ − k, weighs mistakes up")
        axes[0, 1].set_title("root: k (1 − (1 + e$^{−t}$)$^{−1/k}$), weighs mistakes down")
        axes[0, 0].set(ylabel="loss (m = k)", ylim=(-0.2, 8))
        axes[1, 0].set(ylabel="derivative in t", ylim=(-4, 0.15))
        _legend_below(figure, axes[0, 0], 6)
        _save(figure, path)


def plot_convergence(path, runs, l2, x="iterations", title="", diverged=()):
    """Gradient norm and sub-optimality of every run with this l2, one row an optimiser.

    Parameters
    ----------
    path : path
    runs : list of dict
        With `objective`, `index` (of its k, None for logistic), `optimizer`, `l2`, `result`, `lowest`,
        the best value known for that objective, and `is_minimum`, whether that is its minimum.
    l2 : float
    x : {"iterations", "seconds"}
    title : str
        The data set.
    diverged : list of dict
        Runs that are not drawn, to be named.
    """
    runs = [run for run in runs if run["l2"] == l2]
    optimizers = list(dict.fromkeys(run["optimizer"] for run in runs))
    rows = len(optimizers)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, 2, figsize=(8, 1.1 + 1.9 * rows), layout="constrained", squeeze=False, sharey="col"
        )
        for row, optimizer in enumerate(optimizers):
            for run in (run for run in runs if run["optimizer"] == optimizer):
                result = run["result"]
                steps = np.arange(len(result.values)) if x == "iterations" else 1e3 * np.array(result.seconds)
                gap = np.array(result.values) - run["lowest"]
                for axis, y in zip(axes[row], (np.array(result.gradient_norms), gap), strict=True):
                    # Below 1e-16 is rounding of values around 1; 0 has no place on a logarithmic axis. Nor
                    # has the start, which is the same point in every panel.
                    shown = (y > 1e-16) & np.isfinite(y) & (steps > 0)
                    axis.semilogy(steps[shown], y[shown], label=run["objective"], **_style(run["index"]))
            for axis in axes[row]:
                _logarithmic_x(axis)
            axes[row, 0].set_ylabel(_plain(optimizer), fontweight="bold")
        axes[0, 0].set_title("gradient norm ‖∇F‖")
        arrived = all(run["is_minimum"] for run in runs)
        axes[0, 1].set_title("sub-optimality F − F*" if arrived else "F − lowest F found, no minimum")
        for axis in axes[-1]:
            axis.set_xlabel("iterations" if x == "iterations" else "milliseconds")
        figure.suptitle(f"{_plain(title)}, l2 = {l2:g}{_not_drawn('diverged', diverged)}", fontsize=10)
        _legend_below(figure, axes[0, 0], 6)
        for axis in axes.flat:
            _say_coinciding(axis)
        _save(figure, path)


def _not_drawn(why, names) -> str:
    """A line that names what a figure leaves out, if anything."""
    names = [n if isinstance(n, str) else f"{n['objective']} {n['optimizer']}" for n in names]
    more = f", … ({len(names)})" if len(names) > 4 else ""
    return f"\nnot drawn, {why}: {', '.join(names[:4])}{more}" if names else ""


def plot_condition(path, conditions, title="", absent=()):
    """Condition number of the Hessian at the solution against k; logistic regression as a level.

    Parameters
    ----------
    conditions : dict
        ``{l2: {k or None: condition number}}``.
    absent : list of str
        Objectives that no run brought to their minimum, to be named.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
        for i, (l2, by_k) in enumerate(conditions.items()):
            ks = sorted(k for k in by_k if k is not None and np.isfinite(by_k[k]))
            if ks:
                axis.plot(
                    ks,
                    [by_k[k] for k in ks],
                    marker=MARKERS[i % 6],
                    label=f"rlo, l2 = {l2:g}",
                    color=COLOURS[i % 6],
                )
            if np.isfinite(by_k.get(None, np.inf)):
                axis.axhline(
                    by_k[None], color=COLOURS[i % 6], dashes=DASHES[i % 5], label=f"logistic, l2 = {l2:g}"
                )
        axis.set(xscale="log", xlabel="root k", ylabel="λ$_{max}$ / λ$_{min}$ of the Hessian")
        low, high = axis.get_ylim()
        if low <= 0 or high / low > 10:
            axis.set_yscale("log")
        ticks = sorted({k for by_k in conditions.values() for k in by_k if k is not None})
        axis.set_xticks(ticks, [f"{k:g}" for k in ticks])
        axis.set_xticks([], minor=True)
        away = _not_drawn("not at a minimum", absent)
        axis.set_title(f"{_plain(title)}: condition number at the solution{away}")
        if axis.get_legend_handles_labels()[0]:  # and not all of them infinite
            _legend_below(figure, axis, 4)
            _say_coinciding(axis)
        _save(figure, path)


def plot_boundaries(path, dataset, runs, title):
    """Training data of two features and where each objective's solution changes its decision.

    Solutions are often closer than a line is wide: the title says on how many samples they differ.
    """
    X, y = dataset.X_train, dataset.y_train
    edges = [np.linspace(X[:, j].min() - 0.3, X[:, j].max() + 0.3, 300) for j in (0, 1)]
    grid = np.stack(np.meshgrid(*edges), axis=-1).reshape(-1, 2)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
        for c, name in enumerate(dataset.classes):
            axis.scatter(
                *X[y == c].T,
                s=16,
                marker=MARKERS[c % 6],
                alpha=0.35,
                color=COLOURS[(c + 1) % 6],
                label=f"class {_plain(name)}",
            )
        for run in runs:
            scores = run["problem"].scores(run["result"].w, grid)
            plane = scores[0] + 0.5 if len(scores) == 1 else scores.argmax(axis=0)
            # Between the classes c and c + 1 lies c + ½, wherever the two regions meet.
            style = _style(run["index"])
            levels = np.arange(len(dataset.classes) - 1) + 0.5
            axis.contour(
                *edges,
                plane.reshape(300, 300),
                levels=levels,
                colors=style["color"],
                linestyles=[(0, style["dashes"])] if "dashes" in style else "solid",
                linewidths=1.6,
            )
            axis.plot([], [], label=run["objective"], **style)
        axis.set(xlabel="feature 0 (standardised)", ylabel="feature 1 (standardised)")
        axis.set_title(f"{_plain(dataset.name)}: {title}\n{_differing(runs, X)}".rstrip())
        _legend_below(figure, axis, 7)
        _save(figure, path)


def _differing(runs, X) -> str:
    """How many of the samples X each objective decides otherwise than the first."""
    if len(runs) < 2:
        return ""
    decisions = []
    for run in runs:
        scores = run["problem"].scores(run["result"].w, X)
        decisions.append(scores[0] > 0 if len(scores) == 1 else scores.argmax(axis=0))
    others = [
        f"{run['objective']} {int((decided != decisions[0]).sum())}"
        for run, decided in zip(runs[1:], decisions[1:], strict=True)
    ]
    return f"decide otherwise than {runs[0]['objective']}, of {len(X)} training samples: {', '.join(others)}"
