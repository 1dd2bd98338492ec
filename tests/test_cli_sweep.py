"""sweep.py: which runs a grid stands for; it starts what is missing and continues what was stopped."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, command, environment

import sweep
import train
from common import UserError
from engine import launch
from engine.run_directory import LONGEST_NAME, find_run, run_name
from flags import SET_BY_SWEEP, grid_flags, parse_train, train_parser

TINY = "--dataset digits --net vit_tiny --dimhead 16 --bs 512 --workers 0".split()


def runs_of(*words):
    jobs = sweep.make_jobs(sweep.parse_args([str(w) for w in words]))
    return [train.parse_args(job.words)[0] for job in jobs]


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
    known = {a.dest for a in train_parser()._actions if a.dest != "help"}
    assert {name.replace("-", "_") for name in grid_flags()} == known - SET_BY_SWEEP
    runs = runs_of("--noaug", "off", "on", "--mixup", 0, 0.2, "--val-split", 0.1)
    assert [(r.noaug, r.mixup, r.val_split) for r in runs] == [
        (False, 0, 0.1), (True, 0, 0.1), (False, 0.2, 0.1), (True, 0.2, 0.1),
    ]  # fmt: skip
    assert len({r.run_name for r in runs}) == 4
    assert [r.noaug for r in runs_of("--noaug")] == [True]
    runs = runs_of("--loss", "ce", "root", "--k-end", 8, 20)
    assert [(r.loss, r.k_end) for r in runs] == [("ce", None), ("root", 8), ("root", 20)]


def test_spellings_of_a_folder_are_one_run_called_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spellings = ["folder:imgs", "folder:imgs/", "folder:./imgs", f"folder:{tmp_path}/imgs"]
    (run,) = runs_of("--dataset", *spellings)
    assert run.run_name == "imgs-ViT-root-k3-m3-seed0"
    directory = tmp_path / "runs" / "mine"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(vars(run)))
    for spelling in spellings:  # --resume auto finds it
        assert find_run("runs", vars(run) | {"dataset": spelling}) == Path("runs/mine")
    assert find_run("runs", vars(run) | {"dataset": "folder:other"}) is None
    assert find_run("runs", vars(run) | {"net": "vit"}) == Path("runs/mine")
    assert find_run("runs", vars(run) | {"net": "vit_tiny"}) is None
    # a newer copy is not what continues, whether the run has a name or the usual one
    for given, usual in (("mine", ""), ("", "imgs-ViT")):
        flags = vars(run) | {"run_name": given}
        directory = directory.rename(tmp_path / "runs" / (given or usual))
        (directory / "config.json").write_text(json.dumps(flags))
        os.utime(Path(shutil.copytree(directory, f"{directory} copy")) / "config.json", (2**33, 2**33))
        assert find_run("runs", flags, usual) == Path("runs", given or usual)
    assert run_name(vars(parse_train(["--dataset", "CIFAR-10"])[0])) == "cifar10-ViT-root-k3-m3-seed0"


def test_a_long_name_keeps_its_seed_and_tells_the_flags():
    def name(*words, dataset="ä" * 90):
        return run_name(vars(parse_train(["--dataset", f"folder:{dataset}", *map(str, words)])[0]))

    assert name("--k-end", 8, dataset="imgs") == "imgs-ViT-root-k3-m3-kend8-seed0"
    names = [name("--seed", 123), name("--seed", 4), name("--k-end", 8), name("--k-end", 9)]
    assert all(len(n.encode()) <= LONGEST_NAME for n in names) and len(set(names)) == 4
    assert names[0].endswith("-seed123") and names[0].removesuffix("123") == names[1].removesuffix("4")


@pytest.mark.parametrize("flag", ["--seed=1", "--run-name=a", "--resume=a", "--out=a", "--eval-only"])
def test_what_the_sweep_sets_cannot_stand_behind_the_dashes(flag, capsys):
    with pytest.raises(SystemExit) as leaving:
        sweep.main(["--seed", "0", "--dry-run", "--", flag])
    assert leaving.value.code == 2 and "cannot stand behind --" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--k", "0"],
        ["--seed", "x"],
        ["--noaug", "yes"],
        ["--slurm", "time=5"],
        ["--launcher", "submitit", "--slurm", "time"],
        ["--", "--nets", "vit"],
        ["--jobs", "0"],
    ],
)
def test_a_mistake_ends_before_anything_runs(words, capsys):
    with pytest.raises(SystemExit) as leaving:
        sweep.main(["--loss", "root", "--dry-run", *words])
    out, err = capsys.readouterr()
    assert leaving.value.code == 2 and err.count("\n") == 1 and out == ""


def test_lines_are_commands_of_train(tmp_path, capsys):
    for how in (["--lines", str(tmp_path / "lines")], ["--dry-run"]):
        with pytest.raises(SystemExit) as leaving:
            sweep.main(["--seed", "0", "1", "--out", str(tmp_path / "a b"), *how, "--", *TINY])
        assert leaving.value.code == 0
    lines = (tmp_path / "lines").read_text()
    assert lines == capsys.readouterr().out and lines.count("\n") == 2
    for line in lines.splitlines():
        assert line.startswith("python train.py ")
        flags, _ = train.parse_args(shlex.split(line)[2:])
        assert flags.dataset == "digits" and flags.out == str(tmp_path / "a b")
    (tmp_path / "lines").write_text("precious")
    with pytest.raises(SystemExit) as leaving:
        sweep.main(["--lines", str(tmp_path / "lines"), "--", *TINY])
    assert leaving.value.code == 2 and (tmp_path / "lines").read_text() == "precious"


@pytest.mark.parametrize("words", [["--lines", "none/lines"], ["--out", "file"]])
def test_a_place_that_cannot_be_written_is_one_line(words, cli, tmp_path):
    (tmp_path / "file").write_text("")
    err = cli("sweep.py", *words, code=2).stderr
    assert "sweep.py: error: cannot" in err and "Traceback" not in err


def rows_made_up(path, *, epoch, step, accuracy=60, tested=True):
    """A run directory whose metrics.csv ends with this row, and the report of the final test."""
    path.mkdir(parents=True)
    (path / "metrics.csv").write_text(f"epoch,step,test_acc\n1,1,50\n{epoch},{step},{accuracy}\n")
    if tested:
        (path / "report.json").write_text("{}")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_output_on_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("sweep.py", "--dry-run"), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "sweep.py: error: cannot write the output: No space left on device"


def test_finished_runs_are_not_started(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "start", lambda job, _: pytest.fail(f"{job.name} was started"))
    words = ["--seed", "0", "1", "--out", str(tmp_path), "--", "--epochs", "5"]
    first, second = runs_of(*words)
    rows_made_up(tmp_path / first.run_name, epoch=5, step=50)
    rows_made_up(tmp_path / second.run_name, epoch=4, step=40)
    assert [job.is_finished() for job in sweep.make_jobs(sweep.parse_args(words))] == [True, False]
    (first_job, second_job) = sweep.make_jobs(sweep.parse_args(words))
    assert (first_job.progress(), second_job.progress()) == (1, 0.8)
    (tmp_path / first.run_name / "report.json").unlink()  # killed in its last test: it is still to do
    assert not first_job.is_finished()
    others = sweep.make_jobs(sweep.parse_args([*words, "--max-steps", "40"]))
    assert [job.is_finished() for job in others] == [False, False]
    (limited,) = runs_of("--out", str(tmp_path), "--", "--max-steps", 40)
    rows_made_up(tmp_path / limited.run_name, epoch=4, step=40)
    patient = ["--patience", 2, "--out", str(tmp_path)]
    (run,) = runs_of(*patient)
    rows_made_up(tmp_path / run.run_name, epoch=3, step=30, accuracy=50)
    assert sweep.make_jobs(sweep.parse_args(list(map(str, patient))))[0].is_finished()
    with pytest.raises(SystemExit) as leaving:
        sweep.main(["--out", str(tmp_path), "--", "--max-steps", "40"])
    assert leaving.value.code == 0 and "1 runs, 1 of them finished" in capsys.readouterr().err


def test_a_finished_run_of_other_data_or_weights_under_the_same_name_is_refused(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["--out", "r", "--", "--net", "vit_tiny", "--epochs", "5", "--dataset"]
    (run,) = runs_of(*words, "folder:a/imgs", "--checkpoint", "a/best.pt")
    rows_made_up(tmp_path / "r" / run.run_name, epoch=5, step=50)
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


def test_the_status_line_counts_runs_and_estimates_the_time_from_the_work_done(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(sweep.time, "monotonic", lambda: now[0])
    words = ["--seed", "0", "1", "2", "3", "--out", str(tmp_path), "--", "--epochs", "10"]
    jobs = sweep.make_jobs(sweep.parse_args(words))
    rows_made_up(jobs[0].path, epoch=5, step=5)  # was half done before
    status = sweep.Status(jobs)
    assert status.line([], jobs) == "0 done · 0 running · 4 left"  # nothing to go by
    rows_made_up(jobs[1].path, epoch=5, step=5)
    now[0] += 600
    # Run 0 is done: 0.5 of a run's work; so is half of run 1. A run takes 600 s, and 2.5 are left.
    assert status.line(jobs[1:2], jobs[2:]) == "1 done · 1 running · 2 left · about 25 min"
    assert [sweep.in_words(s) for s in (40, 3000, 7200)] == ["40 s", "50 min", "2.0 h"]


def test_a_run_that_another_process_holds_is_skipped(tmp_path, cli, monkeypatch):
    (run,) = runs_of("--", *TINY)
    (tmp_path / "runs" / run.run_name).mkdir(parents=True)
    hold = "import sys; from engine.run_directory import RunDirectory as R; r = R(sys.argv[1]); input(1)"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "runs" / run.run_name)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout.read(1) == "1"
        assert "1/1  " + run.run_name + "  skipped" in cli("sweep.py", "--", *TINY).stdout
        # the other sweep was quicker by less than it takes to find that out
        in_use, asked = sweep.Job.is_in_use, []
        monkeypatch.setattr(
            sweep.Job, "is_in_use", lambda job: (bool(asked) and in_use(job)) or asked.append(1)
        )
        monkeypatch.setattr(sweep, "start", lambda *_: subprocess.Popen([sys.executable, "-c", "exit(2)"]))
        assert "1/1  " + run.run_name + "  skipped" in cli("sweep.py", "--", *TINY).stdout and asked
    finally:
        holder.communicate("\n")
    assert not (tmp_path / "runs" / f"{run.run_name}.log").exists()


@pytest.mark.slow
def test_a_sweep_runs_what_is_missing_and_names_what_failed(tmp_path, cli):
    grid = ["sweep.py", "--loss", "ce", "root", "--out", "r", "--jobs", 2]
    out = cli(*grid, "--", *TINY, "--max-steps", 1).stdout
    assert "2/2" in out and "best test accuracy" in out and "2 done · 0 running · 0 left" in out
    runs = [path.parent for path in tmp_path.glob("r/*/last.pt")]
    assert len(runs) == 2 and all("device " in (run.parent / f"{run.name}.log").read_text() for run in runs)
    (runs[0] / "metrics.csv").unlink()  # as if it had been killed early: it is done again, the other is not
    before = (runs[1] / "config.json").stat().st_mtime_ns
    assert "1/1" in cli(*grid, "--", *TINY, "--max-steps", 1).stdout
    assert (runs[1] / "config.json").stat().st_mtime_ns == before and (runs[0] / "metrics.csv").exists()
    failed = cli(*grid, "--", *TINY, "--size", 5, code=1)
    assert failed.stderr.count("sweep.py: failed:") == 2 and "not divisible" in failed.stdout


@pytest.mark.slow
def test_a_stopped_sweep_stops_its_runs_and_continues_them(tmp_path, cli):
    words = ["--seed", 0, 1, "--out", "r", "--jobs", 2, "--", *TINY, "--max-steps", 30]
    sweep_process = subprocess.Popen(
        command("sweep.py", *words, "--epochs", 100), cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("r/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)
    sweep_process.send_signal(signal.SIGTERM)
    out = sweep_process.communicate(timeout=60)[0]
    assert sweep_process.returncode == 143 and "the same command continues" in out
    cli("sweep.py", *words, "--epochs", 100)
    for path in tmp_path.glob("r/*/metrics.csv"):
        with open(path) as file:
            assert list(csv.DictReader(file))[-1]["step"] == "30"
    assert len(list(tmp_path.glob("r/*/metrics.csv"))) == 2


@pytest.mark.slow
def test_a_grid_runs_through_submitits_local_executor(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    words = ["--seed", "0", "1", "--out", "r", "--launcher", "submitit", "--slurm", "cluster=local", "time=9"]
    rest = ["--", *TINY, "--max-steps", "1"]
    with pytest.raises(SystemExit) as leaving:
        sweep.main([*words, *rest])
    assert leaving.value.code == 0, capfd.readouterr()
    assert len(list(tmp_path.glob("r/*/report.json"))) == 2
    logs = [path.read_text() for path in tmp_path.glob("r/slurm/*/*.out")]
    assert len(logs) == 2 and all("best test accuracy" in log for log in logs)
    with pytest.raises(SystemExit) as leaving:
        sweep.main([*words, *rest])
    err = capfd.readouterr().err
    assert leaving.value.code == 0 and "2 runs, 2 of them finished" in err


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


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the task's process in /proc")
def test_a_task_at_its_time_limit_saves_and_is_queued_again(tmp_path, monkeypatch):
    """A run that only SIGTERM stops orderly; the task gets SIGUSR2, as from Slurm before the limit."""
    import submitit

    (tmp_path / "run.py").write_text(STOPPABLE)
    words = [
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "done")],
        [sys.executable, "-c", "exit(3)"],
    ]
    submit_one = submitit.AutoExecutor._internal_process_submissions
    tasks = []

    def keep(self, delayed):
        tasks.extend(submit_one(self, delayed))
        deadline = time.monotonic() + 100
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        controller = tasks[0]._process.pid
        (task,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
        os.kill(int(task), signal.SIGUSR2)
        return tasks

    monkeypatch.setattr(submitit.AutoExecutor, "_internal_process_submissions", keep)
    assert launch.submit(words, tmp_path / "slurm", {"cluster": "local", "time": "20"}) == [1]
    assert (tmp_path / "done").read_text() == "continued"
    assert "exit 3" in str(tasks[1].exception())


def fake_slurm(folder, monkeypatch, sbatch):
    """A srun and a sbatch on the PATH; the latter keeps the script it is given."""
    folder.mkdir()
    for name, text in (("srun", ""), ("sbatch", sbatch)):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_slurm_gets_one_array_with_the_options_as_sbatch_spells_them(tmp_path, monkeypatch, capsys):
    kept = tmp_path / "script"
    fake_slurm(tmp_path / "bin", monkeypatch, f'cp "$1" {kept}; echo Submitted batch job 77')
    options = {"time": "1-12:00:00", "partition": "gpu", "gpus_per_node": "1", "array-parallelism": "1",
               "mail-type": "END", "reservation": "mine"}  # fmt: skip
    assert launch.submit([["true"], ["true"]], tmp_path / "slurm", options) == []
    script = kept.read_text()
    wanted = [
        "array=0-1%1",
        "time=2160",
        "partition=gpu",
        "gpus-per-node=1",
        "mail-type=END",
        "reservation=mine",
    ]
    assert [w for w in wanted if f"#SBATCH --{w}\n" not in script] == []
    assert "submitted 2 runs as job 77" in capsys.readouterr().out
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    with pytest.raises(UserError, match="no such partition"):
        launch.submit([["true"]], tmp_path / "slurm", options)


def test_what_submitit_needs_is_said(tmp_path, monkeypatch):
    def message(options, patch=None):
        with pytest.raises(UserError) as error:
            launch.submit([["true"]], tmp_path, options)
        return str(error.value)

    assert "minutes (240) or D-HH:MM:SS" in message({"cluster": "local", "time": "soon"})
    assert "time=240" in message({"cluster": "local"})
    assert "slurm or local" in message({"cluster": "pbs"})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no Slurm here" in message({"time": "5"})
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    assert "pip install submitit" in message({"time": "5"})
    spellings = {"90": 90, "90:00": 90, "1:30:00": 90, "1:30:01": 91, "1-1": 1500, "1-01:30": 1530}
    assert {text: launch.to_minutes(text) for text in spellings} == spellings
