"""Run directories in, one frame out: a row a run, with its flags, its final scores and its learning curve."""

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
# Scores of the test set by their column in metrics.csv, and what report.json calls them.
SCORES = {
    "test_acc": "accuracy",
    "test_rare_acc": None,
    "ema_acc": None,
    "test_nll": "nll",
    "test_nll_corrected": "nll_corrected",
    "test_ece": "ece",
    "test_ece_corrected": "ece_corrected",
}
DAMAGE = (
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
)  # what reading a damaged file raises


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


def read_run(path: Path) -> dict:
    """A run as a row of the frame.

    Returns
    -------
    dict
        Every flag of train.py; the scores of `SCORES`, of the last epoch, or where a validation set chose, of the
        weights that it chose; last_acc, best_acc and mean_acc of the set that chose, in percent; path, chooser
        (``"test"`` or ``"val"``), finished, written, epochs_trained, test_images, fingerprint; and curve, a frame of
        epoch, seconds since the start and accuracy of the set that chose.

    Raises
    ------
    UserError
        If a file is missing or damaged, or there is no epoch yet.
    """
    config = read_config(path)
    try:
        flags = _flags(config)
        data = config["data"] if isinstance(config.get("data"), dict) else {}
        test_images, fingerprint = float(data.get("test") or "nan"), str(data.get("fingerprint", ""))
    except DAMAGE:
        raise UserError(f"{path}: config.json is damaged, or is not that of a training") from None
    try:
        written = (path / "metrics.csv").stat().st_mtime
        text = (path / "metrics.csv").read_text(encoding="utf-8")
        rows = pd.read_csv(io.StringIO(text), index_col=False).apply(pd.to_numeric)
        if rows.empty:
            raise UserError(f"{path}: metrics.csv has no epoch yet")
        chooser = "val" if "val_acc" in rows else "test"
        accuracy = rows[f"{chooser}_acc"]
        whole = np.isfinite(rows[["epoch", "step", "epoch_seconds"]].to_numpy(float)).all()
        whole &= text.endswith("\n")  # "97.2" may be what is left of "97.2222"
        if not (whole and (rows.epoch.diff()[1:] > 0).all() and accuracy.between(0, 100).all()):
            raise ValueError
        finished = is_finished(flags, rows.to_dict("records"))
    except OSError as error:
        raise UserError(f"{path}: metrics.csv cannot be read: {error.strerror}") from None
    except DAMAGE:
        raise UserError(f"{path}: metrics.csv is damaged") from None
    # The test set is read once, at the end, of a run with a validation set.
    scores = _report(path) if chooser == "val" else rows.reindex(columns=list(SCORES)).iloc[-1].to_dict()
    seconds = rows.epoch_seconds.cumsum()
    return {
        **{name: np.nan for name in SCORES},
        **flags,
        **scores,
        "last_acc": accuracy.iloc[-1],
        "best_acc": accuracy.max(),
        "mean_acc": accuracy.mean(),
        "path": str(path),
        "chooser": chooser,
        "finished": finished,
        "written": written,
        "epochs_trained": len(rows),
        "test_images": test_images,
        "fingerprint": fingerprint,
        "curve": pd.DataFrame({"epoch": rows.epoch, "seconds": seconds, "accuracy": accuracy}),
    }


def _flags(config: dict) -> dict:
    """A run's flags; one that is younger than the run has its default, and what its loss does not use is None."""
    flags = {name: config[name] for name in ("dataset", "net", "loss", "seed")}
    for name, default in vars(train_parser().parse_args([])).items():
        value = config.get(name, default)
        if type(value) in (int, float) and type(default) in (float, type(None)):
            value = float(value)
        if isinstance(value, dict) or (default is not None and type(value) is not type(default)):
            raise ValueError(name)
        flags[name] = " ".join(map(str, value)) if isinstance(value, list) else value
    used = LOSS_PARAMETERS.get(flags["loss"], LOSS_FLAGS)  # a loss that this version does not have keeps all
    unused = set(flags_of(LOSS)) - set(used)
    spelled = {name: spelling(flags[name]) for name in ("dataset", "net")}
    return flags | spelled | dict.fromkeys(unused)


