#!/usr/bin/env python
"""Compare trainings: which loss got where, how fast, and whether the difference is more than the seeds'.

python compare.py runs --out comparison                       every run below ./runs
python compare.py runs/a runs/b --out ab --target 90 95       epochs and seconds to 90 and 95 %
python compare.py runs --out sgd --baseline opt=adam          each group against its twin under Adam
"""

import sys
from pathlib import Path

from common import UserError
from engine.cli import Parser, number, one_line_errors

DEFAULT_BASELINE = "loss=ce"
DIFFERENCE = "last − baseline, 95 % interval"
LEGEND = (
    "± is the standard deviation over seeds; in differences it is half the 95 % interval. A tie contains zero; "
    "* does not; ** still does not after Holm's correction over the table."
)
SHARES = (0.90, 0.95, 0.99)  # of the best group's last accuracy: the default targets


def parse_args(argv=None):
    """The flags."""
    parser = Parser("compare.py", __doc__)
    add = parser.add_argument
    # fmt: off
    add("runs", nargs="+", metavar="RUN_DIR", help="run directories, or folders that hold some")
    add("--out", required=True, metavar="DIR", help="where table.md, table.csv and plots go")
    add("--baseline", default=DEFAULT_BASELINE, metavar="FLAG=VALUE[,…]",
        help="what to change in a group's flags to find what it is compared with")
    add("--target", type=number(float, 0, 100), nargs="+", metavar="ACC",
        help="accuracies in percent to be reached (default: 90, 95 and 99 %% of the last accuracy of "
        "the best group with the same data and net)")
    # fmt: on
    args = parser.parse_args(argv)
    for name, values in (("RUN_DIR", args.runs), ("--out", [args.out])):
        if "" in values:  # an unset variable of the shell, as a rule
            parser.error(f"{name} is empty: give it a value")
    return args


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors("compare.py"):
        compare(args)


def compare(args):
    """Read, tabulate, draw."""
    from comparison.runs import find_runs, group_runs, read_run
    from flags import train_parser

    parser = train_parser()
    changes = changes_of(args.baseline, vars(parser.parse_args([])))
    runs, notes = [], []
    for path in find_runs(args.runs):
        try:
            runs.append(read_run(path, parser))
        except ValueError as error:
            notes.append(f"skipped {error}")
    if not runs:
        needed = "RUN_DIR must hold the config.json and metrics.csv of a training"
        raise UserError(f"no run to compare: {needed}{first_of(notes)}")
    groups, remarks = group_runs(runs)
    notes += remarks
    if not any(baseline_of(group, groups, changes) for group in groups):
        message = f"no group has a baseline with {args.baseline} and otherwise equal flags"
        if args.baseline != DEFAULT_BASELINE:
            raise UserError(f"{message}{first_of(notes)}; give another --baseline")
        notes.append(f"{message}: --baseline names another")
    rows = tabulate(groups, changes, args.target)

    from common import write_atomically
    from comparison.plots import draw_against_k, draw_against_noise, draw_curves

    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use --out {out}: {error.strerror}; give another directory") from None
    for note in notes:
        print(f"compare.py: {note}", file=sys.stderr)
    text = markdown(rows)
    for name, content in (("table.md", f"{text}\n{LEGEND}\n"), ("table.csv", comma_separated(rows))):
        data = content.encode(errors="backslashreplace")
        write_atomically(out / name, lambda file, data=data: file.write(data))
    draw_curves(groups, out / "accuracy-epochs.png", "epoch")
    draw_curves(groups, out / "accuracy-seconds.png", "seconds")
    draw_against_k(groups, out / "accuracy-k.png")
    draw_against_noise(groups, out / "accuracy-noise.png", "test_acc", "last test accuracy (%)")
    draw_against_noise(groups, out / "calibration-noise.png", "test_ece", "expected calibration error (%)")
    print(text, end="")
    print(f"table.md, table.csv and plots are in {out}", file=sys.stderr)


def first_of(notes):
    """The first note and the number of others, as the end of an error message."""
    return f" ({notes[0]}{f'; {len(notes) - 1} more' if notes[1:] else ''})" if notes else ""


