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
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves it out

from common import Parser, UserError, cores, may_replace, number, one_line_errors, write_atomically
from engine.run_directory import is_finished, read_config
from flags import (
    LENGTH,
    LOSS,
    LOSS_PARAMETERS,
    REQUEST,
    difference,
    flag_of,
    flags_of,
    parse,
    run_name,
    train_parser,
)

# Flags of train.py that a sweep sets for every run, or never.
SET_BY_SWEEP = {"out", "run_name", *flags_of(REQUEST)}
MOST_REQUEUES = 100  # of a Slurm task that its time limit stops; the run continues exactly where it was


# The command line.


def grid_flags():
    """Flags of train.py that may have several values in a sweep, and whether each is a switch (``on``, ``off``).

    The sweep's loops nest in this order: the seed is outermost, so that every setting has a first run early.
    """
    found = {"seed": False}
    for action in train_parser()._actions:
        is_switch = action.nargs == 0 and action.const is True
        if (action.nargs is None or is_switch) and action.dest not in SET_BY_SWEEP:
            found[action.dest] = is_switch
    return found


def key_value(text):
    """An argparse type: ``partition=gpu``."""
    name, equals, value = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    if not (name and equals and value) or not f"{name}{value}".isprintable():
        raise ArgumentTypeError(f"must be key=value, like partition=gpu, got {text!r}")
    return name, value


def sweep_parser():
    """Each of train.py's flags with one value or several, and the sweep's own."""
    parser = Parser("sweep.py", __doc__)
    helps = {
        "k": "of root and rlo; other losses run once",
        "m": "likewise; several need --opt sgd, as Adam's step does not depend on m",
        "k_end": "of root; other losses run once",
    }
    # fmt: off
    grid = parser.add_argument_group("the grid: one value or several of a flag of train.py").add_argument
    for name, is_switch in grid_flags().items():
        if is_switch:
            grid(flag_of(name), nargs="*", choices=("on", "off"), metavar="on|off", help="as in train.py")
        else:
            grid(flag_of(name), nargs="+", metavar="V", help=helps.get(name, "as in train.py"))
    add = parser.add_argument_group("the sweep").add_argument
    add("--sweep-m-under-adam", action="store_true", help="several --m all the same")
    add("--out", default="./runs", metavar="DIR", help="where the run directories and their logs are")
    add("--jobs", type=number(int, 1, 1024), default=1, metavar="N",
        help="runs at a time, which share the cores unless OMP_NUM_THREADS is set")
    add("--launcher", choices=("here", "submitit"), default="here",
        help="here: on this machine; submitit: one Slurm array with a task a run (pip install submitit)")
    add("--slurm", type=key_value, nargs="+", metavar="KEY=VALUE",
        help="options of sbatch, as time=240 gpus_per_node=1, and array_parallelism=8 (tasks at a time)")
    add("--dry-run", action="store_true", help="print the commands, and run nothing")
    add("--lines", metavar="FILE", help="write a command a line to FILE, and run nothing")
    # fmt: on
    return parser


def parse_args(argv=None):
    """The flags; what comes after ``--`` goes to every run as it is."""
    words = sys.argv[1:] if argv is None else list(argv)
    cut = words.index("--") if "--" in words else len(words)
    parser = sweep_parser()
    args = parser.parse_args(words[:cut])
    if args.slurm and args.launcher != "submitit":
        parser.error("--slurm is of --launcher submitit: give that too, or leave it out")
    if args.lines == "":  # an unset variable of the shell, as a rule
        parser.error("--lines is empty: give it a value, or leave it out")
    args.rest = words[cut + 1 :]
    return args


# The runs of a grid.


