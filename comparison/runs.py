"""Run directories in, two tidy frames out: a row a run, and a row an epoch."""

import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common import UserError, spelling
from engine.run_directory import is_finished, read_config
from flags import LENGTH, LOSS, LOSS_PARAMETERS, RUN, flags_of, train_parser

# What says which loss a run has, and what tells one experiment from another.
LOSS_FLAGS = ("loss", *flags_of(LOSS), "k_end")
EXPERIMENT = [name for name in flags_of(RUN, LOSS, LENGTH) if name not in ("seed", "run_name")] + ["data"]
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


def find_runs(paths: Iterable[str], notes: list[str]) -> list[Path]:
    """The run directories among `paths` and below them, behind symbolic links too, each once."""

    def on_error(error: OSError) -> None:
        if os.path.isdir(error.filename):
            notes.append(f"skipped {error.filename}: it cannot be listed: {error.strerror}")

    found = {}
    for path in map(os.path.expanduser, paths):
        below, visited = [], set()
        for folder, folders, files in os.walk(path, followlinks=True, onerror=on_error):
            real = os.path.realpath(folder)
            if "config.json" in files:
                below.append(folder)
            if "config.json" in files or real in visited:
                folders.clear()
            visited.add(real)
            folders.sort()
        for run in below or [path]:
            found.setdefault(os.path.realpath(run), Path(run))
    return list(found.values())


def read_run(path: Path) -> tuple[dict, pd.DataFrame]:
    """A run as a row of the frame of runs, and its epochs.

    Returns
    -------
    dict
        Every flag of train.py; the scores of `SCORES`, of the last epoch, or where a validation set chose, of the
        weights that it chose (report.json); last_acc, best_acc and mean_acc of the set that chose, in percent; and
        path, chooser (``"test"`` or ``"val"``), finished, written, epochs_trained, test_images, fingerprint.
    DataFrame
        epoch, seconds since the start, accuracy in percent of the set that chose.

    Raises
    ------
    UserError
        If config.json or metrics.csv is missing, damaged or empty.
    """
    config = read_config(path)
    try:
        text = (path / "metrics.csv").read_text(encoding="utf-8")
        written = (path / "metrics.csv").stat().st_mtime
    except OSError as error:
        raise UserError(f"{path}: metrics.csv cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path}: metrics.csv is damaged") from None
    try:
        flags = _flags(config)
    except (KeyError, ValueError, OverflowError):
        raise UserError(f"{path}: config.json is damaged, or is not that of a training") from None
    if text.count("\n") < 2:
        raise UserError(f"{path}: metrics.csv has no epoch yet")
    try:
        rows = pd.read_csv(io.StringIO(text), index_col=False)
        rows = rows.apply(pd.to_numeric)
        chooser = "val" if "val_acc" in rows else "test"
        accuracy = rows[f"{chooser}_acc"]
        whole = np.isfinite(rows[["epoch", "step", "epoch_seconds"]].to_numpy(float)).all()
        whole &= text.endswith("\n")  # "97.2" may be what is left of "97.2222"
        if not (whole and (rows.epoch.diff()[1:] > 0).all() and accuracy.between(0, 100).all()):
            raise ValueError
        finished = is_finished(flags, rows.to_dict("records"))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: metrics.csv is damaged") from None
    # The test set is read once, at the end, of a run with a validation set.
    scores = _report(path) if chooser == "val" else rows.reindex(columns=list(SCORES)).iloc[-1].to_dict()
    facts = config["data"] if isinstance(config.get("data"), dict) else {}
    images = facts.get("test")
    row = {name: np.nan for name in SCORES} | flags | scores
    row |= {"last_acc": accuracy.iloc[-1], "best_acc": accuracy.max(), "mean_acc": accuracy.mean()}
    row |= {"path": str(path), "chooser": chooser, "finished": finished, "written": written}
    row |= {"epochs_trained": len(rows), "fingerprint": str(facts.get("fingerprint", ""))}
    row["test_images"] = images if type(images) is int and images > 0 else np.nan
    epochs = {"epoch": rows.epoch, "seconds": rows.epoch_seconds.cumsum(), "accuracy": accuracy}
    return row, pd.DataFrame(epochs)


