"""Logistic regression with rooted objectives: full batch, float64, convex, so that claims can be checked.

    python regression.py                                          the synthetic study, with its plots
    python regression.py --dataset wine --k 3 10 --l2 1e-3        one of scikit-learn's data sets
    python regression.py --dataset FILE.csv --target diagnosis    your own

Every objective (logistic, and rlo for each k) meets every l2 and every optimiser; a row is printed as soon as
it is known. Objectives and optimisers are in `logreg/estimator/`.
"""

import functools
import math
import os
import sys
from pathlib import Path

from common import EXIT_DIVERGED, EXIT_USAGE, UserError
from flags import regression_parser
from logreg import LARGEST_HESSIAN, NAMES, STEPPED


def parse_args(argv=None):
    """The flags, and lines about those that have no effect."""
    parser = regression_parser(__doc__)
    args, typed = parser.parse_typed(argv)
    args.k, args.l2 = list(dict.fromkeys(args.k)), list(dict.fromkeys(args.l2))
    args.optimizer = list(dict.fromkeys(args.optimizer))
    args.lr = list(dict.fromkeys(args.lr or [None]))
    for name in ("dataset", "target", "test_file", "data_dir", "out"):
        if getattr(args, name) == "":  # an unset variable of the shell, as a rule
            parser.error(f"--{name.replace('_', '-')} is empty: give it a value, or leave it out")

    def flags(*names):
        return ", ".join(f"--{name.replace('_', '-')}" for name in names if name in typed)

    if args.dataset in NAMES or args.dataset.startswith("openml:"):
        misplaced = flags("test_file", "target", "header", "sep", "decimal", "drop")
        if misplaced:
            parser.error(f"{misplaced} goes with a file as --dataset, not with {args.dataset}")
    idle = [
        (args.dataset != "synthetic" and flags("n", "d", "margin", "condition"), "synthetic data only"),
        (args.test_file is not None and flags("test_size"), "a file without --test-file"),
        (not set(STEPPED) & set(args.optimizer) and flags("lr"), "gd, nesterov and normalised"),
        ("polyak" not in args.optimizer and flags("fmin"), "polyak"),
        (not any(args.l2) and flags("l2_scaled"), "--l2 above 0"),
    ]
    if "polyak" in args.optimizer and args.fmin in (None, 0) and any(args.l2):
        parser.error("polyak: with l2 the minimum is above 0: give --fmin solve, --fmin VALUE or --l2 0")
    return args, [f"without effect: {names} (for {what})" for names, what in idle if names]


def make_runs(args):
    """Every (objective, l2, optimiser, step) asked for, as dicts; logistic first."""
    for l2 in args.l2:
        for index, k in [(None, None), *enumerate(args.k)]:
            for optimizer in args.optimizer:
                for lr in args.lr if optimizer in STEPPED else [None]:
                    label = optimizer if lr is None else f"{optimizer} lr={lr:g}"
                    yield {
                        "index": index,
                        "k": k,
                        "l2": l2,
                        "method": optimizer,
                        "optimizer": label,
                        "lr": lr,
                    }


def separability(dataset):
    """``none``, ``quasi-separable``, ``separable`` or ``unknown``: is there a minimum without a penalty?"""
    from logreg.estimator.objectives import Objective
    from logreg.estimator.optimizers import minimize
    from logreg.estimator.separation import separation_at

    problem = Objective(dataset.X_train, dataset.y_train, len(dataset.classes))
    return separation_at(problem, minimize("lbfgs", problem, tol=1e-8, max_iter=1000).w)


def execute(run, dataset, args, separation):
    """Add the `problem`, its `result` and the table's `row` to a run; `separation()` is that of the data."""
    from tqdm import tqdm

    from logreg.estimator.objectives import Objective
    from logreg.estimator.optimizers import minimize
    from logreg.table import ENDLESS

    problem = Objective(dataset.X_train, dataset.y_train, len(dataset.classes), k=run["k"], l2=run["l2"])
    if args.l2_scaled:
        problem.l2 *= problem.curvature_over_logistic()
    fmin = args.fmin or 0.0
    if run["method"] == "polyak" and fmin == "solve":
        solver = "newton" if problem.size <= LARGEST_HESSIAN else "lbfgs"
        fmin = min(minimize(solver, problem, tol=args.tol, max_iter=args.max_iter).values)
    description = f"{problem.name} l2={run['l2']:g} {run['optimizer']}"
    # disable=None: only on a terminal
    with tqdm(total=args.max_iter, desc=description, leave=False, disable=None, delay=0.5) as bar:
        result = minimize(
            run["method"], problem, tol=args.tol, max_iter=args.max_iter, lr=run["lr"], fmin=fmin,
            on_iterate=bar.update,
        )  # fmt: skip
    # Where the loss falls for ever its gradient does, too: a small one is no sign of a minimum, unless the
    # penalty's own part of it is large enough to be seen.
    unseen = result.status == "converged" and problem.l2 * problem.norm(result.w) <= args.tol
    kind = separation() if unseen or not run["l2"] else ""
    step = run["lr"]
    if step is None and run["method"] in STEPPED:
        step = 1 / (problem.relative_curvature() if run["method"] == "normalised" else problem.lipschitz())
    dense = problem.size <= LARGEST_HESSIAN and result.status != "diverged"
    row = {
        "objective": problem.name,
        "l2": run["l2"],
        "optimizer": run["optimizer"],
        "penalty": problem.l2,
        "step": "" if step is None else step,
        "status": "no_minimum" if unseen and kind in ENDLESS else result.status,
        "iterations": result.iterations,
        "seconds": result.seconds[-1],
        "value": result.values[-1],
        "gradient_norm": result.gradient_norms[-1],
        "train_accuracy": problem.accuracy(result.w, dataset.X_train, dataset.y_train),
        "test_accuracy": problem.accuracy(result.w, dataset.X_test, dataset.y_test),
        "margin": problem.smallest_margin(result.w),
        "norm": problem.norm(result.w),
        "condition": problem.condition_number(result.w) if dense else math.nan,
        "separation": kind,
    }
    run.update(objective=problem.name, problem=problem, result=result, row=row)


