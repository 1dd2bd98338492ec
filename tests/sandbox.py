"""A folder that stands for a user's machine, and calls of the programs in it that see what they leave."""

import contextlib
import functools
import hashlib
import os
import socket
import sys
import tempfile
from pathlib import Path

import conftest
import numpy as np
import pytest
from PIL import Image
from test_stylegan_patch_apply import build

PROGRAMS = {name: f"{name}.py" for name in ("train", "regression", "compare", "sweep", "predict", "export")}
PROGRAMS["apply"] = "stylegan_patch/apply.py"


@contextlib.contextmanager
def machine(root: Path):
    """`root` with home/, home/work/ as the working directory, and tmp/; no network, no wandb."""
    work = root / "home" / "work"
    for folder in (work, root / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)

    def no_network(*args, **kwargs):
        raise ConnectionRefusedError("no network here")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setenv("HOME", str(root / "home"))
        patch.setenv("TMPDIR", str(root / "tmp"))
        patch.setattr(tempfile, "tempdir", None)
        patch.setattr(socket, "getaddrinfo", no_network)
        patch.setattr(socket.socket, "connect", no_network)
        patch.setitem(sys.modules, "wandb", None)
        yield work


def call(program: str, argv: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a program in this process; exceptions are passed on."""
    return conftest.call(PROGRAMS[program], argv)


def snapshot(root: Path) -> dict[str, tuple]:
    """What and when: every file, link and folder below `root`; folders without their times."""
    seen = {}
    for folder, folders, files in os.walk(root):
        for name in folders:
            seen[os.path.join(folder, name)] = ("folder",)
        for name in files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content = b""
            if os.path.isfile(path) and not os.path.islink(path):
                content = digest(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            seen[path] = (status.st_mode, status.st_mtime_ns, content)
    return seen


@functools.lru_cache(100_000)
def digest(path: str, *state: int) -> bytes:
    """Of a file's content, read again when its `state` is another: nobody can set the time of the last change."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).digest()


def differences(before: dict, after: dict, allowed: list[Path] = ()) -> list[str]:
    """Paths that appeared, changed or went, outside of the `allowed` folders; their parents may be made."""
    roots = [os.path.realpath(path) for path in allowed]

    def is_allowed(path):
        path = os.path.realpath(path)
        new_parent = path not in before and any(root.startswith(path + os.sep) for root in roots)
        return new_parent or any(path == root or path.startswith(root + os.sep) for root in roots)

    changed = [path for path in {*before, *after} if before.get(path) != after.get(path)]
    return sorted(path for path in changed if not is_allowed(path))


TINY = "--dataset digits --net vit_tiny --dimhead 16 --bs 256 --max-steps 1 --workers 0".split()


def furnish(work: Path) -> None:
    """Fill the working directory with one good thing of each kind."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for label in ("ant", "bee"):
            folder = work / "images" / split / label
            folder.mkdir(parents=True)
            for i, image in enumerate(pixels):
                Image.fromarray(image).save(folder / f"{i}.png")
    (work / "table.csv").write_text("a,b,sick\n" + "".join(f"{i % 5},{i % 3},{i % 2}\n" for i in range(20)))
    (work / "notes.txt").write_text("precious\n")
    build(work / "clone")
    for seed in (0, 1):
        train_tiny = [*TINY, "--out", "runs", "--run-name", f"run{seed}", "--seed", str(seed)]
        code, _, err = call("train", train_tiny)
        assert code == 0, err
