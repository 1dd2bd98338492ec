"""The directory of results: results.csv, config.json and the plots, and nobody else's files."""

import csv
import json
import os
import re
from pathlib import Path

from common import UserError

PROGRAM = "regression.py"
# Files by which other programs' directories are known, and those that a study writes itself.
_FOREIGN = ("metrics.csv", "last.pt", "best.pt", "table.csv", "table.md", "results.csv", "config.json")
_PLOT = re.compile(r"(losses|condition|(convergence|boundaries)[-_].*l2[=-].*)\.png")


def claim(out, dataset=None):
    """Refuse the directory `out` if it holds what another program or person put there.

    With `dataset`, as typed, also if it holds the study of another one.

    Raises
    ------
    UserError
        For a training run, another program's results, or files that a study would overwrite.
    """
    out = Path(out)
    try:
        names = {path.name for path in out.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror or error}; give another directory") from None
    if config := _our_config(out):
        before = str(config.get("dataset", dataset))
        if dataset is not None and os.path.normpath(before) != os.path.normpath(dataset):
            raise UserError(f"{out} holds the study of {before}; give another directory with --out")
        return
    taken = [name for name in _FOREIGN if name in names]
    if taken:
        what = "a training run" if {"metrics.csv", "last.pt"} & names else "not of regression.py"
        raise UserError(f"--out {out} is {what} ({', '.join(taken)}); give another directory")


def _our_config(out) -> dict:
    """The config.json of a study, which names the program, older ones by their flags; of anything else empty."""
    try:
        config = json.loads((out / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(config, dict) or (out / "metrics.csv").exists():
        return {}
    ours = config.get("program") == PROGRAM or ({"l2", "max_iter", "condition"} <= config.keys())
    return config if ours else {}


def write(out, args, dataset, runs):
    """results.csv, config.json and the plots; plots of an earlier study in the same place go."""
    from . import plots, table

    with open(out / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(runs[0]["row"]))
        writer.writeheader()
        writer.writerows(run["row"] for run in runs)
    (out / "config.json").write_text(json.dumps({"program": PROGRAM, **vars(args)}, indent=2) + "\n")
    for path in out.glob("*.png"):
        if _PLOT.fullmatch(path.name):
            path.unlink()

    every, runs = runs, [run for run in runs if run["row"]["status"] != "diverged"]
    plots.plot_losses(out / "losses.png", args.k)
    if not runs:
        return
    table.add_lowest(runs, args.tol, args.max_iter)
    best = table.solutions(runs)
    for l2 in dict.fromkeys(run["l2"] for run in runs):
        gone = [run for run in every if run["l2"] == l2 and run["row"]["status"] == "diverged"]
        for x in ("iterations", "seconds"):
            plots.plot_convergence(out / f"convergence-{x}-l2-{l2:g}.png", runs, l2, x, dataset.name, gone)
        if dataset.X_train.shape[1] == 2:
            here = [run for (run_l2, _), run in best.items() if run_l2 == l2]
            title = f"decision boundaries, l2 = {l2:g}"
            if not table.has_minimum(runs, l2):
                title += " (no minimum: last iterates)"
            elif not all(map(table.is_solution, here)):
                title += " (last iterates, not all at their minimum)"
            plots.plot_boundaries(out / f"boundaries-l2-{l2:g}.png", dataset, here, title)
    conditions, absent = {}, []
    for (l2, k), run in best.items():
        if table.has_minimum(runs, l2) and table.is_solution(run):
            conditions.setdefault(l2, {})[k] = run["row"]["condition"]
        elif table.has_minimum(runs, l2):
            absent.append(f"{run['objective']} l2={l2:g}")
    if conditions:
        plots.plot_condition(out / "condition.png", conditions, dataset.name, absent)
