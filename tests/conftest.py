"""What the command-line tests share: they run the programs, each in an empty directory."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

# The tests run on several workers; a thread each is fastest. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.fsync = lambda descriptor: None  # no power is cut here; processes of their own still wait for the disk

ROOT = Path(__file__).resolve().parent.parent
QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # as Python itself is


def call(script, argv):
    """Exit code, stdout and stderr of ``main(argv)`` of a script, in this process; exceptions are passed on."""
    script, argv = ROOT / script, [str(word) for word in argv]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", how) for how in ("strict", "backslashreplace"))
    hook = threading.excepthook
    with handlers_put_back(), pytest.MonkeyPatch.context() as patch:
        if script.parent != ROOT:  # what it imports lies beside it
            patch.syspath_prepend(script.parent)
        main = importlib.import_module(script.stem).main
        patch.setattr(sys, "argv", [str(script), *argv])
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
                warnings.simplefilter("always")
                for kind in QUIET:
                    warnings.simplefilter("ignore", kind)
                warnings.showwarning = lambda *what: sys.stderr.write(warnings.formatwarning(*what[:4]))
                code = main(argv)
        except SystemExit as leaving:
            code = leaving.code
        finally:
            threading.excepthook = hook
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return code or 0, *texts


@contextlib.contextmanager
def handlers_put_back():
    """Signal handlers that a program installs go with it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def pytest_xdist_auto_num_workers(config):
    """One more than cores, as tests wait for programs in processes of their own; tests of a GPU run in this process."""
    return 0 if config.option.markexpr == "gpu" else (os.cpu_count() or 1) + 1


@pytest.fixture
def undrawn(monkeypatch):
    """Trainings draw nothing: pictures are most of the time of a short one, and test_cli_story.py looks at them."""
    for place in ("common.draw", "engine.report.draw"):
        monkeypatch.setattr(place, lambda path, make, **options: Path(path).touch())


@pytest.fixture
def here(tmp_path, monkeypatch, undrawn):
    """An empty directory to run in; signal handlers are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    with handlers_put_back():
        yield tmp_path


@pytest.fixture
def cli(tmp_path, monkeypatch, undrawn):
    """``cli("train.py", "--dataset", …)``: run a script of the project in `tmp_path`, in this process, on the CPU."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(script, *argv, code=0):
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            left, out, err = call(script, argv)
        assert left == code, f"{argv}: exit {left}\n{out}{err}"
        return SimpleNamespace(stdout=out, stderr=err)

    return run


@pytest.fixture
def process(tmp_path):
    """The same, in a process of its own."""

    def run(script, *argv, code=0):
        done = subprocess.run(
            command(script, *argv), cwd=tmp_path, env=environment(), capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == code, f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run


def command(script, *args):
    return [sys.executable, str(ROOT / script), *map(str, args)]


def environment(extra=None):
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", **(extra or {})}
