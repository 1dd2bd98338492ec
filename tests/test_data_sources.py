"""The named data sets: their names, and small files in their original layouts, missing and damaged ones."""

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

import data
from data.sources import published, tiny_imagenet

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Every download fails like one without a network; the addresses asked for are collected."""
    asked = []

    def refuse(request, *_, **__):
        asked.append(request.full_url)
        raise urllib.error.URLError(OSError("Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


def md5(content):
    return hashlib.md5(content).hexdigest()


def build(name, data_dir, **options):
    options = {"workers": 0, "progress": False} | options
    return data.build_data(name, data_dir, options.pop("size", 0), 8, "cpu", **options)


def pixels(d):
    """The test split as uint8 images."""
    x = torch.cat([x for x, _ in d.test])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (d.mean, d.std))
    return ((x * std + mean) * 255).round().byte().numpy()


def refused(name, data_dir, *parts, **options):
    """Building fails in one line that has all of `parts`, and no file in `data_dir` was touched."""

    def files():
        return {p: p.read_bytes() for p in Path(data_dir).rglob("*") if p.is_file() and p.name != ".lock"}

    before = files()
    with pytest.raises(data.DataError) as error:
        build(name, data_dir, **options)
    message = str(error.value)
    assert "\n" not in message
    assert [part for part in parts if str(part) not in message] == [], message
    assert files() == before


def tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path.read_bytes()


def encoded(side=(64, 64), mode="RGB", form="JPEG"):
    out = io.BytesIO()
    array = RNG.integers(0, 256, (side[1], side[0], 3), dtype=np.uint8)
    Image.fromarray(array).convert(mode).save(out, form)
    return out.getvalue()


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch):
    """A CIFAR archive of six images a batch, its checksums in torchvision's tables, and its test images."""
    cls, labels_key = {
        "cifar10": (datasets.CIFAR10, "labels"),
        "cifar100": (datasets.CIFAR100, "fine_labels"),
    }[request.param]
    members, images = {}, None
    lists = {}
    for kind in ("train_list", "test_list"):
        lists[kind] = []
        for filename, _ in getattr(cls, kind):
            images = RNG.integers(0, 256, (6, 3072), dtype=np.uint8)
            content = pickle.dumps({"data": images, labels_key: [0, 1, 2, 0, 1, 2]}, protocol=2)
            members[f"{cls.base_folder}/{filename}"] = content
            lists[kind].append([filename, md5(content)])
    meta = pickle.dumps({cls.meta["key"]: ["ant", "bee", "cat"]}, protocol=2)
    members[f"{cls.base_folder}/{cls.meta['filename']}"] = meta
    for kind, value in lists.items():
        monkeypatch.setattr(cls, kind, value)
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": md5(meta)})
    content = tar(tmp_path / cls.filename, members)
    monkeypatch.setattr(cls, "tgz_md5", md5(content))
    return request.param, cls, tmp_path, images.reshape(6, 3, 32, 32)


def test_cifar_is_unpacked_from_its_archive_and_read(cifar, offline):
    name, cls, folder, images = cifar
    for _ in range(2):  # the second time from the unpacked files
        d = build(name, folder)
        assert np.array_equal(pixels(d), images)
        (folder / cls.filename).unlink(missing_ok=True)
    assert d.class_names == ["ant", "bee", "cat"] and d.image_size == 32
    assert next(iter(d.test))[1].tolist() == [0, 1, 2, 0, 1, 2]
    assert {p.name for p in folder.iterdir()} == {cls.base_folder, ".lock"} and not offline


def test_cifar_without_files_or_network_says_what_goes_where(cifar, tmp_path, offline):
    name, cls, _, _ = cifar
    empty = tmp_path / "empty"
    refused(name, empty, cls.filename, "missing", f"put it into {empty}", cls.url, cls.tgz_md5)
    assert offline[0] == cls.url and not list(empty.rglob("cifar*"))


@pytest.mark.parametrize(
    "spoil", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""]
)
def test_a_damaged_cifar_archive_is_named_with_both_checksums_and_kept(cifar, spoil, offline):
    name, cls, folder, _ = cifar
    archive = folder / cls.filename
    archive.write_bytes(spoil(archive.read_bytes()))
    refused(name, folder, archive, md5(archive.read_bytes()), cls.tgz_md5)
    assert not offline


