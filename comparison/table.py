"""The table of a comparison: for people (Markdown), for pandas (CSV), for papers (LaTeX)."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .baseline import baseline_of
from .runs import SCORES, Group, Run, differing
from .statistics import Difference, Summary, difference, first_at, holm, summary, time_to

SHARES = (0.90, 0.95, 0.99)  # of the best group's accuracy at the end: the default targets
DEVIATION, INTERVAL = "(± sd)", "(± 95 %)"
# What the scores are called, with their unit, where they stand, and whether their differences are shown there too.
TITLES = {
    "test_acc": ("test accuracy, %", "Accuracy", True),
    "best_acc": ("best epoch, %", "Accuracy", False),
    "mean_acc": ("mean over epochs, %", "Accuracy", False),
    "test_rare_acc": ("rare classes, %", "Accuracy", True),
    "ema_acc": ("moving average of weights, %", "Accuracy", False),
    "test_nll": ("NLL", "Probabilities", False),
    "test_nll_corrected": ("NLL corrected", "Probabilities", False),
    "test_ece": ("ECE, %", "Probabilities", True),
    "test_ece_corrected": ("ECE corrected, %", "Probabilities", False),
}
NOTES = (
    "± is the standard deviation over seeds (n − 1); beside a difference it is half of its 95 % interval (Student's "
    "t, paired by seed where both sides have the same seeds).",
    "A tie is an interval that contains zero; * one that does not; ** one that still does not after Holm's correction "
    "over its column. No interval of an accuracy is narrower than one test image to each side, and none is made of "
    "fewer than three seeds.",
    "Test accuracy is that of the last epoch. Where a validation set chose the weights (marked ‡), it is "
    "report.json's, of the chosen weights, and best epoch, mean over epochs and times are of validation accuracy.",
    "NLL is the negative log likelihood, ECE the calibration error over 15 bins; corrected: for the bias of the loss "
    "(docs/losses.md §7).",
    "≥: seeds that never reached the target count with their last epoch.",
)


@dataclass(frozen=True)
class Column:
    """A figure: ``<key>_mean``, ``<key>_sd``, … of table.csv."""

    key: str
    title: str
    section: str
    is_shown: bool = True  # in the table for people


@dataclass
class Row:
    """A group and its figures by column key."""

    group: Group
    baseline: Group | None
    figures: dict[str, Summary | Difference] = field(default_factory=dict)

    @property
    def name(self) -> str:
        chose = any(run.chooser == "val" for run in self.group.runs.values())
        return f"{self.group.name} ‡" if chose else self.group.name


@dataclass
class Table:
    """Rows by group, and the columns that any of them has."""

    rows: list[Row]
    columns: list[Column]


def tabulate(groups: list[Group], changes: dict, targets: Sequence[float] | None = None) -> Table:
    """Figures of each group over its seeds.

    Parameters
    ----------
    groups : list of Group
    changes : dict of flags
        What makes a group's flags those of its baseline.
    targets : sequence of float, optional
        Accuracies in percent; `SHARES` of the best group with the same data and net by default.
    """
    columns = {}

    def put(row: Row, key: str, figure, *about) -> None:
        columns.setdefault(key, Column(key, *about))
        row.figures[key] = figure

    rows = [Row(group, baseline_of(group, groups, changes)) for group in groups]
    for row in rows:
        group, runs = row.group, list(row.group.runs.values())
        known = {name: _scores(group, name) for name in SCORES}
        values = {name: list(scores.values()) for name, scores in known.items() if scores}
        values["best_acc"] = [max(run.accuracy) for run in runs]
        values["mean_acc"] = [sum(run.accuracy) / len(run.accuracy) for run in runs]
        for name, (title, section, is_shown) in TITLES.items():
            if name in values:
                digits = 3 if "nll" in name else 2
                put(row, name, summary(values[name], digits), f"{title} {DEVIATION}", section)
            theirs = _scores(row.baseline, name) if row.baseline and name in SCORES else {}
            if theirs and known[name]:
                resolution = _resolution(group, row.baseline) if name in ("test_acc", "ema_acc") else 0.0
                d = difference(known[name], theirs, resolution)
                title = f"{title.split(',')[0]} − baseline {INTERVAL}"
                put(row, f"{name}_minus_baseline", d, title, section, is_shown)
        for key, title, target in _goals(group, groups, targets):
            reached = [(run, first_at(run.accuracy, target)) for run in runs]
            for unit, times in (("epochs", _epochs), ("seconds", _seconds)):
                found = [None if i is None else times(run)[i] for run, i in reached]
                figure = time_to(found, [times(run)[-1] for run in runs])
                put(row, f"{unit}_to_{key}", figure, f"{unit} to {title} {DEVIATION}", "Speed")
    for key in columns:
        holm([d for row in rows if isinstance(d := row.figures.get(key), Difference)])
    return Table(rows, sorted(columns.values(), key=_place))


def _place(column: Column) -> tuple:
    """Sections in order, each difference after its figure, epochs before seconds."""
    if column.section == "Speed":
        return len(TITLES), column.key.startswith("seconds")
    name, _, minus = column.key.partition("_minus_")
    section = [about[1] for about in TITLES.values()].index(column.section)
    return section, list(TITLES).index(name), bool(minus)


def _scores(group: Group, name: str) -> dict[int, float]:
    """By seed, where all runs have the score that have any: an unfinished run with a validation set has none."""
    scores = group.scores(name)
    return scores if len(scores) == sum(bool(run.scores) for run in group.runs.values()) else {}


def _resolution(*groups: Group) -> float:
    """What one test image is worth in percent, of the smallest test set; 0 where no run says so."""
    counts = [run.test_images for group in groups for run in group.runs.values() if run.test_images]
    return 100 / min(counts) if counts else 0.0


def _goals(group: Group, groups: list[Group], targets) -> list[tuple[str, str, float]]:
    """Key, title and accuracy of each target."""
    if targets:
        return [(f"{t:g}", f"{t:g} %", t) for t in targets]
    same = [g for g in groups if g.condition == group.condition]
    best = max(summary(run.accuracy[-1] for run in g.runs.values()).mean for g in same)
    return [(f"{100 * s:g}pct_of_best", f"{s:.0%} of best", s * best) for s in SHARES]


def _epochs(run: Run) -> list[float]:
    return run.columns["epoch"]


def _seconds(run: Run) -> list[float]:
    return run.seconds


def _epochs_of(group: Group) -> str:
    counts = sorted({len(run.accuracy) for run in group.runs.values()})
    of_all = f" of {group.flags['epochs']}" if group.unfinished else ""
    return "–".join(map(str, dict.fromkeys((counts[0], counts[-1])))) + of_all


def unfinished(groups: list[Group]) -> str:
    """A line that says which groups have how many unfinished runs; empty if none has."""
    words = [f"{g.label} ({g.unfinished} of {len(g.runs)} runs)" for g in groups if g.unfinished]
    return f"† unfinished, taken as far as they got: {'; '.join(words)}." if words else ""


def markdown(table: Table) -> str:
    """A table for each section, its columns aligned for eyes."""
    parts = []
    for section in dict.fromkeys(column.section for column in table.columns):
        columns = [c for c in table.columns if c.section == section and c.is_shown]
        first = section == table.columns[0].section
        lines = [["group", *(("seeds", "epochs") if first else ()), *(c.title for c in columns)]]
        for row in table.rows:
            seeds = " ".join(map(str, sorted(row.group.runs)))
            about = (seeds, _epochs_of(row.group)) if first else ()
            lines.append([row.name, *about, *(str(row.figures.get(c.key, "")) for c in columns)])
        lines = [[cell.replace("|", "/").replace("\n", " ") for cell in line] for line in lines]
        widths = [max(3, *map(len, cells)) for cells in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        text = "\n".join(
            f"| {' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))} |" for line in lines
        )
        parts.append(f"## {section}\n\n{text}\n")
    return "\n".join(parts)


def comma_separated(table: Table) -> str:
    """A line for each group: what it is, then numbers alone; pandas reads them as such.

    ``<figure>_low`` and ``_high`` are the ends of the 95 % interval, ``_n`` the seeds it is over.
    """
    lines = []
    told = dict.fromkeys(("net", "loss", "k", "m", *differing(row.group for row in table.rows)))
    for row in table.rows:
        group, runs = row.group, row.group.runs.values()
        line = {"group": group.label, "dataset": group.dataset}
        line |= {name: group.flags.get(name, "") for name in told if name != "dataset"}
        line |= {
            "baseline": row.baseline.label if row.baseline else "",
            "runs": len(runs),
            "unfinished": group.unfinished,
            "chosen_by": "/".join(sorted({run.chooser for run in runs})),
            "seeds": " ".join(map(str, sorted(group.runs))),
            "epochs_min": min(len(run.accuracy) for run in runs),
            "epochs_max": max(len(run.accuracy) for run in runs),
            "epochs_planned": group.flags["epochs"],
        }
        for column in table.columns:
            if column.key in row.figures:
                figure = row.figures[column.key].numbers()
                line |= {f"{column.key}_{end}": _cell(value) for end, value in figure.items()}
        lines.append(line)
    text = io.StringIO()
    names = {name: None for line in lines for name in line}
    # A figure's columns stay together, though some rows do not have all of them.
    place = {column.key: i for i, column in enumerate(table.columns)}
    figures = {n: max((k for k in place if n.startswith(f"{k}_")), key=len, default="") for n in names}
    ordered = sorted(names, key=lambda n: place.get(figures[n], -1))
    writer = csv.DictWriter(text, ordered, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


_TEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "−": "$-$", "≥": r"$\geq$", "†": r"$^\dagger$", "‡": r"$^\ddagger$", "–": "--", "\n": " ",
    "§": r"\S{}",
})  # fmt: skip


def latex(table: Table) -> str:
    """A booktabs tabular of what papers report: seeds, accuracies and probabilities; a rule between conditions."""
    columns = [c for c in table.columns if c.section != "Speed" and c.is_shown]
    columns = [c for c in columns if c.key not in ("best_acc", "mean_acc")]
    heads = ["group", "n", *(c.title.rpartition(" (")[0] for c in columns)]
    lines = ["% needs \\usepackage{booktabs}", *(f"% {note}" for note in NOTES)]
    lines += [f"\\begin{{tabular}}{{lr{'l' * len(columns)}}}", "\\toprule", _tex_line(heads), "\\midrule"]
    for i, row in enumerate(table.rows):
        if i and row.group.condition != table.rows[i - 1].group.condition:
            lines.append("\\midrule")
        figures = (str(row.figures.get(c.key, "")).replace("-", "−") for c in columns)
        lines.append(_tex_line([row.name, str(len(row.group.runs)), *figures]))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _tex_line(cells: Sequence[str]) -> str:
    shown = (cell.translate(_TEX).replace(" **", "$^{**}$").replace(" *", "$^{*}$") for cell in cells)
    return f"{' & '.join(shown)} \\\\"
