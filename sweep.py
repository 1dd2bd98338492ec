#!/usr/bin/env python
"""Run train.py over a grid of losses, k, m, seeds and more: what is missing starts, what was stopped goes on.

python sweep.py --loss ce root rlo --k 2 3 8 --seed 0 1 2 -- --dataset digits --net resnet18 --epochs 10
python sweep.py --loss root --k 1.5 3 --label-noise 0 0.4 --dry-run -- --net vit_tiny
python sweep.py --loss ce root --seed 0 1 2 --lines lines.txt -- --dataset cifar10
xargs -d '\\n' -n 1 -P 4 sh -c < lines.txt                      one line a run, for any cluster
sbatch --array=1-6 --wrap 'sh -c "$(sed -n ${SLURM_ARRAY_TASK_ID}p lines.txt)"'
"""

import csv
import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common import UserError, write_atomically
from engine.cli import Parser, number, one_line_errors
from engine.run_directory import RunDirectory, run_name
from flags import OF_THE_LOSS, parse_train, train_parser
from losses import loss_names, loss_parameters

OURS = {"out", "run_name", "resume", "eval_only", "list_nets", "quick"}  # set here for every run, or never
# Every flag of train.py that takes a value may have several here. Loops nest in this order, the last one turns
# fastest; the others come before them.
FASTEST = ("dataset", "net", "label-noise", "opt", "lr", "loss", "k", "m")
_VALUED = [
    action.option_strings[0].removeprefix("--")
    for action in train_parser()._actions
    if action.nargs is None and action.dest not in OURS
]
GRID = (*sorted(name for name in _VALUED if name not in FASTEST), *FASTEST)


@dataclass
class Job:
    """A run: its flags as words, and as train.py reads them."""

    words: list[str]
    flags: dict

    @property
    def name(self) -> str:
        return self.flags["run_name"]

    @property
    def path(self) -> Path:
        return Path(self.flags["out"]) / self.name

    def is_finished(self) -> bool:
        """Whether metrics.csv has the row of the last epoch, or of the last of --max-steps."""
        try:
            with open(self.path / "metrics.csv") as file:
                last = list(csv.DictReader(file))[-1]
            end = self.flags["max_steps"]
            return int(last["epoch"]) >= self.flags["epochs"] or 0 < end <= int(last["step"])
        except (OSError, ValueError, TypeError, LookupError, csv.Error):
            return False  # or damaged: train.py says how

    def is_in_use(self) -> bool:
        """Whether a live training holds the run directory."""
        if self.path.is_dir():
            try:
                RunDirectory(self.path).close()
            except UserError:
                return True
        return False


def build_parser():
    parser = Parser("sweep.py", __doc__)
    add = parser.add_argument
    why = "m scales the loss, and Adam divides the gradient's scale out again: its runs would be the same"
    helps = {"k": "of root and rlo; other losses run once", "m": f"likewise; several need --opt sgd: {why}"}
    # fmt: off
    for name in GRID:
        add(f"--{name}", nargs="+", metavar="V", help=helps.get(name, "as in train.py"))
    add("--sweep-m-under-adam", action="store_true", help="several --m all the same")
    add("--out", default="./runs", metavar="DIR", help="where the run directories and their logs are")
    add("--jobs", type=number(int, 1, 1024), default=1, metavar="N",
        help="runs at a time, which share the cores unless OMP_NUM_THREADS is set")
    add("--dry-run", action="store_true", help="print the commands, and run nothing")
    add("--lines", metavar="FILE", help="write a command a line to FILE, and run nothing")
    # fmt: on
    return parser


def parse_args(argv=None):
    """The flags; what stands behind ``--`` goes to every run as it is."""
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    parser = build_parser()
    args = parser.parse_args(words[:cut])
    if args.lines == "":  # an unset variable of the shell, as a rule
        parser.error("--lines is empty: give it a value, or leave it out")
    args.rest = words[cut + 1 :]
    return args


