"""Several processes of one run: one decodes, the others find its cache, and an error stops them all."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import data

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
