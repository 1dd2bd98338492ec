"""What may befall a run: killed anywhere, a full disk, a torn file; and that nothing else changes it."""

import errno
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, environment
from fault_driver import strike_at
from fault_harness import differences, make_images

import train
from engine.saver import Saver

pytestmark = pytest.mark.slow

# Two epochs of three steps; a save after each second step, so that a disk can fill up between saves.
FLAGS = "--dataset digits --net vit_tiny --dimhead 64 --bs 512 --epochs 2 --run-name run".split()
SAVES = ["--save-every", "2"]
KIB = 1024


@pytest.fixture
def main(capsys):
    """train.main() in this process; what it exited with and what stood on stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*flags):
        capsys.readouterr()
        try:
            train.main([str(flag) for flag in flags])
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        return code, capsys.readouterr().err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A finished run that nothing befell."""
    out = tmp_path_factory.mktemp("reference")
    command = [sys.executable, str(ROOT / "train.py"), *FLAGS, *SAVES, "--out", str(out)]
    subprocess.run(command, check=True, env=environment(), timeout=300)
    return out / "run"


@pytest.fixture
def disk(tmp_path):
    """``disk(kib)`` is an empty file system of that size; called again, it changes the size or options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mounted(kib, *options):
        options = ",".join([f"size={kib}k", *options, *(["remount"] if place.is_mount() else [])])
        try:
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this user may not mount a file system")
        return place

    yield mounted
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


def assert_one_line(result, *parts):
    code, stderr = result
    assert code == 2 and stderr.count("\n") == 1 and "Traceback" not in stderr, result
    assert all(part in stderr for part in parts), stderr


# --- killed ---------------------------------------------------------------------------------------------


def test_runs_killed_anywhere_end_like_runs_that_were_left_alone():
    harness = [sys.executable, str(ROOT / "tests" / "fault_harness.py"), "--stops", "8", "--seed", "1"]
    done = subprocess.run(harness, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["stops"] == 8 and summary["resumes"] >= 8 and summary["mismatches"] == 0
    assert all(summary["signals"].values()), summary


# Between the last step of an epoch and its row, where there is nothing left to train on but a row to write.
@pytest.mark.parametrize(
    "strike",
    [
        strike_at("step", 3, signal.SIGTERM),
        strike_at("step", 6, signal.SIGINT),
        strike_at("evaluation", 1, signal.SIGKILL),
        strike_at("evaluation", 2, signal.SIGKILL),
        strike_at("evaluation", 3, signal.SIGTERM),  # the report's, with the weights of best.pt
    ],
)
def test_a_run_stopped_in_the_last_step_of_an_epoch_still_gets_its_row(main, tmp_path, reference, strike):
    driver = [sys.executable, str(ROOT / "tests" / "fault_driver.py"), strike]
    stopped = subprocess.run(
        [*driver, *FLAGS, "--save-every", "1", "--out", str(tmp_path)], env=environment()
    )
    assert stopped.returncode in (143, 130, -9)
    assert main("--resume", tmp_path / "run")[0] == 0
    assert differences(tmp_path / "run", reference) == []


def test_a_finished_run_that_max_steps_cut_keeps_its_row_when_resumed(main, tmp_path):
    assert main(*FLAGS, "--max-steps", 5, "--out", tmp_path)[0] == 0
    run = Path(shutil.copytree(tmp_path / "run", tmp_path / "before"))
    assert main("--resume", tmp_path / "run")[0] == 0
    assert differences(tmp_path / "run", run) == []


def test_one_bit_of_one_weight_or_moment_or_a_metric_would_be_seen(reference, tmp_path):
    assert differences(reference, reference) == []
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    state = torch.load(run / "last.pt", weights_only=True)
    weight = next(iter(state["model"].values()))
    weight.view(torch.int32).flatten()[0] ^= 1
    torch.save(state, run / "last.pt")
    assert differences(run, reference) == ["last.pt: model"]
    state["optimizer"]["state"][0]["exp_avg"].view(torch.int32).flatten()[0] ^= 1
    torch.save(state, run / "last.pt")
    rows = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join([*rows, rows[-1]]))
    assert differences(run, reference) == ["last.pt: model", "last.pt: optimizer", "metrics.csv"]


# --- disks ----------------------------------------------------------------------------------------------


# Where the space ends: in the first file, in the first checkpoint, in best.pt, in the second last.pt.
@pytest.mark.parametrize("kib,file", [(4, ""), (2000, "last.pt"), (8000, "best.pt"), (12000, "last.pt")])
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_space(main, disk, reference, kib, file):
    out = disk(kib)
    result = main(*FLAGS, *SAVES, "--out", out)
    assert_one_line(result, "cannot write", file, "No space left on device")
    if kib == 12000:
        assert "the previous one is untouched" in result[1]
        assert torch.load(out / "run" / "last.pt", weights_only=True)["progress"]["step"] == 2
    assert not list(out.glob("run/.*.tmp"))
    disk(64 * KIB)
    assert main("--resume", out / "run")[0] == 0
    assert differences(out / "run", reference) == []


def test_the_small_files_of_an_epoch_meet_a_full_disk(main, disk):
    """Rows, picture and events, in this order, after the checkpoints are whole; then the report."""
    flags = [*FLAGS, "--epochs", "1"]
    out = disk(64 * KIB)
    assert main(*flags, "--out", out)[0] == 0
    pages = {file.name: -(-file.stat().st_size // 4096) for file in (out / "run").iterdir()}
    needed = sum(pages.values())
    report = sum(pages[n] for n in ("report.json", "report.md", "confusion.png", "reliability.png"))
    for missing, culprit in [
        (report + 1 + pages["curves.png"], "metrics.csv"),
        (report + 2, "curves.png"),
        (report + 1, "events"),
        (report, "report.json"),
        (1, "reliability.png"),
        (0, ""),
    ]:
        shutil.rmtree(out / "run")
        disk(4 * (needed - missing))
        result = main(*flags, "--out", out)
        if missing:
            assert_one_line(result, "cannot write", culprit, "No space left on device")
            assert torch.load(out / "run" / "last.pt", weights_only=True)["progress"]["epoch"] == 1
    assert result[0] == 0


def test_whichever_file_cannot_be_written_the_run_goes_on_later(main, tmp_path, reference, monkeypatch):
    """A stand-in for disks and quotas: the first, the eighth, … fsync of the run fails."""
    fsync = os.fsync
    for failing, number in zip(range(1, 60, 7), itertools.cycle([errno.ENOSPC, errno.EDQUOT, errno.EIO])):
        left = itertools.count(failing - 1, -1)

        def failing_fsync(descriptor, left=left, number=number):
            if next(left) == 0:
                raise OSError(number, os.strerror(number))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", failing_fsync)
        out = tmp_path / str(failing)
        result = main(*FLAGS, *SAVES, "--out", out)
        monkeypatch.setattr(os, "fsync", fsync)
        if result[0] == 0:
            break  # there are not so many
        assert_one_line(result, "cannot write", os.strerror(number))
        assert main(*FLAGS, *SAVES, "--out", out, "--resume", "auto")[0] == 0
        assert differences(out / "run", reference) == []
    assert failing > 20


def test_a_limit_of_the_file_size_is_one_line_and_the_run_goes_on_without_it(
    main, tmp_path, reference, monkeypatch
):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = Saver.save

    def limited(saver, progress):
        save(saver, progress)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * KIB, hard))

    monkeypatch.setattr(Saver, "save", limited)
    try:
        result = main(*FLAGS, *SAVES, "--out", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        monkeypatch.setattr(Saver, "save", save)
    run = tmp_path / "run"
    assert_one_line(result, "cannot write", "File too large")
    assert torch.load(run / "last.pt", weights_only=True)["progress"]["step"] == 2
    assert main("--resume", run)[0] == 0
    assert differences(run, reference) == []


def test_a_read_only_disk_is_one_line(main, disk):
    out = disk(64 * KIB)
    assert main(*FLAGS, "--max-steps", 2, "--out", out)[0] == 0
    before = {file: file.read_bytes() for file in (out / "run").iterdir()}
    disk(64 * KIB, "ro")
    assert_one_line(main("--resume", out / "run", "--max-steps", 0), str(out), "Read-only file system")
    assert_one_line(main(*FLAGS, "--run-name", "new", "--out", out), str(out / "new"), "Read-only")
    assert {file: file.read_bytes() for file in (out / "run").iterdir()} == before


# --- torn files -----------------------------------------------------------------------------------------


def test_a_checkpoint_torn_or_flipped_anywhere_is_one_line(main, tmp_path, reference):
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    whole = (run / "last.pt").read_bytes()
    rng = random.Random(0)
    cuts = [0, 1, 100, *(rng.randrange(len(whole)) for _ in range(8)), len(whole) - 1]
    flips = [rng.randrange(len(whole) // 10, 9 * len(whole) // 10) for _ in range(4)]
    damaged = [whole[:cut] for cut in cuts]
    damaged += [whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :] for at in flips]
    for content in damaged:
        (run / "last.pt").write_bytes(content)
        assert_one_line(main("--resume", run, "--epochs", 3), "last.pt", "damaged")
        assert (run / "last.pt").read_bytes() == content
    (run / "last.pt").write_bytes(whole)
    assert main("--resume", run)[0] == 0


# --- determinism ----------------------------------------------------------------------------------------


def test_the_number_of_workers_and_where_images_are_kept_change_nothing(cli, tmp_path):
    images = make_images(tmp_path / "images")
    net = "--net vit_tiny --dimhead 64 --bs 48 --epochs 2 --randaug --device cpu"
    flags = ["--dataset", f"folder:{images}", *net.split()]
    runs = []
    for cache, workers in [("none", 0), ("none", 1), ("none", 3), ("ram", 3), ("device", 0)]:
        where = tmp_path / f"{cache}-{workers}"
        how = ["--cache", cache, "--workers", workers]
        cli("train.py", *flags, *how, "--data-dir", where, "--out", where, "--run-name", "run")
        runs.append(where / "run")
    for run in runs[1:]:
        assert differences(run, runs[0]) == [], run
