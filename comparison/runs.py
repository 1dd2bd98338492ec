"""Run directories in, groups of runs that differ in their seed alone out."""

import csv
import itertools
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from common import Parser
from engine.run_directory import is_finished
from flags import NOT_OF_THE_RUN, WHERE_AND_HOW, one_name, one_spelling
from losses import loss_names, loss_parameters

# Flags that do not tell one experiment from another.
IGNORED = NOT_OF_THE_RUN | WHERE_AND_HOW | {"seed", "run_name"}
# "loss", and the flags that any loss has for parameters; k_end belongs to the loss as well.
LOSS_FLAGS = (
    "loss",
    *dict.fromkeys(name for loss in loss_names() for name in loss_parameters(loss)),
    "k_end",
)
NEEDED = ("epoch", "step", "epoch_seconds")
# Figures of the test set by their column in metrics.csv, and what report.json calls them.
SCORES = {
    "test_acc": "accuracy",
    "test_rare_acc": None,
    "ema_acc": None,
    "test_nll": "nll",
    "test_nll_corrected": "nll_corrected",
    "test_ece": "ece",
    "test_ece_corrected": "ece_corrected",
}


@dataclass
class Run:
    """One training: its flags, and the columns of metrics.csv as lists of floats, a value an epoch.

    Parameters
    ----------
    path : Path
    flags : dict
    columns : dict
    written : float
        The time of metrics.csv.
    chooser : str
        What the best epoch was chosen with: ``"test"``, or ``"val"`` where there is a validation set.
    scores : dict
        Figures of the test set, see `SCORES`: of the last epoch, or where a validation set chose, of the weights
        that it chose (report.json; empty before the end of the run).
    is_finished : bool
        Whether nothing is left to train.
    facts : dict
        What config.json says of the data.
    extended : str
        With what lengths it began, where it was made longer on the way: its learning rate then followed another
        curve than that of a run which had its length from the start. ``"no"`` as a rule.
    """

    path: Path
    flags: dict
    columns: dict[str, list[float]]
    written: float
    chooser: str = "test"
    scores: dict[str, float] = field(default_factory=dict)
    is_finished: bool = True
    facts: dict = field(default_factory=dict)
    extended: str = "no"

    @property
    def test_images(self) -> int | None:
        """Images that the test accuracy is of, where the run says so."""
        number = self.facts.get("test")
        return number if type(number) is int and number > 0 else None

    @property
    def fingerprint(self) -> str:
        """Of the data; empty where the run does not say it."""
        return str(self.facts.get("fingerprint", ""))

    @property
    def accuracy(self) -> list[float]:
        """Of the chooser's set, after each epoch."""
        return self.columns[f"{self.chooser}_acc"]

    @property
    def seconds(self) -> list[float]:
        """Since the start of the training, at the end of each epoch."""
        return list(itertools.accumulate(self.columns["epoch_seconds"]))


