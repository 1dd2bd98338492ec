"""The pictures of a comparison. matplotlib is imported where it is drawn, so that without it the tables stay.

To add a picture, write a function that returns a figure of matplotlib's, and name it in `draw_all`.
"""

import math
import textwrap
from pathlib import Path

import pandas as pd

from common import OKABE_ITO, draw, printable

from .statistics import summary

DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_BANDS = 3  # of a panel; more hide one another
STYLE = {
    "text.parse_math": False,  # names have dollars and underscores
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "rooted-loss",
}
NAMES = ("accuracy", "learning-curves", "differences", "times")
FORMATS = ("png", "pdf", "svg")


def draw_all(
    figures: pd.DataFrame, runs: pd.DataFrame, groups: pd.DataFrame, out: Path, suffix: str, baseline: str
) -> list[str]:
    """Draw the pictures into `out`, in place of those of an earlier comparison; returns the names of the files.

    Parameters
    ----------
    figures, runs, groups : DataFrame
        See `comparison.table.tabulate` and `comparison.runs`.
    out : Path
    suffix : {"png", "pdf", "svg"}
    baseline : str
        What the differences are from, in words.
    """
    if (out / "table.md").exists():
        for name in (f"{name}.{ending}" for name in NAMES for ending in FORMATS):
            (out / name).unlink(missing_ok=True)
    looks = _looks(groups)
    compared = figures[figures.figure.isin(["test_acc", "test_ece"]) & (figures.verdict != "")]
    makers = {
        "accuracy": lambda: draw_intervals(figures[figures.figure == "test_acc"], groups, looks),
        "learning-curves": lambda: draw_curves(runs, groups, looks),
        "differences": lambda: draw_intervals(compared, groups, looks, baseline),
        "times": lambda: draw_intervals(figures[figures.section == "Speed"], groups, looks),
    }
    if compared.empty:
        del makers["differences"]
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix)
    for name, make in makers.items():
        draw(out / f"{name}.{suffix}", make, metadata=metadata)
    return [f"{name}.{suffix}" for name in makers if (out / f"{name}.{suffix}").exists()]


def _looks(groups: pd.DataFrame) -> dict[str, dict]:
    """A look for each loss, in grey print told apart by dashes and markers; black for cross entropy."""
    first = sorted(dict.fromkeys(groups.loss_name), key=lambda name: name.split()[0] != "ce")
    return {
        name: {
            "color": OKABE_ITO[i % 7],
            "linestyle": DASHES[(i + i // 7) % 7],
            "marker": MARKERS[i % 7],
            "ms": 4,
        }
        for i, name in enumerate(first)
    }


def _figure(width: float, height: float, title: str, note: str):
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(textwrap.fill(note, int(14 * width)), fontsize=8, color="0.3")
    return figure


def draw_curves(runs: pd.DataFrame, groups: pd.DataFrame, looks: dict):
    """Accuracy over the epochs, a panel for each condition: the mean over seeds, as far as all have got."""
    conditions = list(groups.groupby("condition", sort=False))
    columns = min(math.ceil(math.sqrt(len(conditions))), 3)
    rows = math.ceil(len(conditions) / columns)
    figure = _figure(
        (6.4, 8, 9)[columns - 1],
        1.4 + 2.8 * rows,
        "learning curves",
        "Line: mean of the seeds. Band: its 95 % interval, from three seeds on and for up to three losses. The first "
        "epochs may be below the axis. †: with unfinished runs.",
    )
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes[len(conditions) :]:
        ax.remove()
    for ax, (_, members) in zip(axes, conditions, strict=False):
        lowest, highest = [], []
        for number, group in members.iterrows():
            mine = runs[runs.group == number]
            mine = mine[mine.finished.astype(bool)] if any(mine.finished) else mine
            n = min(map(len, mine.curve))
            curves = pd.concat([curve.head(n).reset_index() for curve in mine.curve]).groupby("index")
            points = pd.DataFrame([summary(part) for _, part in curves.accuracy], curves.epoch.mean())
            look, label = looks[group.loss_name], group.loss_name + " †" * bool(group.unfinished)
            ax.plot(points.index, points["mean"], label=printable(label), markevery=math.ceil(n / 8), **look)
            if len(members) <= MOST_BANDS:
                ax.fill_between(
                    points.index, points.low, points.high, color=look["color"], alpha=0.15, linewidth=0
                )
            lowest.append(points["mean"].iloc[n // 5])
            highest.append(points["mean"].max())
        # The axis begins where the slowest line is after a fifth of its epochs, or the ends would look flat.
        low, high = min(lowest), max(highest)
        if high > low:
            ax.set_ylim(low - 0.1 * (high - low), high + 0.15 * (high - low))
        chooser = {"test": "test", "val": "validation"}[members.chooser.iloc[0]]
        ax.set(xlabel="epoch", ylabel=f"{chooser} accuracy (%)")
        heading = members.condition_name.iloc[0] or f"{members.net.iloc[0]} on {members.dataset.iloc[0]}"
        ax.set_title(textwrap.fill(printable(heading), 90 // columns))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False, fontsize=8, handlelength=3.2)
    return figure


def draw_intervals(figures: pd.DataFrame, groups: pd.DataFrame, looks: dict, baseline: str = ""):
    """A line for each group, a column for each figure: means, or with `baseline` differences, and their intervals."""
    columns = list(figures.groupby("title", sort=False))
    numbers = sorted(set(figures.group))
    note = "Bars: 95 % interval over seeds, from three seeds on. ×: fewer. †: with unfinished runs."
    if baseline:
        note += " Hollow: a tie, the interval contains zero. *: it does not. **: nor after Holm's correction."
    elif any(figures.never > 0):
        note += " Hollow: a lower bound, as some seeds never got there."
    title = f"difference from {baseline}" if baseline else ""
    figure = _figure(2.4 + 2.6 * len(columns), 1.6 + 0.26 * len(numbers), printable(title), note)
    for i, (ax, (name, part)) in enumerate(
        zip(figure.subplots(1, len(columns), squeeze=False, sharey=True)[0], columns, strict=True)
    ):
        for row in part.itertuples():
            y, look = numbers.index(row.group), looks[groups.loss_name[row.group]]
            x, ends, hollow = row.mean, [row.low, row.high], False
            if baseline:
                x, ends = row.difference, [row.difference_low, row.difference_high]
                hollow = row.verdict == "tie"
            elif row.never > 0:
                x, hollow = row.at_least, True
            marker = look["marker"] if hollow or not math.isnan(ends[0]) else "x"
            face = "white" if hollow else look["color"]
            ax.plot(ends, [y, y], color=look["color"], linewidth=1.4)
            ax.plot(x, y, marker, color=look["color"], ms=5, markerfacecolor=face)
            if baseline and "*" in row.verdict:
                ax.annotate(row.verdict, (ends[1], y), (3, -1), textcoords="offset points", va="center")
        if baseline:
            ax.axvline(0, color="0.4", linewidth=0.9, zorder=1)
        ax.set_xlabel(textwrap.fill(f"{name} − baseline" if baseline else name, 30))
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.12)
        if i == 0:
            labels = [textwrap.shorten(groups.name_marked[n], 60, placeholder=" …") for n in numbers]
            ax.set_yticks(range(len(numbers)), map(printable, labels), fontsize=8)
            ax.set_ylim(len(numbers) - 0.4, -0.6)
    return figure
