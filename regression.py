"""Logistic regression with rooted objectives: full batch and float64, so that claims can be checked.

    python regression.py                                          the synthetic study, with its plots
    python regression.py --dataset wine --k 3 10 --l2 1e-3        one of scikit-learn's data sets
    python regression.py --dataset FILE.csv --target diagnosis    your own

Every objective (logistic, and rlo and root for each k) meets every l2 and every optimiser; a row is printed as
soon as it is known. Objectives and optimisers are in `logreg/estimator/`.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves it out

from common import EXIT_DIVERGED, Parser, UserError, number, one_line_errors
from logreg import LARGEST_HESSIAN, NAMES, OPTIMIZERS, STEPPED

SEPARATORS = {
    "comma": ",",
    "semicolon": ";",
    "tab": "\t",
    "\\t": "\t",
    "bar": "|",
    "blank": " ",
    "blanks": " ",
}


def separator(text: str) -> str:
    """An argparse type: what stands between two cells, itself or its name."""
    mark = SEPARATORS.get(text.lower(), text)
    if len(mark) != 1 or mark.isalnum() or mark in "\"'+-._\r\n" or not (mark.isprintable() or mark == "\t"):
        raise argparse.ArgumentTypeError(
            f"must be one character, or one of {', '.join(SEPARATORS)}, got {text!r}"
        )
    return mark


def regression_parser(documentation: str | None = __doc__) -> Parser:
    """The flags, in the groups of --help."""
    parser = Parser("regression.py", documentation)
    positive = number(float, 0, above=True)

    # fmt: off
    data = parser.add_argument_group("data").add_argument
    data("--dataset", default="synthetic", metavar="NAME",
         help=f"{', '.join(NAMES)}, openml:<name>, or a .csv, .data or .svm file")
    data("--test-file", metavar="FILE", help="the test part; its columns are found by name (default: a "
         "stratified split)")
    data("--test-size", type=number(float, 0, 1, above=True, below=True), default=0.25, metavar="R",
         help="share of samples that is split off")
    data("--data-dir", default="./datasets", metavar="DIR", help="where downloads are kept")

    table = parser.add_argument_group("files of --dataset and --test-file").add_argument
    table("--target", metavar="COLUMN", help="the classes' column: its name, or index from 0 (default: the last)")
    table("--drop", nargs="+", default=[], metavar="COLUMN", help="columns to leave out, by name or index")
    table("--header", choices=("yes", "no"),
          help="does the first line name the columns (default: yes; refused if it looks like data)")
    table("--sep", type=separator, metavar="C",
          help="a character, or comma, semicolon, tab, bar, blanks (default: comma)")
    table("--decimal", choices=(".", ","), metavar="./,", help="mark of fractions (default: a point)")

    made = parser.add_argument_group("synthetic data").add_argument
    made("--n", type=number(int, 2), default=500, help="samples")
    made("--d", type=number(int, 1), default=2, help="features")
    made("--margin", type=number(float, 0), default=0.0, help="0: overlapping classes; > 0: separable")
    made("--condition", type=number(float, 1), default=10.0, help="largest over smallest variance")

    goal = parser.add_argument_group("objectives").add_argument
    goal("--k", type=positive, nargs="+", default=[2.0, 3.0, 5.0, 10.0], help="roots of rlo and, above 1, of root")
    goal("--l2", type=number(float, 0), nargs="+", default=[0.0, 1e-3], help="penalties l2/2 ||W||^2")

    how = parser.add_argument_group("optimisers").add_argument
    how("--optimizer", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS), metavar="NAME",
        help=", ".join(OPTIMIZERS))
    how("--lr", type=positive, nargs="+", help="steps of gd and nesterov (default: 1/L of the data)")
    how("--tol", type=positive, default=1e-8, help="done at this gradient norm")
    how("--max-iter", type=number(int, 1), default=10000, help="iterations at most")

    run = parser.add_argument_group("run").add_argument
    run("--seed", type=number(int, 0, 2**32 - 1), default=0, help="of synthetic data and of the split")
    run("--out", metavar="DIR",
        help="directory for the table and plots (default: ./runs/regression-<dataset>)")
    # fmt: on
    return parser


def parse_args(argv=None):
    """The flags, and lines about those that have no effect."""
    parser = regression_parser()
    args, typed = parser.parse_typed(argv)
    args.k, args.l2, args.optimizer, args.lr = (
        list(dict.fromkeys(values)) for values in (args.k, args.l2, args.optimizer, args.lr or [None])
    )
    for name in ("dataset", "target", "test_file", "data_dir", "out"):
        if getattr(args, name) == "":  # an unset variable of the shell, as a rule
            parser.error(f"--{name.replace('_', '-')} is empty: give it a value, or leave it out")

    def flags(*names):
        return ", ".join(f"--{name.replace('_', '-')}" for name in names if name in typed)

    if args.dataset in NAMES or args.dataset.startswith("openml:"):
        misplaced = flags("test_file", "target", "header", "sep", "decimal", "drop")
        if misplaced:
            parser.error(f"{misplaced} goes with a file as --dataset, not with {args.dataset}")
    if args.decimal == "," and args.sep in (None, ","):
        parser.error("--decimal , needs another mark between the cells: give --sep, as in --sep semicolon")
    idle = [
        (args.dataset != "synthetic" and flags("n", "d", "margin", "condition"), "synthetic data only"),
        (args.test_file is not None and flags("test_size"), "a file without --test-file"),
        (not set(STEPPED) & set(args.optimizer) and flags("lr"), "gd and nesterov"),
    ]
    return args, [f"without effect: {names} (for {what})" for names, what in idle if names]


def load(args):
    """The data set that the flags name."""
    from logreg import datasets
    from logreg.tables import Rule

    header = {"yes": True, "no": False}.get(args.header)
    return datasets.load(
        args.dataset, data_dir=args.data_dir, test_file=args.test_file, test_size=args.test_size, seed=args.seed,
        rule=Rule(args.sep, header, args.decimal, args.target, tuple(args.drop)),
        n=args.n, d=args.d, margin=args.margin, condition=args.condition,
    )  # fmt: skip


def make_runs(args):
    """Every (objective, l2, optimiser, step) asked for, as dicts; logistic first, root last."""
    ks = list(enumerate(args.k))
    goals = [("logistic", 0, None), *(("rlo", *k) for k in ks), *(("root", *k) for k in ks if k[1] > 1)]
    for l2 in args.l2:
        for loss, index, k in goals:
            for method in args.optimizer:
                for lr in args.lr if method in STEPPED else [None]:
                    label = method if lr is None else f"{method} lr={lr:g}"
                    run = {"loss": loss, "index": index, "k": k, "l2": l2}
                    yield run | {"method": method, "optimizer": label, "lr": lr}


def start_of(run, earlier):
    """Where a run begins: root, which is not convex, at the logistic solution of its l2, others at zero (None)."""
    if run["loss"] != "root":
        return None
    logistic = [other for other in earlier if (other["loss"], other["l2"]) == ("logistic", run["l2"])]
    return min(logistic, key=lambda other: other["row"]["gradient_norm"])["result"].w


def execute(run, dataset, args, start=None):
    """The run with its `problem`, its `result`, and its `row` of the table."""
    from tqdm import tqdm

    from logreg.estimator.objectives import Objective
    from logreg.estimator.optimizers import minimize

    X, y = dataset.X_train, dataset.y_train
    problem = Objective(X, y, len(dataset.classes), k=run["k"], loss=run["loss"], l2=run["l2"])
    step = run["lr"]
    if step is None and run["method"] in STEPPED:
        step = 1 / problem.lipschitz()
    description = f"{problem.name} l2={run['l2']:g} {run['optimizer']}"
    # disable=None: only on a terminal
    with tqdm(total=args.max_iter, desc=description, leave=False, disable=None, delay=0.5) as bar:
        result = minimize(
            run["method"], problem, tol=args.tol, max_iter=args.max_iter, lr=step, start=start,
            on_iterate=bar.update,
        )  # fmt: skip
    margin, norm = problem.smallest_margin(result.w), problem.norm(result.w)
    # On separable data the loss falls for ever, and its gradient, too: a small one is then no sign of a minimum,
    # unless the penalty's own part of it is large enough to be seen.
    separable = margin > 0 and problem.l2 * norm <= args.tol
    dense = problem.size <= LARGEST_HESSIAN and result.status != "diverged"
    row = {
        "objective": problem.name,
        "l2": run["l2"],
        "optimizer": run["optimizer"],
        "step": step,
        "status": "no_minimum" if separable and result.status == "converged" else result.status,
        "iterations": result.iterations,
        "seconds": result.seconds[-1],
        "value": result.values[-1],
        "gradient_norm": result.gradient_norms[-1],
        "train_accuracy": problem.accuracy(result.w, X, y),
        "test_accuracy": problem.accuracy(result.w, dataset.X_test, dataset.y_test),
        "margin": margin,
        "norm": norm,
        "condition": problem.condition_number(result.w) if dense else math.nan,
        "separable": separable,
    }
    return run | {"problem": problem, "result": result, "row": row}


def main(argv=None) -> int:
    args, notes = parse_args(argv)
    with one_line_errors("regression.py", "use fewer samples or features"):
        # Here, since --help and wrong usage should not wait for the libraries.
        import numpy as np

        from logreg import results

        if args.out:  # before the data, which may take minutes
            results.claim(Path(args.out))
        dataset = load(args)
        classes, features = len(dataset.classes), dataset.X_train.shape[1]
        parameters = (1 if classes == 2 else classes) * (features + 1)
        if parameters > LARGEST_HESSIAN and "newton" in args.optimizer:
            args.optimizer.remove("newton")
            notes.append(f"newton is left out: its Hessian would be {parameters} × {parameters}")
            if not args.optimizer:
                raise UserError(f"{notes[-1]}; give another --optimizer")
        if small := [k for k in args.k if k <= 1]:
            notes.append(f"root is left out for k = {', '.join(f'{k:g}' for k in small)}: it needs k > 1")
        slug = dataset.name.replace(":", "-").replace("/", "-")
        out = Path(args.out or f"./runs/regression-{slug}")
        results.claim(out, None if args.out else args.dataset)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make {out}: {error.strerror}; give another directory with --out"
            ) from None
        with np.errstate(all="ignore"):  # numbers at the end of float64: the table shows what came of them
            study(args, dataset, out, notes)
    return 0


def study(args, dataset, out, notes):
    """Make every run, print the table and write the results; UserError if a run diverged."""
    from logreg import results

    print(f"{dataset}; tolerance {args.tol:g}, seed {args.seed}")
    for line in [dataset.summary, *notes]:
        if line:
            print(line)
    print(results.header())
    runs = []
    for run in make_runs(args):
        runs.append(execute(run, dataset, args, start_of(run, runs)))
        print(results.line(runs[-1]["row"]), flush=True)
    for line in results.notes([run["row"] for run in runs], args.tol):
        print(line)
    print(results.write(out, args, dataset, runs))
    print(f"table and plots · {out}")

    diverged = [run for run in runs if run["row"]["status"] == "diverged"]
    if diverged:
        row, problem = diverged[0]["row"], diverged[0]["problem"]
        raise UserError(
            f"{row['objective']} diverged with {row['optimizer']} after {row['iterations']} iterations "
            f"({len(diverged)} of {len(runs)} runs); a step of 1/L = {1 / problem.lipschitz():.3g} is safe",
            EXIT_DIVERGED,
        )


if __name__ == "__main__":
    sys.exit(main())
