"""The pictures of a comparison. matplotlib is imported where it is drawn, so that without it the tables stay.

Colours are told apart in grey print by dashes and markers. An unfinished run has a dagger where it enters.
"""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from common import OKABE_ITO, draw, printable

from .statistics import Difference, summary
from .table import Table

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
KINDS = "accuracy|accuracy-(?:epochs|seconds|k|noise)|calibration-noise|differences|speed"
BARS = "Bars: 95 % interval over seeds, from three seeds on."
DAGGER = " †: with unfinished runs."
# What the differences are called, by their key.
DIFFERENCES = {
    "test_acc_minus_baseline": "difference of test accuracy (points)",
    "test_ece_minus_baseline": "difference of calibration error (points)",
}


def draw_all(
    table: Table, runs: pd.DataFrame, epochs: pd.DataFrame, out: Path, suffix: str, baseline: str
) -> list[str]:
    """Draw what the groups allow; returns the names of the files. Pictures of an earlier comparison go.

    Parameters
    ----------
    table : Table
    runs, epochs : DataFrame
        See `comparison.runs`.
    out : Path
    suffix : str
        ``"png"``, ``"pdf"`` or ``"svg"``.
    baseline : str
        What the differences are from, in words.
    """
    remove_earlier(out)
    looks = _looks(table.groups.loss_name)
    figures: dict[str, Callable] = {}
    places = list(table.groups.groupby(["dataset_name", "net"], sort=False))
    for place, groups in places:
        ending = f"-{place[0]}-{place[1]}" if len(places) > 1 else ""
        for name, make in _of_one_place(table, groups, runs, epochs, looks):
            figures[name + ending] = make
    speed = {k: c.title.rpartition(" (")[0] for k, c in table.columns.items() if c.section == "Speed"}
    for name, title, columns in (
        ("accuracy", "test accuracy", {"test_acc": "test accuracy (%)"}),
        ("differences", f"difference from {baseline}", DIFFERENCES),
        ("speed", "time to a test accuracy", speed),
    ):
        if columns := {key: text for key, text in columns.items() if key in table.figures}:
            figures[name] = lambda a=(title, columns): draw_intervals(table, looks, *a)
    names = []
    for name, make in figures.items():
        stem = re.sub(r"[^\w.+]+", "-", name).encode()[:150].decode(errors="ignore")
        path = out / f"{stem}.{suffix}"
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix)
        draw(path, make, metadata=metadata)
        names += [path.name] if path.exists() else []
    return names


