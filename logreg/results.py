"""The table of a study, as it is printed and as its directory keeps it: results.csv, label_issues.csv and plots."""

import json
import math
import os
from contextlib import suppress

import numpy as np
import pandas as pd

from common import UserError, write_atomically

PROGRAM = "regression.py"
COLUMNS = (
    ("objective", 10), ("l2", 7), ("optimizer", 14), ("iterations", 10), ("seconds", 9), ("value", 11),
    ("train %", 7), ("test %", 7), ("margin", 9), ("||w||", 9), ("cond(H)", 9),
)  # fmt: skip
MARKS = {"converged": "", "max_iter": ">", "stalled": "~", "diverged": "!", "no_minimum": "^"}
# What a study writes besides results.csv and config.json, and takes away when it writes there again.
PICTURES = (
    "losses.png",
    "condition.png",
    "convergence-*-l2-*.png",
    "boundaries-l2-*.png",
    "label_issues.csv",
)


def _join(cells) -> str:
    """Objective and optimiser flush left, numbers flush right."""
    aligned = (
        f"{cell:{'<' if name in ('objective', 'optimizer') else '>'}{width}}"
        for cell, (name, width) in zip(cells, COLUMNS, strict=True)
    )
    return "  ".join(aligned).rstrip()


def header() -> str:
    """The line of column names."""
    return _join([name for name, _ in COLUMNS])


def line(row) -> str:
    """A line of the table, with the mark of its status before the iterations."""
    cells = (
        row["objective"], f"{row['l2']:g}", row["optimizer"], f"{MARKS[row['status']]}{row['iterations']}",
        f"{row['seconds']:.4f}", f"{row['value']:.5g}", f"{100 * row['train_accuracy']:.2f}",
        f"{100 * row['test_accuracy']:.2f}", f"{row['margin']:.2e}", f"{row['norm']:.4g}",
        "-" if math.isnan(row["condition"]) else f"{row['condition']:.4g}",
    )  # fmt: skip
    return _join(cells)


def notes(rows, tol) -> list:
    """Lines that explain the marks and the infinities of these rows."""
    statuses = {row["status"] for row in rows}
    remarks = {
        "max_iter": f"> not reached: the gradient norm is still above {tol:g} after so many iterations",
        "stalled": "~ stalled: no lower value can be told apart in float64",
        "diverged": "! diverged",
        "no_minimum": f"^ not converged: the gradient norm fell below {tol:g}, as it would anywhere far enough out",
    }
    lines = [remark for status, remark in remarks.items() if status in statuses]
    if any(row["separable"] for row in rows):
        lines.append(
            "separable: without l2, or with next to none, there is no minimum; the loss falls to 0 while ||w|| "
            "grows without bound"
        )
    if any(row["objective"].startswith("root") for row in rows):
        lines.append(
            "root is not convex: it starts at the logistic solution of the same l2, the others start at 0"
        )
    ends = {}
    for row in (row for row in rows if row["status"] == "converged"):
        ends.setdefault((row["objective"], row["l2"]), []).append(row["value"])
    if any(max(values) - min(values) > 1e-6 for values in ends.values()):
        lines.append("root: its runs ended at different stationary points")
    if any(row["condition"] == math.inf for row in rows):
        lines.append("cond(H) inf: the Hessian is not positive definite to rounding")
    return lines


def claim(out, dataset=None):
    """Refuse the directory `out` if it holds what another program or person put there.

    With `dataset`, as typed, also if it holds the study of another one.
    """
    try:
        names = {path.name for path in out.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}; give another directory") from None
    config = {}
    with suppress(OSError, ValueError, RecursionError):
        config = json.loads((out / "config.json").read_text())
    if isinstance(config, dict) and config.get("program") == PROGRAM:
        before = str(config.get("dataset"))
        if dataset is not None and os.path.normpath(before) != os.path.normpath(dataset):
            raise UserError(f"{out} holds the study of {before}; give another directory with --out")
    elif taken := names & {"metrics.csv", "last.pt", "best.pt", "table.csv", "results.csv", "config.json"}:
        what = "a training run" if "metrics.csv" in taken else "of another program"
        raise UserError(f"--out {out} is {what} ({', '.join(sorted(taken))}); give another directory")


def solutions(runs):
    """For every objective and l2 the run that converged, or else that came nearest: {(l2, objective): run}."""
    best = {}
    for run in sorted(runs, key=lambda r: (r["row"]["status"] != "converged", r["row"]["gradient_norm"])):
        best.setdefault((run["l2"], run["row"]["objective"]), run)
    return {key: best[key] for key in dict.fromkeys((r["l2"], r["row"]["objective"]) for r in runs)}


def label_issues(dataset, runs):
    """The training samples, the most doubtful label first, by the root objective; None without a root run.

    Of the smallest k, as typed first, and the smallest l2 with a minimum. The quality of a label is its
    probability under softmax((1 − 1/k) z), the correction under which root is a proper score.

    Returns
    -------
    frame : DataFrame or None
        ``index`` of the sample in the data set, from 0, its ``label``, the ``predicted`` one, ``quality``.
    run : dict or None
        The run that judged.
    """
    rooted = [run for run in runs if run["loss"] == "root" and run["row"]["status"] != "diverged"]
    if not rooted:
        return None, None
    rooted = [run for run in rooted if run["k"] == rooted[0]["k"]]
    run = min(rooted, key=lambda r: (r["row"]["separable"], r["l2"], r["row"]["value"]))
    z = run["problem"].scores(run["result"].w)
    z = (1 - 1 / run["k"]) * (np.vstack([np.zeros_like(z), z]) if len(z) == 1 else z)
    quality = np.exp(z - np.logaddexp.reduce(z, axis=0))[dataset.y_train, np.arange(len(dataset.y_train))]
    names = np.array(dataset.classes, dtype=object)
    frame = pd.DataFrame(
        {
            "index": dataset.index,
            "label": names[dataset.y_train],
            "predicted": names[z.argmax(axis=0)],
            "quality": quality,
        }
    )
    return frame.sort_values("quality", kind="stable"), run


def write(out, args, dataset, runs):
    """Write the files of a study; those of an earlier one in the same place go. Returns a line, or none."""
    from . import plots

    def save(name, text):
        write_atomically(out / name, lambda file: file.write(text.encode(errors="backslashreplace")))

    for path in [path for pattern in PICTURES for path in out.glob(pattern)]:
        path.unlink()
    save("results.csv", pd.DataFrame([run["row"] for run in runs]).to_csv(index=False))
    save("config.json", json.dumps({"program": PROGRAM, **vars(args)}, indent=2) + "\n")
    issues, judge = label_issues(dataset, runs)
    if issues is not None:
        save("label_issues.csv", issues.to_csv(index=False))
    plots.plot_losses(out / "losses.png", args.k)
    drawn = [run for run in runs if run["row"]["status"] != "diverged"]
    best = solutions(drawn)
    for l2 in dict.fromkeys(run["l2"] for run in drawn):
        here = [run for run in runs if run["l2"] == l2]
        for x in ("iterations", "seconds"):
            plots.plot_convergence(
                out / f"convergence-{x}-l2-{l2:g}.png", here, x, f"{dataset.name}, l2 = {l2:g}"
            )
    arrived = [run for run in best.values() if run["row"]["status"] == "converged"]
    if arrived:
        plots.plot_condition(out / "condition.png", arrived, dataset.name)
    if issues is None:
        return "label_issues.csv is left out: it needs a run of root, so a --k above 1"
    judge = f"{judge['row']['objective']} l2={judge['l2']:g}"
    return f"label_issues.csv: the training labels, most doubtful first, by {judge}"