def test_a_tampered_cifar_batch_is_never_unpickled(cifar, tmp_path):
    name, cls, folder, _ = cifar
    build(name, folder)
    batch = folder / cls.base_folder / cls.train_list[0][0]
    written = tmp_path / "hacked"

    class Evil:
        def __reduce__(self):
            return Path.touch, (written,)

    batch.write_bytes(pickle.dumps(Evil()))
    before = batch.read_bytes()
    assert build(name, folder).train.num_samples > 0  # unpacked again
    batch.write_bytes(before)
    (folder / cls.filename).unlink()
    refused(name, folder, cls.filename, "missing", cls.url, cls.tgz_md5)
    assert not written.exists()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The official zip's layout with two classes, grey JPEGs among them; returns its path and val images."""
    path = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as archive:
        put = lambda name, content: archive.writestr(f"tiny-imagenet-200/{name}", content)  # noqa: E731
        put("wnids.txt", "n02\nn01\n")
        put("words.txt", "n01\tant, emmet\nn02\tbee\nn03\tcat\n")
        for wnid in ("n01", "n02"):
            put(f"train/{wnid}/{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
            for i in range(4):
                put(f"train/{wnid}/images/{wnid}_{i}.JPEG", encoded(mode="L" if i == 0 else "RGB"))
        val = [encoded(), encoded(mode="L"), encoded()]
        for i, content in enumerate(val):
            put(f"val/images/val_{i}.JPEG", content)
        put(
            "val/val_annotations.txt", "".join(f"val_{i}.JPEG\tn0{1 + i % 2}\t0\t0\t9\t9\n" for i in range(3))
        )
        put("test/images/test_0.JPEG", encoded())
    content = path.read_bytes()
    monkeypatch.setattr(tiny_imagenet, "MD5", md5(content))
    return path, [np.asarray(Image.open(io.BytesIO(c)).convert("RGB")).transpose(2, 0, 1) for c in val]


def test_tiny_imagenet_is_read_from_its_zip_or_unpacked_from_either_folder(tiny, offline):
    path, val = tiny
    d = build("tiny-imagenet", path.parent)
    path.unlink()
    for again in (build("Tiny_ImageNet", path.parent), build("tiny-imagenet", path.parent / path.stem), d):
        assert np.array_equal(pixels(again), val)
        assert next(iter(again.test))[1].tolist() == [1, 0, 1]
        assert again.class_names == ["bee", "ant, emmet"] and again.image_size == 64
        assert again.train.num_samples == 8 and not offline
        assert (
            "it has 8 training and 3 test images, not 100,000 training and 10,000 test images"
            in again.notes[0]
        )
    assert {p.name for p in path.parent.iterdir()} == {"tiny-imagenet-200", "cache", ".lock"}


def test_a_truncated_or_missing_tiny_imagenet_zip_is_named_with_what_was_expected(tiny, offline):
    path, _ = tiny
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused("tiny-imagenet", path.parent, path, md5(whole[:-10]), tiny_imagenet.MD5)
    path.unlink()
    refused(
        "tiny-imagenet", path.parent, path.name, tiny_imagenet.URL, tiny_imagenet.MD5, "248,100,043 bytes"
    )
    assert set(offline) == {tiny_imagenet.URL}


def test_an_incomplete_tiny_imagenet_names_what_is_missing(tiny):
    path, _ = tiny
    build("tiny-imagenet", path.parent)
    root = path.parent / path.stem
    (root / "val" / "images" / "val_1.JPEG").unlink()
    refused("tiny-imagenet", root, root / "val" / "images" / "val_1.JPEG")
    (root / "val" / "val_annotations.txt").write_text("../../x\tn01\n")
    refused("tiny-imagenet", root, "val_annotations.txt")
    (root / "words.txt").write_bytes(b"\xff\xfe")
    refused("tiny-imagenet", root, "words.txt")


@pytest.mark.parametrize("inner", ["images", "."])
@pytest.mark.parametrize("annotations", [True, False])
def test_tiny_imagenet_sorted_into_class_folders_is_read(tiny, inner, annotations):
    path, val = tiny
    build("tiny-imagenet", path.parent)
    root = path.parent / path.stem
    for i, wnid in enumerate(("n01", "n02", "n01")):
        (root / "val" / wnid / inner).mkdir(parents=True, exist_ok=True)
        file = root / "val" / "images" / f"val_{i}.JPEG"
        if i == 2:  # a script that was stopped on its way
            refused("tiny-imagenet", root, root / "val", "only in part")
        file.rename(root / "val" / wnid / inner / file.name)
    if not annotations:
        (root / "val" / "val_annotations.txt").unlink()
    d = build("tiny-imagenet", root)
    assert np.array_equal(pixels(d), [val[1], val[0], val[2]])
    assert next(iter(d.test))[1].tolist() == [0, 1, 1]


def food_members():
    lists = {
        split: {c: [f"{c}/{100 * k + i}" for i in range(n)] for c in ("ramen", "apple_pie")}
        for k, (split, n) in enumerate((("train", 3), ("test", 2)))
    }
    members = {f"food-101/meta/{split}.json": json.dumps(names).encode() for split, names in lists.items()}
    names = [name for by_class in lists.values() for images in by_class.values() for name in images]
    return members | {f"food-101/images/{name}.jpg": encoded(side=(80, 60)) for name in names}


@pytest.mark.parametrize("packed", [True, False])
def test_food_101_is_read_from_its_archive_or_unpacked(tmp_path, monkeypatch, packed, offline):
    members = food_members()
    if packed:
        content = tar(tmp_path / "food-101.tar.gz", members)
        monkeypatch.setattr(datasets.Food101, "_MD5", md5(content))
    else:
        for name, content in members.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    d = build("food101", tmp_path)
    assert d.class_names == ["apple_pie", "ramen"] and d.image_size == 224
    x, y = next(iter(d.test))
    assert "it has 6 training and 4 test images, not 75,750 training and 25,250" in d.notes[0]
    assert x.shape == (4, 3, 224, 224) and y.tolist() == [1, 1, 0, 0] and d.train.num_samples == 6
    assert not offline
    (tmp_path / "food-101" / "images" / "ramen" / "100.jpg").unlink()
    refused("food-101", tmp_path, "100.jpg", "missing")


def test_food_101_missing_or_damaged_is_refused(tmp_path):
    refused("food-101", tmp_path, "food-101.tar.gz", datasets.Food101._URL, datasets.Food101._MD5)
    archive = tmp_path / "food-101.tar.gz"
    refused("food-101", tmp_path, archive, md5(tar(archive, food_members())), datasets.Food101._MD5)


@pytest.fixture(params=["mnist", "fashion-mnist"])
def idx(request, tmp_path, monkeypatch):
    """Ten training and three test images; the name, torchvision's folder, the gzipped files, the test images."""
    cls = published._MNIST[request.param]
    files, tests = {}, None
    for split, n in (("train", 10), ("t10k", 3)):
        tests = RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        head = struct.pack(">HBBIII", 0, 8, 3, n, 28, 28)
        files[f"{split}-images-idx3-ubyte.gz"] = gzip.compress(head + tests.tobytes())
        labels = struct.pack(">HBBI", 0, 8, 1, n) + bytes(range(n))
        files[f"{split}-labels-idx1-ubyte.gz"] = gzip.compress(labels)
    monkeypatch.setattr(cls, "resources", [(n, md5(c)) for n, c in files.items()])
    unpacked = {name.removesuffix(".gz"): md5(gzip.decompress(content)) for name, content in files.items()}
    monkeypatch.setitem(published._UNPACKED_MD5, request.param, unpacked)
    raw = tmp_path / cls.__name__ / "raw"
    raw.mkdir(parents=True)
    return request.param, raw, files, tests


@pytest.mark.parametrize("packed", [True, False])
def test_the_mnists_are_read_packed_and_unpacked(idx, tmp_path, packed):
    name, raw, files, tests = idx
    for file, content in files.items():
        target = raw / file if packed else raw / file.removesuffix(".gz")
        target.write_bytes(content if packed else gzip.decompress(content))
    d = build(name, tmp_path)
    assert np.array_equal(pixels(d), np.repeat(tests[:, None], 3, axis=1)) and d.image_size == 28
    assert next(iter(d.test))[1].tolist() == [0, 1, 2] and d.num_classes == 10
    assert ("flipped" in d.description) == (name != "mnist")


def test_the_mnists_missing_damaged_or_in_each_others_place_are_refused(idx, tmp_path):
    name, raw, files, _ = idx
    first, content = next(iter(files.items()))
    refused(name, tmp_path / "none", first, md5(content), published._MNIST[name].mirrors[0] + first)
    for file, whole in files.items():
        (raw / file).write_bytes(whole)
    (raw / first).write_bytes(content[:-20])
    refused(name, tmp_path, raw / first, md5(content[:-20]), md5(content))
    (raw / first).unlink()
    other = gzip.decompress(content)[:-1] + b"\7"  # the other set's file, of the same name and shape
    (raw / first.removesuffix(".gz")).write_bytes(other)
    refused(name, tmp_path, raw / first.removesuffix(".gz"), md5(other), md5(gzip.decompress(content)))


class Response(io.BytesIO):
    length, status, headers = None, 200, {}

    def geturl(self):
        return self.url


def test_half_a_download_is_not_left_behind(idx, tmp_path, monkeypatch):
    name, raw, files, _ = idx

    def answer(request, *_, **__):
        response = Response(files[request.full_url.rpartition("/")[2]][:50])
        response.url = request.full_url
        return response

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    refused(name, tmp_path, "could not be downloaded", next(iter(files)))
    assert not list(raw.iterdir())


@pytest.mark.skipif("ROOTED_DATA" not in os.environ, reason="needs the real archives")
def test_the_real_tiny_imagenet_excerpt_loads(tmp_path):
    with tarfile.open(Path(os.environ["ROOTED_DATA"]) / "tiny-imagenet-mini.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    d = build("tiny-imagenet", tmp_path)
    assert (d.train.num_samples, d.test.num_samples, d.num_classes) == (10000, 2000, 200)
    assert torch.bincount(torch.cat([y for _, y in d.test])).tolist() == [10] * 200


def test_digits_have_a_fixed_stratified_test_split_and_write_nothing(tmp_path):
    first, second = (build("digits", tmp_path / "x", seed=s) for s in (0, 1))
    assert (first.train.num_samples, first.test.num_samples) == (1437, 360) and first.image_size == 8
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first.test, second.test, strict=True))
    assert not list(tmp_path.iterdir())
    counts = torch.bincount(torch.cat([y for _, y in first.test]))
    assert counts.min() >= 34 and counts.max() <= 38
    assert first.description == (
        "digits: 1,437 training and 360 test images, 8 px, 10 classes, in memory on cpu (0.1 MB), "
        "shifted by up to 1 px"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [("cifar", "cifar10 or cifar100"), ("digit", "did you mean digits"), ("xyz", "known: digits"),
     ("folder", "needs a path"), ("folder:", "needs a path"), ("digits:x", "unknown"), ("", "unknown")],
)  # fmt: skip
def test_an_unknown_name_lists_near_matches_and_all_names(tmp_path, name, says):
    with pytest.raises(data.DataError, match=says):
        build(name, tmp_path)


@pytest.mark.parametrize("size", [3, -1, 4096])
def test_sizes_out_of_range_are_refused(tmp_path, size):
    refused("digits", tmp_path, str(size), size=size)


@pytest.mark.parametrize("path", ["~nobody/x", "a\0b", "x" * 5000, "/etc/passwd", "a\nb", "."])
@pytest.mark.parametrize("name", ["folder:{}", "cifar10", "tiny-imagenet", "food-101", "fashion-mnist"])
def test_odd_paths_end_in_one_line(tmp_path, monkeypatch, name, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(data.DataError) as error:
        build(name.format(path), path)
    assert "\n" not in str(error.value)


def test_names_are_listed_without_importing_torch():
    code = "import sys, data; assert 'torch' not in sys.modules; print(*data.list_datasets())"
    root = Path(data.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [*list(data.DATASETS)[:-1], "folder:<path>"]
