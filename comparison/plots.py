"""The pictures of a comparison: one figure for each data set and net, at most six panels in it.

What lines, bands and bars mean is written in each of them. An unfinished run has a dagger where it enters.
"""

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from common import OKABE_ITO, picture, printable, write_atomically

from .forest import draw_differences
from .runs import Group, Run
from .statistics import mean_and_std
from .table import Table

# Dashes and markers tell the colours apart in grey print.
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_PANELS = 6  # of a figure; more make another one
MOST_BANDS = 3  # of a panel; more make a panel each
WIDTHS = {1: 6.4, 2: 8.0, 3: 9.0}  # inches, by columns of panels
CHARACTERS = 15  # of small print in an inch
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
# Names of pictures, those of earlier versions included.
OURS = re.compile(
    r"(accuracy-(epochs|seconds|k|noise)|calibration-noise|differences)([-.][\w.+-]*)?\.(png|pdf|svg)"
)

Panel = tuple[str, Callable[[Axes], None]]  # title, and what draws it


def draw_all(table: Table, groups: list[Group], out: Path, suffix: str, baseline: str) -> list[str]:
    """Draw what the groups allow; returns the names of the files. Pictures of an earlier comparison go.

    Parameters
    ----------
    table : Table
    groups : list of Group
    out : Path
    suffix : str
        ``"png"``, ``"pdf"`` or ``"svg"``.
    baseline : str
        What the differences are from, in words.
    """
    _remove_earlier(out)
    places = {}
    for group in groups:
        places.setdefault(group.place, []).append(group)
    styles = _styles(group.loss for group in groups)
    names = []
    with matplotlib.rc_context(STYLE):
        for place, members in places.items():
            ending = f"-{printable(members[0].dataset)}-{printable(place[1])}" if len(places) > 1 else ""
            for name, pages in _kinds(members, styles):
                for page in pages:
                    names.append(_save(page, out, f"{name}{ending}", suffix, names))
        for page in draw_differences(table, styles, printable(baseline)):
            names.append(_save(page, out, "differences", suffix, names))
    return names


def _kinds(groups: list[Group], styles: dict) -> Iterator[tuple[str, Iterator[Figure]]]:
    yield "accuracy-epochs", draw_curves(groups, styles, "epoch")
    yield "accuracy-seconds", draw_curves(groups, styles, "seconds")
    yield "accuracy-k", draw_against_k(groups, styles)
    yield "accuracy-noise", draw_against_noise(groups, styles, "test_acc", "test accuracy (%)")
    yield (
        "calibration-noise",
        draw_against_noise(groups, styles, "test_ece", "expected calibration error (%)"),
    )


def _remove_earlier(out: Path) -> None:
    """Remove the pictures that an earlier table.md lists, so that none is taken for one of now."""
    try:
        listed = re.findall(r"^- (\S+)$", (out / "table.md").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        listed = []
    for name in listed:
        if OURS.fullmatch(name) and (out / name).is_file():
            (out / name).unlink()


def _save(figure: Figure, out: Path, stem: str, suffix: str, taken: list[str]) -> str:
    stem = re.sub(r"[^\w.+]+", "-", stem).encode()[:150].decode(errors="ignore")
    numbers = ("", *(f"-{i}" for i in range(2, len(taken) + 3)))
    name = next(n for n in (f"{stem}{number}.{suffix}" for number in numbers) if n not in taken)
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix)
    content = picture(figure, suffix, metadata=metadata)
    write_atomically(out / name, lambda file: file.write(content))
    return name


