"""sweep.py: which runs a grid stands for; it starts what is missing and goes on with what was stopped."""

import csv
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, command, environment

import sweep
import train
from common import UserError

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


@pytest.mark.parametrize("flag", ["--seed=1", "--run-name=a", "--resume=a", "--out=a", "--eval-only"])
def test_what_the_sweep_sets_cannot_stand_behind_the_dashes(flag, capsys):
    with pytest.raises(SystemExit) as leaving:
        sweep.main(["--seed", "0", "--dry-run", "--", flag])
    assert leaving.value.code == 2 and "cannot stand behind --" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--k", "0"], ["--seed", "x"], ["--", "--nets", "vit"], ["--jobs", "0"]])
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


@pytest.mark.parametrize("words", [["--lines", "none/lines"], ["--out", "file"]])
def test_a_place_that_cannot_be_written_is_one_line(words, cli, tmp_path):
    (tmp_path / "file").write_text("")
    err = cli("sweep.py", *words, code=2).stderr
    assert "sweep.py: error: cannot" in err and "Traceback" not in err


def rows_made_up(path, *, epoch, step):
    """A run directory whose metrics.csv ends with this row."""
    path.mkdir(parents=True)
    (path / "metrics.csv").write_text(f"epoch,step,test_acc\n1,1,50\n{epoch},{step},60\n")


def test_finished_runs_are_not_started(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "start", lambda job, _: pytest.fail(f"{job.name} was started"))
    words = ["--seed", "0", "1", "--out", str(tmp_path), "--", "--epochs", "5"]
    first, second = runs_of(*words)
    rows_made_up(tmp_path / first.run_name, epoch=5, step=50)
    rows_made_up(tmp_path / second.run_name, epoch=4, step=40)
    assert [job.is_finished() for job in sweep.make_jobs(sweep.parse_args(words))] == [True, False]
    others = sweep.make_jobs(sweep.parse_args([*words, "--max-steps", "40"]))
    assert [job.is_finished() for job in others] == [False, False]
    (limited,) = runs_of("--out", str(tmp_path), "--", "--max-steps", 40)
    rows_made_up(tmp_path / limited.run_name, epoch=4, step=40)
    with pytest.raises(SystemExit) as leaving:
        sweep.main(["--out", str(tmp_path), "--", "--max-steps", "40"])
    assert leaving.value.code == 0 and "1 runs, 1 of them finished" in capsys.readouterr().err


def test_a_run_that_another_process_holds_is_skipped(tmp_path, cli):
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
    finally:
        holder.communicate("\n")
    assert not (tmp_path / "runs" / f"{run.run_name}.log").exists()


def test_a_sweep_runs_what_is_missing_and_names_what_failed(tmp_path, cli):
    grid = ["sweep.py", "--loss", "ce", "root", "--out", "r", "--jobs", 2]
    out = cli(*grid, "--", *TINY, "--max-steps", 1).stdout
    assert "2/2" in out and "best test accuracy" in out
    runs = [path.parent for path in tmp_path.glob("r/*/last.pt")]
    assert len(runs) == 2 and all("device " in (run.parent / f"{run.name}.log").read_text() for run in runs)
    (runs[0] / "metrics.csv").unlink()  # as if it had been killed early: it is done again, the other is not
    before = (runs[1] / "config.json").stat().st_mtime_ns
    assert "1/1" in cli(*grid, "--", *TINY, "--max-steps", 1).stdout
    assert (runs[1] / "config.json").stat().st_mtime_ns == before and (runs[0] / "metrics.csv").exists()
    failed = cli(*grid, "--", *TINY, "--size", 5, code=1)
    assert failed.stderr.count("sweep.py: failed:") == 2 and "not divisible" in failed.stdout


def test_a_stopped_sweep_stops_its_runs_and_goes_on_with_them(tmp_path, cli):
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
    assert sweep_process.returncode == 143 and "the same command goes on" in out
    cli("sweep.py", *words, "--epochs", 100)
    for path in tmp_path.glob("r/*/metrics.csv"):
        with open(path) as file:
            assert list(csv.DictReader(file))[-1]["step"] == "30"
    assert len(list(tmp_path.glob("r/*/metrics.csv"))) == 2
