"""The forest plot: all differences from the baseline, with their intervals."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from common import printable

from .table import Row, Table

COLUMNS = {
    "test_acc_minus_baseline": "test accuracy, points",
    "test_ece_minus_baseline": "calibration error, points",
}
MOST_LINES = 40  # of a figure; more make another one


def draw_differences(table: Table, styles: dict, baseline: str) -> Iterator[Figure]:
    """A line for each group that has a baseline, a column each for accuracy and calibration error.

    Parameters
    ----------
    table : Table
    styles : dict
        The look of each loss.
    baseline : str
        In words.
    """
    keys = [key for key in COLUMNS if any(key in row.figures for row in table.rows)]
    sections: list[list[tuple[str, Row | None]]] = []  # a heading without a row, and the rows below it
    for row in table.rows:
        if any(key in row.figures for key in keys):
            heading = ", ".join(row.group.parts.values())
            if not sections or sections[-1][0][0] != heading:
                sections.append([(heading, None)])
            sections[-1].append((row.group.loss + (" †" if row.group.unfinished else ""), row))
    pages = []
    for section in sections:
        for start in range(0, len(section), MOST_LINES):
            part = section[start : start + MOST_LINES]
            if not pages or len(pages[-1]) + len(part) > MOST_LINES:
                pages.append([])
            pages[-1] += [line for line in part if line[0] or line[1]]
    for number, page in enumerate(pages, 1):
        of = f" ({number} of {len(pages)})" if len(pages) > 1 else ""
        yield _page(page, keys, styles, f"difference from {baseline}{of}")


def _page(lines: list[tuple[str, Row | None]], keys: list[str], styles: dict, title: str) -> Figure:
    figure = Figure(figsize=(8.4 if len(keys) > 1 else 6.4, 1.5 + 0.24 * len(lines)), layout="constrained")
    axes = figure.subplots(1, len(keys), squeeze=False, sharey=True)[0]
    for ax, key in zip(axes, keys, strict=True):
        ax.axvline(0, color="0.4", linewidth=0.9, zorder=1)
        for y, (_, row) in enumerate(lines):
            if row is not None and key in row.figures:
                _line(ax, y, row.figures[key], styles[row.group.loss]["color"])
        ax.set_xlabel(COLUMNS[key])
        ax.set_ylim(len(lines) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.12)
    axes[0].set_yticks(range(len(lines)), [printable(text) for text, _ in lines])
    for label, (_, row) in zip(axes[0].get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if row is None else "normal")
        label.set_fontsize(8)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    note = (
        "Bars: 95 % interval over seeds. Hollow: a tie, the interval contains zero. *: it does not. **: nor after\n"
        "Holm's correction over the column. ×: fewer than three seeds, no interval."
    )
    note += " †: with unfinished runs." if any(row and row.group.unfinished for _, row in lines) else ""
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(note, fontsize=8, color="0.3")
    return figure


def _line(ax, y: int, d, colour: str) -> None:
    if d.verdict == "too few":
        ax.plot(d.mean, y, "x", color=colour, ms=5)
        return
    ax.plot([d.low, d.high], [y, y], color=colour, linewidth=1.4)
    ax.plot(d.mean, y, "o", color=colour, ms=5, markerfacecolor="white" if d.is_tie else colour)
    if not d.is_tie:
        ax.annotate(d.verdict, (d.high, y), (3, -1), textcoords="offset points", va="center", color=colour)
