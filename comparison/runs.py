"""Run directories in, groups of runs that differ in their seed alone out."""

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from engine.run_directory import NOT_OF_THE_RUN, WHERE_AND_HOW

# Keys of config.json that do not tell one experiment from another.
IGNORED = NOT_OF_THE_RUN | WHERE_AND_HOW | {"seed", "run_name", "versions", "git_commit"}
LOSS_FLAGS = ("loss", "k", "m", "alpha", "gamma")
USED_BY = {"root": {"k", "m"}, "rlo": {"k", "m"}, "focal": {"alpha", "gamma"}, "ce": set()}
NEEDED = ("epoch", "test_acc", "epoch_seconds")


@dataclass
class Run:
    """One training: its flags, and the columns of metrics.csv as lists of floats, a value an epoch."""

    path: Path
    flags: dict
    columns: dict[str, list[float]]

    @property
    def accuracy(self) -> list[float]:
        return self.columns["test_acc"]

    @property
    def seconds(self) -> list[float]:
        """Since the start of the training, at the end of each epoch."""
        total, sums = 0.0, []
        for value in self.columns["epoch_seconds"]:
            total += value
            sums.append(total)
        return sums


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
        below = [path] if (path / "config.json").exists() else []
        below = below or sorted(config.parent for config in path.rglob("config.json"))
        found |= dict.fromkeys(below or [path])
    return list(found)


def read_run(path: Path) -> Run:
    """Read config.json and metrics.csv; unfinished runs have fewer rows.

    Raises
    ------
    ValueError
        One line, if either is missing, damaged or empty.
    """
    try:
        flags = json.loads((path / "config.json").read_text())
        with open(path / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ValueError(f"{path}: {Path(error.filename).name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, csv.Error):
        raise ValueError(f"{path}: config.json or metrics.csv is damaged") from None
    if not isinstance(flags, dict) or flags.get("loss") not in USED_BY or type(flags.get("seed")) is not int:
        raise ValueError(f"{path}: config.json is not that of a training")
    if not rows:
        raise ValueError(f"{path}: metrics.csv has no epoch yet")
    try:
        names = [name for name in rows[0] if name]
        columns = {name: [float(row[name]) if row[name] else math.nan for row in rows] for name in names}
        if not all(math.isfinite(value) for name in NEEDED for value in columns[name]):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: metrics.csv is damaged") from None
    return Run(path, flags, columns)


def essence(flags: dict) -> dict:
    """The flags that make a run what it is: without seed, places, and what its loss does not use."""
    unused = set(LOSS_FLAGS[1:]) - USED_BY[flags["loss"]]
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
            longer, shorter = (run, other) if len(run.accuracy) > len(other.accuracy) else (other, run)
            remarks.append(f"{shorter.path} is left out: {longer.path} is the same, seed {seed} included")
            run = longer
        group.runs[seed] = run
    ordered = sorted(groups.values(), key=lambda g: (g.condition, *_order(g.flags)))
    _label(ordered)
    return ordered, remarks


def _order(flags: dict) -> tuple:
    return ("ce", "focal", "root", "rlo").index(flags["loss"]), flags.get("k", 0), flags.get("m", 0)


def _label(groups: list[Group]) -> None:
    """Name each group by its loss and by the flags in which the groups differ."""
    names = sorted({name for group in groups for name in group.flags} - {"loss", "k", "m"})
    for group in groups:
        words = [group.flags["loss"], *(f"{n}={group.flags[n]:g}" for n in "km" if n in group.flags)]
        parts = [" ".join(words)]
        for name in names:
            values = {key({"": g.flags[name]}) for g in groups if name in g.flags}
            if name in group.flags and len(values) > 1:
                value = group.flags[name]
                parts.append(
                    f"{name.replace('_', ' ')} {value:g}" if type(value) in (int, float) else str(value)
                )
        group.label = ", ".join(parts)
