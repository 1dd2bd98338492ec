"""Accuracy against epochs and seconds, against k, and against label noise."""

import io
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from common import write_atomically

from .runs import LOSS_FLAGS, Group, key
from .statistics import mean_and_std

# Okabe & Ito's colours, told apart by everyone; dashes and markers tell them apart in grey print.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def _styles(labels: Iterable[str]) -> dict[str, dict]:
    """A look for each label, the same in all panels; black for the first, cross entropy if any is."""
    return {
        label: {
            "color": COLOURS[i % 7],
            "linestyle": DASHES[(i + i // 7) % 7],
            "marker": MARKERS[i % 7],
            "ms": 4,
        }
        for i, label in enumerate(sorted(dict.fromkeys(labels), key=lambda label: label.split()[0] != "ce"))
    }


def _figure(titles: list[str], xlabel: str, ylabel: str) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each title."""
    columns = min(math.ceil(math.sqrt(len(titles))), 3)
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(6.4 if columns == 1 else 4.2 * columns, 0.8 + 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(len(titles))]
    for i, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title(title, fontsize=10, parse_math=False)
        ax.set_xlabel(xlabel if i + columns >= len(titles) else "")
        ax.set_ylabel(ylabel if i % columns == 0 else "")
    return figure, axes


def _finish(figure: Figure, axes: list[Axes], path: Path) -> Path:
    """One legend below all panels, where it covers no data; then the file."""
    entries = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    columns = max(1, int(figure.get_figwidth() / (0.08 * max(map(len, entries)) + 0.7)))
    legend = figure.legend(
        entries.values(), entries, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5,
        handlelength=3.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    image = io.BytesIO()
    figure.savefig(image, dpi=110, format="png")
    write_atomically(path, lambda file: file.write(image.getvalue()))
    return path


def _panels(groups: list[Group], *without: str) -> dict[str, list[Group]]:
    """The groups that differ in nothing but the loss and the flags `without`; by what tells panels apart."""
    alike = {}
    for group in groups:
        rest = {n: v for n, v in group.flags.items() if n not in (*LOSS_FLAGS, *without)}
        alike.setdefault(key(rest), []).append(group)
    hidden = [name.replace("_", " ") for name in without]
    panels = {}
    for members in alike.values():
        words = [w for w in members[0].label.split(", ")[1:] if not w.startswith(tuple(hidden))]
        panels[", ".join(words) or f"{members[0].flags['net']} on {members[0].flags['dataset']}"] = members
    return panels


def _leave_out_the_start(ax: Axes, means: list[np.ndarray]) -> None:
    """Begin the axis where the slowest line is after a fifth of its epochs; the end would look flat."""
    low, high = min(mean[len(mean) // 5] for mean in means), max(mean.max() for mean in means)
    if high > low:
        ax.set_ylim(low - 0.08 * (high - low), high + 0.15 * (high - low))


def _name(group: Group) -> str:
    return group.label.split(", ")[0]


def draw_curves(groups: list[Group], path: Path, against: str) -> Path:
    """Test accuracy against ``"epoch"`` or ``"seconds"``: the mean over seeds, and their range as a band.

    A line ends with the shortest run of its group.
    """
    panels = _panels(groups)
    styles = _styles(map(_name, groups))
    xlabel = "seconds of training" if against == "seconds" else "epoch"
    figure, axes = _figure(list(panels), xlabel, "test accuracy (%)")
    for ax, panel in zip(axes, panels.values(), strict=True):
        means = []
        for i, group in enumerate(panel):
            runs = list(group.runs.values())
            n = min(len(run.accuracy) for run in runs)
            y = np.array([run.accuracy[:n] for run in runs])
            x = np.mean(
                [(run.seconds if against == "seconds" else run.columns["epoch"])[:n] for run in runs], 0
            )
            step = math.ceil(n / 8)
            look = styles[_name(group)]
            ax.plot(x, y.mean(0), label=_name(group), markevery=(i % step, step), **look)
            ax.fill_between(x, y.min(0), y.max(0), color=look["color"], alpha=0.12, linewidth=0)
            means.append(y.mean(0))
        ax.xaxis.set_major_locator(MaxNLocator(integer=against == "epoch", steps=[1, 2, 5, 10]))
        _leave_out_the_start(ax, means)
    return _finish(figure, axes, path)


def _last(members: list[Group], column: str = "test_acc") -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each group's last value, the latter 0 for one seed."""
    values = [mean_and_std(g.values(lambda run: run.columns[column][-1]).values()) for g in members]
    means, stds = np.array(values).T
    return means, np.nan_to_num(stds)


def draw_against_k(groups: list[Group], path: Path) -> Path | None:
    """Last accuracy against k, a panel for each condition; other losses are level lines."""

    def name(group: Group) -> str:
        return _name(group) if "k" not in group.flags else f"{group.flags['loss']} m={group.flags['m']:g}"

    panels = {
        title: panel
        for title, panel in _panels(groups).items()
        if any(len({g.flags["k"] for g in panel if "k" in g.flags and name(g) == name(h)}) > 1 for h in panel)
    }
    if not panels:
        path.unlink(missing_ok=True)  # an earlier comparison's would be taken for this one's
        return None

    styles = _styles(name(g) for panel in panels.values() for g in panel)
    figure, axes = _figure(list(panels), "k", "last test accuracy (%)")
    for ax, panel in zip(axes, panels.values(), strict=True):
        ks = sorted({g.flags["k"] for g in panel if "k" in g.flags})
        names = list(dict.fromkeys(map(name, panel)))
        for i, label in enumerate(names):
            members = [g for g in panel if name(g) == label]
            means, stds = _last(members)
            look = styles[label]
            if "k" in members[0].flags:
                # Side by side, so that bars at one k can be told apart.
                x = [g.flags["k"] * (ks[-1] / ks[0]) ** (0.008 * (i - len(names) / 2)) for g in members]
                ax.errorbar(x, means, stds, capsize=3, elinewidth=0.9, label=label, **look)
            else:
                ax.axhline(means[0], label=label, **look | {"marker": None})
                low, high = means[0] - stds[0], means[0] + stds[0]
                ax.axhspan(low, high, color=look["color"], alpha=0.08, linewidth=0)
        ax.set_xscale("log")
        ax.set_xticks(ks, [f"{k:g}" for k in ks])
        ax.xaxis.set_minor_locator(NullLocator())
    return _finish(figure, axes, path)


def draw_against_noise(groups: list[Group], path: Path, column: str, unit: str) -> Path | None:
    """The last value of `column` against label noise: a line for each loss, a panel for all else."""
    groups = [g for g in groups if all(column in run.columns for run in g.runs.values())]
    panels = {
        title: panel
        for title, panel in _panels(groups, "label_noise").items()
        if len({g.flags["label_noise"] for g in panel}) > 1
    }
    if not panels:
        path.unlink(missing_ok=True)
        return None
    styles = _styles(_name(g) for panel in panels.values() for g in panel)
    figure, axes = _figure(list(panels), "wrong training labels (%)", unit)
    for ax, panel in zip(axes, panels.values(), strict=True):
        levels = sorted({100 * g.flags["label_noise"] for g in panel})
        names = list(dict.fromkeys(map(_name, panel)))
        for i, label in enumerate(names):
            members = sorted(
                (g for g in panel if _name(g) == label), key=lambda group: group.flags["label_noise"]
            )
            offset = 0.008 * (levels[-1] - levels[0]) * (i - (len(names) - 1) / 2)
            x = [100 * g.flags["label_noise"] + offset for g in members]
            ax.errorbar(x, *_last(members, column), capsize=3, elinewidth=0.9, label=label, **styles[label])
        ax.set_xticks(levels, [f"{level:g}" for level in levels])
    return _finish(figure, axes, path)
