"""The table of ``regression.py``: one line a run, and what its numbers do not say by themselves."""

import math

from . import LARGEST_HESSIAN

COLUMNS = (
    ("objective", 10), ("l2", 7), ("optimizer", 14), ("iterations", 10), ("seconds", 9), ("value", 11),
    ("train %", 7), ("test %", 7), ("margin", 9), ("||w||", 9), ("cond(H)", 9),
)  # fmt: skip


STOPPED = {"converged": "", "max_iter": ">", "stalled": "~", "diverged": "!", "no_minimum": "^"}
# Kinds of data that without a penalty leave the loss no minimum, and what is then true.
ENDLESS = {
    "separable": "the loss falls to 0 while ||w|| grows without bound",
    "quasi-separable": "along some weights the loss of some samples falls for ever and no other rises (a feature "
    "that is 0 in one class only, say); ||w|| and cond(H) grow without bound",
}


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
        "no_minimum": f"^ not converged: the gradient norm fell below {tol:g}, as it would anywhere far enough out",
    }
    lines = [remark for status, remark in remarks.items() if status in statuses]
    if any(row["status"] == "stalled" and row["optimizer"] == "polyak" for row in rows):
        lines.append("~ of polyak: F is down to --fmin")
    for kind in {row["separation"] for row in rows}:
        if kind in ENDLESS:
            lines.append(f"{kind}: without l2, or with next to none, there is no minimum; {ENDLESS[kind]}")
        elif kind == "unknown":
            lines.append("without l2: the time was too short to tell whether there is a minimum")
    if any(row["condition"] == math.inf for row in rows):
        lines.append("cond(H) inf: flat to rounding in a direction that the data determine")
    return lines


def has_minimum(runs, l2) -> bool:
    """False where some weights separate the data, were it in part, and nothing holds them back."""
    return l2 > 0 or not any(run["row"]["separation"] in ENDLESS for run in runs)


def is_solution(run) -> bool:
    """True where the run ended at a minimum, as far as float64 can tell: polyak stalls at --fmin."""
    status = run["row"]["status"]
    return status == "converged" or (status == "stalled" and run["method"] != "polyak")


def add_lowest(runs, tol, max_iter):
    """The `lowest` value of every objective: its minimum, or its infimum 0 where the classes are separable.

    Where no run got to the minimum, a solver does: against the best of runs that stopped early all of them would
    look as if they arrived. `is_minimum` is False where it did not get there either.
    """
    from .estimator.optimizers import minimize

    known = {}
    for run in runs:
        key = run["k"], run["l2"]
        if key not in known:
            alike = [r for r in runs if (r["k"], r["l2"]) == key]
            values = [v for r in alike for v in r["result"].values if math.isfinite(v)]
            found = any(map(is_solution, alike))
            if any(r["row"]["separation"] == "separable" for r in alike):
                values, found = [0.0], True
            elif not found:
                solver = "newton" if run["problem"].size <= LARGEST_HESSIAN else "lbfgs"
                best = min(alike, key=lambda r: r["row"]["gradient_norm"])
                result = minimize(
                    solver, run["problem"], tol=tol, max_iter=max(max_iter, 1000), start=best["result"].w
                )
                values += [v for v in result.values if math.isfinite(v)]
                endless = any(r["row"]["separation"] in ENDLESS for r in alike)
                found = result.status in ("converged", "stalled") and not endless
            known[key] = min(values), found
        run["lowest"], run["is_minimum"] = known[key]


def solutions(runs):
    """For every objective and l2 the run with the smallest final gradient, of those at a minimum if there are any.

    Without a minimum iterates of different optimisers are not comparable: the last optimiser's are taken.
    """
    best = {}
    for run in runs:
        key = run["l2"], run["k"]
        better = key in best and _rank(run) < _rank(best[key])
        if key not in best or better or not has_minimum(runs, run["l2"]):
            best[key] = run
    return best


def _rank(run):
    return not is_solution(run), run["row"]["gradient_norm"]
