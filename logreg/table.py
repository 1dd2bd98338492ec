"""The table of ``regression.py``: one line a run, and what its numbers do not say by themselves."""

import math

COLUMNS = (
    ("objective", 10), ("l2", 7), ("optimizer", 14), ("iterations", 10), ("seconds", 9), ("value", 11),
    ("train %", 7), ("test %", 7), ("margin", 9), ("||w||", 9), ("cond(H)", 9),
)  # fmt: skip


STOPPED = {"converged": "", "max_iter": ">", "stalled": "~", "diverged": "!"}


def _join(cells) -> str:
    """Objective and optimiser flush left, numbers flush right."""
    aligned = (
        f"{c:{'<' if i in (0, 2) else '>'}{w}}"
        for i, (c, (_, w)) in enumerate(zip(cells, COLUMNS, strict=True))
    )
    return "  ".join(aligned).rstrip()


def header() -> str:
    """The line of column names."""
    return _join([name for name, _ in COLUMNS])


def line(row) -> str:
    """A line of the table. `>`: the tolerance was not reached in so many iterations."""
    cells = (
        row["objective"],
        f"{row['l2']:g}",
        row["optimizer"],
        f"{STOPPED[row['status']]}{row['iterations']}",
        f"{row['seconds']:.4f}",
        f"{row['value']:.5g}",
        f"{100 * row['train_accuracy']:.2f}",
        f"{100 * row['test_accuracy']:.2f}",
        f"{row['margin']:.2e}",
        f"{row['norm']:.4g}",
        "-" if math.isnan(row["condition"]) else f"{row['condition']:.4g}",
    )
    return _join(cells)


def notes(rows, tol) -> list:
    """Lines that explain the marks and the infinities of these rows."""
    statuses = {row["status"] for row in rows}
    remarks = {
        "max_iter": f"> not reached: the gradient norm is still above {tol:g} after so many iterations",
        "stalled": "~ stalled: no lower value can be told apart in float64",
        "diverged": "! diverged",
    }
    lines = [remark for status, remark in remarks.items() if status in statuses]
    if any(row["l2"] == 0 for row in rows) and any(row["margin"] > 0 for row in rows):
        lines.append(
            "separable: a margin is positive, so without l2 there is no minimum and ||w|| has no bound"
        )
    if any(row["condition"] == math.inf for row in rows):
        lines.append("cond(H) inf: flat to rounding in a direction that the data determine")
    return lines


def has_minimum(runs, l2) -> bool:
    """False where some weights separate the data and nothing holds them back."""
    return l2 > 0 or all(run["row"]["margin"] <= 0 for run in runs)


def add_lowest(runs):
    """The best value known for every objective; 0, its infimum, where it has no minimum."""
    for run in runs:
        alike = [r for r in runs if (r["k"], r["l2"]) == (run["k"], run["l2"])]
        values = [v for r in alike for v in r["result"].values if math.isfinite(v)]
        run["lowest"] = min(values) if has_minimum(runs, run["l2"]) else 0.0


def solutions(runs):
    """For every objective and l2 the run with the smallest final gradient.

    Without a minimum iterates of different optimisers are not comparable: the last optimiser's are taken.
    """
    best = {}
    for run in runs:
        key = run["l2"], run["k"]
        better = key in best and run["row"]["gradient_norm"] < best[key]["row"]["gradient_norm"]
        if key not in best or better or not has_minimum(runs, run["l2"]):
            best[key] = run
    return best
