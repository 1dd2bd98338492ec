"""The table of a comparison: for people (Markdown), for pandas (CSV), for papers (LaTeX)."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from common import UserError, spelling
from flags import train_parser

from .runs import EXPERIMENT, LOSS_FLAGS, SCORES
from .statistics import Difference, Summary, difference, holm, summary

SHARES = (0.90, 0.95, 0.99)  # of the best group's accuracy at the end: the default targets
DEVIATION, INTERVAL = "(± sd)", "(± 95 %)"
SWITCH = {"on": True, "off": False, "true": True, "false": False}
# What the figures are called, with their unit, where they stand, and whether their differences are shown there too.
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
    "t): paired by seed where both sides have three seeds or more in common, else Welch's over all seeds, marked "
    "(Welch).",
    "A tie is an interval that contains zero; * one that does not; ** one that still does not after Holm's correction "
    "over its column. No interval of an accuracy is shown narrower than one test image to each side, which does not "
    "enter p, and none is made of fewer than three seeds.",
    "Test accuracy is that of the last epoch. Where a validation set chose the weights (marked ‡), it is "
    "report.json's, of the chosen weights, and best epoch, mean over epochs and times are of validation accuracy.",
    "NLL is the negative log likelihood, ECE the calibration error over 15 bins; corrected: for the bias of the loss "
    "(docs/losses.md §7).",
    "≥: seeds that never reached the target count with their last epoch.",
)


@dataclass(frozen=True)
class Column:
    """A figure: ``<key>_mean``, ``<key>_sd``, … of table.csv."""

    title: str
    section: str
    is_shown: bool = True  # in the table for people


@dataclass
class Table:
    """The groups, see `comparison.runs.group_runs`, with ``name``, ``seeds``, ``trained``, ``baseline`` (the number
    of a group or None) besides; and by column key and group number the figures."""

    groups: pd.DataFrame
    columns: dict[str, Column]
    figures: dict[str, dict[int, Summary | Difference]]


def changes_of(text: str) -> dict:
    """``"loss=root,k=3"`` as a dict of flags.

    Raises
    ------
    UserError
        If it is anything else.
    """
    defaults = vars(train_parser().parse_args([]))
    changes = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        name = name.lstrip("-").replace("-", "_")
        if not (name in defaults and equals and value):
            raise UserError(
                f"--baseline must be flags of train.py, like loss=ce or loss=root,k=3, got {text!r}"
            )
        try:
            changes[name] = float(value)
        except ValueError:
            is_switch = isinstance(defaults[name], bool)
            changes[name] = SWITCH.get(value.lower(), value) if is_switch else value
    return changes


def find_baselines(groups: pd.DataFrame, changes: dict) -> list[int | None]:
    """For each group the number of the one that has its flags but for `changes`; None if no other one has.

    Raises
    ------
    UserError
        If several have.
    """

    def key(flags: dict) -> list:
        names = ("dataset", "net")
        return [spelling(flags[name]) if name in names else flags[name] for name in compared]

    # Another loss has other parameters: only those in `changes` count then.
    compared = [n for n in EXPERIMENT if n not in LOSS_FLAGS or n in changes or "loss" not in changes]
    keys = {number: key(flags) for number, flags in groups.to_dict("index").items()}
    baselines = []
    for number, flags in groups.to_dict("index").items():
        wanted = key(flags | changes)
        fits = [other for other, has in keys.items() if has == wanted]
        if len(fits) > 1:
            labels = "; ".join(groups.label[fits])
            raise UserError(f"--baseline fits several groups, name what tells them apart: {labels}")
        baselines.append(fits[0] if fits and fits[0] != number else None)
    return baselines


def tabulate(
    runs: pd.DataFrame,
    epochs: pd.DataFrame,
    groups: pd.DataFrame,
    changes: dict,
    targets: Sequence[float] | None = None,
) -> Table:
    """Figures of each group over its seeds.

    Parameters
    ----------
    runs, epochs, groups : DataFrame
        See `comparison.runs`.
    changes : dict of flags
        What makes a group's flags those of its baseline.
    targets : sequence of float, optional
        Accuracies in percent; `SHARES` of the best group with the same data, net and other flags by default.
    """
    members = {number: part.set_index("seed") for number, part in runs.groupby("group")}
    groups = groups.copy()
    groups["name"] = [_name(group.label, members[number]) for number, group in groups.iterrows()]
    groups["seeds"] = [" ".join(map(str, part.index)) for part in members.values()]
    groups["trained"] = [_epochs_trained(part) for part in members.values()]
    baselines = find_baselines(groups, changes)
    groups["baseline"] = pd.Series(baselines, groups.index, dtype=object)
    table = Table(groups, {}, {})

    def put(key: str, number: int, figure: Summary | Difference, *about) -> None:
        table.columns.setdefault(key, Column(*about))
        table.figures.setdefault(key, {})[number] = figure

    for key, (title, section, is_shown) in TITLES.items():
        values = {number: _values(part, key) for number, part in members.items()}
        for number in filter(values.get, members):
            digits = 3 if "nll" in key else 2
            put(key, number, summary(list(values[number].values()), digits), f"{title} {DEVIATION}", section)
        for number, baseline in zip(members, baselines, strict=True):
            if key in SCORES and values[number] and values.get(baseline):
                both = members[number], members[baseline]
                resolution = _resolution(*both) if key in ("test_acc", "ema_acc") else 0.0
                d = difference(values[number], values[baseline], resolution)
                name = f"{title.split(',')[0]} − baseline {INTERVAL}"
                put(f"{key}_minus_baseline", number, d, name, section, is_shown)
    curves = dict(list(epochs.groupby("run")))
    for unit, column in (("epochs", "epoch"), ("seconds", "seconds")):
        for number, part in runs.groupby("group"):
            for key, title, target in _targets(number, groups, members, targets):
                reached = [curves[run][curves[run].accuracy >= target][column].min() for run in part.index]
                ends = [curves[run][column].iloc[-1] for run in part.index]
                times = [end if pd.isna(time) else time for time, end in zip(reached, ends, strict=True)]
                figure = summary(times, 1, int(pd.isna(reached).sum()))
                put(f"{unit}_to_{key}", number, figure, f"{unit} to {title} {DEVIATION}", "Speed")
    for figures in table.figures.values():
        holm([figure for figure in figures.values() if isinstance(figure, Difference)])
    return table


def _name(label: str, runs: pd.DataFrame) -> str:
    return label + " †" * (not all(runs.finished)) + " ‡" * ("val" in set(runs.chooser))


def _epochs_trained(runs: pd.DataFrame) -> str:
    counts = dict.fromkeys((runs.epochs_trained.min(), runs.epochs_trained.max()))
    return "–".join(map(str, counts)) + ("" if all(runs.finished) else f" of {runs.epochs.iloc[0]}")


def _values(runs: pd.DataFrame, key: str) -> dict[int, float]:
    """By seed, where all runs have the figure that have any: an unfinished run with a validation set has none."""
    values = runs[key].dropna()
    return values.to_dict() if len(values) >= runs[list(SCORES)].notna().any(axis=1).sum() else {}


def _resolution(*groups: pd.DataFrame) -> float:
    """What one test image is worth in percent, of the smallest test set; 0 where no run says so."""
    smallest = pd.concat([runs.test_images for runs in groups]).dropna().min()
    return 0.0 if pd.isna(smallest) else 100 / smallest


def _targets(number: int, groups: pd.DataFrame, members: dict, targets) -> list[tuple[str, str, float]]:
    """Key, title and accuracy of each target."""
    if targets:
        return [(f"{t:g}", f"{t:g} %", t) for t in targets]
    same = groups.index[groups.condition == groups.condition[number]]
    best = max(members[other].last_acc.mean() for other in same)
    return [(f"{100 * s:g}pct_of_best", f"{s:.0%} of best", s * best) for s in SHARES]


def unfinished(groups: pd.DataFrame, runs: pd.DataFrame) -> str:
    """A line that says which groups have how many unfinished runs; empty if none has."""
    counts = runs.group.value_counts()
    words = [
        f"{group.label} ({group.unfinished} of {counts[number]} runs)"
        for number, group in groups[groups.unfinished > 0].iterrows()
    ]
    return f"† unfinished, taken as far as they got: {'; '.join(words)}." if words else ""


def _texts(table: Table, keys: Sequence[str]) -> dict[str, list[str]]:
    """The figures of some columns in words, by title."""
    numbers = table.groups.index
    return {table.columns[k].title: [str(table.figures[k].get(n, "")) for n in numbers] for k in keys}


def markdown(table: Table) -> str:
    """A table for each section."""
    parts, groups = [], table.groups
    for section in dict.fromkeys(column.section for column in table.columns.values()):
        keys = [k for k, column in table.columns.items() if column.section == section and column.is_shown]
        first = {} if parts else {"seeds": groups.seeds, "epochs": groups.trained}
        frame = pd.DataFrame({"group": groups.name} | first | _texts(table, keys))
        frame = frame.map(lambda text: text.replace("|", "/").replace("\n", " "))
        parts.append(f"## {section}\n\n{frame.to_markdown(index=False, disable_numparse=True)}\n")
    return "\n".join(parts)


def comma_separated(table: Table, runs: pd.DataFrame) -> str:
    """A line for each group: what it is, then numbers alone; pandas reads them as such.

    ``<figure>_low`` and ``_high`` are the ends of the 95 % interval, ``_n`` the seeds it is over.
    """
    groups, by_group = table.groups, runs.groupby("group")
    flags = [n for n in EXPERIMENT if n in ("net", *LOSS_FLAGS[:3]) or groups[n].nunique(dropna=False) > 1]
    data = {"group": groups.label, "dataset": groups.dataset_name}
    data |= {name: groups[name] for name in flags if name != "dataset"}
    data |= {
        "baseline": groups.baseline.map(groups.label),
        "runs": by_group.size(),
        "unfinished": groups.unfinished,
        "chosen_by": by_group.chooser.agg(lambda names: "/".join(sorted(set(names)))),
        "seeds": groups.seeds,
        "epochs_min": by_group.epochs_trained.min(),
        "epochs_max": by_group.epochs_trained.max(),
        "epochs_planned": groups.epochs,
    }
    for key, figures in table.figures.items():
        numbers = pd.DataFrame({number: figure.numbers() for number, figure in figures.items()}).T
        numbers = numbers.infer_objects()
        data |= {f"{key}_{end}": numbers[end].reindex(groups.index) for end in numbers}
    return pd.DataFrame(data).to_csv(index=False, float_format="%.6g")


def latex(table: Table) -> str:
    """A booktabs tabular of what papers report: seeds, accuracies and probabilities; a rule between conditions."""
    keys = [k for k, c in table.columns.items() if c.section != "Speed" and c.is_shown]
    texts = _texts(table, [key for key in keys if key not in ("best_acc", "mean_acc")])
    frame = pd.DataFrame({title.rpartition(" (")[0]: cells for title, cells in texts.items()})
    frame.insert(0, "n", [str(len(seeds.split())) for seeds in table.groups.seeds])
    frame.insert(0, "group", list(table.groups.name))
    lines = frame.to_latex(index=False, escape=True).splitlines()
    start, conditions = lines.index(r"\midrule") + 1, list(table.groups.condition)
    for i in reversed(range(1, len(frame))):
        if conditions[i] != conditions[i - 1]:
            lines.insert(start + i, r"\midrule")
    text = "\n".join([r"% needs \usepackage{booktabs}", *(f"% {note}" for note in NOTES), *lines, ""])
    for mark, command in {
        "±": r"$\pm$",
        "& -": "& $-$",
        "−": "$-$",
        "†": r"$^\dagger$",
        "‡": r"$^\ddagger$",
    }.items():
        text = text.replace(mark, command)  # plain LaTeX does not know all of these characters
    return text
