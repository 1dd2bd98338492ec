#!/usr/bin/env python
"""Run train.py over a grid of losses, k, m, seeds and more: what is missing starts, what was stopped goes on.

python sweep.py --loss ce root rlo --k 2 3 8 --seed 0 1 2 -- --dataset digits --net resnet18 --epochs 10
python sweep.py --loss root --k 1.5 3 --label-noise 0 0.4 --dry-run -- --net vit_tiny
python sweep.py --loss ce root --seed 0 1 2 --lines lines.txt -- --dataset cifar10
xargs -P 4 -I{} sh -c '{}' < lines.txt                                       one line a run, for any cluster
sbatch --array=1-6 --wrap 'sh -c "$(sed -n ${SLURM_ARRAY_TASK_ID}p lines.txt)"'
"""

import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import train
from engine.cli import Parser, fail, number

ROOTED = ("root", "rlo")
# Flags of train.py that may have several values here, in the order of the loops: the last one turns fastest.
GRID = ("seed", "dataset", "net", "label-noise", "opt", "lr", "loss", "k", "m")


def build_parser():
    parser = Parser("sweep.py", __doc__)
    for name in GRID:
        text = {
            "k": "of root and rlo; other losses run once",
            "m": "of root and rlo; several need --opt sgd: m scales the loss, and Adam divides the gradient's "
            "scale out again, so that its runs would be the same but for rounding",
        }.get(name, "as in train.py")
        parser.add_argument(f"--{name}", nargs="+", metavar="V", help=text)
    parser.add_argument("--out", default="./runs", metavar="DIR", help="where the run directories are")
    parser.add_argument("--jobs", type=number(int, 1, 1024), default=1, metavar="N", help="runs at a time")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and run nothing")
    parser.add_argument("--lines", metavar="FILE", help="write a command a line to FILE, and run nothing")
    return parser


def parse_args(argv=None):
    """The flags; what stands behind ``--`` goes to every run as it is."""
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    args = build_parser().parse_args(words[:cut])
    args.rest = words[cut + 1 :]
    return args


def commands(args):
    """The flags of each run, as lists of words; each is checked by train.py's own parser.

    Raises
    ------
    SystemExit
        With code 2 and one line, if train.py would refuse a run.
    """
    given = {name: getattr(args, name.replace("-", "_")) or [None] for name in GRID}
    found = {}
    for values in itertools.product(*given.values()):
        chosen = dict(zip(GRID, values, strict=True))
        if (chosen["loss"] or _default(args, "loss")) not in ROOTED:
            chosen["k"] = chosen["m"] = None
        elif len(given["m"]) > 1 and (chosen["opt"] or _default(args, "opt")) != "sgd":
            fail("several --m need --opt sgd: Adam does not see m, its runs would be the same", "sweep.py")
        words = [word for name, value in chosen.items() if value is not None for word in (f"--{name}", value)]
        words = [*args.rest, *words, "--out", args.out, "--resume", "auto"]
        found[tuple(words)] = None  # ce would come once for each k
    for words in found:
        train.parse_args(list(words))
    return [list(words) for words in found]


def _default(args, name):
    return getattr(train.parse_args(args.rest)[0], name)


def main(argv=None):
    args = parse_args(argv)
    runs = commands(args)
    here = [sys.executable, str(Path(__file__).resolve().with_name("train.py"))]
    if args.dry_run or args.lines:
        text = "".join(f"{shlex.join(['python', 'train.py', *words])}\n" for words in runs)
        try:
            Path(args.lines).write_text(text) if args.lines else print(text, end="")
        except OSError as error:
            fail(f"--lines {args.lines}: {error.strerror}", "sweep.py")
        return
    sys.exit(run_all([[*here, *words] for words in runs], args.jobs))


def run_all(todo, jobs):
    """Run the commands, `jobs` at a time. Returns 0, 1 if one failed, or 143 or 130 if stopped."""
    environment = {**os.environ}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    stopped, running, failed, done = [], {}, [], 0
    for number_ in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number_, lambda n, _: stopped.append(n))
    waiting = list(todo)
    told = False
    while running or (waiting and not stopped):
        while waiting and not stopped and len(running) < jobs:
            command = waiting.pop(0)
            log = subprocess.DEVNULL if len(todo) > 1 else None
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.PIPE if log else None, text=True,
                start_new_session=True,
            )  # fmt: skip
            running[process] = command
        if stopped and not told:  # each run saves a checkpoint and ends
            told = True
            for process in running:
                process.send_signal(stopped[0])
        for process in [p for p in running if p.poll() is not None]:
            command = running.pop(process)
            error = process.stderr.read().strip() if process.stderr else ""
            done += process.returncode == 0
            if process.returncode and not stopped:
                failed.append(command)
            what = {0: "done"}.get(process.returncode, f"exit {process.returncode} {error[-300:]}")
            print(f"{done}/{len(todo)}  {shlex.join(command[2:])}  {what}", flush=True)
        time.sleep(0.1)
    if stopped:
        print(f"stopped: the same command goes on; {len(todo) - done} of {len(todo)} runs are left")
        return 128 + stopped[0]
    for command in failed:
        print(f"sweep.py: failed: {shlex.join(command[2:])}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    main()
