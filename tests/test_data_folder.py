"""Image folders: what is found in them, how it is decoded, kept and streamed, and what is refused."""

import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import data
from data import diskcache, images, stores, stream


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


def batches(d, epoch=1, start=0):
    d.train.set_epoch(epoch, start)
    return [*d.train, *d.test]


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


def test_a_folder_is_read_with_sorted_classes_and_its_own_size(folder):
    d = build(folder)
    assert d.class_names == ["ant", "bee", "cat"] and d.num_classes == 3 and d.image_size == 12
    assert (d.train.num_samples, d.test.num_samples) == (24, 9)
    assert "24 training and 9 test images, 12 px, 3 classes, in memory on cpu" in d.description
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
    shown, labels = next(iter(build(folder, size=16, cache="none").test))
    torch.testing.assert_close(shown, expected, atol=1e-5, rtol=1e-5)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("size", [0, 8, 24])
def test_batches_are_the_same_wherever_images_are_kept_and_with_any_workers(folder, size):
    wanted = batches(build(folder, size=size, randaug=True))
    random_state = torch.get_rng_state()
    for options in ({"cache": "ram"}, {"cache": "none"}, {"cache": "none", "workers": 1}):
        assert same(batches(build(folder, size=size, randaug=True, **options)), wanted), options
    assert torch.equal(torch.get_rng_state(), random_state), "the global generator was used"


def test_streaming_goes_on_from_any_batch_also_after_an_iteration_was_left(folder, monkeypatch):
    monkeypatch.setattr("data.build.usable_workers", lambda n: n)
    d = build(folder, cache="none", workers=2)
    whole = batches(d, 4)
    d.train.set_epoch(2)
    next(iter(d.train))
    assert same(batches(d, 4, 1), whole[1:])


def test_ranks_stream_disjoint_parts_that_make_up_the_whole(folder):
    parts = [build(folder, cache="none", rank=r, world_size=2, batch=9) for r in range(2)]
    labels = torch.cat([torch.cat([y for _, y in part.test]) for part in parts])
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    alone = next(iter(build(folder, batch=9).train))
    joined = [torch.cat(t) for t in zip(*(next(iter(p.train)) for p in parts), strict=True)]
    assert torch.equal(joined[0], alone[0]) and torch.equal(joined[1], alone[1])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Unix signals")
def test_workers_survive_the_signals_that_stop_a_run_and_do_not_outlive_it(folder):
    code = f"""
import data, multiprocessing, os, signal, time
import data.build, data.stream
data.build.usable_workers = lambda n: n
start = data.stream._start_worker
def slowly(worker):
    time.sleep(worker)  # so the signal meets one worker ready and one still starting
    start(worker)
data.stream._start_worker = slowly
signal.signal(signal.SIGTERM, lambda *_: None)
d = data.build_data("folder:{folder}", "{folder.parent}/data", 0, 4, "cpu", cache="none", workers=2)
batches = iter(d.train)
next(batches)
os.killpg(0, signal.SIGTERM)
time.sleep(0.5)
print(len(list(batches)), len(multiprocessing.active_children()))
"""
    root = Path(data.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root, capture_output=True, text=True, timeout=30, start_new_session=True,
    )  # fmt: skip
    assert (run.stdout.strip(), run.stderr, run.returncode) == ("5 2", "", 0)


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


def test_sixteen_bit_images_keep_their_greys(tmp_path):
    grey = (np.arange(64, dtype=np.uint16).reshape(8, 8)) * 1024
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(images.decode(str(tmp_path / "a.png"), 8)[0], (grey >> 8).astype(np.uint8))


def test_hidden_and_other_files_are_skipped_nested_and_linked_folders_entered_once(folder):
    for junk in ("notes.txt", ".hidden.png", "._0.png", ".thumbs/0.png"):
        (folder / "train" / "ant" / junk).parent.mkdir(exist_ok=True)
        (folder / "train" / "ant" / junk).write_text("no image")
    save(folder / "train" / "ant" / "deep" / "er" / "1.JPEG")
    (folder / "train" / "ant" / "deep" / "loop").symlink_to(folder / "train" / "ant")
    for name in ("__MACOSX", "ant/@eaDir", "@eaDir"):  # of an unpacked archive, of a NAS
        save(folder / "train" / name / "thumbnail.jpg")
    d = build(folder, batch=5)
    assert d.train.num_samples == 25 and d.class_names == ["ant", "bee", "cat"]


