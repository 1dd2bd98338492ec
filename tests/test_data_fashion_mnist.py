"""Fashion-MNIST's idx files: packed by anybody, unpacked, damaged."""

import gzip
import struct

import numpy as np
import pytest
from test_data_sources import build, md5, pixels, refused
from torchvision import datasets

from data import fetch
from data.sources import fashion_mnist


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Every download fails."""
    monkeypatch.setattr(fetch, "download", lambda *_: (_ for _ in ()).throw(OSError("no network")))


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """Ten training and three test images; returns the gzipped files by name and the test images."""
    files, tests = {}, None
    for split, n in (("train", 10), ("t10k", 3)):
        tests = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        head = struct.pack(">HBBIII", 0, 8, 3, n, 28, 28)
        files[f"{split}-images-idx3-ubyte.gz"] = gzip.compress(head + tests.tobytes())
        labels = struct.pack(">HBBI", 0, 8, 1, n) + bytes(range(n))
        files[f"{split}-labels-idx1-ubyte.gz"] = gzip.compress(labels)
    monkeypatch.setattr(datasets.FashionMNIST, "resources", [(n, md5(c)) for n, c in files.items()])
    contents = {name: md5(gzip.decompress(content)) for name, content in files.items()}
    monkeypatch.setattr(fashion_mnist, "_UNPACKED_MD5", contents)
    return files, tests


@pytest.mark.parametrize("place", ["FashionMNIST/raw", "."])
@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_is_read_packed_and_unpacked(fashion, tmp_path, place, packed):
    files, images = fashion
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        target = tmp_path / place / name
        target.write_bytes(content) if packed else target.with_suffix("").write_bytes(
            gzip.decompress(content)
        )
    d = build("FashionMNIST", tmp_path)
    assert np.array_equal(pixels(d), np.repeat(images[:, None], 3, axis=1))
    assert next(iter(d.test))[1].tolist() == [0, 1, 2] and d.class_names[9] == "Ankle boot"
    assert d.image_size == 28


def test_damaged_fashion_mnist_files_are_named(fashion, tmp_path):
    files, _ = fashion
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    name, content = next(iter(files.items()))
    refused("fashion-mnist", tmp_path / "none", name, md5(content), datasets.FashionMNIST.mirrors[0] + name)
    other = gzip.compress(gzip.decompress(content)[:-1] + b"x")
    (tmp_path / name).write_bytes(other)
    refused("fashion-mnist", tmp_path, tmp_path / name, *(md5(gzip.decompress(c)) for c in (other, content)))
    (tmp_path / name).write_bytes(content[:-20])
    refused("fashion-mnist", tmp_path, tmp_path / name, "damaged")
    (tmp_path / name).unlink()
    for plain in (gzip.decompress(content)[:-1], b"", b"\0" * 100):
        (tmp_path / name).with_suffix("").write_bytes(plain)
        refused("fashion-mnist", tmp_path, tmp_path / name.removesuffix(".gz"), "damaged")


def test_files_compressed_anew_pass_by_their_content(fashion, tmp_path):
    files, images = fashion
    for name, content in files.items():
        (tmp_path / name).write_bytes(gzip.compress(gzip.decompress(content), compresslevel=1, mtime=7))
    assert np.array_equal(pixels(build("fashion-mnist", tmp_path))[:, 0], images)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("wrong", ["mnist", "swapped"])
def test_other_files_under_the_right_names_are_refused(fashion, tmp_path, packed, wrong):
    """MNIST's four files have the same names and shapes; test files under the training files' names."""
    files, _ = fashion
    named = list(files.items())
    if wrong == "swapped":
        contents = [content for _, content in named[2:] + named[:2]]
    else:
        contents = [gzip.compress(gzip.decompress(c)[:-1] + b"\7") for _, c in named]
    for (name, _), content in zip(named, contents, strict=True):
        path = tmp_path / (name if packed else name.removesuffix(".gz"))
        path.write_bytes(content if packed else gzip.decompress(content))
    refused("fashion-mnist", tmp_path, "train-images", "MNIST's files have the same names", "md5")
