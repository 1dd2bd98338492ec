#!/usr/bin/env python
"""Compare trainings: which loss got where, how fast, and whether the difference is more than the seeds'.

python compare.py runs --out comparison                       every run below ./runs
python compare.py runs/a runs/b --out ab --target 90 95       epochs and seconds to 90 and 95 %
python compare.py runs --out sgd --baseline opt=adam          each group against its twin under Adam
python compare.py runs --out paper --format pdf               pictures for print; table.tex is for LaTeX
"""

import sys
from pathlib import Path

from common import UserError, may_replace, one_line_errors, write_atomically
from flags import DEFAULT_BASELINE, compare_parser

# What a comparison writes, and how that begins.
TABLES = {
    "table.md": rb"# \d+ runs in \d+ groups\n",
    "table.csv": rb"group,dataset,",
    "table.tex": rb"% needs \\usepackage{booktabs}",
}


def parse_args(argv=None):
    """The flags."""
    parser = compare_parser(__doc__)
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
    from comparison.baseline import baseline_of, changes_of
    from comparison.runs import find_runs, group_runs, read_run
    from comparison.table import tabulate
    from flags import train_parser

    parser = train_parser()
    changes = changes_of(args.baseline, parser)
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
    table = tabulate(groups, changes, args.target)

    out = Path(args.out)
    try:
        foreign = next((out / name for name in TABLES if not may_replace(out / name, TABLES[name])), None)
        if foreign:
            raise UserError(f"{foreign} exists, and is no table of compare.py; give another --out")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use --out {out}: {error.strerror}; give another directory") from None
    for note in notes:
        print(f"compare.py: {note}", file=sys.stderr)
    text = write_files(out, table, groups, args)
    print(text, end="")
    print(f"table.md, table.csv, table.tex and pictures are in {out}", file=sys.stderr)


def write_files(out, table, groups, args):
    """The tables and pictures, in place of those of an earlier comparison. Returns the table for people."""
    from comparison.plots import draw_all
    from comparison.table import NOTES, comma_separated, latex, markdown, unfinished

    text = markdown(table)
    pictures = draw_all(table, groups, out, args.format, args.baseline)
    runs = sum(len(group.runs) for group in groups)
    about = [line for line in (unfinished(groups), f"The baseline is {args.baseline}.", *NOTES) if line]
    where = ["table.md (this)", "table.csv (numbers, for pandas)", "table.tex (booktabs)", *pictures]
    pages = {
        "table.md": f"# {runs} runs in {len(groups)} groups\n\n{text}\n## How to read it\n\n"
        + "".join(f"- {line}\n" for line in about)
        + f"\n## Files in {out}\n\n"
        + "".join(f"- {name}\n" for name in where),
        "table.csv": comma_separated(table),
        "table.tex": latex(table),
    }
    for name, content in pages.items():
        data = content.encode(errors="backslashreplace")
        write_atomically(out / name, lambda file, data=data: file.write(data))
    return text + "".join(f"{line}\n" for line in about[:1] if line.startswith("†"))


def first_of(notes):
    """The first note and the number of others, as the end of an error message."""
    return f" ({notes[0]}{f'; {len(notes) - 1} more' if notes[1:] else ''})" if notes else ""


if __name__ == "__main__":
    main()
