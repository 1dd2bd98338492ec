"""The figures of each group in one tidy frame; written for people (Markdown), for pandas (CSV), for papers (LaTeX)."""

import math
from collections.abc import Sequence

import pandas as pd

from common import UserError, spelling
from flags import train_parser

from .runs import EXPERIMENT, LOSS_FLAGS, SCORES
from .statistics import difference, holm, summary

SHARES = (0.90, 0.95, 0.99)  # of the best group's accuracy at the end: the default targets
SWITCH = {"on": True, "off": False, "true": True, "false": False}
# What the figures are called, with their unit, and where they stand; times to a target come under "Speed".
TITLES = {
    "test_acc": ("test accuracy, %", "Accuracy"),
    "best_acc": ("best epoch, %", "Accuracy"),
    "mean_acc": ("mean over epochs, %", "Accuracy"),
    "test_rare_acc": ("rare classes, %", "Accuracy"),
    "ema_acc": ("moving average of weights, %", "Accuracy"),
    "test_nll": ("NLL", "Probabilities"),
    "test_nll_corrected": ("NLL corrected", "Probabilities"),
    "test_ece": ("ECE, %", "Probabilities"),
    "test_ece_corrected": ("ECE corrected, %", "Probabilities"),
}
DIFFERENCES_SHOWN = ("test_acc", "test_rare_acc", "test_ece")  # in the tables for people; table.csv has all
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
    "≥: seeds that never reached the target count with their last epoch. †: unfinished runs, taken as far as they got.",
)


def changes_of(text: str) -> dict:
    """``"loss=root,k=3"`` as a dict of flags; UserError if it is anything else."""
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
            value = spelling(value) if name in ("dataset", "net") else value
            changes[name] = SWITCH.get(value.lower(), value) if is_switch else value
    return changes


def find_baselines(groups: pd.DataFrame, changes: dict) -> pd.Series:
    """For each group the number of the one that has its flags but for `changes`; None if no other one has.

    Raises
    ------
    UserError
        If several have.
    """

    # Another loss has other parameters: only those in `changes` count then.
    compared = [n for n in EXPERIMENT if n not in LOSS_FLAGS or n in changes or "loss" not in changes]
    baselines = []
    for number, flags in groups[compared].iterrows():
        wanted = [changes.get(name, flags[name]) for name in compared]
        fits = [other for other, has in groups[compared].iterrows() if list(has) == wanted]
        if len(fits) > 1:
            labels = "; ".join(groups.label[fits])
            raise UserError(f"--baseline fits several groups, name what tells them apart: {labels}")
        baselines.append(fits[0] if fits and fits[0] != number else None)
    return pd.Series(baselines, groups.index, dtype=object)


def tabulate(
    runs: pd.DataFrame, groups: pd.DataFrame, targets: Sequence[float] | None = None
) -> pd.DataFrame:
    """One tidy frame: a row for each group and figure.

    Parameters
    ----------
    runs, groups : DataFrame
        See `comparison.runs`; `groups` with a column ``baseline`` (see `find_baselines`).
    targets : sequence of float, optional
        Accuracies in percent; `SHARES` of the best group of the same condition by default.

    Returns
    -------
    DataFrame
        group, figure, title, section, what `statistics.summary` and, where there is a baseline,
        `statistics.difference` say, and verdict: ``"too few"`` seeds, ``"tie"``, ``"*"`` or ``"**"``. Where
        seeds ``never`` reached a target, ``at_least`` stands in the place of the mean.
    """
    members = {number: part.set_index("seed") for number, part in runs.groupby("group")}
    rows = []
    for figure, (title, section) in TITLES.items():
        for number, part in members.items():
            if values := _values(part, figure):
                row = {"group": number, "figure": figure, "title": title, "section": section}
                row |= summary(list(values.values()))
                baseline = members.get(groups.baseline[number])
                if baseline is not None and (theirs := _values(baseline, figure)):
                    images = pd.concat([part.test_images, baseline.test_images]).dropna().min()
                    floor = 100 / images if figure in ("test_acc", "best_acc", "ema_acc") else 0.0
                    row |= difference(values, theirs, 0.0 if math.isnan(floor) else floor)
                rows.append(row)
    for unit, column in (("epochs", "epoch"), ("seconds", "seconds")):
        for number, part in members.items():
            same = groups.index[groups.condition == groups.condition[number]]
            best = max(members[other].last_acc.mean() for other in same)
            shares = {f"{share:.0%} of best": share * best for share in SHARES}
            for name, target in ({f"{t:g} %": t for t in targets} if targets else shares).items():
                reached = [curve[curve.accuracy >= target][column].min() for curve in part.curve]
                ends = [curve[column].iloc[-1] for curve in part.curve]
                row = {"group": number, "figure": f"{unit} to {name}", "title": f"{unit} to {name}"}
                row |= {"section": "Speed", "never": sum(map(math.isnan, reached))}
                row |= summary([e if math.isnan(r) else r for r, e in zip(reached, ends, strict=True)])
                if row["never"]:
                    row |= {"at_least": row["mean"]} | dict.fromkeys(("mean", "sd", "low", "high"), math.nan)
                rows.append(row)
    columns = [
        "at_least",
        "difference",
        "difference_n",
        "difference_low",
        "difference_high",
        "p",
        "test",
        "left_out",
    ]
    figures = pd.DataFrame(rows)
    figures = figures.reindex(columns=list(dict.fromkeys([*figures, *columns])))
    survives = figures.groupby("figure").p.transform(holm).astype(bool)
    figures["verdict"] = [_verdict(row, s) for row, s in zip(figures.itertuples(), survives, strict=True)]
    return figures


