#!/usr/bin/env python
"""Run train.py over a grid of losses, k, m, seeds and more: what is missing starts, what was stopped continues.

python sweep.py --loss ce root rlo --k 2 3 8 --seed 0 1 2 -- --dataset digits --net resnet18 --epochs 10
python sweep.py --loss root --k 1.5 3 --label-noise 0 0.4 --dry-run -- --net vit_tiny
python sweep.py --noaug off on --seed 0 1 2 --jobs 2 -- --dataset cifar10
python sweep.py --loss ce root --seed 0 1 2 --launcher submitit --slurm time=240 gpus_per_node=1 -- --dataset cifar10
python sweep.py --loss ce root --seed 0 1 2 --lines lines.txt -- --dataset cifar10
xargs -d '\\n' -n 1 -P 4 sh -c < lines.txt                      one line a run, for any cluster
sbatch --array=1-6 --wrap 'sh -c "$(sed -n ${SLURM_ARRAY_TASK_ID}p lines.txt)"'
"""

import csv
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from common import EXIT_USAGE, UserError, cores, may_replace, one_line_errors, write_atomically
from engine.run_directory import RunDirectory, contradiction, is_finished, run_name
from flags import (
    NOT_OF_THE_RUN,
    OF_THE_LOSS,
    SET_BY_SWEEP,
    WHERE_AND_HOW,
    grid_flags,
    one_name,
    parse_train,
    sweep_parser,
)
from losses import loss_names, loss_parameters


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

    def rows(self) -> list[dict]:
        """Those of metrics.csv; none if it is not there, or damaged: train.py says how."""
        try:
            with open(self.path / "metrics.csv") as file:
                return list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error):
            return []

    def is_finished(self) -> bool:
        """Whether nothing is left to train, and the final test is done."""
        try:
            return is_finished(self.flags, self.rows()) and (self.path / "report.json").exists()
        except (ValueError, TypeError, LookupError):
            return False

    def check(self) -> None:
        """Refuse, by name, a directory that holds another run: of a folder, say, whose last name is the same.

        Raises
        ------
        UserError
        """
        try:
            saved = json.loads((self.path / "config.json").read_text())
            # the same run, however far it went; a default learning rate is filled in there
            free = NOT_OF_THE_RUN | WHERE_AND_HOW | {"epochs", "max_steps"}
            free |= set(OF_THE_LOSS) - set(loss_parameters(self.flags["loss"]))
            wanted = {n: v for n, v in self.flags.items() if n not in free and (n, v) != ("lr", None)}
            other = contradiction(saved, wanted)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return  # there is none, or train.py says what is wrong with it
        if other:
            raise UserError(f"{self.path} holds another run, with {other}; give another --out")

    def progress(self) -> float:
        """The share of the run that is done, by its epochs or steps."""
        try:
            last = self.rows()[-1]
            share = int(last["epoch"]) / self.flags["epochs"]
            steps = self.flags["max_steps"]
            return min(1.0, max(share, int(last["step"]) / steps if steps else 0.0))
        except (ValueError, TypeError, LookupError):
            return 0.0

    def is_in_use(self) -> bool:
        """Whether a live training holds the run directory."""
        if self.path.is_dir():
            try:
                RunDirectory(self.path).close()
            except UserError:
                return True
        return False


def parse_args(argv=None):
    """The flags; what comes after ``--`` goes to every run as it is."""
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    parser = sweep_parser(__doc__)
    args = parser.parse_args(words[:cut])
    if args.slurm and args.launcher != "submitit":
        parser.error("--slurm is of --launcher submitit: give that too, or leave it out")
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
    grid = grid_flags()
    given = {name: getattr(args, name.replace("-", "_")) for name in grid}
    # A switch alone is on.
    given = {name: [None] if values is None else values or ["on"] for name, values in given.items()}
    twice = SET_BY_SWEEP | {name.replace("-", "_") for name in grid if given[name] != [None]}
    for name in sorted(typed & twice):
        raise UserError(f"--{name.replace('_', '-')} cannot stand behind --: the sweep sets it")
    several_m = len(set(given["m"])) > 1 and not args.sweep_m_under_adam
    jobs = {}
    for values in itertools.product(*given.values()):
        chosen = dict(zip(grid, values, strict=True))
        loss = (chosen["loss"] or common.loss).lower()
        own = loss_parameters(loss) if loss in loss_names() else ()  # train.py's own parser refuses it below
        chosen |= {name: None for name in OF_THE_LOSS if name in chosen and name not in own}
        chosen |= {"k-end": None} if loss != "root" else {}
        if "m" in own and several_m and (chosen["opt"] or common.opt) != "sgd":
            raise UserError(
                "several --m need --opt sgd: Adam does not see m, its runs would be the same "
                "(--sweep-m-under-adam makes them)"
            )
        words = [*args.rest]
        for name, value in chosen.items():
            if value is not None and not (grid[name] and value == "off"):
                words += [f"--{name}"] if grid[name] else [f"--{name}", value]
        words += ["--out", args.out]
        words += ["--run-name", run_name(vars(parse_train(words)[0])), "--resume", "auto"]
        job = Job(words, vars(parse_train(words)[0]))
        job.flags["dataset"] = one_name(job.flags["dataset"])
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
    for job in jobs:
        job.check()
    todo = [job for job in jobs if not job.is_finished()]
    count = f"{len(jobs)} runs, {len(jobs) - len(todo)} of them finished"
    text = "".join(f"{shlex.join(['python', 'train.py', *job.words])}\n" for job in todo)
    if args.lines:
        try:
            lines = Path(args.lines)
            if not may_replace(lines, b"python train.py"):
                raise UserError(f"{lines} exists, and holds no lines of sweep.py")
            write_atomically(lines, lambda file: file.write(os.fsencode(text)))
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
        if args.launcher == "submitit":
            return submit_all(todo, args)
        return run_all(todo, args.jobs)
    return 0