def remove_earlier(out: Path) -> None:
    """Remove the pictures that an earlier table.md lists, so that none is taken for one of now."""
    try:
        text = (out / "table.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    for name in re.findall(rf"^- ((?:{KINDS})(?:-[\w.+-]*)?\.(?:png|pdf|svg))$", text, re.MULTILINE):
        (out / name).unlink(missing_ok=True)


def _of_one_place(table, groups, runs, epochs, looks) -> Iterator[tuple[str, Callable]]:
    """Names and makers of the figures of one data set and net."""
    yield "accuracy-epochs", lambda: draw_curves(groups, runs, epochs, looks, "epoch", "epoch")
    yield "accuracy-seconds", lambda: draw_curves(groups, runs, epochs, looks, "seconds", "training time (s)")

    def varies(flag: str, rows: pd.DataFrame) -> bool:
        return any(part[flag].nunique() > 1 for part in _conditions(rows, flag).values())

    if varies("k", groups[groups.k_end.isna()]):
        yield "accuracy-k", lambda: draw_against(table, groups, "k", "k", "test_acc", "test accuracy (%)")
    if varies("label_noise", groups):
        words = ("label_noise", "wrong training labels (share)")
        yield "accuracy-noise", lambda: draw_against(table, groups, *words, "test_acc", "test accuracy (%)")
        if "test_ece" in table.figures:
            unit = "expected calibration error (%)"
            yield "calibration-noise", lambda: draw_against(table, groups, *words, "test_ece", unit)


def _looks(names: Iterable[str]) -> dict[str, dict]:
    """A look for each loss, the same in all pictures; black for the first, cross entropy if any is."""
    first = sorted(dict.fromkeys(names), key=lambda name: name.split()[0] != "ce")
    return {
        name: {
            "color": OKABE_ITO[i % 7],
            "linestyle": DASHES[(i + i // 7) % 7],
            "marker": MARKERS[i % 7],
            "ms": 4,
        }
        for i, name in enumerate(first)
    }


def _conditions(groups: pd.DataFrame, *without: str) -> dict[str, pd.DataFrame]:
    """The groups of each panel, which differ in the loss and the flags `without` alone, by what tells them apart."""
    words = [
        {k: v for k, v in others.items() if k not in ("dataset", "net", *without)} for others in groups.others
    ]
    titles = pd.Series([", ".join(w.values()) for w in words], groups.index)
    return dict(list(groups.groupby(titles, sort=False)))


def _panels(conditions: dict, title: str, x: str, y: str, note: str, fill: Callable):
    """A figure with a panel for each condition; below them, where they cover no data, the legend and the note."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    columns = min(math.ceil(math.sqrt(len(conditions))), 3)
    rows = math.ceil(len(conditions) / columns)
    figure = Figure(
        figsize=((6.4, 8, 9)[columns - 1], 1.4 + (2.6 * rows if rows > 1 else 3.0)), layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for ax, (heading, groups) in zip(grid, conditions.items(), strict=False):
        ax.set_title(textwrap.fill(printable(heading), 90 // columns))
        ax.set(xlabel=x, ylabel=y)
        fill(ax, groups)
    for ax in grid[len(conditions) :]:
        ax.remove()
    entries = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(printable(label), handle)
    width = figure.get_figwidth()
    figure.suptitle(textwrap.fill(printable(title), int(12 * width)), fontsize=10)
    legend = figure.legend(
        entries.values(), entries, loc="outside lower center", frameon=False, fontsize=8.5, handlelength=3.2,
        ncols=max(1, int(width / (0.075 * max(map(len, entries)) + 0.7))),
        title=textwrap.fill(note, int(15 * width)), title_fontsize=8,
    )  # fmt: skip
    legend.get_title().set(color="0.3", multialignment="center")
    return figure


def draw_curves(groups, runs, epochs, looks, x: str, unit: str):
    """Accuracy against epochs or seconds: the mean over seeds, as far as all have got, and its 95 % interval."""
    choosers = set(runs[runs.group.isin(groups.index)].chooser)
    chooser = (
        {"test": "test", "val": "validation"}[choosers.pop()] if len(choosers) == 1 else "test or validation"
    )

    def fill(ax, members):
        lowest, highest = [], []
        for i, (number, group) in enumerate(members.iterrows()):
            mine = runs[runs.group == number]
            mine = mine[mine.finished.astype(bool)] if any(mine.finished) else mine
            curves = epochs[epochs.run.isin(mine.index)].groupby("run")
            n = curves.size().min()
            at = curves.head(n).assign(i=curves.cumcount()).groupby("i")
            points = [summary(part) for _, part in at.accuracy]
            mean, look = [point.mean for point in points], looks[group.loss_name]
            step = math.ceil(n / 8)
            ax.plot(at[x].mean(), mean, label=group.loss_name, markevery=(i % step, step), **look)
            if group.unfinished:
                ax.annotate(
                    "†",
                    (at[x].mean().iloc[-1], mean[-1]),
                    (3, 2),
                    textcoords="offset points",
                    color=look["color"],
                )
            if len(members) <= MOST_BANDS:
                band = [p.low for p in points], [p.high for p in points]
                ax.fill_between(at[x].mean(), *band, color=look["color"], alpha=0.15, linewidth=0)
            lowest.append(mean[n // 5])
            highest.append(max(mean))
        # The axis begins where the slowest line is after a fifth of its epochs, or the ends would look flat.
        low, high = min(lowest), max(highest)
        if high > low:
            ax.set_ylim(low - 0.1 * (high - low), high + 0.15 * (high - low))
        ax.xaxis.get_major_locator().set_params(integer=x == "epoch")

    note = "Line: mean of the seeds. Band: its 95 % interval, from three seeds on and for up to three losses."
    note += " The first epochs may be below the axis." + DAGGER * any(groups.unfinished)
    title = f"{groups.net.iloc[0]} on {groups.dataset_name.iloc[0]}"
    return _panels(_conditions(groups), title, unit, f"{chooser} accuracy (%)", note, fill)


def draw_against(table, groups, flag: str, x: str, score: str, unit: str):
    """A score against a flag: a line for each loss; losses without the flag are level lines."""
    figures = table.figures[score]
    groups = groups[groups.index.isin(figures)]
    if flag == "k":
        groups = groups[groups.k_end.isna()]
        together = groups.loss.map((groups.k == groups.m).groupby(groups.loss).all())  # m = k for each k
        scales = [
            "m=k" if same else f"m={m:g}" for m, same in zip(groups.m.astype(float), together, strict=True)
        ]
        family = groups.loss + [f" {scale}" * pd.notna(k) for scale, k in zip(scales, groups.k, strict=True)]
    else:
        family = groups.loss_name
    groups = groups.assign(family=family)
    looks = _looks(groups.family)
    unfinished = set(groups.family[groups.unfinished > 0])

    def fill(ax, members):
        values = sorted(members[flag].dropna().unique())
        for i, (name, part) in enumerate(members.groupby("family", sort=False)):
            part = part.sort_values(flag)
            means = [figures[number].mean for number in part.index]
            reach = [0.0 if math.isnan(f.low) else f.high - f.mean for f in map(figures.get, part.index)]
            label = name + " †" * (name in unfinished)
            if part[flag].isna().all():
                ax.axhline(means[0], label=label, **looks[name] | {"marker": None})
                ax.axhspan(
                    means[0] - reach[0], means[0] + reach[0], color=looks[name]["color"], alpha=0.1, lw=0
                )
            else:
                shift = (
                    i - members.family.nunique() / 2
                ) * 0.01  # side by side, so that bars can be told apart
                at = [
                    value * (1 + shift) if flag == "k" else value + shift * values[-1] for value in part[flag]
                ]
                ax.errorbar(at, means, reach, capsize=3, elinewidth=0.9, label=label, **looks[name])
        if flag == "k":
            ax.set_xscale("log")
            ax.minorticks_off()
        ax.set_xticks(values, [f"{value:g}" for value in values])

    level = " Level lines: losses without k." * (flag == "k")
    title = f"{groups.net.iloc[0]} on {groups.dataset_name.iloc[0]}"
    note = BARS + level + DAGGER * any(groups.unfinished)
    panels = {text: part for text, part in _conditions(groups, flag).items() if part[flag].nunique() > 1}
    return _panels(panels, title, x, unit, note, fill)


def draw_intervals(table: Table, looks: dict, title: str, columns: dict[str, str]):
    """A line for each group that has one of the figures, and a column for each of them."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    numbers = [n for n in table.groups.index if any(n in table.figures[key] for key in columns)]
    names = [printable(textwrap.shorten(name, 60, placeholder=" …")) for name in table.groups.name[numbers]]
    size = (2.4 + 2.6 * len(columns), 1.6 + 0.26 * len(numbers))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    for ax, (key, unit) in zip(axes, columns.items(), strict=True):
        for y, number in enumerate(numbers):
            if figure_of := table.figures[key].get(number):
                _interval(ax, y, figure_of, looks[table.groups.loss_name[number]])
        ax.set_xlabel(textwrap.fill(unit, 30))
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.12)
        if key in DIFFERENCES:
            ax.axvline(0, color="0.4", linewidth=0.9, zorder=1)
    axes[0].set_yticks(range(len(numbers)), names, fontsize=8)
    axes[0].set_ylim(len(numbers) - 0.4, -0.6)
    note = f"{BARS} ×: fewer."
    if set(columns) <= set(DIFFERENCES):
        note += " Hollow: a tie, the interval contains zero. *: it does not. **: nor after Holm's correction."
    elif "test_acc" not in columns:
        note += " Hollow: a lower bound, as some seeds never got there."
    figure.suptitle(printable(title), fontsize=10)
    figure.supxlabel(
        textwrap.fill(note + DAGGER * any(table.groups.unfinished), int(14 * size[0])), fontsize=8
    )
    return figure


def _interval(ax, y: int, figure, look: dict) -> None:
    colour, is_difference = look["color"], isinstance(figure, Difference)
    if math.isnan(figure.low):
        ax.plot(figure.mean, y, "x", color=colour, ms=5)
        return
    hollow = figure.is_tie if is_difference else bool(figure.never)
    ax.plot([figure.low, figure.high], [y, y], color=colour, linewidth=1.4)
    ax.plot(figure.mean, y, look["marker"], color=colour, ms=5, markerfacecolor="white" if hollow else colour)
    if is_difference and not figure.is_tie:
        ax.annotate(
            figure.verdict, (figure.high, y), (3, -1), textcoords="offset points", va="center", color=colour
        )
