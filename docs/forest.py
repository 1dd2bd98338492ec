#!/usr/bin/env python
"""docs/images/forest.png: every difference of accuracy from cross entropy that docs/results.md prints.

python docs/forest.py          reads the classifiers' tables of the page, so that the picture cannot say anything else

What survives Holm's correction over its study is printed. Its p values come from the printed means and intervals.
"""

import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script of the repository, run from anywhere

CELL = re.compile(r"([+−]?\d+\.\d+) ± (\d+\.\d+)(?:.*?\((\d+) seeds\))?")
SEEDS = {
    "1": 3,
    "2": 10,
    "4": 3,
    "5": 5,
    "6": 5,
    "7": 3,
    "9": 10,
}  # of the studies, where a cell does not say
SHOWN = (-13.0, 18.0)  # points; what is beyond is a number at the edge
COLOURS = {"root": 1, "rlo": 2}  # of common.OKABE_ITO; other losses are grey


def read_page(text):
    """(study, row, loss, comparison.statistics.Difference) of every cell under a heading with "− ce"."""
    from scipy import stats

    from comparison.statistics import Difference, holm

    found, study, header = [], "", None
    for line in text.splitlines():
        if line.startswith("## "):
            named = re.search(r"Classifiers, study (\d+)", line)
            study = named[1] if named else ""
        cells = [c.strip(" *") for c in line.strip().strip("|").split("|")] if line.startswith("|") else None
        if not (study and cells):
            header = None
        elif header is None:
            header = cells
        else:
            for name, cell in zip(header[1:], cells[1:], strict=False):
                value = CELL.match(cell)
                if value and (header[0].startswith("− ce") or name.endswith("− ce")):
                    mean, half = (float(number.replace("−", "-")) for number in value.groups()[:2])
                    n = int(value[3] or SEEDS[study])
                    half = max(half, 0.005)  # as printed
                    p = 2 * float(stats.t.sf(abs(mean) / half * stats.t.ppf(0.975, n - 1), n - 1))
                    row = re.sub(r": .*|`", "", cells[0])
                    loss = name.removesuffix("− ce").strip()
                    corner = header[0].replace("`", "")
                    if not loss:  # a column "− ce" alone: the rows are losses, and the corner says of what
                        row, loss = corner, row
                    elif corner.startswith("− ce, ") and "interval" not in corner:
                        row = f"{corner.removeprefix('− ce, ')}, {row}"
                    found.append((study, row, loss, Difference(mean, mean - half, mean + half, True, n, p)))
    for study in {row[0] for row in found}:
        holm([difference for of, *_, difference in found if of == study])
    return found


def draw(rows, path):
    """A line a difference, the studies one below the other, in two columns."""
    from matplotlib.figure import Figure

    lines = []
    for row in rows:
        lines += [None] if lines and lines[-1][0] != row[0] else []  # a gap between two studies
        lines.append(row)
    gaps = [i for i, row in enumerate(lines) if row is None]
    cut = min(gaps, key=lambda gap: abs(gap - len(lines) / 2), default=len(lines))
    columns = [part for part in (lines[:cut], lines[cut + 1 :]) if part]
    height = max(map(len, columns))
    figure = Figure(figsize=(6.4 * len(columns), 0.17 * height + 0.9), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        draw_column(axes, part, height)
    figure.supxlabel(
        "test accuracy − that of cross entropy, points, 95 % interval\n"
        "hollow: a tie; diamond: survives Holm's correction over its study; blue root, red rlo, grey others",
        fontsize=8,
    )
    figure.savefig(path, dpi=130, metadata={"Description": fingerprint(rows)})


def draw_column(axes, lines, height):
    """Lines from the top of a column that has room for `height` of them."""
    from common import OKABE_ITO

    axes.axvline(0, color="0.5", linewidth=1)
    for y, row in enumerate(lines):
        if row is None:
            continue
        loss, d = row[2:]
        kind = re.split(r"[ ,]", loss)[0]
        colour = OKABE_ITO[COLOURS[kind]] if kind in COLOURS else "0.45"
        if SHOWN[0] < d.mean < SHOWN[1]:
            axes.errorbar(
                d.mean, y, xerr=(d.high - d.low) / 2, fmt="D" if d.survives else "o", linewidth=1.2, color=colour,
                markersize=6 if d.survives else 4, markerfacecolor="white" if d.is_tie else colour,
            )  # fmt: skip
        else:  # beyond the edge
            text = f"{d.mean:+.0f}{' ◆' if d.survives else ''}".replace("-", "−")
            if d.mean < 0:
                axes.text(SHOWN[0], y, f" ◂ {text}", color=colour, fontsize=7, va="center")
            else:
                axes.text(SHOWN[1], y, f"{text} ▸ ", color=colour, fontsize=7, va="center", ha="right")
    names = [f"{row[0]}  {row[1]}  ·  {row[2]}" if row else "" for row in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=7, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(height - 0.3, -0.7)
    axes.set_xlim(*SHOWN)
    axes.grid(axis="x", color="0.9")
    axes.spines[["top", "right", "left"]].set_visible(False)


def fingerprint(rows):
    """Of what the picture shows; in the file, so that a test sees when the page has moved on."""
    shown = [(*row[:3], f"{d.mean:.2f} {d.high - d.mean:.2f}", d.n, d.survives) for *row, d in rows]
    return hashlib.sha256(repr(shown).encode()).hexdigest()


if __name__ == "__main__":
    page = read_page((ROOT / "docs" / "results.md").read_text("utf-8"))
    draw(page, ROOT / "docs" / "images" / "forest.png")
    for study, row, loss, d in page:
        if d.survives:
            print(f"study {study}  {row}  {loss}: {d}")
    print(f"{len(page)} differences in docs/images/forest.png")
