"""Accuracy against epochs and seconds, against k, and against label noise."""

import io
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from engine.files import write_atomically

from .runs import Group
from .statistics import mean_and_std

# Okabe & Ito's colours, told apart by everyone; dashes and markers tell them apart in grey print.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def style(i: int) -> dict:
    """The i-th look of a line."""
    return {"color": COLOURS[i % 7], "linestyle": DASHES[(i + i // 7) % 7], "marker": MARKERS[i % 7], "ms": 4}


def _figure(panels: int):
    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure = Figure(figsize=(5.6 * columns, 4.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[panels:]:
        unused.set_visible(False)
    for ax in axes[:panels]:
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylabel("test accuracy (%)")
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    image = io.BytesIO()
    figure.savefig(image, dpi=110, format="png")
    write_atomically(path, lambda file: file.write(image.getvalue()))
    return path


def _titles(groups: list[Group]) -> list[tuple[str, list[Group]]]:
    """The groups of each condition, under what the labels of the condition have in common."""
    panels = [list(same) for _, same in groupby(groups, key=lambda g: g.condition)]
    return [(", ".join(panel[0].label.split(", ")[1:]), panel) for panel in panels]


def draw_curves(groups: list[Group], path: Path, against: str) -> Path:
    """Test accuracy against ``"epoch"`` or ``"seconds"``: the mean over seeds, and their range as a band."""
    panels = _titles(groups)
    figure, axes = _figure(len(panels))
    for ax, (title, panel) in zip(axes, panels, strict=False):
        for i, group in enumerate(panel):
            runs = list(group.runs.values())
            length = min(len(run.accuracy) for run in runs)
            y = np.array([run.accuracy[:length] for run in runs])
            x = [
                run.seconds[:length] if against == "seconds" else run.columns["epoch"][:length]
                for run in runs
            ]
            x = np.mean(x, axis=0)
            look = style(i) | {"marker": style(i)["marker"] if length < 12 else None}
            ax.plot(x, y.mean(0), label=group.label.split(", ")[0], **look)
            ax.fill_between(x, y.min(0), y.max(0), color=look["color"], alpha=0.12, linewidth=0)
        ax.set_title(title, fontsize=10, parse_math=False)
        ax.set_xlabel("seconds of training" if against == "seconds" else "epoch")
        if against == "epoch":
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _error_bars(ax, xs, members: list[Group], label: str, look: dict) -> None:
    values = [mean_and_std(g.values(lambda run: run.accuracy[-1]).values()) for g in members]
    mean, std = np.array(values).T
    ax.errorbar(xs, mean, np.nan_to_num(std), capsize=3, label=label, **look)


def draw_against_k(groups: list[Group], path: Path) -> Path | None:
    """Last accuracy against k, a panel for each condition; cross entropy is the line at k = ∞."""
    panels = []
    for title, panel in _titles(groups):
        rooted = [g for g in panel if "k" in g.flags]
        if len({g.flags["k"] for g in rooted}) > 1:
            panels.append((title, panel, rooted))
    if not panels:
        return None
    figure, axes = _figure(len(panels))
    for ax, (title, panel, rooted) in zip(axes, panels, strict=False):
        lines = sorted({(g.flags["loss"], g.flags["m"]) for g in rooted})
        for i, (loss, m) in enumerate(lines, 1):
            members = [g for g in rooted if (g.flags["loss"], g.flags["m"]) == (loss, m)]
            _error_bars(ax, [g.flags["k"] for g in members], members, f"{loss} m={m:g}", style(i))
        for group in panel:
            if group.flags["loss"] == "ce":
                mean, std = mean_and_std(group.values(lambda run: run.accuracy[-1]).values())
                ax.axhline(mean, color="black", label="ce")
                ax.axhspan(mean - np.nan_to_num(std), mean + np.nan_to_num(std), color="black", alpha=0.08)
        ks = sorted({g.flags["k"] for g in rooted})
        ax.set_xscale("log")
        ax.set_xticks(ks, [f"{k:g}" for k in ks])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("k")
        ax.set_title(title, fontsize=10, parse_math=False)
        ax.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def draw_against_noise(groups: list[Group], path: Path, column: str, unit: str) -> Path | None:
    """The last value of `column` against label noise, a line for each loss."""
    if len({g.flags.get("label_noise") for g in groups}) < 2:
        return None
    figure, axes = _figure(1)
    names = list(dict.fromkeys(g.label.split(", ")[0] for g in groups))
    for i, name in enumerate(names):
        members = [g for g in groups if g.label.split(", ")[0] == name]
        members = [g for g in members if all(column in run.columns for run in g.runs.values())]
        members.sort(key=lambda g: g.flags["label_noise"])
        if members:
            values = [mean_and_std(g.values(lambda run: run.columns[column][-1]).values()) for g in members]
            mean, std = np.array(values).T
            x = np.array([100 * g.flags["label_noise"] for g in members]) + 0.6 * (i - (len(names) - 1) / 2)
            axes[0].errorbar(x, mean, np.nan_to_num(std), capsize=3, label=name, **style(i))
    axes[0].set(xlabel="wrong training labels (%)", ylabel=unit)
    axes[0].legend(frameon=False, fontsize=8)
    return _save(figure, path)
