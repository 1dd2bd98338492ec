#!/usr/bin/env python
"""Compare trainings: which loss got where, how fast, and whether the difference is more than the seeds'.

python compare.py runs --out comparison                       every run below ./runs
python compare.py runs/a runs/b --out ab --target 90 95       epochs and seconds to 90 and 95 %
python compare.py runs --out sgd --baseline opt=adam          each group against its twin under Adam
python compare.py runs --out paper --format pdf               pictures for print; table.tex is for LaTeX
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves it out

from common import Parser, UserError, may_replace, number, one_line_errors, write_atomically

DEFAULT_BASELINE = "loss=ce"
# What a comparison writes, and how that begins.
TABLES = {
    "table.md": rb"# \d+ runs in \d+ groups\n",
    "table.csv": rb"group,dataset,",
    "table.tex": rb"% needs \\usepackage{booktabs}",
}


def compare_parser():
    parser = Parser("compare.py", __doc__)
    add = parser.add_argument
    # fmt: off
    add("runs", nargs="+", metavar="RUN_DIR", help="run directories, or folders that hold some")
    add("--out", required=True, metavar="DIR", help="where table.md, .csv, .tex and the pictures go")
    add("--baseline", default=DEFAULT_BASELINE, metavar="FLAG=VALUE[,…]",
        help="what to change in a group's flags to find what it is compared with")
    add("--target", type=number(float, 0, 100), nargs="+", metavar="ACC",
        help="accuracies in percent to be reached (default: 90, 95 and 99 %% of the last accuracy of "
        "the best group with the same data and net)")
    add("--format", choices=("png", "pdf", "svg"), default="png", help="of the pictures")
    # fmt: on
    return parser


def parse_args(argv=None):
    parser = compare_parser()
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
    """Read, tabulate, write, draw."""
    from comparison import plots, runs, table

    changes = table.changes_of(args.baseline)
    frame, notes = runs.read_all(args.runs)
    groups = runs.group_runs(frame)
    groups["baseline"] = table.find_baselines(groups, changes)
    if groups.baseline.isna().all():
        message = f"no group has a baseline with {args.baseline} and otherwise equal flags"
        if args.baseline != DEFAULT_BASELINE:
            raise UserError(f"{message}{runs.first_of(notes)}; give another --baseline")
        notes.append(f"{message}: --baseline names another")
    out = open_folder(args.out)
    for note in notes:
        print(f"compare.py: {note}", file=sys.stderr)
    figures = table.tabulate(frame, groups, args.target)
    tables = table.markdown(figures, groups)
    pictures = plots.draw_all(figures, frame, groups, out, args.format, args.baseline)
    about = [f"The baseline is {args.baseline}.", *table.NOTES]
    files = ["table.md (this)", "table.csv (numbers, for pandas)", "table.tex (booktabs)", *pictures]
    pages = {
        "table.md": f"# {len(frame)} runs in {len(groups)} groups\n\n{tables}\n## How to read it\n\n"
        + "".join(f"- {line}\n" for line in about)
        + f"\n## Files in {out}\n\n"
        + "".join(f"- {name}\n" for name in files),
        "table.csv": table.comma_separated(figures, groups),
        "table.tex": table.latex(figures, groups),
    }
    for name, content in pages.items():
        data = content.encode(errors="backslashreplace")
        write_atomically(out / name, lambda file, data=data: file.write(data))
    print(tables, end="")
    print(f"table.md, table.csv, table.tex and pictures are in {out}", file=sys.stderr)


def open_folder(name):
    """The directory of --out, which must hold no table of somebody else's."""
    out = Path(name).expanduser()
    try:
        foreign = next((out / name for name in TABLES if not may_replace(out / name, TABLES[name])), None)
        if foreign:
            raise UserError(f"{foreign} exists, and is no table of compare.py; give another --out")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use --out {out}: {error.strerror}; give another directory") from None
    return out


if __name__ == "__main__":
    main()
