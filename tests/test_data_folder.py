"""Image folders: what is found in them, how it is decoded, kept and streamed, and what is refused."""

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import data
from data import images, loaders


def save(path, side=(12, 12), mode="RGB", seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side[1], side[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Three classes, 8 training and 3 test images each, 12 px PNGs."""
    root = tmp_path / "set"
    for split, count in (("train", 8), ("val", 3)):
        for c, name in enumerate(("ant", "bee", "cat")):
            for i in range(count):
                save(root / split / name / f"{i}.png", seed=100 * c + i + (50 if split == "val" else 0))
    return root


def build(folder, *, size=0, batch=8, **options):
    options = {"workers": 0, "progress": False} | options
    return data.build_data(f"folder:{folder}", folder.parent / "data", size, batch, "cpu", **options)


def batches(d, epoch=1):
    return [*d.train.from_(epoch), *d.test]


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


def within_a_grey_level(shown, expected, d):
    """Of torchvision's two steps, whose sums are rounded once more."""
    difference = (shown - expected).abs() * torch.tensor(d.std).view(3, 1, 1) * 255
    return difference.max() < 1.01 and (difference > 0.01).float().mean() < 0.01


def test_a_folder_is_read_with_sorted_classes_and_its_own_size(folder):
    d = build(folder)
    assert d.class_names == ["ant", "bee", "cat"] and d.num_classes == 3 and d.image_size == 12
    assert (d.train.num_samples, d.test.num_samples) == (24, 9)
    assert (
        "24 training and 9 test images, 12 px, 3 classes, in memory on cpu (0.0 MB), shifted by up to 1 px, flipped"
        in d.description
    )
    x = torch.cat([x for x, _ in build(folder, augment=False).train])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_test_images_are_decoded_in_order_like_torchvision_does(folder):
    for i in range(3):
        save(folder / "val" / "bee" / f"{i}.png", side=(40, 30), seed=i)
    d = build(folder, size=16)
    resize = transforms.Compose([transforms.Resize(16), transforms.CenterCrop(16), transforms.ToTensor()])
    normalise = transforms.Normalize(d.mean, d.std)
    files = sorted((folder / "val").glob("*/*.png"))
    expected = torch.stack([normalise(resize(Image.open(f).convert("RGB"))) for f in files])
    shown, labels = next(iter(d.test))
    assert within_a_grey_level(shown, expected, d)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_batches_are_the_same_wherever_images_are_kept_and_from_the_cache(folder):
    wanted = batches(build(folder, size=8, randaug=True))
    for options in ({"cache": "ram"}, {"cache": "device", "workers": 1}):
        assert same(batches(build(folder, size=8, randaug=True, **options)), wanted), options
    with pytest.raises(data.DataError, match="--cache ram: images above 64 px are read anew"):
        build(folder, size=65, cache="ram")


@pytest.mark.parametrize(
    ("suffix", "mode", "options"),
    [
        ("jpg", "RGB", {}), ("jpg", "L", {}), ("jpg", "CMYK", {}), ("png", "RGBA", {}), ("png", "P", {}),
        ("png", "LA", {}), ("png", "1", {}), ("gif", "P", {}), ("bmp", "RGB", {}), ("tif", "RGB", {}),
        ("webp", "RGB", {}), ("ppm", "RGB", {}), ("tga", "RGB", {}), ("png", "P", {"transparency": 0}),
    ],
)  # fmt: skip
def test_every_common_format_and_mode_becomes_rgb(tmp_path, recwarn, suffix, mode, options):
    path = tmp_path / f"image.{suffix.upper()}"
    save(path, side=(20, 14), mode=mode, **options)
    pixels = images.decode(str(path), 10)
    assert pixels.shape == (3, 10, 10) and pixels.dtype == np.uint8 and pixels.std() > 5
    assert not recwarn.list


def test_tests_of_large_images_equal_torchvisions_resize_and_crop(folder):
    for i, side in enumerate(((200, 90), (90, 300), (66, 65))):
        save(folder / "val" / "bee" / f"{i}.png", side=side, seed=i, mode="RGB" if i else "L")
    wish = {"interpolation": "bicubic", "crop_pct": 0.9, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    d = build(folder, size=70, **wish)
    chain = transforms.Compose([
        transforms.Resize(77, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(70),
        transforms.ToTensor(), transforms.Normalize(wish["mean"], wish["std"]),
    ])  # fmt: skip
    expected = torch.stack([chain(Image.open(f).convert("RGB")) for f in d.test_paths if "bee" in f])
    assert "read anew in every epoch" in d.description
    assert within_a_grey_level(torch.cat([x for x, _ in d.test])[3:6], expected, d)


def test_hidden_and_other_files_are_skipped_nested_and_linked_folders_entered_once(folder):
    for junk in ("notes.txt", ".hidden.png", "._0.png", ".thumbs/0.png"):
        (folder / "train" / "ant" / junk).parent.mkdir(exist_ok=True)
        (folder / "train" / "ant" / junk).write_text("no image")
    save(folder / "train" / "ant" / "deep" / "er" / "1.JPEG")
    (folder / "train" / "ant" / "deep" / "loop").symlink_to(folder / "train" / "ant")
    system = (
        "__MACOSX",
        "@eaDir",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        ".snapshot",
        "lost+found",
    )
    for name in ("ant/@eaDir", *system):
        save(folder / "train" / name / "thumbnail.jpg")
    (folder.parent / "elsewhere").mkdir()
    (folder / "train" / "cat").rename(folder.parent / "elsewhere" / "cat")
    (folder / "train" / "cat").symlink_to(folder.parent / "elsewhere" / "cat")
    d = build(folder, batch=5)
    assert d.train.num_samples == 25 and d.class_names == ["ant", "bee", "cat"]


@pytest.mark.parametrize("where", ["train/dog", "train/ant/more", "train/ant/more.png"])
def test_links_to_nothing_are_refused_by_name(folder, where):
    (folder / where).symlink_to(folder / "gone")
    with pytest.raises(data.DataError, match=f"{where}.* link to nothing"):
        build(folder)


@pytest.mark.parametrize("where", ["train", "train/ant", "train/ant/deep"])
def test_folders_that_may_not_be_listed_are_refused_by_name(folder, monkeypatch, where):
    (folder / "train" / "ant" / "deep").mkdir()
    scan = os.scandir

    def refuse(path="."):
        if Path(path) == folder / where:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", lambda path: [entry.name for entry in refuse(path)])
    with pytest.raises(data.DataError, match=f"{where}\\b.*") as error:
        build(folder)
    assert "cannot be listed" in str(error.value) or "Permission denied" in str(error.value)


def test_images_of_different_sizes_are_made_224(folder):
    save(folder / "train" / "ant" / "0.png", side=(30, 20))
    assert build(folder).image_size == 224


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_validation_folders_have_three_names_and_test_is_kept_apart(folder, name):
    (folder / "val").rename(folder / name)
    d = build(folder)
    assert d.val is None and d.test.num_samples == 9
    assert f"images: 24 in train/ (train), 9 in {name}/ (test)" in d.notes
    (said,) = [note for note in d.notes if "choose" in note]
    assert said.startswith("the test images choose the best weights: --val-split")
    assert not [note for note in build(folder, eval_only=True).notes if "choose" in note]
    save(folder / "test" / "bee" / "0.png", seed=1)
    d = build(folder)
    assert (d.val.num_samples, d.test.num_samples) == (9, 1) and next(iter(d.test))[1].tolist() == [1]
    assert any("validation images choose the best weights" in note for note in d.notes)
    assert d.notes[0].endswith("; no image of 'ant', 'cat' in test/")
    with pytest.raises(data.DataError, match="leave --val-split out"):
        build(folder, val_split=0.2)


def test_two_validation_folders_are_one_too_many(folder):
    (folder / "valid").mkdir()
    with pytest.raises(data.DataError, match="val/ and valid/"):
        build(folder)


def test_splits_are_no_classes_however_they_are_spelt(folder):
    """Two folders Training/ and Testing/ would be two classes where --val-split takes class folders alone."""
    (folder / "train").rename(folder / "Training")
    (folder / "val").rename(folder / "TEST")
    (folder / "unlabelled").mkdir()
    d = build(folder, val_split=0.25)
    assert d.class_names == ["ant", "bee", "cat"] and d.test.num_samples == 9 and d.val is not None


def test_a_validation_set_of_bad_images_alone_is_refused(folder):
    save(folder / "test" / "ant" / "0.png")
    for path in (folder / "val").rglob("*.png"):
        path.write_text("x")
    with pytest.raises(data.DataError, match="no validation image can be read"):
        build(folder, skip_bad=True)


def test_files_left_out_are_counted_by_suffix(folder):
    for name in ("ant/a.heic", "ant/b.HEIC", "bee/scan", "bee/.hidden"):
        (folder / "train" / name).write_text("x")
    save(folder / "val" / "loose.png")
    note = build(folder).notes[0]
    assert note == (
        "images: 24 in train/ (train), 9 in val/ (test); "
        "left out: 4 files (2 .heic, 1 without one, 1 .png in no class folder)"
    )


def test_a_run_knows_its_classes_by_name(folder):
    names = ["ant", "bee", "cat"]
    assert build(folder, class_names=names).class_names == names
    for wanted, says in (
        (["ant", "bug", "cat"], "'bug' gone; 'bee' new"), (["ant", "bee"], "'cat' new"),
        ([*names, "dog"], "'dog' gone"), (["bee", "ant", "cat"], "another order"),
    ):  # fmt: skip
        with pytest.raises(data.DataError, match=says):
            build(folder, class_names=wanted)


@pytest.mark.parametrize("bare", [False, True])
def test_evaluation_needs_no_training_images_but_class_names(folder, bare):
    wanted = batches(build(folder, mean=(0.5,) * 3, std=(0.2,) * 3))[-2:]
    remove(folder / "train")
    remove(folder / "val" / "ant")
    wish = {"eval_only": True, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    place = folder / "val" if bare else folder
    d = build(place, class_names=["ant", "bee", "cat"], **wish)
    assert d.train is None and d.class_counts == [] and d.num_classes == 3
    (images, labels), *_ = d.test
    assert labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert torch.equal(images, torch.cat([x for x, _ in wanted])[-6:])
    with pytest.raises(data.DataError, match="do not know their class names"):
        build(place, **wish)
    with pytest.raises(data.DataError, match=r"'bee' is in .*no 'bug': was it renamed"):
        build(place, class_names=["bug", "cat"], **wish)
    with pytest.raises(data.DataError, match="mean and std"):
        build(place, class_names=["ant", "bee", "cat"], eval_only=True)


@pytest.mark.parametrize("size", [0, 70])
def test_the_fingerprint_is_of_contents_not_of_place_or_time(folder, size):
    save(folder / "train" / "ant" / "large.bmp", side=(300, 300))  # 270 kB: its two ends
    first = build(folder, size=size).fingerprint
    for file in folder.rglob("*.png"):
        os.utime(file, (1, 1))
    moved = folder.rename(folder.parent / "elsewhere")
    assert build(moved, size=size).fingerprint == first == build(moved, size=size, val_split=0.2).fingerprint
    found = [first]
    file = moved / "train" / "ant" / "large.bmp"
    content = bytearray(file.read_bytes())
    for at in (1000, -1000):  # same size, other pixels
        content[at] ^= 255
        file.write_bytes(content)
        found.append(build(moved, size=size).fingerprint)
    file.rename(file.with_name("new.bmp"))
    found.append(build(moved, size=size).fingerprint)
    for split in ("train", "val"):
        (moved / split / "cat").rename(moved / split / "cow")
    assert len({*found, build(moved, size=size).fingerprint}) == 5


def test_one_folder_has_one_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    spellings = (
        "folder:set",
        "folder:set/",
        "folder:./set",
        "Folder:../" + folder.parent.name + "/set",
        f"folder:{folder}",
    )
    assert {data.canonical_name(name) for name in spellings} == {f"folder:{os.path.realpath(folder)}"}
    monkeypatch.setenv("HOME", str(folder.parent))
    assert build(Path("~/set")).train.num_samples == 24
    assert data.canonical_name("CIFAR_10") == "cifar10"
    with pytest.raises(data.DataError, match="did you mean folder:set"):
        data.canonical_name("set")


def remove(path):
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: remove(f), "does not exist"),
        (lambda f: remove(f / "train"), "no train/"),
        (lambda f: remove(f / "val"), "neither val/ nor test/"),
        (lambda f: [remove(f / s / c) for s in ("train", "val") for c in ("ant", "bee")], "two or more"),
        (lambda f: (f / "val" / "dog").mkdir(), "'dog'"),
        (lambda f: (f / "train" / "dog").mkdir(), "no images"),
        (lambda f: [remove(f / "val" / c) for c in ("ant", "bee", "cat")], "no class folders"),
    ],
)
def test_a_folder_without_the_layout_is_refused_in_one_line(folder, spoil, says):
    spoil(folder)
    with pytest.raises(data.DataError, match=says) as error:
        build(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp"])
def test_a_truncated_image_is_named_in_one_line(folder, suffix):
    bad = folder / "train" / "bee" / f"bad.{suffix}"
    save(bad)
    whole = bad.read_bytes()
    bad.write_bytes(whole[: int(len(whole) * 0.6)])
    for size in (12, 70):
        with pytest.raises(data.DataError, match=f"bad.{suffix}: cannot be read as an image") as error:
            batches(build(folder, size=size))
        assert "\n" not in str(error.value)


def test_files_that_only_pretend_to_be_images_are_named(folder):
    (folder / "train" / "ant" / "0.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(data.DataError, match=r"ant.0\.png"):
        build(folder, size=12)
    (folder / "train" / "ant" / "0.png").unlink()
    os.mkfifo(folder / "train" / "ant" / "0.png")
    with pytest.raises(data.DataError, match=r"ant.0\.png: not a regular file"):
        build(folder, size=12)


@pytest.mark.parametrize("factor", [1.5, 3])
def test_decompression_bombs_are_refused(folder, monkeypatch, factor):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(12 * 12 / factor))
    with pytest.raises(data.DataError, match="bomb") as error:
        images.decode(str(folder / "train" / "ant" / "0.png"), 8)
    assert "0.png" in str(error.value) and "\n" not in str(error.value)


def cache_file(folder):
    (file,) = (folder.parent / "data" / "cache").iterdir()
    return file


def test_the_second_start_decodes_nothing_and_a_changed_folder_is_decoded_again(folder, monkeypatch):
    wanted = batches(build(folder))
    with monkeypatch.context() as patch:
        patch.setattr("data.build.decoded", lambda *_: pytest.fail("decoded again"))
        assert same(batches(build(folder)), wanted)
    file = folder / "train" / "ant" / "0.png"
    content, status = bytearray(file.read_bytes()), file.stat()
    save(file, seed=9)
    file.write_bytes(file.read_bytes().ljust(len(content), b"\0"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as cp -p or rsync would
    assert not same(batches(build(folder)), wanted)
    cache_file(folder)  # replaced, not added to


@pytest.mark.parametrize("spoil", [
    lambda whole: whole[:0], lambda whole: whole[: len(whole) // 2],
    lambda whole: whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
])  # fmt: skip
def test_a_damaged_cache_is_noticed_and_replaced(folder, caplog, spoil):
    wanted = batches(build(folder))
    file = cache_file(folder)
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    with caplog.at_level(logging.WARNING):
        assert same(batches(build(folder)), wanted)
    assert "damaged" in caplog.text and cache_file(folder).stat().st_size == len(whole)


def test_a_data_directory_that_cannot_be_written_costs_one_warning(folder, caplog):
    (folder.parent / "data").write_text("a file where the directory should be")
    assert build(folder).train.num_samples == 24
    assert len(caplog.records) == 1 and "not cached" in caplog.text


def test_a_disk_that_fills_up_leaves_no_half_written_cache(folder, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert build(folder).train.num_samples == 24
    assert "No space left" in caplog.text and not list((folder.parent / "data" / "cache").iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(folder, monkeypatch, caplog, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("data.locks.FileLock.acquire", refuse)
    assert build(folder).train.num_samples == 24
    assert "cannot be locked" in caplog.text


@pytest.mark.parametrize(
    ("asked", "free", "got"),
    [("auto", 1000, "cuda"), ("auto", 200, "cpu"), ("ram", 1000, "cpu"), ("device", 0, "cuda")],
)
def test_auto_takes_the_device_where_the_images_fit(monkeypatch, asked, free, got):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 1000))
    assert loaders.choose_place(asked, torch.device("cuda"), 100).type == got
    assert loaders.choose_place("auto", torch.device("mps"), 100).type == "cpu"
