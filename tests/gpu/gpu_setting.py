"""What the tests of a GPU share: the marks, nets and kinds of steps, and trainings that leave nothing behind.

``python -m pytest -m gpu tests/gpu`` runs them one after the other and prints what it measures; nothing is downloaded.
"""

import gc
import os

import pytest
import torch
from PIL import Image

from benchmarks.measure import Training, register_random_images
from losses import loss_names

# Not beside other tests: some measure the GPU, and one fills its memory.
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="has the GPU to itself with -m gpu"),
]

NETS = [
    "vit", "vit_small", "resnet18", "vgg19", "swin", "cait", "resnet50", "resnet20", "lenet", "timm:convnext_atto",
    "timm:vit_base_patch16_384",
]  # fmt: skip
LOSSES = [f"--net vit_tiny --loss {loss}" for loss in loss_names()]
CACHES = [
    "--net vit_tiny --cache device", "--net vit_tiny --cache ram",
    "--net resnet20 --dataset folder:images --size 96 --workers 2",
]  # fmt: skip
STEPS = [
    f"--net resnet18 {flags}"
    for flags in (
        "--randaug", "--clip-grad 1", "--ema 0.99", "--opt sgd", "--mixup 0.2 --cutmix 1", "--label-smoothing 0.1",
        "--k-end 8", "--val-split 0.2", "--class-weights balanced", "--amp fp16", "--noamp",
    )
]  # fmt: skip


def training(words, images=96):
    """train.py's own, eager unless `words` say otherwise; what the one before held is free again."""
    torch._dynamo.reset()  # or the compiled code of many nets reaches Dynamo's limit
    gc.collect()
    torch.cuda.empty_cache()
    register_random_images(images, 32)
    usual = "--dataset random --device cuda --compile off --graph off --lr 0.001 --bs 16"
    return Training([*usual.split(), *words.split()])


@pytest.fixture
def images(tmp_path, monkeypatch):
    """The working directory has a folder of two classes of random images, 96 to train on."""
    monkeypatch.chdir(tmp_path)
    noise = torch.randint(256, (96, 32, 32, 3), dtype=torch.uint8).numpy()
    for split, some in (("train", noise), ("val", noise[:32])):
        for i, pixels in enumerate(some):
            folder = tmp_path / "images" / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{i}.png")