@dataclass
class Group:
    """Runs that differ in the seed alone."""

    flags: dict
    runs: dict[int, Run] = field(default_factory=dict)  # by seed
    loss: str = ""  # with its parameters: "root k=3 m=3"
    dataset: str = ""  # as short as it can be told from the others
    parts: dict[str, str] = field(default_factory=dict)  # the flags in which the compared groups differ

    @property
    def label(self) -> str:
        return ", ".join([self.loss, *self.parts.values()])

    @property
    def condition(self) -> str:
        """What the runs have in common with those of other losses."""
        return key({name: value for name, value in self.flags.items() if name not in LOSS_FLAGS})

    @property
    def unfinished(self) -> int:
        """The number of runs that have something left to train."""
        return sum(not run.is_finished for run in self.runs.values())

    @property
    def name(self) -> str:
        """The label, with a dagger if some runs are not finished."""
        return f"{self.label} †" if self.unfinished else self.label

    @property
    def place(self) -> tuple[str, str]:
        """Data set and net."""
        return self.flags["dataset"], self.flags["net"]

    def scores(self, name: str) -> dict[int, float]:
        """The score `name` by seed, of the runs that have it."""
        return {seed: run.scores[name] for seed, run in sorted(self.runs.items()) if name in run.scores}


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run directories among `paths` and below them."""
    found = {}
    for path in map(Path, paths):
        below = []
        if os.path.exists(path / "config.json"):  # os.path's, as pathlib's raises for names too long
            below = [path]
        elif os.path.isdir(path):
            below = sorted(config.parent for config in path.rglob("config.json"))
        found |= dict.fromkeys(below or [path])
    return list(found)


def read_run(path: Path, parser: Parser) -> Run:
    """Read config.json and metrics.csv; unfinished runs have fewer rows.

    Parameters
    ----------
    path : Path
    parser : Parser
        train.py's: the run's flags must have its types, and a flag younger than the run has its default.

    Raises
    ------
    ValueError
        One line, if either file is missing, damaged or empty.
    """
    try:
        config = json.loads((path / "config.json").read_text())
        text = (path / "metrics.csv").read_text()
        rows = list(csv.DictReader(text.splitlines(), strict=True))
        written = (path / "metrics.csv").stat().st_mtime
    except OSError as error:
        raise ValueError(f"{path}: {Path(error.filename).name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, csv.Error):
        raise ValueError(f"{path}: config.json or metrics.csv is damaged") from None
    if not isinstance(config, dict) or not {"dataset", "net", "loss", "seed"} <= config.keys():
        raise ValueError(f"{path}: config.json is not that of a training")
    flags = {name: config.get(name, default) for name, default in vars(parser.parse_args([])).items()}
    flags["dataset"] = one_name(flags["dataset"])
    try:
        gone = isinstance(flags["loss"], str) and flags["loss"] not in loss_names()
        parser.check(flags | ({"loss": loss_names()[0]} if gone else {}))  # a loss that is no more
    except ValueError as error:
        raise ValueError(f"{path}: config.json is damaged: {error}") from None
    if not rows:
        raise ValueError(f"{path}: metrics.csv has no epoch yet")
    try:
        names = [name for name in rows[0] if name]
        columns = {name: [float(row[name]) if row[name] else math.nan for row in rows] for name in names}
        chooser = "val" if "val_acc" in columns else "test"
        epochs, accuracies = columns["epoch"], columns[f"{chooser}_acc"]
        if (
            not all(math.isfinite(value) for name in NEEDED for value in columns[name])
            or not text.endswith("\n")  # "97.2" may be what is left of "97.2222"
            or not all(a < b for a, b in itertools.pairwise(epochs))
            or not all(0 <= accuracy <= 100 for accuracy in accuracies)
        ):
            raise ValueError
        finished = is_finished(flags, rows)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: metrics.csv is damaged") from None
    scores = {name: columns[name][-1] for name in SCORES if name in columns}
    if chooser == "val":  # the test set is read once, at the end of such a run
        scores = _read_report(path)
    scores = {name: value for name, value in scores.items() if math.isfinite(value)}
    facts = config.get("data")
    facts = facts if isinstance(facts, dict) else {}
    try:
        extended = _extended(config)
    except (KeyError, TypeError):
        raise ValueError(f"{path}: config.json is damaged: before is no list of a run's parts") from None
    return Run(path, flags, columns, written, chooser, scores, finished, facts, extended)


def _extended(config: dict) -> str:
    """``"from 3 epochs at step 60"``, for each time that a run was given another length; else ``"no"``."""
    parts = []
    for part in config.get("before", []):
        both = part["total_steps"], config.get("total_steps")
        lengths = [(x["epochs"], x["max_steps"]) for x in (part, config)]
        if both[0] != both[1] if None not in both else lengths[0] != lengths[1]:
            most = f" or {part['max_steps']} steps" if part["max_steps"] else ""
            parts.append(f"from {part['epochs']} epochs{most} at step {part['until_step']}")
    return " and ".join(parts) or "no"


def _read_report(path: Path) -> dict[str, float]:
    """The scores in report.json; none if there is no such file yet."""
    if not (path / "report.json").exists():
        return {}
    try:
        report = json.loads((path / "report.json").read_text())
        scores = {column: report[name] for column, name in SCORES.items() if name}
        if not all(type(x) in (int, float) for x in scores.values()) or not 0 <= scores["test_acc"] <= 100:
            raise ValueError
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        raise ValueError(f"{path}: report.json is damaged") from None
    return scores


def essence(flags: dict) -> dict:
    """The flags that make a run what it is: without seed, places, and what its loss does not use."""
    known = flags["loss"] in loss_names()  # a run of a loss that is no more keeps all of them
    unused = set(LOSS_FLAGS[1:-1]) - set(loss_parameters(flags["loss"])) if known else set()
    return {name: value for name, value in sorted(flags.items()) if name not in IGNORED | unused}


def key(flags: dict) -> str:
    """Equal for equal flags, whatever their values are."""
    return json.dumps(flags, sort_keys=True)


def group_runs(runs: Iterable[Run]) -> tuple[list[Group], list[str]]:
    """Groups in order of data, net, condition and loss, and a remark for each run that another one replaces.

    Where runs have met other files under one data set's name, its fingerprint counts as a flag, ``data``; where
    some were made longer on the way, so does that, ``extended``.
    """
    groups, remarks, seen = {}, [], {}
    runs = list(runs)
    spellings: dict[object, str] = {}
    for run in runs:
        run.flags["net"] = spellings.setdefault(one_spelling(run.flags["net"]), run.flags["net"])
        seen.setdefault(run.flags["dataset"], set()).add(run.fingerprint)
    changed = [name for name, prints in seen.items() if len(prints - {""}) > 1]
    remarks += [f"the data of {name} are not the same in all runs: told apart as data …" for name in changed]
    longer = sum(run.extended != "no" for run in runs)
    if longer:
        remarks.append(
            f"{longer} of {len(runs)} runs were given another --epochs or --max-steps when they continued, and "
            "another course of the learning rate with it: told apart as extended …"
        )
    for run in runs:
        flags = essence(run.flags) | ({"extended": run.extended} if longer else {})
        if run.flags["dataset"] in changed:
            flags["data"] = run.fingerprint[:8] or "unknown"
        group = groups.setdefault(key(flags), Group(flags))
        seed = run.flags["seed"]
        other = group.runs.get(seed)
        if other is not None:
            # The longer one counts; of two as long, the newer.
            left_out, run = sorted((run, other), key=lambda r: (len(r.accuracy), r.written))
            remarks.append(f"{left_out.path} is left out: {run.path} is the same, seed {seed} included")
        group.runs[seed] = run
    ordered = sorted(groups.values(), key=lambda g: (*g.place, g.condition, *_order(g.flags)))
    _label(ordered)
    return ordered, remarks


def _order(flags: dict) -> tuple:
    names = [*loss_names(), flags["loss"]]  # in the registry's order, unknown ones at the end
    return names.index(flags["loss"]), flags.get("k", 0), flags.get("m", 0)


def differing(groups: Iterable[Group]) -> list[str]:
    """The flags that do not have one value in all groups."""
    values = {}
    for group in groups:
        for name, value in group.flags.items():
            values.setdefault(name, set()).add(value)
    return [name for name in values if len(values[name]) > 1]


def _label(groups: list[Group]) -> None:
    """Name each group by its loss, data and net where they differ, and the flags in which those of one data set
    and net differ: ``root k=3 m=3, digits, vit, lr 0.1``."""
    everywhere = differing(groups)
    at = {place: differing(g for g in groups if g.place == place) for place in {g.place for g in groups}}
    short = _short_names({g.flags["dataset"] for g in groups})
    for group in groups:
        flags = group.flags
        own = [n for n in LOSS_FLAGS[1:] if flags.get(n) is not None and (n in ("k", "m") or n in everywhere)]
        group.loss = " ".join([flags["loss"], *(f"{n.replace('_', '-')}={flags[n]:g}" for n in own)])
        group.dataset = short[flags["dataset"]]
        names = [name for name in ("dataset", "net") if name in everywhere]
        names += [name for name in at[group.place] if name not in LOSS_FLAGS]
        group.parts = {name: _part(name, flags[name], group.dataset) for name in names}


def _part(name: str, value: object, dataset: str) -> str:
    """What a label says of a flag."""
    if name == "dataset":
        return dataset
    text = f"{value:g}" if type(value) in (int, float) else "default" if value in (None, "") else str(value)
    return text if name in ("net", "opt") else f"{name.replace('_', ' ')} {text}"


def _short_names(datasets: Iterable[str]) -> dict[str, str]:
    """The shortest end of each folder's path that no other one has; other data sets' names as they are."""
    ends = {}
    for name in datasets:
        head, colon, path = name.partition(":")
        steps = [step for step in path.split("/") if step] if colon else []
        ends[name] = ["/".join(steps[i:]) for i in range(len(steps) - 1, -1, -1)] or [path or head]
    return {
        name: next((e for e in mine if sum(e in other for other in ends.values()) == 1), name)
        for name, mine in ends.items()
    }
