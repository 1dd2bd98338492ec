"""sweep.py: which runs a grid stands for; it starts what is missing and continues what was stopped."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, environment, handlers_put_back

import sweep
from common import UserError
from flags import parse, train_parser
from sweep import SET_BY_SWEEP, grid_flags

TINY = "--dataset digits --net vit_tiny --dimhead 16 --bs 512 --workers 0".split()


def runs_of(*words):
    jobs = sweep.make_jobs(sweep.parse_args([str(w) for w in words]))
    return [parse(job.words)[0] for job in jobs]


def test_a_grid_is_every_combination_and_k_counts_for_rooted_losses_only():
    runs = runs_of("--loss", "ce", "root", "--k", 2, 3, "--seed", 0, 1, "--", "--net", "resnet18")
    assert sorted((r.seed, r.loss, r.k) for r in runs if r.loss == "root") == [
        (0, "root", 2.0), (0, "root", 3.0), (1, "root", 2.0), (1, "root", 3.0),
    ]  # fmt: skip
    assert [(r.seed, r.loss) for r in runs if r.loss == "ce"] == [(0, "ce"), (1, "ce")]
    assert {(r.net, r.resume) for r in runs} == {("resnet18", "auto")}


def test_several_m_are_refused_under_adam_and_swept_under_sgd():
    with pytest.raises(UserError, match="Adam does not see m"):
        runs_of("--m", 1, 3)
    assert [r.m for r in runs_of("--m", 1, 3, "--", "--opt", "sgd")] == [1.0, 3.0]
    assert [r.m for r in runs_of("--m", 1, 3, "--sweep-m-under-adam")] == [1.0, 3.0]
    assert [r.opt for r in runs_of("--m", 1, 3, "--loss", "ce")] == ["adam"]


def test_runs_have_one_name_where_and_only_where_they_are_the_same_run():
    def names(*words):
        return [run.run_name for run in runs_of(*words)]

    assert names("--", "--opt", "adam", "--workers", 2) == names("--k", 3) == ["cifar10-ViT-root-k3-m3-seed0"]
    assert names("--loss", "ce", "--", "--alpha", 1) == names("--loss", "ce")
    assert names("--loss", "focal", "--", "--alpha", 1) != names("--loss", "focal")
    different = ["--lr", 0.01, 0.1, "--label-noise", 0, 0.4, "--opt", "sgd", "adam", "--", "--epochs"]
    assert len({*names(*different, 5), *names(*different, 6)}) == 16
    with pytest.raises(UserError, match="two runs would be called"):
        runs_of("--dataset", "folder:a/b", "folder:c/b")


def test_any_flag_of_train_can_have_several_values():
    single = {a.dest for a in train_parser()._actions if a.dest != "help" and a.nargs in (None, 0)}
    assert set(grid_flags()) == single - SET_BY_SWEEP
    runs = runs_of("--noaug", "off", "on", "--mixup", 0, 0.2, "--val-split", 0.1)
    assert [(r.noaug, r.mixup, r.val_split) for r in runs] == [
        (False, 0, 0.1), (False, 0.2, 0.1), (True, 0, 0.1), (True, 0.2, 0.1),
    ]  # fmt: skip
    assert len({r.run_name for r in runs}) == 4
    assert [r.noaug for r in runs_of("--noaug")] == [True]
    runs = runs_of("--loss", "ce", "root", "--k-end", 8, 20)
    assert [(r.loss, r.k_end) for r in runs] == [("ce", None), ("root", 8), ("root", 20)]


def test_lines_are_commands_of_train(tmp_path, capsys):
    for how in (["--lines", str(tmp_path / "lines")], ["--dry-run"]):
        with pytest.raises(SystemExit) as leaving:
            sweep.main(["--seed", "0", "1", "--out", str(tmp_path / "a b"), *how, "--", *TINY])
        assert leaving.value.code == 0
    lines = (tmp_path / "lines").read_text()
    assert lines == capsys.readouterr().out and lines.count("\n") == 2
    for line in lines.splitlines():
        assert line.startswith("python train.py ")
        flags, _ = parse(shlex.split(line)[2:])
        assert flags.dataset == "digits" and flags.out == str(tmp_path / "a b")
    (tmp_path / "lines").write_text("precious")
    with pytest.raises(SystemExit) as leaving:
        sweep.main(["--lines", str(tmp_path / "lines"), "--", *TINY])
    assert leaving.value.code == 2 and (tmp_path / "lines").read_text() == "precious"


def test_a_finished_run_of_other_data_or_weights_under_the_same_name_is_refused(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["--out", "r", "--", "--net", "vit_tiny", "--epochs", "5", "--dataset"]
    (run,) = runs_of(*words, "folder:a/imgs", "--checkpoint", "a/best.pt")
    rows_made_up(run)
    saved = vars(run) | {"lr": 1e-4, "epochs": 7, "threads": 3}  # it has been made longer since
    (tmp_path / "r" / run.run_name / "config.json").write_text(json.dumps(saved))
    for folder, weights, says in (
        ("a/imgs", "a/best.pt", ""),
        ("./a/imgs/", "a/best.pt", ""),
        ("b/imgs", "a/best.pt", "b/imgs"),
        ("a/imgs", "b/best.pt", "--checkpoint a/best.pt, not b/best.pt"),
    ):
        with pytest.raises(SystemExit) as leaving:
            sweep.main([*words, f"folder:{folder}", "--checkpoint", weights])
        err = capsys.readouterr().err
        assert leaving.value.code == (2 if says else 0) and says in err, err
        assert ("holds another run" if says else "1 of them finished") in err and err.count("\n") == 1


STOPPABLE = """
import pathlib, signal, sys, time
done = pathlib.Path(sys.argv[1])
if done.exists():
    done.write_text("continued")
    sys.exit()
