#!/usr/bin/env python
"""Compare trainings: which loss got where, how fast, and whether the difference is more than the seeds'.

python compare.py runs --out comparison                       every run below ./runs
python compare.py runs/a runs/b --out ab --target 90 95       epochs and seconds to 90 and 95 %
python compare.py runs --out sgd --baseline opt=adam          each group against its twin under Adam
"""

import sys
from pathlib import Path

from engine.cli import Parser, UserError, fail, number

SHARES = (0.90, 0.95, 0.99)  # of the best group's last accuracy: the default targets


def parse_args(argv=None):
    """The flags."""
    parser = Parser("compare.py", __doc__)
    add = parser.add_argument
    # fmt: off
    add("runs", nargs="+", metavar="RUN_DIR", help="run directories, or folders that hold some")
    add("--out", required=True, metavar="DIR", help="where table.md, table.csv and plots go")
    add("--baseline", default="loss=ce", metavar="FLAG=VALUE[,…]",
        help="what to change in a group's flags to find what it is compared with")
    add("--target", type=number(float, 0, 100), nargs="+", metavar="ACC",
        help="accuracies in percent to be reached (default: 90, 95 and 99 %% of the last accuracy of "
        "the best group with the same data and net)")
    # fmt: on
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    try:
        compare(args)
    except UserError as error:
        fail(error, "compare.py", error.exit_code)


def compare(args):
    """Read, tabulate, draw."""
    from comparison.runs import find_runs, group_runs, read_run

    runs = []
    for path in find_runs(args.runs):
        try:
            runs.append(read_run(path))
        except ValueError as error:
            print(f"compare.py: skipped {error}", file=sys.stderr)
    if not runs:
        raise UserError("no run to compare: RUN_DIR must hold the config.json and metrics.csv of a training")
    groups, remarks = group_runs(runs)
    for remark in remarks:
        print(f"compare.py: {remark}", file=sys.stderr)
    rows = tabulate(groups, changes_of(args.baseline), args.target)

    from comparison.plots import draw_against_k, draw_against_noise, draw_curves
    from engine.files import write_atomically

    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use --out {out}: {error.strerror}") from None
    text = markdown(rows)
    write_atomically(out / "table.md", lambda file: file.write(text.encode()))
    write_atomically(out / "table.csv", lambda file: file.write(comma_separated(rows).encode()))
    draw_curves(groups, out / "accuracy-epochs.png", "epoch")
    draw_curves(groups, out / "accuracy-seconds.png", "seconds")
    draw_against_k(groups, out / "accuracy-k.png")
    draw_against_noise(groups, out / "accuracy-noise.png", "test_acc", "last test accuracy (%)")
    draw_against_noise(groups, out / "calibration-noise.png", "test_ece", "expected calibration error (%)")
    print(text, end="")


def changes_of(text):
    """``"loss=root,k=3"`` as a dict of flags."""
    changes = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise UserError(f"--baseline must be like loss=ce or loss=root,k=3, got {text!r}")
        try:
            changes[name.strip().replace("-", "_")] = float(value)
        except ValueError:
            changes[name.strip().replace("-", "_")] = value.strip()
    return changes


def baseline_of(group, groups, changes):
    """The group that has `group`'s flags but for `changes`, or None."""
    from comparison.runs import LOSS_FLAGS

    wanted = group.flags | changes
    compared = {n for n in wanted if n not in LOSS_FLAGS or n in changes or "loss" not in changes}
    fits = [g for g in groups if all(n in g.flags and g.flags[n] == wanted[n] for n in compared)]
    return fits[0] if len(fits) == 1 and fits[0] is not group else None


def tabulate(groups, changes, targets):
    """A dict of column to text for each group."""
    from comparison.statistics import difference, first_at, mean_and_std

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
        row = {
            "group": group.label,
            "seeds": " ".join(map(str, sorted(group.runs))),
            "epochs": f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]}–{epochs[-1]}",
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
        row["last − baseline, 95 % interval"] = (
            str(difference(last[id(group)], last[id(against)])) if against else ""
        )
        if against and all("test_ece" in run.columns for g in (group, against) for run in g.runs.values()):
            ours, theirs = (g.values(lambda run: run.columns["test_ece"][-1]) for g in (group, against))
            row["calibration error − baseline"] = str(difference(ours, theirs))
        rows.append(row)
    return rows


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