def test_images_of_different_sizes_are_made_224(folder):
    save(folder / "train" / "ant" / "0.png", side=(30, 20))
    assert build(folder, cache="none").image_size == 224


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
    assert "no class folder in test/ for 'ant', 'cat'" in d.notes
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
    assert any(note.startswith("not used: the folder 'unlabelled'") for note in d.notes)
    for name in ("Training", "TEST"):
        (folder / name).rename(folder / f"{name}-set")
    (folder / "unlabelled").rmdir()
    (note,) = [note for note in build(folder, val_split=0.25).notes if "if those are the classes" in note]
    assert "'ant', 'bee', 'cat'" in note


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
    notes = build(folder).notes
    assert "left out of train/ for their suffix: 3 files (2 .heic, 1 without one) of 'ant', 'bee'" in notes
    assert "left out of val/: 1 images in no class folder" in notes
    assert not [note for note in build(folder).notes if "suffix" in note and "val/" in note]


def test_what_looks_the_same_and_is_not_is_said(folder):
    def notes(words, **options):
        return [note for note in build(folder, **options).notes if words in note]

    assert not notes("pixel for pixel") and not notes("classes of their own")
    save(folder / "train" / "Ant" / "0.png", seed=907)
    save(folder / "train" / "cafe\u0301" / "0.png", seed=908)
    save(folder / "train" / "caf\xe9" / "0.png", seed=909)
    first, second = notes("classes of their own")
    assert first.startswith("'Ant' and 'ant' are") and second.startswith("'cafe\\u0301' and 'caf\\xe9' are")
    shutil.copy(folder / "train" / "bee" / "3.png", folder / "val" / "bee" / "9.png")
    Image.open(folder / "train" / "cat" / "0.png").save(folder / "val" / "cat" / "9.bmp")
    (note,) = notes("pixel for pixel", cache="ram")
    assert note.startswith("2 of 11 test images are training images too")
    assert notes("pixel for pixel", cache="device", size=6) == [note]
    (folder / "train" / "zoo").symlink_to(folder / "train" / "ant")
    twins, same = notes("pixel for pixel")
    assert twins.startswith("16 of 35 training images have a twin of another class") and same == note


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


def test_the_fingerprint_is_of_names_and_sizes_not_of_place_or_time(folder):
    first = build(folder).fingerprint
    for file in folder.rglob("*.png"):
        os.utime(file, (1, 1))
    moved = folder.rename(folder.parent / "elsewhere")
    assert build(moved).fingerprint == first == build(moved, cache="none", val_split=0.2).fingerprint
    file = moved / "train" / "ant" / "0.png"
    file.write_bytes(file.read_bytes() + b"x")
    longer = build(moved).fingerprint
    file.rename(file.with_name("new.png"))
    renamed = build(moved).fingerprint
    (moved / "train" / "cat").rename(moved / "train" / "cow")
    (moved / "val" / "cat").rename(moved / "val" / "cow")
    assert len({first, longer, renamed, build(moved).fingerprint}) == 4


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