def _styles(losses: Iterable[str]) -> dict[str, dict]:
    """A look for each loss, the same in all pictures; black for the first, cross entropy if any is."""
    first = sorted(dict.fromkeys(losses), key=lambda loss: loss.split()[0] != "ce")
    return {
        loss: {
            "color": OKABE_ITO[i % len(OKABE_ITO)],
            "linestyle": DASHES[(i + i // 7) % 7],
            "marker": MARKERS[i % 7],
            "ms": 4,
        }
        for i, loss in enumerate(first)
    }


def _pages(panels: list[Panel], title: str, x: str, y: str, note: str, sharey=False) -> Iterator[Figure]:
    """Figures of at most `MOST_PANELS` panels, with one legend and what the drawing means below them."""
    pages = [panels[i : i + MOST_PANELS] for i in range(0, len(panels), MOST_PANELS)]
    for number, page in enumerate(pages, 1):
        columns = min(math.ceil(math.sqrt(len(page))), 3)
        rows = math.ceil(len(page) / columns)
        width = WIDTHS[columns]
        figure = Figure(figsize=(width, 1.3 + 2.6 * rows if rows > 1 else 4.2), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat
        for i, ax in enumerate(grid):
            if i >= len(page):
                ax.remove()
                continue
            heading, draw = page[i]
            ax.set_title(
                "\n".join(textwrap.wrap(printable(heading), int(0.85 * CHARACTERS * width / columns)))
            )
            ax.set_xlabel(x if i + columns >= len(page) else "")
            ax.set_ylabel(y if i % columns == 0 else "")
            draw(ax)
        of = f" ({number} of {len(pages)})" if len(pages) > 1 else ""
        _finish(figure, f"{title}{of}", note)
        yield figure


def _finish(figure: Figure, title: str, note: str) -> None:
    """The title, and below all panels, where they cover no data, what the drawing means and the legend."""
    width = int(figure.get_figwidth() * CHARACTERS)
    figure.suptitle(textwrap.fill(printable(title), int(0.8 * width)), fontsize=10)
    note = "\n".join(textwrap.wrap(printable(note), width))
    entries = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        figure.supxlabel(note, fontsize=8, color="0.3")
        return
    columns = max(1, int(figure.get_figwidth() / (0.075 * max(map(len, entries)) + 0.7)))
    legend = figure.legend(
        entries.values(), map(printable, entries), loc="outside lower center", ncols=columns, frameon=False,
        fontsize=8.5, handlelength=3.2, title=note, title_fontsize=8,
    )  # fmt: skip
    legend.get_title().set(color="0.3", multialignment="center")


def _title(groups: list[Group]) -> str:
    return f"{groups[0].flags['net']} on {groups[0].dataset}"


def _conditions(groups: list[Group], *without: str) -> dict[str, list[Group]]:
    """The groups that differ in nothing but the loss and the flags `without`, by what tells them apart."""
    names = [n for n in groups[0].parts if len({g.parts[n] for g in groups}) > 1 and n not in without]
    found = {}
    for group in groups:
        found.setdefault(", ".join(group.parts[name] for name in names), []).append(group)
    return found


def _dagger(ax: Axes, x: float, y: float, colour: str) -> None:
    ax.annotate("†", (x, y), (3, 2), textcoords="offset points", color=colour, fontsize=10)


def draw_curves(groups: list[Group], styles: dict, against: str) -> Iterator[Figure]:
    """Accuracy against ``"epoch"`` or ``"seconds"``.

    Up to `MOST_BANDS` losses share a panel; more have one each, in which the others are grey.
    """
    conditions = _conditions(groups)
    multiples = len(conditions) == 1 and len(groups) > MOST_BANDS
    bars = not multiples and any(len(members) > MOST_BANDS for members in conditions.values())
    if multiples:
        panels = [(g.loss, lambda ax, g=g: _multiple(ax, g, groups, styles, against)) for g in groups]
    else:
        panels = [
            (title, lambda ax, members=members: _curves(ax, members, styles, against, bars))
            for title, members in conditions.items()
        ]
    seeds = any(len(g.runs) > 1 for g in groups)
    note = "Line: mean of the seeds." if seeds else "One seed."
    note += " Band: lowest to highest seed." if seeds and not bars else ""
    note += " Bar at the end: lowest to highest seed." if seeds and bars else ""
    note += " Grey: the other losses." if multiples else ""
    note += " †: an unfinished run ends here." if any(g.unfinished for g in groups) else ""
    note += " The first epochs may be below the axis."
    chooser = {run.chooser for g in groups for run in g.runs.values()}
    y = {("test",): "test", ("val",): "validation"}.get(tuple(chooser), "test or validation")
    x = "seconds of training" if against == "seconds" else "epoch"
    yield from _pages(panels, _title(groups), x, f"{y} accuracy (%)", note, sharey=multiples)


def _mean_curve(group: Group, against: str) -> tuple[np.ndarray, np.ndarray, list[Run]]:
    """x, accuracies by seed and epoch, and the runs that are not in it: unfinished ones beside finished ones.

    The line ends with the shortest run.
    """
    runs = list(group.runs.values())
    full = [run for run in runs if run.is_finished] or runs
    n = min(len(run.accuracy) for run in full)
    x = np.mean([_x(run, against)[:n] for run in full], 0)
    return x, np.array([run.accuracy[:n] for run in full]), [run for run in runs if run not in full]


def _x(run: Run, against: str) -> list[float]:
    return run.seconds if against == "seconds" else run.columns["epoch"]


def _curves(ax: Axes, groups: list[Group], styles: dict, against: str, bars: bool) -> None:
    """The losses of a condition in one panel."""
    means, ends = [], max(_mean_curve(g, against)[0][-1] for g in groups)
    for i, group in enumerate(groups):
        x, y, others = _mean_curve(group, against)
        look, mean = styles[group.loss], y.mean(0)
        step = math.ceil(len(x) / 8)
        ax.plot(x, mean, label=group.loss, markevery=(i % step, step), **look)
        if len(y) > 1 and not bars:
            ax.fill_between(x, y.min(0), y.max(0), color=look["color"], alpha=0.15, linewidth=0)
        elif len(y) > 1:
            reach = [[mean[-1] - y[:, -1].min()], [y[:, -1].max() - mean[-1]]]
            ax.errorbar(
                [x[-1] + ends * 0.015 * (1 + i)],
                mean[-1:],
                reach,
                color=look["color"],
                capsize=2,
                elinewidth=1,
            )
        _unfinished(ax, group, x, mean, others, look["color"], against)
        means.append(mean)
    _axes(ax, means, against)


def _multiple(ax: Axes, group: Group, groups: list[Group], styles: dict, against: str) -> None:
    """One loss of many, with its band; the others in grey behind it."""
    for other in groups:
        if other is not group:
            x, y, _ = _mean_curve(other, against)
            ax.plot(x, y.mean(0), color="0.8", linewidth=0.9, zorder=1)
    x, y, others = _mean_curve(group, against)
    colour, mean = styles[group.loss]["color"], y.mean(0)
    ax.plot(x, mean, color=colour, linewidth=1.6, marker="o" if len(x) == 1 else None, ms=4)
    ax.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.25, linewidth=0)
    _unfinished(ax, group, x, mean, others, colour, against)
    _axes(ax, [_mean_curve(g, against)[1].mean(0) for g in groups], against)


def _unfinished(ax, group, x, mean, others, colour, against) -> None:
    """A thin line and a dagger for each unfinished run, or the dagger alone where the group has no other runs."""
    for run in others:
        ax.plot(_x(run, against), run.accuracy, color=colour, linewidth=0.7)
        _dagger(ax, _x(run, against)[-1], run.accuracy[-1], colour)
    if group.unfinished and not others:
        _dagger(ax, x[-1], mean[-1], colour)


def _axes(ax: Axes, means: list[np.ndarray], against: str) -> None:
    """Whole epochs; the accuracy begins where the slowest line is after a fifth of its epochs, else ends look flat."""
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=against == "epoch", steps=[1, 2, 5, 10]))
    low, high = min(mean[len(mean) // 5] for mean in means), max(mean.max() for mean in means)
    if high > low:
        ax.set_ylim(low - 0.08 * (high - low), high + 0.15 * (high - low))


BARS = "Bars: ± standard deviation over the seeds."
DAGGER = " †: with unfinished runs."


def _points(ax: Axes, x: list[float], groups: list[Group], score: str, label: str, look: dict) -> None:
    """Mean and deviation of each group's score."""
    values = np.array([mean_and_std(g.scores(score).values()) for g in groups])
    means, deviations = values[:, 0], np.nan_to_num(values[:, 1])
    ax.errorbar(x, means, deviations, capsize=3, elinewidth=0.9, label=label, **look)
    for at, mean, group in zip(x, means, groups, strict=True):
        if group.unfinished:
            _dagger(ax, at, mean, look["color"])


def draw_against_k(groups: list[Group], styles: dict) -> Iterator[Figure]:
    """Test accuracy against k, a panel for each condition; losses without k are level lines."""
    groups = [g for g in groups if g.scores("test_acc") and g.flags.get("k_end") is None]

    def family(group: Group) -> str:
        return f"{group.flags['loss']} m={group.flags['m']:g}" if "k" in group.flags else group.loss

    panels, families = [], dict.fromkeys(family(g) for g in groups)
    looks = _styles(families)
    for title, members in (_conditions(groups) if groups else {}).items():
        ks = {f: {g.flags["k"] for g in members if "k" in g.flags and family(g) == f} for f in families}
        if max(map(len, ks.values())) > 1:
            panels.append((title, lambda ax, members=members: _against_k(ax, members, family, looks)))
    note = f"{BARS} Level lines: losses without k, their bar at the left."
    note += DAGGER if any(g.unfinished for g in groups) else ""
    yield from _pages(panels, _title(groups) if groups else "", "k", "test accuracy (%)", note)


def _against_k(ax: Axes, groups: list[Group], family: Callable, looks: dict) -> None:
    ks = sorted({g.flags["k"] for g in groups if "k" in g.flags})
    names = list(dict.fromkeys(map(family, groups)))
    level = [name for name in names if all("k" not in g.flags for g in groups if family(g) == name)]
    for i, name in enumerate(names):
        members = [g for g in groups if family(g) == name]
        # Side by side, so that bars at one k can be told apart.
        shift = 0.012 * (i - len(names) / 2)
        x = [g.flags["k"] * (ks[-1] / ks[0]) ** shift for g in members if "k" in g.flags]
        if not x:
            (group,) = members
            x = [ks[0] * (ks[-1] / ks[0]) ** (-0.04 * (1 + level.index(name)))]
            look = looks[name] | {"marker": None}
            ax.axhline(mean_and_std(group.scores("test_acc").values())[0], linewidth=1, **look)
        _points(ax, x, members, "test_acc", name, looks[name])
    ax.set_xscale("log")
    ax.set_xticks(ks, [f"{k:g}" for k in ks])
    ax.xaxis.set_minor_locator(NullLocator())


def draw_against_noise(groups: list[Group], styles: dict, score: str, unit: str) -> Iterator[Figure]:
    """A score against label noise: a line for each loss, a panel for all else."""
    groups = [g for g in groups if g.scores(score)]
    panels = []
    for title, members in (_conditions(groups, "label_noise") if groups else {}).items():
        if len({g.flags["label_noise"] for g in members}) > 1:
            panels.append((title, lambda ax, m=members: _against_noise(ax, m, styles, score)))
    note = BARS + (DAGGER if any(g.unfinished for g in groups) else "")
    yield from _pages(panels, _title(groups) if groups else "", "wrong training labels (%)", unit, note)


def _against_noise(ax: Axes, groups: list[Group], styles: dict, score: str) -> None:
    levels = sorted({100 * g.flags["label_noise"] for g in groups})
    losses = list(dict.fromkeys(g.loss for g in groups))
    for i, loss in enumerate(losses):
        members = sorted((g for g in groups if g.loss == loss), key=lambda g: g.flags["label_noise"])
        offset = 0.01 * (levels[-1] - levels[0]) * (i - (len(losses) - 1) / 2)
        x = [100 * g.flags["label_noise"] + offset for g in members]
        _points(ax, x, members, score, loss, styles[loss])
    ax.set_xticks(levels, [f"{level:g}" for level in levels])