def submit_all(todo, args):
    """A Slurm array with a task for each job. Returns 0, or 1 if one failed that was waited for."""
    from engine.launch import submit

    if not todo:
        return 0
    failed = submit([command(job) for job in todo], Path(args.out) / "slurm", dict(args.slurm or ()))
    for i in failed:
        print(f"sweep.py: failed: {todo[i].name}", file=sys.stderr)
    return 1 if failed else 0


class Status:
    """The line ``3 done · 2 running · 7 left · about 12 min``: refreshed on a terminal, elsewhere after each run."""

    def __init__(self, todo):
        self.todo, self.is_shown = todo, False
        self.began = self.refreshed = time.monotonic()
        self.at_start = {job.name: job.progress() for job in todo}

    def line(self, running, waiting):
        """Runs done, running and left; the time that is left, from the share of the work that was done so far."""
        running, names = list(running), {job.name for job in waiting}
        shares = {job.name: job.progress() for job in running}
        done = [j for j in self.todo if j.name not in names and j.name not in shares]
        work = sum(1 - self.at_start[job.name] for job in done)
        work += sum(share - self.at_start[name] for name, share in shares.items())
        left = sum(1 - share for share in shares.values())
        left += sum(1 - self.at_start[job.name] for job in waiting)
        text = f"{len(done)} done · {len(running)} running · {len(waiting)} left"
        if not left or work <= 0:
            return text
        seconds = (time.monotonic() - self.began) * left / work
        return f"{text} · about {in_words(seconds)}"

    def refresh(self, running, waiting):
        """On a terminal, every two seconds."""
        if sys.stdout.isatty() and time.monotonic() - self.refreshed > 2:
            self.clear()
            self.show(running, waiting)

    def show(self, running, waiting):
        self.refreshed, self.is_shown = time.monotonic(), sys.stdout.isatty()
        print(self.line(running, waiting), end="" if self.is_shown else "\n", flush=True)

    def clear(self):
        if self.is_shown:
            print("\r\x1b[K", end="", flush=True)
            self.is_shown = False


def in_words(seconds):
    """``"40 s"``, ``"12 min"``, ``"3.5 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // at_a_time)))
    signals, told, running, failed = [], 0, {}, []
    for number_ in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number_, lambda n, _: signals.append(n))
    waiting = list(todo)
    status = Status(todo)

    def report(job, what):
        status.clear()
        print(f"{len(todo) - len(waiting) - len(running)}/{len(todo)}  {job.name}  {what}", flush=True)
        status.show(running.values(), waiting)

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
            # two sweeps that begin at once may both start a run: one of them is told that it is in use
            if process.returncode == EXIT_USAGE and (job.is_finished() or job.is_in_use()):
                report(job, "skipped: another process is training it")
                continue
            if process.returncode and not signals:
                failed.append(job)
            exit_code = f"exit {process.returncode}: " if process.returncode else ""
            report(job, exit_code + last_line(job))
        status.refresh(running.values(), waiting)
        time.sleep(0.1)
    status.clear()
    if signals:
        left = sum(not job.is_finished() for job in todo)
        print(f"stopped: the same command continues; {left} of {len(todo)} runs are left")
        return 128 + signals[0]
    for job in failed:
        print(f"sweep.py: failed: {job.name}, see {job.path}.log", file=sys.stderr)
    return 1 if failed else 0


def command(job):
    """train.py with the job's flags, for this Python."""
    return [sys.executable, str(Path(__file__).resolve().with_name("train.py")), *job.words]


def start(job, environment):
    """train.py with the job's flags, in the background; what it says goes to the end of the job's log."""
    with open(f"{job.path}.log", "ab") as log:
        # In a session of its own, a Ctrl-C reaches it once, from here, and not from the terminal as well.
        return subprocess.Popen(
            command(job), env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def last_line(job):
    """What the run said last."""
    lines = Path(f"{job.path}.log").read_text(errors="replace").splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    main()