@dataclass
class Job:
    """A run: its flags as words, and as train.py reads them."""

    words: list[str]
    flags: dict

    @property
    def path(self):
        return Path(self.flags["out"]).expanduser() / self.flags["run_name"]

    @property
    def log(self):
        return Path(f"{self.path}.log")

    @property
    def command(self):
        return [sys.executable, str(Path(__file__).resolve().with_name("train.py")), *self.words]

    def is_finished(self):
        """Whether nothing is left to train, and the final test is done; what is damaged is train.py's to say."""
        try:
            with open(self.path / "metrics.csv", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            return is_finished(self.flags, rows) and (self.path / "report.json").exists()
        except (OSError, ValueError, TypeError, LookupError, csv.Error):
            return False

    def adopt(self):
        """Continue a run of these flags that was started by hand under the usual name.

        Raises
        ------
        UserError
            If the directory holds another run: of a folder, say, whose last name is the same.
        """
        try:
            config = read_config(self.path)
        except UserError:  # there is none, or train.py says what is wrong with it
            return
        ignored = {"run_name", *flags_of(LENGTH)}  # it is the same run, however far it went
        ignored |= set(flags_of(LOSS)) - LOSS_PARAMETERS[self.flags["loss"]].keys()
        ignored |= {"lr"} if self.flags["lr"] is None else set()  # train.py has filled in the net's
        if other := difference(config, self.flags, tuple(ignored)):
            raise UserError(f"{self.path} holds another run, with {other}; give another --out")
        if not config.get("run_name"):
            i = self.words.index("--run-name")
            del self.words[i : i + 2]


def make_jobs(args):
    """The runs of the grid, each checked by train.py's own parser.

    Raises
    ------
    UserError
        If the grid makes no sense; what train.py would refuse, it refuses itself, with its own line.
    """
    common, typed = parse(args.rest)
    grid = grid_flags()
    # A switch alone is on.
    values = {name: ["on"] if (v := getattr(args, name)) == [] else v or [None] for name in grid}
    for name in sorted(typed & {*SET_BY_SWEEP, *(name for name in grid if values[name] != [None])}):
        raise UserError(f"{flag_of(name)} cannot stand behind --: the sweep sets it")
    several_m = len(set(values["m"])) > 1 and not args.sweep_m_under_adam
    jobs = {}
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(grid, combination, strict=True))
        loss = (chosen["loss"] or common.loss).lower()
        parameters = LOSS_PARAMETERS.get(loss, {})
        unused = {name for name in flags_of(LOSS) if name not in parameters}
        chosen |= dict.fromkeys((unused | ({"k_end"} if loss != "root" else set())) & grid.keys())
        if "m" in parameters and several_m and (chosen["opt"] or common.opt) != "sgd":
            raise UserError(
                "several --m need --opt sgd: Adam does not see m, its runs would be the same "
                "(--sweep-m-under-adam makes them)"
            )
        words = [*args.rest]
        for name, value in chosen.items():
            if value is not None and not (grid[name] and value == "off"):
                words += [flag_of(name)] if grid[name] else [flag_of(name), value]
        words += ["--out", args.out]
        words += ["--run-name", run_name(vars(parse(words)[0])), "--resume", "auto"]
        job = Job(words, vars(parse(words)[0]))
        same = jobs.setdefault(job.path, job)  # ce comes once for each k
        if difference(same.flags, job.flags):
            raise UserError(f"two runs would be called {job.path.name}: sweep them with an --out each")
    for job in jobs.values():
        job.adopt()
    return list(jobs.values())


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors("sweep.py"):
        sys.exit(sweep(args))


def sweep(args):
    """Write the commands of the runs that are not finished, or run them. Returns the exit code."""
    jobs = make_jobs(args)
    todo = [job for job in jobs if not job.is_finished()]
    text = "".join(f"{shlex.join(['python', 'train.py', *job.words])}\n" for job in todo)
    out = jobs[0].path.parent
    if args.lines:
        write_lines(Path(args.lines), text)
    elif args.dry_run:
        print(text, end="")
    else:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot use --out {out}: {error.strerror}; give another directory") from None
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} of them finished", file=sys.stderr)
    if args.lines or args.dry_run or not todo:
        return 0
    if args.launcher == "submitit":
        submit([job.command for job in todo], out / "slurm", dict(args.slurm or ()))
        return 0
    failed, signaled = run_all(todo, args.jobs)
    if signaled:
        left = sum(not job.is_finished() for job in todo)
        print(f"stopped: the same command continues; {left} of {len(todo)} runs are left")
        return 128 + signaled
    for job in failed:
        print(f"sweep.py: failed: {job.path.name}, see {job.log}", file=sys.stderr)
    return 1 if failed else 0


def write_lines(path, text):
    try:
        if not may_replace(path, b"python train.py"):
            raise UserError(f"{path} exists, and holds no lines of sweep.py")
        write_atomically(path, lambda file: file.write(os.fsencode(text)))
    except (UserError, OSError, ValueError) as error:
        raise UserError(f"--lines: {error}; give another --lines") from None


