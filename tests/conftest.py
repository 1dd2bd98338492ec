"""What the command-line tests share: they run the real commands, each in an empty directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# The tests run on several workers; a thread each is fastest. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def cli(tmp_path):
    """``cli("train.py", "--dataset", …)``: run a script of the project in `tmp_path`, on one thread."""

    def run(script, *args, code=0, env=None, timeout=300):
        done = subprocess.run(
            command(script, *args),
            cwd=tmp_path,
            env=environment(env),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == code, f"{args}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    return run


def command(script, *args):
    return [sys.executable, str(ROOT / script), *map(str, args)]


def environment(extra=None):
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", **(extra or {})}