def make_jobs(args):
    """The runs of the grid, each checked by train.py's own parser.

    Raises
    ------
    UserError
        If the grid makes no sense; what train.py would refuse, it refuses itself, with its own line.
    """
    common, typed = parse_train(args.rest)
    given = {name: getattr(args, name.replace("-", "_")) or [None] for name in GRID}
    twice = OURS | {name.replace("-", "_") for name in GRID if given[name] != [None]}
    for name in sorted(typed & twice):
        raise UserError(f"--{name.replace('_', '-')} cannot stand behind --: the sweep sets it")
    several_m = len(set(given["m"])) > 1 and not args.sweep_m_under_adam
    jobs = {}
    for values in itertools.product(*given.values()):
        chosen = dict(zip(GRID, values, strict=True))
        loss = (chosen["loss"] or common.loss).lower()
        own = loss_parameters(loss) if loss in loss_names() else ()  # train.py's own parser refuses it below
        chosen |= {name: None for name in OF_THE_LOSS if name in chosen and name not in own}
        if "m" in own and several_m and (chosen["opt"] or common.opt) != "sgd":
            raise UserError(
                "several --m need --opt sgd: Adam does not see m, its runs would be the same "
                "(--sweep-m-under-adam makes them)"
            )
        words = [word for name, value in chosen.items() if value is not None for word in (f"--{name}", value)]
        words = [*args.rest, *words, "--out", args.out]
        words += ["--run-name", run_name(vars(parse_train(words)[0])), "--resume", "auto"]
        job = Job(words, vars(parse_train(words)[0]))
        if jobs.setdefault(job.name, job).flags != job.flags:  # equal ones: ce comes once for each k
            raise UserError(f"two runs would be called {job.name}: sweep them with an --out each")
    return list(jobs.values())


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors("sweep.py"):
        sys.exit(sweep(args))


def sweep(args):
    """Write the commands of the runs that are not finished, or run them. Returns the exit code."""
    jobs = make_jobs(args)
    todo = [job for job in jobs if not job.is_finished()]
    count = f"{len(jobs)} runs, {len(jobs) - len(todo)} of them finished"
    text = "".join(f"{shlex.join(['python', 'train.py', *job.words])}\n" for job in todo)
    if args.lines:
        try:
            write_atomically(Path(args.lines), lambda file: file.write(os.fsencode(text)))
        except UserError as error:
            raise UserError(f"{error}; give another --lines") from None
        except (OSError, ValueError):
            raise UserError(f"{args.lines} is no name for a file; give another --lines") from None
        print(count, file=sys.stderr)
    elif args.dry_run:
        print(text, end="")
        print(count, file=sys.stderr)
    else:
        make_folders(todo)
        print(count, file=sys.stderr)
        return run_all(todo, args.jobs)
    return 0


def make_folders(todo):
    """Where the runs and their logs go."""
    for folder in {job.path.parent for job in todo}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot use --out {folder}: {error.strerror}; give another directory") from None


def run_all(todo, at_a_time):
    """Run the jobs, `at_a_time` together. Returns 0, 1 if one failed, or 143 or 130 if stopped."""
    environment = {**os.environ}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_a_time)))
    signals, told, running, failed = [], 0, {}, []
    for number_ in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number_, lambda n, _: signals.append(n))
    waiting = list(todo)

    def report(job, what):
        print(f"{len(todo) - len(waiting) - len(running)}/{len(todo)}  {job.name}  {what}", flush=True)

    while running or (waiting and not signals):
        while waiting and not signals and len(running) < at_a_time:
            job = waiting.pop(0)
            if job.is_in_use():
                report(job, "skipped: another process is training it")
                continue
            try:
                running[start(job, environment)] = job
            except OSError as error:  # no room for its log, or for another process
                failed.append(job)
                report(job, error.strerror)
        for number_ in signals[told:]:  # each run saves and ends; told again, it does not wait for the step
            told += 1
            for process in running:
                process.send_signal(number_)
        for process in [p for p in running if p.poll() is not None]:
            job = running.pop(process)
            if process.returncode and not signals:
                failed.append(job)
            exit_code = f"exit {process.returncode}: " if process.returncode else ""
            report(job, exit_code + last_line(job))
        time.sleep(0.1)
    if signals:
        left = sum(not job.is_finished() for job in todo)
        print(f"stopped: the same command goes on; {left} of {len(todo)} runs are left")
        return 128 + signals[0]
    for job in failed:
        print(f"sweep.py: failed: {job.name}, see {job.path}.log", file=sys.stderr)
    return 1 if failed else 0


def start(job, environment):
    """train.py with the job's flags, in the background; what it says goes to the end of the job's log."""
    script = Path(__file__).resolve().with_name("train.py")
    with open(f"{job.path}.log", "ab") as log:
        # In a session of its own, a Ctrl-C reaches it once, from here, and not from the terminal as well.
        return subprocess.Popen(
            [sys.executable, str(script), *job.words],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def last_line(job):
    """What the run said last."""
    lines = Path(f"{job.path}.log").read_text(errors="replace").splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    main()