def _values(runs: pd.DataFrame, figure: str) -> dict[int, float]:
    """By seed, where all runs have the figure that have any: an unfinished run with a validation set has none."""
    values = runs[figure].dropna()
    return values.to_dict() if len(values) >= runs[list(SCORES)].notna().any(axis=1).sum() else {}


def _verdict(row, survives: bool) -> str:
    if math.isnan(row.difference):
        return ""
    if math.isnan(row.difference_low):
        return "too few"
    return "tie" if row.difference_low <= 0 <= row.difference_high else "**" if survives else "*"


def value_text(row) -> str:
    """``"81.00 ± 1.00"``; a lower bound where seeds never reached a target."""
    digits = 1 if row.section == "Speed" else 3 if "NLL" in row.title else 2
    if row.never > 0:
        return f"≥ {row.at_least:.{digits}f} ({row.never:.0f} of {row.n} never)"
    return f"{row.mean:.{digits}f}" + (f" ± {row.sd:.{digits}f}" if row.n > 1 else "")


def difference_text(row) -> str:
    """``"+4.67 ± 1.20 **"``; empty without a baseline."""
    if not row.verdict:
        return ""
    mean = f"{round(row.difference, 2) + 0.0:+.2f}"  # + 0.0: no -0.00
    if row.verdict == "too few":
        few = "one seed" if row.difference_n == 1 else f"{row.difference_n:.0f} seeds are too few"
        return f"{mean} (no interval: {few})"
    text = f"{mean} ± {(row.difference_high - row.difference_low) / 2:.2f} "
    text += "(tie)" if row.verdict == "tie" else row.verdict
    if row.test == "Welch":
        return f"{text} (Welch)"
    return text + (f" (n = {row.difference_n:.0f}, without seed {row.left_out})" if row.left_out else "")


def columns_of(figures: pd.DataFrame, groups: pd.DataFrame) -> dict[str, list[str]]:
    """The figures in words, by title: a list with a cell for each group."""
    columns = {}
    for title, part in figures.groupby("title", sort=False):
        rows = {row.group: row for row in part.itertuples()}
        columns[f"{title} (± sd)"] = [value_text(rows[n]) if n in rows else "" for n in groups.index]
        if part.figure.iloc[0] in DIFFERENCES_SHOWN and any(part.verdict):
            cells = [difference_text(rows[n]) if n in rows else "" for n in groups.index]
            columns[f"{title.partition(',')[0]} − baseline (± 95 %)"] = cells
    return columns


def markdown(figures: pd.DataFrame, groups: pd.DataFrame) -> str:
    """A table for each section."""
    parts, first = [], {"seeds": list(groups.seeds), "epochs": list(groups.epochs_in_words)}
    for section, part in figures.groupby("section", sort=False):
        frame = pd.DataFrame({"group": list(groups.name_marked)} | first | columns_of(part, groups))
        frame = frame.map(lambda text: text.replace("|", "/").replace("\n", " "))
        parts.append(f"## {section}\n\n{frame.to_markdown(index=False, disable_numparse=True)}\n")
        first = {}
    return "\n".join(parts)


def comma_separated(figures: pd.DataFrame, groups: pd.DataFrame) -> str:
    """`tabulate`'s frame with what each group is: its flags, its baseline, its runs."""
    flags = [n for n in EXPERIMENT if n in ("net", *LOSS_FLAGS[:3]) or groups[n].nunique(dropna=False) > 1]
    about = groups[
        ["label", "dataset", *(n for n in flags if n != "dataset"), "chooser", "seeds", "unfinished"]
    ]
    about = about.assign(baseline=groups.baseline.map(groups.label))
    frame = about.join(figures.set_index("group").drop(columns=["title", "section"]), how="inner")
    return frame.rename(columns={"label": "group"}).to_csv(index=False, float_format="%.6g")


def latex(figures: pd.DataFrame, groups: pd.DataFrame) -> str:
    """A booktabs tabular of what papers report: seeds, final accuracies and probabilities."""
    kept = figures[(figures.section != "Speed") & ~figures.figure.isin(["best_acc", "mean_acc"])]
    about = {"group": list(groups.name_marked), "n": [str(len(seeds.split())) for seeds in groups.seeds]}
    text = pd.DataFrame(about | columns_of(kept, groups)).to_latex(index=False, escape=True)
    return "".join(f"% {line}\n" for line in (r"needs \usepackage{booktabs}", *NOTES)) + text