# Runs on this machine.


def run_all(todo, at_a_time):
    """Run the jobs, `at_a_time` together. Returns those that failed, and the signal that stopped the sweep, or 0.

    Whatever ends the sweep, it ends its runs first, and waits until they have saved.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // at_a_time)), **os.environ}
    signals = []
    for number_ in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number_) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number_, lambda n, _: signals.append(n))
    waiting, running, failed, passed_on = list(todo), {}, [], 0
    began = time.monotonic()
    try:
        while running or (waiting and not signals):
            while waiting and not signals and len(running) < at_a_time:
                job = waiting.pop(0)
                running[start(job, environment)] = job
            for number_ in signals[passed_on:]:  # each run saves and ends; at the second it ends at once
                passed_on += 1
                for process in running:
                    process.send_signal(signal.SIGINT if number_ == signal.SIGINT else signal.SIGTERM)
            for process in [p for p in running if p.poll() is not None]:
                job = running.pop(process)
                if process.returncode and not signals:
                    failed.append(job)
                left = len(waiting) + len(running)
                done = len(todo) - left
                said = f"exit {process.returncode}: " * bool(process.returncode) + last_line(job)
                mean = timedelta(seconds=round((time.monotonic() - began) / done))
                print(f"{done}/{len(todo)}  {job.path.name}  {said} · {mean} a run, {left} left", flush=True)
            time.sleep(0.1)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return failed, signals[0] if signals else 0


def start(job, environment):
    """train.py with the job's flags, in the background; what it says goes to the end of the job's log."""
    try:
        with open(job.log, "ab") as log:
            # In a session of its own, Ctrl-C reaches it once, from here, and not from the terminal as well.
            return subprocess.Popen(
                job.command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
    except OSError as error:
        raise UserError(f"cannot start {job.path.name} with its log {job.log}: {error.strerror}") from None


def last_line(job):
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else ""


# Runs as tasks of a Slurm array.


class Training:
    """A run in a process of its own, which a task of the array waits for.

    Before the time limit, and when a task is preempted, submitit calls :meth:`checkpoint`: the run saves, and the
    task goes back into the queue.
    """

    def __init__(self, words):
        self.words, self.process = words, None

    def __call__(self):
        def ignore():  # Slurm signals all processes of a task; the run shall hear of it from checkpoint() alone
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)

        self.process = subprocess.Popen(self.words, preexec_fn=ignore)
        try:
            while self.process.poll() is None:
                time.sleep(0.2)
        finally:
            self.process.terminate()  # where the task is cancelled; a run that has ended does not mind
        if self.process.returncode:
            raise RuntimeError(f"exit {self.process.returncode}: {' '.join(self.words)}")

    def checkpoint(self):
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        # Not wait(): the signal may have come within poll(), which holds a lock.
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Training(self.words))


def submit(commands, folder, options):
    """Submit one Slurm array with a task for each command; `options` go to sbatch as they are."""
    if not find_spec("submitit"):
        raise UserError("--launcher submitit needs the package submitit: pip install submitit")
    import cloudpickle
    import submitit

    at_a_time = options.pop("array_parallelism", "256")
    if not at_a_time.isdecimal():
        raise UserError(f"--slurm array_parallelism must be a number of tasks, got {at_a_time}")
    if not shutil.which("srun"):
        raise UserError("no Slurm here (no srun on the PATH): run where sbatch is, or without --launcher")
    if "time" not in options:
        raise UserError("--slurm needs the time limit of a task: time=240 (minutes) or time=1-12:00:00")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # tasks start in any directory
    try:
        executor = submitit.SlurmExecutor(folder / "%j", max_num_timeout=MOST_REQUEUES)
        executor.update_parameters(
            job_name="sweep", array_parallelism=int(at_a_time), additional_parameters=options
        )
        with executor.batch():
            tasks = [executor.submit(Training(words)) for words in commands]
    except OSError as error:
        raise UserError(f"cannot use {folder}: {error.strerror}; give another --out") from None
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(f"sbatch refuses: {error}") from None
    print(f"submitted {len(tasks)} runs as job {tasks[0].job_id.partition('_')[0]}; logs in {folder}")
    print("the same command submits again what is not finished; squeue shows it, scancel ends it")


if __name__ == "__main__":
    main()