def _report(path: Path) -> dict[str, float]:
    """The scores in report.json; none if there is no such file yet."""
    try:
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        scores = {column: float(report[name]) for column, name in SCORES.items() if name}
        if not 0 <= scores["test_acc"] <= 100:
            raise ValueError
    except FileNotFoundError:
        return {}
    except (OSError, *DAMAGE):
        raise UserError(f"{path}: report.json is damaged") from None
    return scores


def read_all(paths: Iterable[str]) -> tuple[pd.DataFrame, list[str]]:
    """The frame of the runs, and a note for each that is left out.

    Its column ``group`` is a number that runs share that differ in their seed alone, in the order of data, net,
    other flags and loss; ``condition`` is the same for groups that differ in the loss alone.
    """
    notes: list[str] = []
    rows = []
    for path in find_runs(paths, notes):
        try:
            rows.append(read_run(path))
        except UserError as error:
            notes.append(f"skipped {error}")
    if not rows:
        message = "no run to compare: RUN_DIR must hold the config.json and metrics.csv of a training"
        raise UserError(message + first_of(notes))
    runs = pd.DataFrame(rows, dtype=object)
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
    numbers = kept.assign(k=kept.k.fillna(0), m=kept.m.fillna(0))
    order = ["dataset", "net", "condition", "loss", "k", "m", "key", "seed"]
    runs = kept.loc[numbers.sort_values(order).index]
    runs["group"] = pd.factorize(runs.key)[0]
    return runs, notes


def first_of(notes: Sequence[str]) -> str:
    """The first note and the number of others, as the end of an error message."""
    return f" ({notes[0]}{f'; {len(notes) - 1} more' if notes[1:] else ''})" if notes else ""


def _keys(runs: pd.DataFrame, names: list[str]) -> list[str]:
    """Equal for equal flags."""
    return [json.dumps(values) for values in runs[names].to_numpy().tolist()]


def group_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a group: its flags, its seeds, how many of its runs are unfinished, and its names.

    ``loss_name`` is the loss with its parameters, ``condition_name`` the other flags in which groups differ,
    ``label`` both: ``root k=3 m=3, digits, vit, lr 0.1``, and ``name_marked`` says besides that runs are unfinished
    (†) or that a validation set chose (‡).
    """
    groups = runs.drop_duplicates("group").set_index("group")
    members = runs.groupby("group")
    groups["unfinished"] = members.finished.agg(lambda finished: sum(not f for f in finished))
    groups["seeds"] = members.seed.agg(lambda seeds: " ".join(map(str, seeds)))
    last = groups.dataset.str.rpartition("/")[2].str.removeprefix("folder:")
    shared = {name for name, part in groups.groupby(last) if part.dataset.nunique() > 1}
    shown = groups.assign(dataset=groups.dataset.where(last.isin(shared) | (last == ""), last))
    parameters = flags_of(LOSS)  # None for a loss without them, which is no value
    differing = [name for name in EXPERIMENT if groups[name].nunique(dropna=name in parameters) > 1]
    groups["loss_name"] = [
        " ".join([flags.loss, *(_part(name, flags, "=") for name in LOSS_FLAGS[1:]
                                if flags[name] is not None and (name in ("k", "m") or name in differing))])
        for _, flags in shown.iterrows()
    ]  # fmt: skip
    groups["condition_name"] = [
        ", ".join(_part(name, flags, " ") for name in differing if name not in LOSS_FLAGS)
        for _, flags in shown.iterrows()
    ]
    groups["label"] = groups.loss_name + [f", {name}" * bool(name) for name in groups.condition_name]
    marks = [
        " †" * (n > 0) + " ‡" * (c == "val") for n, c in zip(groups.unfinished, groups.chooser, strict=True)
    ]
    groups["name_marked"] = groups.label + marks
    low, high = members.epochs_trained.min().map(str), members.epochs_trained.max().map(str)
    spans = low.where(low == high, low + "–" + high)
    groups["epochs_in_words"] = spans.where(groups.unfinished == 0, spans + " of " + groups.epochs.map(str))
    return groups


def _part(name: str, flags: pd.Series, sign: str) -> str:
    """What a label says of a flag."""
    value = "default" if flags[name] in (None, "") else flags[name]
    text = f"{value:g}" if type(value) is float else str(value)
    return (
        text
        if name in ("dataset", "net", "opt")
        else f"{name.replace('_', '-' if sign == '=' else ' ')}{sign}{text}"
    )