def changes_of(text, flags):
    """``"loss=root,k=3"`` as a dict of flags."""
    changes = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not (name in flags and equals and value):
            raise UserError(
                f"--baseline must be flags of train.py, like loss=ce or loss=root,k=3, got {text!r}"
            )
        try:
            changes[name] = float(value)
        except ValueError:
            changes[name] = value.strip()
    return changes


def baseline_of(group, groups, changes):
    """The group that has `group`'s flags but for `changes`, or None.

    Raises
    ------
    UserError
        If several groups do.
    """
    from comparison.runs import LOSS_FLAGS

    wanted = group.flags | changes
    compared = {n for n in wanted if n not in LOSS_FLAGS or n in changes or "loss" not in changes}
    fits = [g for g in groups if all(n in g.flags and g.flags[n] == wanted[n] for n in compared)]
    if len(fits) > 1:
        labels = "; ".join(g.label for g in fits)
        raise UserError(f"--baseline fits several groups, name what tells them apart: {labels}")
    return fits[0] if fits and fits[0] is not group else None


def tabulate(groups, changes, targets):
    """A dict of column to text for each group."""
    from comparison.statistics import difference, first_at, holm, mean_and_std

    def shown(values):
        mean, std = mean_and_std(values)
        return f"{mean:.2f}" if std != std else f"{mean:.2f} ± {std:.2f}"

    last = {id(g): g.values(lambda run: run.accuracy[-1]) for g in groups}
    rows = []
    for group in groups:
        runs = list(group.runs.values())
        same = [g for g in groups if g.condition == group.condition]
        best = max(mean_and_std(last[id(g)].values())[0] for g in same)
        epochs = sorted({len(run.accuracy) for run in runs})
        of_all = "" if all(run.is_finished for run in runs) else f" of {group.flags['epochs']}"
        row = {
            "group": group.label,
            "seeds": " ".join(map(str, sorted(group.runs))),
            "epochs": "–".join(map(str, dict.fromkeys((epochs[0], epochs[-1])))) + of_all,
            "last accuracy": shown(last[id(group)].values()),
            "best accuracy": shown([max(run.accuracy) for run in runs]),
            "mean over epochs": shown([sum(run.accuracy) / len(run.accuracy) for run in runs]),
        }
        if all("test_ece" in run.columns for run in runs):
            row["calibration error"] = shown([run.columns["test_ece"][-1] for run in runs])
        goals = [(f"{t:g} %", t) for t in targets or []] or [(f"{s:.0%} of best", s * best) for s in SHARES]
        for name, target in goals:
            reached = [(run, first_at(run.accuracy, target)) for run in runs]
            reached = [(run, i) for run, i in reached if i is not None]
            of = "" if len(reached) == len(runs) else f" ({len(reached)}/{len(runs)})"
            for unit, column in (
                ("epochs", lambda r, i: r.columns["epoch"][i]),
                ("s", lambda r, i: r.seconds[i]),
            ):
                mean = mean_and_std(column(*r) for r in reached)[0] if reached else None
                row[f"{unit} to {name}"] = "–" if mean is None else f"{mean:.1f}{of}"
        against = baseline_of(group, groups, changes)
        counts = [run.test_images for run in runs if run.test_images]
        resolution = 100 / min(counts) if counts else 0.0
        row[DIFFERENCE] = difference(last[id(group)], last[id(against)], resolution) if against else ""
        if against and all("test_ece" in run.columns for g in (group, against) for run in g.runs.values()):
            ours, theirs = (g.values(lambda run: run.columns["test_ece"][-1]) for g in (group, against))
            row["calibration error − baseline"] = difference(ours, theirs)
        rows.append(row)
    for column in (DIFFERENCE, "calibration error − baseline"):
        holm([row.get(column) or None for row in rows])
    return [{name: str(value) for name, value in row.items()} for row in rows]


def markdown(rows):
    """The rows as a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([row.get(c, "") for c in columns] for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def comma_separated(rows):
    """The same as CSV."""
    import csv
    import io

    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    main()
