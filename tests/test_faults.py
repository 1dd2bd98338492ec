"""What may befall a run: killed anywhere, a full disk, a torn file; and that nothing else changes it."""

import errno
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, call
from fault_harness import differences, make_images

pytestmark = pytest.mark.slow

# Two epochs of three steps; a save after each second step, so that a disk can fill up between saves.
FLAGS = "--dataset digits --net vit_tiny --dimhead 64 --bs 512 --epochs 2 --device cpu --run-name run".split()
SAVES = ["--save-every", "2"]
KIB = 1024


def train(*flags):
    """Exit code and stderr of train.py, in this process."""
    code, _, err = call("train.py", flags)
    return code, err


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A finished run that nothing befell."""
    out = tmp_path_factory.mktemp("reference")
    assert train(*FLAGS, *SAVES, "--out", out)[0] == 0
    return out / "run"


@pytest.fixture
def disk(tmp_path):
    """``disk(kib)`` is an empty file system of that size; called again, it changes the size or options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(kib, *options):
        options = ",".join([f"size={kib}k", *options, *(["remount"] if folder.is_mount() else [])])
        try:
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this user may not mount a file system")
        return folder

    yield mounted
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


def assert_one_line(result, *parts):
    code, stderr = result
    assert code == 2 and stderr.count("\n") == 1 and "Traceback" not in stderr, result
    assert all(part in stderr for part in parts), stderr


def test_runs_killed_anywhere_end_like_runs_that_were_left_alone():
    harness = [sys.executable, str(ROOT / "tests" / "fault_harness.py"), "--stops", "4", "--seed", "1"]
    done = subprocess.run(harness, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["stops"] == 4 and summary["resumes"] >= 4 and summary["mismatches"] == 0
    assert all(summary["signals"].values()), summary


def test_a_finished_run_that_max_steps_cut_keeps_its_row_when_resumed(tmp_path):
    assert train(*FLAGS, "--max-steps", 5, "--out", tmp_path)[0] == 0
    run = Path(shutil.copytree(tmp_path / "run", tmp_path / "before"))
    assert train("--resume", tmp_path / "run")[0] == 0
    assert differences(tmp_path / "run", run) == []


def test_one_bit_of_one_weight_or_moment_or_a_metric_would_be_seen(reference, tmp_path):
    assert differences(reference, reference) == []
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    state = torch.load(run / "last.pt", weights_only=True)
    for tensor in (next(iter(state["model"].values())), state["optimizer"]["state"][0]["exp_avg"]):
        tensor.view(torch.int32).flatten()[0] ^= 1
    torch.save(state, run / "last.pt")
    rows = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join([*rows, rows[-1]]))
    assert differences(run, reference) == ["last.pt: model", "last.pt: optimizer", "metrics.csv"]


# Where the space ends: in the first file, in the first checkpoint, in best.pt, in the second last.pt.
@pytest.mark.parametrize("kib,file", [(4, ""), (2000, "last.pt"), (8000, "best.pt"), (12000, "last.pt")])
def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_space(disk, reference, kib, file):
    out = disk(kib)
    result = train(*FLAGS, *SAVES, "--out", out)
    assert_one_line(result, "cannot write", file, "No space left on device")
    if kib == 12000:
        assert "the previous one is untouched" in result[1]
        assert torch.load(out / "run" / "last.pt", weights_only=True)["progress"]["step"] == 2
    assert not list(out.glob("run/.*.tmp"))
    disk(64 * KIB)
    assert train("--resume", out / "run")[0] == 0
    assert differences(out / "run", reference) == []