def _flags(config: dict) -> dict:
    """A run's flags; one that is younger than the run has its default, and what its loss does not use is None."""
    if not {"dataset", "net", "loss", "seed"} <= config.keys():
        raise KeyError
    flags = {}
    for name, default in vars(train_parser().parse_args([])).items():
        value = config.get(name, default)
        if type(value) in (int, float) and type(default) in (float, type(None)):
            value = float(value)
        if isinstance(value, dict) or (default is not None and type(value) is not type(default)):
            raise ValueError(name)
        flags[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    used = LOSS_PARAMETERS.get(flags["loss"], LOSS_FLAGS)  # a loss that this version does not have keeps all
    unused = set(flags_of(LOSS)) - set(used)
    return flags | {"dataset": spelling(flags["dataset"])} | dict.fromkeys(unused)


def _report(path: Path) -> dict[str, float]:
    """The scores in report.json; none if there is no such file yet."""
    if not (path / "report.json").exists():
        return {}
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        scores = {column: float(report[name]) for column, name in SCORES.items() if name}
        if not 0 <= scores["test_acc"] <= 100:
            raise ValueError
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        raise UserError(f"{path}: report.json is damaged") from None
    return scores


def read_all(paths: Iterable[str]) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The frames of the runs and of their epochs, and a note for each run that is left out.

    The runs have two columns more: their index, and ``group``, a number that those share that differ in their seed
    alone, in the order of data, net, other flags and loss.
    """
    notes: list[str] = []
    rows, curves = [], {}
    for path in find_runs(paths, notes):
        try:
            row, curves[len(rows)] = read_run(path)
            rows.append(row)
        except UserError as error:
            notes.append(f"skipped {error}")
    if not rows:
        raise UserError(
            "no run to compare: RUN_DIR must hold the config.json and metrics.csv of a training"
            + first_of(notes)
        )
    runs = pd.DataFrame(rows, dtype=object)
    first = {spelling(net): net for net in reversed(runs.net)}
    runs["net"] = [first[spelling(net)] for net in runs.net]
    runs["data"] = None
    for dataset, part in runs.groupby("dataset"):
        if len(set(part.fingerprint) - {""}) > 1:
            runs.loc[part.index, "data"] = [text[:8] or "unknown" for text in part.fingerprint]
            notes.append(f"the data of {dataset} are not the same in all runs: told apart as data …")
    runs["condition"] = _keys(runs, [name for name in EXPERIMENT if name not in LOSS_FLAGS])
    runs["key"] = _keys(runs, EXPERIMENT)
    runs = runs.sort_values(["epochs_trained", "written"])  # the longest counts; of two as long, the newest
    kept = runs.drop_duplicates(["key", "seed"], keep="last")
    for _, run in runs.drop(kept.index).iterrows():
        other = kept[(kept.key == run.key) & (kept.seed == run.seed)].path.item()
        notes.append(f"{run.path} is left out: {other} is the same, seed {run.seed} included")
    losses = [*LOSS_PARAMETERS, *sorted(set(kept.loss))]
    numbers = kept.assign(loss=kept.loss.map(losses.index), k=kept.k.fillna(0), m=kept.m.fillna(0))
    order = numbers.sort_values(["dataset", "net", "condition", "loss", "k", "m", "key", "seed"]).index
    runs = kept.loc[order]
    runs["group"] = pd.factorize(runs.key)[0]
    epochs = pd.concat({run: curves[run] for run in runs.index}, names=["run"]).reset_index("run")
    return runs, epochs, notes


def first_of(notes: Sequence[str]) -> str:
    """The first note and the number of others, as the end of an error message."""
    return f" ({notes[0]}{f'; {len(notes) - 1} more' if notes[1:] else ''})" if notes else ""


def _keys(runs: pd.DataFrame, names: list[str]) -> list[str]:
    """Equal for equal flags."""
    return [json.dumps(values) for values in runs[names].to_numpy().tolist()]


def group_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a group: its flags, how many runs are unfinished, and what it is called where others stand beside it.

    ``loss_name`` is the loss with its parameters, ``others`` a dict of the other flags in which the groups of this
    data set and net differ, in words, ``label`` both: ``root k=3 m=3, digits, vit, lr 0.1``.
    """
    groups = runs.drop_duplicates("group").set_index("group")
    groups["unfinished"] = (~runs.finished.astype(bool)).groupby(runs.group).sum()
    groups["dataset_name"] = groups.dataset.map(_short_names(set(groups.dataset)))
    everywhere = _differing(groups)
    names, others = [], []
    for _, group in groups.iterrows():
        there = groups[(groups.dataset == group.dataset) & (groups.net == group.net)]
        parameters = [
            n for n in LOSS_FLAGS[1:] if group[n] is not None and (n in ("k", "m") or n in everywhere)
        ]
        names.append(
            " ".join([group.loss, *(f"{n.replace('_', '-')}={in_words(group[n])}" for n in parameters)])
        )
        parts = [name for name in ("dataset", "net") if name in everywhere]
        parts += [name for name in _differing(there) if name not in LOSS_FLAGS]
        others.append({name: _part(name, group) for name in parts})
    groups["loss_name"], groups["others"] = names, others
    groups["label"] = [", ".join([n, *o.values()]) for n, o in zip(names, others, strict=True)]
    return groups


def _differing(groups: pd.DataFrame) -> list[str]:
    parameters = flags_of(LOSS)  # None for a loss without them, which is no value
    return [name for name in EXPERIMENT if groups[name].nunique(dropna=name in parameters) > 1]


def _part(name: str, group: pd.Series) -> str:
    """What a label says of a flag."""
    if name == "dataset":
        return group.dataset_name
    text = in_words(group[name])
    return text if name in ("net", "opt") else f"{name.replace('_', ' ')} {text}"


def in_words(value: object) -> str:
    if value is None or value == "":
        return "default"
    return f"{value:g}" if type(value) is float else str(value)


def _short_names(datasets: set[str]) -> dict[str, str]:
    """The last names of folders, or their whole paths where two are called the same; others' names as they are."""
    last = {name: name.rpartition("/")[2].removeprefix("folder:") or name for name in datasets}
    return {name: last[name] if list(last.values()).count(last[name]) == 1 else name for name in datasets}
