"""sweep.py: which runs a grid stands for; it starts what is missing and goes on with what was stopped."""

import csv
import signal
import subprocess
import time

import pytest
from conftest import command, environment

import sweep
import train

TINY = "--dataset digits --net vit_tiny --dimhead 16 --bs 512 --workers 0".split()


def runs_of(*words):
    return [train.parse_args(run)[0] for run in sweep.commands(sweep.parse_args([str(w) for w in words]))]


def test_a_grid_is_every_combination_and_k_counts_for_rooted_losses_only():
    runs = runs_of("--loss", "ce", "root", "--k", 2, 3, "--seed", 0, 1, "--", "--net", "resnet18")
    assert sorted((r.seed, r.loss, r.k) for r in runs if r.loss == "root") == [
        (0, "root", 2.0), (0, "root", 3.0), (1, "root", 2.0), (1, "root", 3.0),
    ]  # fmt: skip
    assert [(r.seed, r.loss) for r in runs if r.loss == "ce"] == [(0, "ce"), (1, "ce")]
    assert {(r.net, r.resume) for r in runs} == {("resnet18", "auto")}


def test_several_m_are_refused_under_adam_and_swept_under_sgd(capsys):
    with pytest.raises(SystemExit) as leaving:
        runs_of("--m", 1, 3)
    assert leaving.value.code == 2 and "Adam does not see m" in capsys.readouterr().err
    assert [r.m for r in runs_of("--m", 1, 3, "--", "--opt", "sgd")] == [1.0, 3.0]
    assert [r.opt for r in runs_of("--m", 1, 3, "--loss", "ce")] == ["adam"]


@pytest.mark.parametrize("words", [["--k", "0.5"], ["--seed", "x"], ["--", "--nets", "vit"], ["--jobs", "0"]])
def test_a_mistake_ends_before_anything_runs(words, capsys):
    with pytest.raises(SystemExit) as leaving:
        sweep.main(["--loss", "root", "--dry-run", *words])
    out, err = capsys.readouterr()
    assert leaving.value.code == 2 and err.count("\n") == 1 and out == ""


def test_lines_are_commands_of_train(tmp_path, capsys):
    sweep.main(["--seed", "0", "1", "--lines", str(tmp_path / "lines"), "--", *TINY])
    sweep.main(["--seed", "0", "1", "--dry-run", "--", *TINY])
    lines = (tmp_path / "lines").read_text()
    assert lines == capsys.readouterr().out and lines.count("\n") == 2
    for line in lines.splitlines():
        assert (
            line.startswith("python train.py ") and train.parse_args(line.split()[2:])[0].dataset == "digits"
        )


def test_a_sweep_runs_what_is_missing_and_names_what_failed(tmp_path, cli):
    grid = ["sweep.py", "--loss", "ce", "root", "--out", "r", "--jobs", 2]
    out = cli(*grid, "--", *TINY, "--max-steps", 1).stdout
    assert "2/2" in out and len(list((tmp_path / "r").iterdir())) == 2
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("r/*/last.pt")}
    cli(*grid, "--", *TINY, "--max-steps", 1)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.glob("r/*/last.pt")}
    failed = cli(*grid, "--", *TINY, "--size", 5, code=1)
    assert failed.stderr.count("sweep.py: failed:") == 2 and "not divisible" in failed.stdout


def test_a_stopped_sweep_stops_its_runs_and_goes_on_with_them(tmp_path, cli):
    words = ["--seed", 0, 1, "--out", "r", "--", *TINY, "--max-steps", 60]
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
            assert list(csv.DictReader(file))[-1]["step"] == "60"
    assert len(list(tmp_path.glob("r/*/metrics.csv"))) == 2
