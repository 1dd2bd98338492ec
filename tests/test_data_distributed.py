"""Several processes of one run: one decodes, the others find its cache, and an error stops them all."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data

pytestmark = pytest.mark.slow

CODE = """
import os, sys
import torch.distributed as dist
import data, data.build
rank, folder = int(sys.argv[1]), sys.argv[2]
os.environ["LOCAL_RANK"] = str(rank)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
decode = data.build.decode_all
def counted(*arguments):
    print("decoded")
    return decode(*arguments)
data.build.decode_all = counted
for name in ("set", "missing"):
    try:
        options = {"workers": 0, "rank": rank, "world_size": 2}
        d = data.build_data(f"folder:{folder}/{name}", f"{folder}/data", 0, 4, "cpu", **options)
        print(*(y.tolist() for _, y in d.test))
    except data.DataError as error:
        print("error")
dist.destroy_process_group()
"""


def test_one_process_a_machine_decodes_and_a_mistake_ends_all_of_them(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(4):
                pixels = np.full((8, 8, 3), 20 * i, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / split / name / f"{i}.png")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(rank), str(tmp_path)],
            cwd=Path(data.__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    first, second = (run.communicate(timeout=60)[0].splitlines() for run in runs)
    assert first == ["decoded", "decoded", "[0, 0, 0, 0]", "error"]
    assert second == ["[1, 1, 1, 1]", "error"]


SLOW = """
import datetime, os, sys, time
import torch.distributed as dist
import data, data.build, data.ranks
rank, folder, slow, fails = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "fails"
os.environ["LOCAL_RANK"] = str(rank)
timeout = datetime.timedelta(seconds=3)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timeout)
load = type(data.DATASETS["digits"]).load
def slowly(self, request):
    if rank == slow:
        time.sleep(5)
        if fails:
            raise data.DataError("no more disk")
    return load(self, request)
type(data.DATASETS["digits"]).load = slowly
try:
    d = data.build_data("digits", folder, 0, 64, "cpu", rank=rank, world_size=2)
    dist.barrier()
    print(len(d.train))
except data.DataError as error:
    print(error)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("slow", "outcome"),
    [(0, "well"), (1, "well"), (0, "fails"), (1, "fails")],
)
def test_a_rank_may_take_longer_than_the_groups_timeout_and_its_failure_reaches_all(tmp_path, slow, outcome):
    began = time.monotonic()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW, str(rank), str(tmp_path), str(slow), outcome],
            cwd=Path(data.__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    out = [run.communicate(timeout=60) for run in runs]
    assert time.monotonic() - began > 5
    said = [stdout.strip() for stdout, _ in out]
    if outcome == "well":
        assert said == ["23", "23"], out
    else:
        assert said[slow] == "no more disk" and said[1 - slow] == "another process failed: no more disk", out