@pytest.mark.parametrize(("cache", "workers"), [("auto", 0), ("none", 0), ("auto", 2), ("none", 2)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp"])
def test_a_truncated_image_is_named_in_one_line(folder, monkeypatch, suffix, cache, workers):
    monkeypatch.setattr("data.build.usable_workers", lambda n: n)
    monkeypatch.setattr(stream, "_CHUNK", 4)
    bad = folder / "train" / "bee" / f"bad.{suffix}"
    save(bad)
    whole = bad.read_bytes()
    bad.write_bytes(whole[: int(len(whole) * 0.6)])
    with pytest.raises(data.DataError, match=f"bad.{suffix}: cannot be read as an image") as error:
        batches(build(folder, size=12, cache=cache, workers=workers))
    assert "\n" not in str(error.value)


def test_files_that_only_pretend_to_be_images_are_named(folder):
    (folder / "train" / "ant" / "0.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(data.DataError, match=r"ant.0\.png"):
        build(folder, size=12)


@pytest.mark.parametrize("factor", [1.5, 3])
def test_image_bombs_are_refused(folder, monkeypatch, factor):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(12 * 12 / factor))
    for cache in ("auto", "none"):
        with pytest.raises(data.DataError, match="refused"):
            batches(build(folder, size=12, cache=cache))


def cache_file(folder):
    (file,) = (folder.parent / "data" / "cache").iterdir()
    return file


def test_the_second_start_decodes_nothing(folder, monkeypatch):
    wanted = batches(build(folder))
    monkeypatch.setattr("data.build.decode_all", lambda *_: pytest.fail("decoded again"))
    assert same(batches(build(folder)), wanted)
    assert not list((folder.parent / "data").rglob(".*")), "no temporary files are left"


def test_a_changed_folder_is_decoded_again(folder):
    build(folder)
    save(folder / "train" / "ant" / "new.png", seed=9)
    for name in ("__MACOSX", "ant/@eaDir", "@eaDir"):  # of an unpacked archive, of a NAS
        save(folder / "train" / name / "thumbnail.jpg")
    d = build(folder, batch=5)
    assert d.train.num_samples == 25 and d.class_names == ["ant", "bee", "cat"]
    kept = batches(build(folder))
    save(folder / "train" / "ant" / "new.png", seed=10)
    assert not same(batches(build(folder)), kept)
    cache_file(folder)  # replaced, not added to


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_torn_cache_is_noticed_and_replaced(folder, caplog, share):
    wanted = batches(build(folder))
    file = cache_file(folder)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with caplog.at_level(logging.WARNING):
        assert same(batches(build(folder)), wanted)
    assert "damaged" in caplog.text and cache_file(folder).stat().st_size == len(whole)


def test_a_flipped_byte_in_the_cache_is_noticed(folder, caplog):
    wanted = batches(build(folder))
    content = bytearray(cache_file(folder).read_bytes())
    content[len(content) // 2] ^= 1
    cache_file(folder).write_bytes(content)
    assert same(batches(build(folder)), wanted) and "damaged" in caplog.text


def test_a_pickle_in_place_of_the_cache_is_not_run(folder):
    build(folder)
    digest = diskcache.fingerprint("", [[], []], 0)
    out = io.BytesIO()
    np.savez(out, fingerprint=np.array(digest), split0=np.array([print], dtype=object))
    cache_file(folder).write_bytes(out.getvalue())
    assert diskcache.read(cache_file(folder), digest, [(1,)]) is None


def test_a_data_directory_that_cannot_be_written_costs_one_warning(folder, caplog):
    (folder.parent / "data").write_text("a file where the directory should be")
    assert build(folder).train.num_samples == 24
    assert len(caplog.records) == 1 and "not cached" in caplog.text


def test_a_disk_that_fills_up_leaves_no_half_written_cache(folder, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert build(folder).train.num_samples == 24
    assert "No space left" in caplog.text and not list((folder.parent / "data" / "cache").iterdir())


@pytest.mark.parametrize(
    ("asked", "in_files", "free", "got"),
    [
        ("auto", True, 1000, "device"), ("auto", True, 250, "ram"), ("auto", True, 100, "none"),
        ("auto", False, 100, "ram"), ("none", True, 1000, "none"), ("none", False, 1000, "ram"),
        ("ram", True, 0, "ram"), ("device", True, 0, "device"),
    ],
)  # fmt: skip
def test_auto_takes_the_fastest_place_that_fits(monkeypatch, asked, in_files, free, got):
    monkeypatch.setattr(stores, "available_host_memory", lambda: free)
    assert stores.choose_cache(asked, torch.device("cpu"), 100, 100, in_files) == got


def test_available_memory_is_found_and_shared_by_local_ranks(monkeypatch):
    alone = stores.available_host_memory()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 1 << 20 < stores.available_host_memory() < alone
