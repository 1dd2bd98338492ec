"""Worker processes and processes that train together: what fails ends in a line, and nobody waits for ever."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from data import workers
from data.images import Square

ROOT = Path(data.__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Unix signals")]


@pytest.fixture
def folder(tmp_path):
    """Two classes, 20 training and 4 test images each, of 70 px."""
    for split, count in (("train", 20), ("val", 4)):
        for c, name in enumerate(("ant", "bee")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((70, 70, 3), 10 * i + c, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / split / name / f"{i:02}.png")
    return tmp_path / "set"


def paths(folder):
    return [str(path) for path in sorted(folder.rglob("*.png"))]


def python(code, **options):
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run([sys.executable, "-c", code], **options)


def test_a_killed_worker_is_one_line_within_seconds(folder):
    decoder = workers.Decoder(paths(folder), Square(70), 1)
    batches = decoder.batches([(i, None)] for i in [0] * 400)
    next(batches)
    (child,) = multiprocessing.active_children()
    began = time.monotonic()
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(
        data.DataError, match=r"a process that decodes images was killed.*--workers 0"
    ) as error:
        list(batches)
    assert "\n" not in str(error.value) and time.monotonic() - began < 15
    assert not multiprocessing.active_children()
    assert len(list(decoder.batches([(i, None)] for i in range(3)))) == 3  # new ones
    decoder.close()


def test_workers_that_cannot_be_started_are_one_line(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing, "Queue", full)
    with pytest.raises(data.DataError, match=r"No space left on device.*try --workers 0"):
        list(workers.decoded(paths(folder), Square(70), 4, 1))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batches_need_neither_shared_memory_nor_short_names_nor_fork(folder, tmp_path, method):
    long = tmp_path / ("x" * 80) / ("y" * 80)
    long.mkdir(parents=True)
    code = f"""
import torch, sys
from data.images import Square
from data.workers import decoded
if __name__ == "__main__":
    torch.multiprocessing.set_start_method("{method}")
    def refuse(*_):
        raise OSError("no shared memory")
    torch.UntypedStorage._new_using_fd_cpu = torch.UntypedStorage._share_fd_cpu_ = refuse
    found = list(decoded({paths(folder)!r} + ["gone.png"], Square(70), 20, 1))
    print([len(good) for good, _, _ in found], found[0][1].sum().item(), found[2][2])
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"TMPDIR": str(long), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.startswith("[20, 20, 8]") and "gone.png: cannot be read" in run.stdout, run.stderr


def test_workers_survive_the_signals_that_stop_a_run_and_do_not_outlive_it(folder):
    code = f"""
import data, data.workers, multiprocessing, os, signal, time
data.workers.usable_workers = lambda n: n
start = data.workers._start_worker
def slowly(worker):
    time.sleep(worker)  # so the signal meets one worker ready and one still starting
    start(worker)
data.workers._start_worker = slowly
signal.signal(signal.SIGTERM, lambda *_: None)
d = data.build_data("folder:{folder}", "{folder.parent}/data", 0, 8, "cpu", workers=2)
batches = iter(d.train)
next(batches)
os.killpg(0, signal.SIGTERM)
time.sleep(0.5)
print(len(list(batches)), len(multiprocessing.active_children()))
"""
    run = python(code, start_new_session=True)
    assert (run.stdout.strip(), run.stderr, run.returncode) == ("4 2", "", 0)


TOGETHER = """
import os, sys, time
import data, data.build
rank, folder = int(sys.argv[1]), sys.argv[2]
decoded = data.build.decoded
def counted(*arguments):
    print("decoded")
    time.sleep(2)
    return decoded(*arguments)
data.build.decoded = counted
for name in ("set", "missing"):
    try:
        options = {"workers": 0, "rank": rank, "world_size": 2}
        d = data.build_data(f"folder:{folder}/{name}", f"{folder}/data", 8, 4, "cpu", **options)
        print(*(y.tolist() for _, y in d.test))
    except data.DataError as error:
        print("error")
"""


def test_one_process_decodes_and_the_others_find_its_cache(folder):
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(rank), str(folder.parent)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [run.communicate(timeout=100)[0].splitlines() for run in runs]
    assert sum(lines.count("decoded") for lines in said) == 2, said  # train and test, once
    assert [lines[-2:] for lines in said] == [["[0, 0, 0, 0]", "error"], ["[1, 1, 1, 1]", "error"]]


def test_a_mistake_in_a_worker_keeps_its_traceback(folder, monkeypatch):
    def broken(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr(workers, "decode", broken)
    with pytest.raises(KeyError, match="Traceback"):
        list(workers.decoded(paths(folder), Square(70), 4, 1))
