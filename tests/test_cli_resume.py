"""Stop a real training anywhere, resume it, and compare with one that was left alone: bit for bit."""

import csv
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import call, command, environment
from PIL import Image

from engine.run_directory import RunDirectory

pytestmark = pytest.mark.slow

TIMING = ("epoch_seconds", "images_per_second")
# Dropout, augmentation and label noise: all that draws random numbers.
FLAGS = "--dataset digits --net vit_tiny --dimhead 16 --epochs 3 --bs 128 --label-noise 0.2 --seed 3".split()
STEPS = 3 * 12
SMALL = "--dataset digits --net resnet20 --epochs 1 --bs 512 --run-name run".split()


def rows_of(run):
    with open(run / "metrics.csv") as file:
        return [{k: v for k, v in row.items() if k not in TIMING} for row in csv.DictReader(file)]


def assert_same_run(run, reference):
    ours, theirs = (torch.load(r / "last.pt", weights_only=True) for r in (run, reference))
    for name, tensor in theirs["model"].items():
        assert torch.equal(ours["model"][name], tensor), name
    assert ours["progress"]["step"] == theirs["progress"]["step"] == STEPS
    assert rows_of(run) == rows_of(reference)
    best, other_best = (torch.load(r / "best.pt", weights_only=True) for r in (run, reference))
    assert best["epoch"] == other_best["epoch"]
    assert all(torch.equal(best["model"][n], t) for n, t in other_best["model"].items())


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference")
    subprocess.run(
        command("train.py", *FLAGS, "--out", out, "--run-name", "run"),
        check=True,
        env=environment(),
        timeout=300,
    )
    return out / "run"


def start_and_signal(tmp_path, number, progress):
    """Start the run, wait until it has `progress` rows in metrics.csv, send the signal; its exit code."""
    process = subprocess.Popen(
        command("train.py", *FLAGS, "--out", tmp_path, "--run-name", "run"),
        env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    run = tmp_path / "run"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.csv").exists() and len(rows_of(run)) >= progress:
            time.sleep(0.15)  # somewhere within the epoch
            break
        time.sleep(0.01)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    return process.returncode, output


@pytest.mark.parametrize(
    "number,code,progress", [(signal.SIGTERM, 143, 0), (signal.SIGINT, 130, 1), (signal.SIGKILL, -9, 1)]
)
def test_a_stopped_run_resumes_bit_for_bit(tmp_path, cli, reference, number, code, progress):
    returned, output = start_and_signal(tmp_path, number, progress)
    assert returned == code, output
    run = tmp_path / "run"
    if number != signal.SIGKILL:
        stopped_at = torch.load(run / "last.pt", weights_only=True)["progress"]["step"]
        assert 0 < stopped_at < STEPS and f"stopped at step {stopped_at}" in output
    cli("train.py", "--resume", run)
    assert_same_run(run, reference)


def test_the_same_seed_gives_the_same_run_and_another_seed_does_not(tmp_path, cli, reference):
    cli("train.py", *FLAGS, "--out", tmp_path, "--run-name", "run")
    assert_same_run(tmp_path / "run", reference)
    cli("train.py", *FLAGS, "--seed", 4, "--out", tmp_path, "--run-name", "other")
    assert rows_of(tmp_path / "other") != rows_of(reference)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    code, _, err = call("train.py", [*SMALL, "--out", out, "--device", "cpu"])
    assert code == 0, err
    return out / "run"


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_resuming_a_finished_run_says_so_and_epochs_may_grow(run, cli):
    done = cli("train.py", "--resume", run)
    assert "step 3 of 3" in done.stdout and "best test accuracy" in done.stdout
    cli("train.py", "-r", run, "--epochs", 2)
    assert [row["epoch"] for row in rows_of(run)] == ["1", "2"]
    assert json.loads((run / "config.json").read_text())["total_steps"] == 6


def test_a_flag_that_contradicts_the_run_is_refused_by_name(run, cli):
    before = (run / "config.json").read_bytes()
    for flags, message in [
        (["--lr", 0.5], "--lr 0.5 contradicts"),
        (["--loss", "ce"], "--loss ce contradicts"),
        (["--label-noise", 0.1], "--label-noise 0.1 contradicts"),
    ]:
        refused = cli("train.py", "-r", run, *flags, code=2)
        assert message in refused.stderr and refused.stderr.count("\n") == 1
    cli("train.py", "-r", run, "--epochs", 2, "--max-steps", 4)
    shrunk = cli("train.py", "-r", run, "--epochs", 1, code=2)
    assert "--epochs may only grow" in shrunk.stderr
    assert before != (run / "config.json").read_bytes()  # the run continues with the new number of epochs


def test_an_epoch_that_max_steps_cut_is_finished_when_it_goes_on(tmp_path, cli):
    cli("train.py", *SMALL, "--out", tmp_path, "--max-steps", 2)
    run = tmp_path / "run"
    assert [row["step"] for row in rows_of(run)] == ["2"]
    cli("train.py", "--resume", run, "--max-steps", 0)
    assert [(row["epoch"], row["step"]) for row in rows_of(run)] == [("1", "3")]


def test_a_run_directory_in_use_is_refused(run, cli, process):
    held = RunDirectory(run)
    refused = process("train.py", "--resume", run, "--epochs", 2, code=2)
    assert "in use" in refused.stderr and refused.stderr.count("\n") == 1
    held.close()
    cli("train.py", "--resume", run)


@pytest.mark.parametrize(
    "content,message",
    [
        (b"PK\x03\x04torn", "does not fit this run"),
        (b"", "does not fit this run"),
        (b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.", "would run code"),
    ],
    ids=["torn", "empty", "malicious"],
)
def test_a_damaged_or_malicious_checkpoint_is_refused_in_one_line(run, tmp_path, cli, content, message):
    (run / "last.pt").write_bytes(content)
    refused = cli("train.py", "--resume", run, "--epochs", 2, code=2)
    assert message in refused.stderr and refused.stderr.count("\n") == 1
    assert not (tmp_path / "pwned").exists()


def test_eval_only_tests_the_best_weights_of_a_run(run, cli):
    best = torch.load(run / "best.pt", weights_only=True)["test_acc"]
    report = {"report.json", "report.md", "confusion.png", "reliability.png"}  # what it is there to write

    def others():
        return {f.name: f.stat().st_mtime_ns for f in run.iterdir() if f.name not in report}

    files = others()
    tested = cli("train.py", "--resume", run, "--eval-only")
    assert f"test accuracy {best:.2f} %" in tested.stdout
    assert files == others()
    same = cli(
        "train.py", "--dataset", "digits", "--net", "resnet20", "--eval-only", "--checkpoint", run / "best.pt"
    )
    assert f"test accuracy {best:.2f} %" in same.stdout


def test_eval_only_refuses_weights_for_other_classes(run, tmp_path, cli):
    for split in ("train", "val"):
        for label in ("a", "b"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
    flags = ["--dataset", f"folder:{tmp_path / 'images'}", "--net", "resnet20", "--eval-only"]
    refused = cli("train.py", *flags, "--checkpoint", run / "best.pt", code=2)
    assert "classes are not the run's" in refused.stderr and refused.stderr.count("\n") == 1