def main(argv=None) -> int:
    args, notes = parse_args(argv)
    # After parsing: --help and wrong usage should not wait for torch and scikit-learn
    import numpy as np

    from logreg import datasets, results
    from logreg.readers import Told

    told = Told(args.target, {"yes": True, "no": False}.get(args.header), args.sep, args.decimal, args.drop)
    try:
        if args.out:  # before the data, which may take minutes
            results.claim(args.out)
        dataset = datasets.load(
            args.dataset, data_dir=args.data_dir, test_file=args.test_file, told=told,
            test_size=args.test_size, seed=args.seed, n=args.n, d=args.d, margin=args.margin,
            condition=args.condition,
        )  # fmt: skip
        classes, features = len(dataset.classes), dataset.X_train.shape[1]
        parameters = (1 if classes == 2 else classes) * (features + 1)
        if "newton" in args.optimizer and parameters > LARGEST_HESSIAN:
            raise UserError(
                f"newton would need a Hessian of {parameters} × {parameters}; leave it out of --optimizer"
            )
        slug = dataset.name.replace(":", "-").replace("/", "-")
        out = Path(args.out or f"./runs/regression-{slug}")
        results.claim(out, None if args.out else args.dataset)
        out.mkdir(parents=True, exist_ok=True)
        with np.errstate(all="ignore"):  # numbers at the end of float64: the table shows what came of them
            return study(args, dataset, out, notes)
    except UserError as error:
        mistake = error
    except BrokenPipeError:
        raise
    except OSError as error:
        mistake = f"{error}; give another file or directory"
    except MemoryError as error:
        mistake = f"out of memory ({error}); use fewer samples or features"
    print(f"regression.py: error: {' '.join(str(mistake).split())}", file=sys.stderr)
    return EXIT_USAGE


def study(args, dataset, out, notes) -> int:
    """Make every run, print the table and write the results; the exit code."""
    from logreg import results, table

    print(f"{dataset}; tolerance {args.tol:g}, seed {args.seed}")
    for line in [*dataset.understood, *notes]:
        print(line)
    print(table.header())
    runs = list(make_runs(args))
    separation = functools.cache(lambda: separability(dataset))
    for run in runs:
        execute(run, dataset, args, separation)
        print(table.line(run["row"]), flush=True)
    for note in table.notes([run["row"] for run in runs], args.tol):
        print(note)
    if "polyak" in args.optimizer and not args.fmin and separation() in ("none", "quasi-separable"):
        print("polyak: F* = 0 is below what these data reach, so its steps stay too long; give --fmin solve")
    if isinstance(args.fmin, float) and args.fmin:
        print(
            f"polyak: --fmin {args.fmin:g} was F* of every objective; their minima differ, --fmin solve finds each"
        )
    results.write(out, args, dataset, runs)
    print(f"table and plots · {out}")

    diverged = [run for run in runs if run["row"]["status"] == "diverged"]
    if diverged:
        first = diverged[0]
        problem = first["problem"]
        advice = {
            "polyak": "F* is too low: give --fmin solve",
            "normalised": f"a step of 1/c = {1 / problem.relative_curvature():.3g} is safe",
        }.get(first["method"]) or f"a step of 1/L = {1 / problem.lipschitz():.3g} is safe"
        print(
            f"regression.py: {first['objective']} diverged with {first['optimizer']} after "
            f"{first['row']['iterations']} iterations ({len(diverged)} of {len(runs)} runs); {advice}",
            file=sys.stderr,
        )
        return EXIT_DIVERGED
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal need not know every character
    try:
        code = main()
        sys.stdout.flush()  # here, where a pipe that nobody reads is no surprise
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # `regression.py | head`: nobody reads on; Python must not complain about it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