signal.signal(signal.SIGTERM, lambda *_: (done.write_text("saved"), sys.exit(143)))
done.with_name("started").touch()
time.sleep(120)
"""


def test_a_task_at_its_time_limit_saves_and_is_queued_again(tmp_path):
    """submitit calls checkpoint() within the task when Slurm's signal comes; the run ends orderly by SIGTERM."""
    (tmp_path / "run.py").write_text(STOPPABLE)
    task = sweep.Training([sys.executable, str(tmp_path / "run.py"), str(tmp_path / "done")])
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(task)
        while not (tmp_path / "started").exists():
            time.sleep(0.05)
        task.process.send_signal(signal.SIGUSR2)  # Slurm signals it, too
        again = task.checkpoint()
    assert "exit 143" in str(stopped.exception()) and (tmp_path / "done").read_text() == "saved"
    again.function()
    assert (tmp_path / "done").read_text() == "continued"
    with pytest.raises(RuntimeError, match="exit 3"):
        sweep.Training([sys.executable, "-c", "exit(3)"])()


def fake_slurm(folder, monkeypatch, sbatch):
    """A srun and a sbatch on the PATH; the latter keeps the script it is given."""
    folder.mkdir()
    for name, text in (("srun", ""), ("sbatch", sbatch)):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def rows_made_up(run, **last):
    """The directory of a run by hand whose metrics.csv ends with this row, and the report of the final test."""
    path = Path(run.out) / run.run_name
    path.mkdir(parents=True)
    row = {"epoch": 5, "step": 50, "test_acc": 60} | last
    (path / "metrics.csv").write_text(
        "epoch,step,test_acc\n1,1,50\n" + ",".join(map(str, row.values())) + "\n"
    )
    (path / "report.json").write_text("{}")
    (path / "config.json").write_text(json.dumps(vars(run) | {"run_name": "", "lr": 1e-4}))
    return path


def test_finished_runs_are_not_started(tmp_path):
    def finished(*words):
        return [job.is_finished() for job in sweep.make_jobs(sweep.parse_args(list(map(str, words))))]

    words = ["--seed", 0, 1, "--out", tmp_path, "--", "--epochs", 5]
    first, second = runs_of(*words)
    path = rows_made_up(first)
    rows_made_up(second, epoch=4, step=40)
    assert finished(*words) == [True, False] and finished(*words, "--max-steps", 40) == [False, False]
    (path / "report.json").unlink()  # killed in its last test: it is still to do
    assert finished(*words) == [False, False]
    for how, last in (
        (["--max-steps", 40], {"epoch": 4, "step": 40}),
        (["--patience", 2], {"epoch": 3, "test_acc": 50}),
    ):
        (run,) = runs_of("--out", tmp_path, "--", *how)
        rows_made_up(run, **last)
        assert finished("--out", tmp_path, "--", *how) == [True]


def test_a_run_by_hand_is_continued_under_the_name_it_has(tmp_path):
    words = ["--out", tmp_path, "--", "--epochs", 5]
    (run,) = runs_of(*words)
    config = rows_made_up(run, epoch=4) / "config.json"
    (again,) = runs_of(*words)
    assert (again.run_name, again.resume) == ("", "auto")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"bs": 7}))
    with pytest.raises(UserError, match="holds another run, with --bs 7, not 512; give another --out"):
        runs_of(*words)