def test_whichever_file_cannot_be_written_the_run_goes_on_later(tmp_path, reference, monkeypatch):
    """A stand-in for disks and quotas: the first, the eighth, … fsync of the run fails."""
    fsync = os.fsync
    failed = 0
    for failing, number in zip(range(1, 60, 7), itertools.cycle([errno.ENOSPC, errno.EDQUOT, errno.EIO])):
        left = itertools.count(failing - 1, -1)

        def failing_fsync(descriptor, left=left, number=number):
            if next(left) == 0:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", failing_fsync)
        out = tmp_path / str(failing)
        result = train(*FLAGS, *SAVES, "--out", out)
        monkeypatch.setattr(os, "fsync", fsync)
        if next(left) >= 0:
            break  # there are not so many
        if result[0]:  # else it was a folder, or a picture
            assert_one_line(result, "cannot write", os.strerror(number))
            failed += 1
            assert train(*FLAGS, *SAVES, "--out", out, "--resume", "auto")[0] == 0
        assert differences(out / "run", reference) == []
    assert failed >= 2


def test_a_picture_that_meets_a_full_disk_is_a_note(tmp_path, reference, monkeypatch):
    from matplotlib.figure import Figure

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, "savefig", full)
    code, out, err = call("train.py", [*FLAGS, *SAVES, "--out", tmp_path])
    assert (code, err) == (0, "") and "curves.png was not drawn: " in out and "No space left" in out
    assert differences(tmp_path / "run", reference) == ["no curves.png"]


def test_a_read_only_disk_is_one_line(disk):
    out = disk(64 * KIB)
    assert train(*FLAGS, "--max-steps", 2, "--out", out)[0] == 0
    before = {file: file.read_bytes() for file in (out / "run").iterdir()}
    disk(64 * KIB, "ro")
    assert_one_line(train("--resume", out / "run", "--max-steps", 0), str(out), "Read-only file system")
    assert_one_line(train(*FLAGS, "--run-name", "new", "--out", out), str(out / "new"), "Read-only")
    assert {file: file.read_bytes() for file in (out / "run").iterdir()} == before


def test_a_checkpoint_torn_or_flipped_anywhere_is_one_line(tmp_path, reference):
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    whole = (run / "last.pt").read_bytes()
    rng = random.Random(0)
    damaged = [whole[:cut] for cut in (0, 100, rng.randrange(len(whole)), len(whole) - 1)]
    for at in (rng.randrange(len(whole) // 10, 9 * len(whole) // 10) for _ in range(2)):
        damaged.append(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
    for content in damaged:
        (run / "last.pt").write_bytes(content)
        assert_one_line(train("--resume", run, "--epochs", 3), "last.pt is damaged")
        assert (run / "last.pt").read_bytes() == content


def test_what_says_how_a_run_is_computed_may_change_when_it_is_resumed(tmp_path, reference):
    """A run that was compiled on a GPU goes on without either, and is told where its bits may differ."""
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text()) | {
        "compile": "on",
        "graph": "on",
        "device": "cuda",
    }
    (run / "config.json").write_text(json.dumps(config))
    otherwise = "--compile off --graph auto --device cpu --workers 0 --threads 2 --epochs 3".split()
    code, out, err = call("train.py", ["--resume", run, *otherwise])
    assert (code, err) == (0, "") and "threads" in out and "its bits may differ" in out
    assert json.loads((run / "config.json").read_text())["threads"] == 2
    torch.set_num_threads(1)


def test_the_number_of_workers_and_where_images_are_kept_change_nothing(cli, tmp_path):
    images = make_images(tmp_path / "images")
    net = "--net vit_tiny --dimhead 64 --bs 48 --epochs 1 --randaug --device cpu"
    for size, ways in ((0, [("ram", 2), ("device", 0)]), (72, [("auto", 0), ("auto", 1), ("auto", 2)])):
        runs = []
        for cache, workers in ways:
            out = tmp_path / f"{size}-{cache}-{workers}"
            how = ["--cache", cache, "--workers", workers, "--size", size, "--patch", 24 if size else 4]
            flags = ["--dataset", f"folder:{images}", *net.split(), *how, "--data-dir", out, "--out", out]
            cli("train.py", *flags, "--run-name", "run")
            runs.append(out / "run")
        assert [differences(run, runs[0]) for run in runs[1:]] == [[]] * (len(runs) - 1), size
