"""Run directories in, groups of runs that differ in their seed alone out."""

import csv
import itertools
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from common import UserError
from data import canonical_name
from engine.cli import Parser
from flags import NOT_OF_THE_RUN, WHERE_AND_HOW
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


@dataclass
class Run:
    """One training: its flags, and the columns of metrics.csv as lists of floats, a value an epoch."""

    path: Path
    flags: dict
    columns: dict[str, list[float]]
    written: float  # the time of metrics.csv
    facts: dict = field(default_factory=dict)  # what config.json says of the data

    @property
    def is_finished(self) -> bool:
        steps = self.flags["max_steps"]
        return self.columns["epoch"][-1] >= self.flags["epochs"] or 0 < steps <= self.columns["step"][-1]

    @property
    def test_images(self) -> int | None:
        """Images that the accuracy is of, where the run says so."""
        number = self.facts.get("test")
        return number if type(number) is int and number > 0 else None

    @property
    def accuracy(self) -> list[float]:
        return self.columns["test_acc"]

    @property
    def seconds(self) -> list[float]:
        """Since the start of the training, at the end of each epoch."""
        return list(itertools.accumulate(self.columns["epoch_seconds"]))


@dataclass
class Group:
    """Runs that differ in the seed alone."""

    flags: dict
    runs: dict[int, Run] = field(default_factory=dict)  # by seed
    label: str = ""

    @property
    def condition(self) -> str:
        """What the runs have in common with those of other losses."""
        return key({name: value for name, value in self.flags.items() if name not in LOSS_FLAGS})

    def values(self, of) -> dict[int, float]:
        """``of(run)`` by seed."""
        return {seed: of(run) for seed, run in sorted(self.runs.items())}


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
    flags["dataset"] = _one_name(flags["dataset"])
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
        if "val_acc" in columns:  # the test set is not read before the end of such a run
            columns |= {name.replace("val_", "test_"): x for name, x in columns.items() if name[:4] == "val_"}
        epochs, accuracies = columns["epoch"], columns["test_acc"]
        if (
            not all(math.isfinite(value) for name in NEEDED for value in columns[name])
            or not text.endswith("\n")  # "97.2" may be what is left of "97.2222"
            or not all(a < b for a, b in itertools.pairwise(epochs))
            or not all(0 <= accuracy <= 100 for accuracy in accuracies)
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: metrics.csv is damaged") from None
    facts = config.get("data")
    return Run(path, flags, columns, written, facts if isinstance(facts, dict) else {})


def _one_name(dataset: object) -> object:
    """``folder:x``, ``folder:x/`` and the absolute path are one data set."""
    try:
        return canonical_name(dataset) if isinstance(dataset, str) else dataset
    except UserError:  # a data set that is no more
        return dataset


def essence(flags: dict) -> dict:
    """The flags that make a run what it is: without seed, places, and what its loss does not use."""
    known = flags["loss"] in loss_names()  # a run of a loss that is no more keeps all of them
    unused = set(LOSS_FLAGS[1:-1]) - set(loss_parameters(flags["loss"])) if known else set()
    return {name: value for name, value in sorted(flags.items()) if name not in IGNORED | unused}


def key(flags: dict) -> str:
    """Equal for equal flags, whatever their values are."""
    return json.dumps(flags, sort_keys=True)


def group_runs(runs: Iterable[Run]) -> tuple[list[Group], list[str]]:
    """Groups in order of condition and loss, and a remark for each run that another one replaces."""
    groups, remarks = {}, []
    for run in runs:
        flags = essence(run.flags)
        group = groups.setdefault(key(flags), Group(flags))
        seed = run.flags["seed"]
        other = group.runs.get(seed)
        if other is not None:
            # The longer one counts; of two as long, the newer.
            left_out, run = sorted((run, other), key=lambda r: (len(r.accuracy), r.written))
            remarks.append(f"{left_out.path} is left out: {run.path} is the same, seed {seed} included")
        group.runs[seed] = run
    ordered = sorted(groups.values(), key=lambda g: (g.condition, *_order(g.flags)))
    _label(ordered)
    return ordered, remarks


def _order(flags: dict) -> tuple:
    names = [*loss_names(), flags["loss"]]  # in the registry's order, unknown ones at the end
    return names.index(flags["loss"]), flags.get("k", 0), flags.get("m", 0)


def _label(groups: list[Group]) -> None:
    """Name each group by its loss and by the flags in which the groups differ: ``root k=3 m=3, lr 0.1``."""
    values = {}
    for group in groups:
        for name, value in group.flags.items():
            values.setdefault(name, set()).add(value)
    differing = [name for name in values if len(values[name]) > 1 and name not in LOSS_FLAGS]
    for group in groups:
        flags = group.flags
        shown = [n for n in LOSS_FLAGS[1:] if n in flags and (n in ("k", "m") or len(values[n]) > 1)]
        parts = [" ".join([flags["loss"], *(f"{n}={flags[n]:g}" for n in shown)])]
        for name in differing:
            # The parts stand between commas: see plots.py.
            value = f"{flags[name]:g}" if type(flags[name]) in (int, float) else str(flags[name])
            value = value.replace(", ", ",")
            parts.append(value if name in ("dataset", "net", "opt") else f"{name.replace('_', ' ')} {value}")
        group.label = ", ".join(parts)