def test_a_sweep_starts_each_run_and_names_what_failed(tmp_path, cli, monkeypatch):
    """Made-up runs: exit 0 is a promise that all of them have been trained."""
    codes, started = {"ce": 0, "root": 0}, []

    def start(job, environment):
        started.append(job.flags["loss"])
        code = codes[job.flags["loss"]]
        job.log.write_text(f"said by {job.flags['loss']}\n")
        return subprocess.Popen([sys.executable, "-c", f"exit({code})"])

    monkeypatch.setattr(sweep, "start", start)
    words = ["sweep.py", "--loss", "ce", "root", "--jobs", 2, "--out", "r", "--", *TINY]
    done = cli(*words)
    assert started == ["ce", "root"] and "1/2  " in done.stdout and "said by ce" in done.stdout
    assert "0:00:00 a run, 1 left" in done.stdout and "2/2" in done.stdout
    codes["root"] = 2  # in use by another program, say: it is left out, and said to be
    done = cli(*words, code=1)
    assert "exit 2: said by root" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if "failed" in line]
    assert line.startswith("sweep.py: failed: digits-vit_tiny-root") and line.endswith("seed0.log")


SLEEPERS = """
import subprocess, sys, sweep
def start(job, environment):
    job.log.write_text("")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
    print(process.pid, flush=True)
    return process
sweep.start = start
sweep.main("--seed 0 1 2 --jobs 2 --out r".split())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_run_survives_a_sweep_that_is_stopped(number, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPERS], cwd=tmp_path, env=environment({"PYTHONPATH": str(ROOT)}),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    runs = [int(process.stdout.readline()) for _ in range(2)]
    process.send_signal(number)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number and "the same command continues; 3 of 3 runs are left" in out
    for run in runs:
        with pytest.raises(ProcessLookupError):
            os.kill(run, 0)


@pytest.mark.slow
def test_a_sweep_trains_what_is_missing(tmp_path, cli):
    """The one real sweep of these tests: two tiny runs at a time."""
    words = [
        "sweep.py",
        "--seed",
        0,
        1,
        "--jobs",
        2,
        "--out",
        "r",
        "--",
        *TINY,
        "--max-steps",
        1,
        "--threads",
        1,
    ]
    done = cli(*words)
    assert "2/2  digits-vit_tiny-root" in done.stdout and "best test accuracy" in done.stdout
    assert len(list(tmp_path.glob("r/*/report.json"))) == 2
    assert cli(*words).stderr == "2 runs, 2 of them finished\n"


def test_a_sweep_whose_output_breaks_ends_its_runs(tmp_path, monkeypatch):
    """A closed pipe or terminal ends the sweep in a print; its runs must not go on without it."""
    pids = []

    def start(job, environment):
        job.log.write_text("")
        seconds = 0 if not pids else 100
        process = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
        pids.append(process)
        return process

    monkeypatch.setattr(sweep, "start", start)
    monkeypatch.setattr("builtins.print", lambda *args, **options: 1 / 0)
    jobs = sweep.make_jobs(sweep.parse_args(["--seed", "0", "1", "--out", str(tmp_path), "--", *TINY]))
    with handlers_put_back(), pytest.raises(ZeroDivisionError):
        sweep.run_all(jobs, 2)
    assert len(pids) == 2 and all(process.poll() is not None for process in pids)


def test_slurm_gets_one_array_with_the_options_as_they_are(tmp_path, monkeypatch, capsys):
    kept = tmp_path / "script"
    fake_slurm(tmp_path / "bin", monkeypatch, f'cp "$1" {kept}; echo Submitted batch job 77')
    words = (
        "time=1-12:00:00 partition=gpu gpus_per_node=1 mail-type=END job-name=mine reservation=all".split()
    )
    options = dict(map(sweep.key_value, [*words, "array-parallelism=1"]))
    sweep.submit([["true"], ["true"]], tmp_path / "slurm", dict(options))
    script = kept.read_text().splitlines()
    wanted = ["array=0-1%1", *(word.replace("_", "-") for word in words)]
    assert [w for w in wanted if script.count(f"#SBATCH --{w}") != 1] == []
    assert "submitted 2 runs as job 77" in capsys.readouterr().out
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    with pytest.raises(UserError, match="no such partition"):
        sweep.submit([["true"], ["true"]], tmp_path / "slurm", dict(options))


def test_what_submitit_needs_is_said(tmp_path, monkeypatch):
    def message(**options):
        with pytest.raises(UserError) as error:
            sweep.submit([["true"]], tmp_path, options)
        return str(error.value)

    assert "must be a number of tasks" in message(array_parallelism="all")
    fake_slurm(tmp_path / "bin", monkeypatch, "exit 1")
    assert "time=240" in message()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no Slurm here" in message(time="5")
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    assert "pip install submitit" in message(time="5")
