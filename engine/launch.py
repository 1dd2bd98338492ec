"""Runs as tasks of one Slurm array, through the library submitit."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from common import UserError

MOST_REQUEUES = 100  # of a run that its time limit stops; it continues exactly where it was
LIST_OPTIONS = {"setup", "teardown", "srun_args"}


class Training:
    """A run in a process of its own, which a task of the array waits for.

    Before the time limit and when a task is preempted, submitit calls :meth:`checkpoint`: the run saves, and the
    task goes back into the queue.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.process = None

    def __call__(self) -> None:
        # Slurm signals all processes of a task; the run shall hear of it from checkpoint() alone.
        ignore = [signal.SIGUSR1, signal.SIGUSR2]
        self.process = subprocess.Popen(
            self.words, preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignore]
        )
        try:
            while self.process.poll() is None:
                time.sleep(0.2)
        except KeyboardInterrupt:  # the array was cancelled
            self.process.terminate()
            raise
        if self.process.returncode:
            raise RuntimeError(f"exit {self.process.returncode}: {' '.join(self.words)}")

    def checkpoint(self):
        """Let the run save and end; the same command continues it."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        # Not wait(): the signal may have come within poll(), which holds a lock.
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Training(self.words))


def submit(commands: Sequence[Sequence[str]], folder: Path, options: dict[str, str]) -> list[int]:
    """Submit a Slurm array with a task for each command, and say where its logs are.

    Parameters
    ----------
    commands : sequence of sequence of str
        A run each, as words.
    folder : Path
        For submitit's files and the logs; on a disk that all nodes share.
    options : dict of str to str
        Of sbatch: ``time`` in minutes or as ``D-HH:MM:SS``, ``partition``, ``gpus_per_node``, ….
        ``cluster=local`` runs all tasks on this machine at once, and waits for them.

    Returns
    -------
    list of int
        Indices of the commands that failed; empty for Slurm, which is not waited for.

    Raises
    ------
    UserError
        Without submitit, without Slurm, without a time limit, or if sbatch refuses.
    """
    if not find_spec("submitit"):
        raise UserError("--launcher submitit needs the package submitit: pip install submitit")
    import cloudpickle
    import submitit

    options = {name.replace("-", "_"): value for name, value in options.items()}
    cluster = options.pop("cluster", "slurm")
    if cluster not in ("slurm", "local"):
        raise UserError(f"--slurm cluster must be slurm or local, got {cluster!r}")
    if cluster == "slurm" and not shutil.which("srun"):
        raise UserError("no Slurm here (no srun on the PATH); --slurm cluster=local tries the array here")
    if "time" not in options:
        raise UserError("--slurm needs the time limit of a task: time=240 (minutes) or time=1-12:00:00")
    minutes = to_minutes(options.pop("time"))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # tasks start in any directory
    try:
        executor = submitit.AutoExecutor(folder / "%j", cluster, slurm_max_num_timeout=MOST_REQUEUES)
        executor.update_parameters(name="sweep", timeout_min=minutes)
        if cluster == "slurm":
            executor.update_parameters(**sbatch_options(options))
        elif options.get("gpus_per_node", "").isdecimal():  # none are visible otherwise
            executor.update_parameters(gpus_per_node=int(options["gpus_per_node"]))
        with executor.batch():
            tasks = [executor.submit(Training(words)) for words in commands]
    except OSError as error:
        raise UserError(f"cannot use {folder}: {error.strerror}; give another --out") from None
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(f"sbatch refuses: {error}") from None
    number = tasks[0].job_id.partition("_")[0]
    print(f"submitted {len(tasks)} runs{f' as job {number}' if cluster == 'slurm' else ''}; logs in {folder}")
    if cluster == "slurm":
        print("the same command submits again what is not finished; squeue shows it, scancel ends it")
        return []
    return [i for i, task in enumerate(tasks) if task.exception() is not None]


def to_minutes(text: str) -> int:
    """Slurm's spellings of a time: minutes, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``."""
    try:
        days, dash, rest = text.rpartition("-")
        parts = [int(part) for part in rest.split(":")]
        if dash:
            hours, minutes, seconds = [*parts, 0, 0][:3]
        else:
            hours, minutes, seconds = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
        total = int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)
        if total < 1 or min(parts) < 0 or len(parts) > 3:
            raise ValueError
    except (ValueError, KeyError):
        raise UserError(f"--slurm time must be minutes (240) or D-HH:MM:SS, got {text!r}") from None
    return total


def sbatch_options(options: dict[str, str]) -> dict:
    """The options as submitit takes them: those that it knows, the rest as sbatch spells them."""
    from submitit.slurm.slurm import SlurmExecutor

    known = SlurmExecutor._valid_parameters()
    values = {name: int(text) if text.isdecimal() else text for name, text in options.items()}
    lists = {f"slurm_{name}": [value] for name, value in values.items() if name in LIST_OPTIONS}
    ours = {f"slurm_{name}": values[name] for name in values.keys() & known - LIST_OPTIONS}
    rest = {name.replace("_", "-"): value for name, value in values.items() if name not in known}
    return ours | lists | ({"slurm_additional_parameters": rest} if rest else {})
