"""Splits, long tails, wrong labels: which images are trained on, and what they are called."""

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import data
from data import labels


def digits(**options):
    return data.build_data("digits", "unused", 0, 64, "cpu", **options)


def write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """ant and bee: six training images and two test images each, of one colour that names the image."""
    for split, count in (("train", 6), ("test", 2)):
        for c, name in enumerate(("ant", "bee")):
            for i in range(count):
                file = tmp_path / "set" / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (40 * i, 100 * c, 7)).save(file)
    return tmp_path / "set"


def build(folder, **options):
    options = {"workers": 0, "progress": False} | options
    size = options.pop("size", 0)
    return data.build_data(f"folder:{folder}", folder.parent / "data", size, 4, "cpu", **options)


def refused(says, call):
    with pytest.raises(data.DataError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_validation_split_is_stratified_seeded_and_apart():
    every = np.arange(1000) % 10
    train, val = labels.validation_split(every, 0.2, [str(c) for c in range(10)], 0)
    assert not set(train) & set(val) and set(train) | set(val) == set(range(1000))
    assert np.bincount(every[val]).tolist() == [20] * 10
    again, other = (labels.validation_split(every, 0.2, [str(c) for c in range(10)], s)[1] for s in (0, 1))
    assert np.array_equal(val, again) and not np.array_equal(val, other)
    d = digits(val_split=0.2)
    assert d.train.num_samples + d.val.num_samples == 1437 and d.test.num_samples == 360
    assert abs(d.val.num_samples - 0.2 * 1437) <= 5


def test_training_and_validation_images_are_those_of_their_labels(folder):
    d = build(folder, val_split=0.34, augment=False)
    seen = {}
    for part in (d.train, d.val, d.test):
        for images, targets in part:
            colour = (images[:, :, 0, 0] * torch.tensor(d.std) + torch.tensor(d.mean)) * 255
            assert torch.equal((colour[:, 1] > 50).long(), targets)
            seen.setdefault(part, []).extend(colour.round().int().tolist())
    train, val, test = (seen[part] for part in (d.train, d.val, d.test))
    assert (len(train), len(val), len(test)) == (8, 4, 4)
    assert not {*map(tuple, train)} & {*map(tuple, val)}


def test_a_folder_with_one_split_keeps_a_part_for_testing(folder, tmp_path):
    (folder / "test").rename(tmp_path / "away")
    refused("--val-split", lambda: build(folder))
    d = build(folder, val_split=0.34)
    (said,) = [note for note in d.notes if "choose" in note]
    assert said.startswith("the test images choose the best weights too")
    assert (d.train.num_samples, d.val, d.test.num_samples) == (8, None, 4)
    assert any("kept for testing" in note for note in d.notes)
    bare = build(folder / "train", val_split=0.34)
    assert bare.class_names == ["ant", "bee"] and bare.test.num_samples == 4


@pytest.mark.parametrize("options", [{"val_split": 1.5}, {"val_split": -0.1}, {"val_split": float("nan")},
    {"imbalance": 0.0}, {"imbalance": 1.1}, {"label_noise_kind": "pair"}, {"label_noise_kind": "matrix.csv"},
    {"label_column": "x"}, {"train_labels": "nowhere.csv"}, {"train_labels": "x.csv", "label_noise": 0.1},
    {"label_noise": 1.0}, {"workers": -1}, {"cache": "none"}, {"augment": False, "randaug": True},
    {"crop_scale": (0, 1)}, {"crop_scale": (2, 1)}, {"crop_scale": (0.5, 0.2)}, {"crop_scale": (float("nan"), 1)},
])  # fmt: skip
def test_values_that_make_no_sense_are_one_line(options):
    refused(".", lambda: digits(**options))


def test_a_class_with_one_image_cannot_be_split(folder):
    for i in range(1, 6):
        (folder / "train" / "bee" / f"{i}.png").unlink()
    refused("'bee' has 1 training image", lambda: build(folder, val_split=0.2))


def test_a_long_tail_is_exponential_in_the_class():
    every = np.repeat(np.arange(5), 1000)
    kept = labels.long_tail(every, 5, 0.01, 0)
    assert np.bincount(every[kept]).tolist() == [round(1000 * 0.01 ** (c / 4)) for c in range(5)]
    assert len(set(kept)) == len(kept)
    assert np.array_equal(kept, labels.long_tail(every, 5, 0.01, 0))
    d = digits(imbalance=0.1)
    assert (
        d.class_counts[9] == round(0.1 * digits().class_counts[9])
        and sum(d.class_counts) == d.train.num_samples
    )
    assert digits().test.num_samples == d.test.num_samples


def test_pair_noise_moves_to_the_next_class():
    every = np.arange(1000) % 10
    noisy = labels.noisy_labels(every, 10, 0.3, "pair", 0)
    assert set((noisy - every) % 10) == {0, 1} and (noisy != every).sum() == 300


def test_labels_from_a_file_by_index_are_told_apart_from_the_clean_ones(tmp_path):
    clean = digits().clean_train_labels
    other = (clean + (torch.arange(1437) % 4 == 0)) % 10
    file = write_csv(tmp_path / "l.csv", ["index", "a", "b"], [(i, int(y), 0) for i, y in enumerate(other)])
    refused("--label-column", lambda: digits(train_labels=file))
    refused("did you mean a", lambda: digits(train_labels=file, label_column="aa"))
    d = digits(train_labels=file, label_column="a")
    assert torch.equal(d.clean_train_labels, clean) and d.wrong_labels == pytest.approx(360 / 1437)
    assert torch.equal(torch.cat([y for _, y in d.train_in_order()]), other)
    assert any("sha256" in note for note in d.notes) and "360 training labels flipped" in d.description
    text = Path(file).read_text()
    Path(file).write_bytes(
        ("\ufeff" + text.replace("index,a,b", "index , a,b")).replace("\n", "\r\n").encode()
    )
    again = digits(train_labels=file, label_column="a")
    assert again.labels_digest == d.labels_digest
    Path(file).write_text(text.replace("index,a,b", "index,a,a"))
    refused("several columns 'a'", lambda: digits(train_labels=file, label_column="a"))
    Path(file).write_text(text)
    split = digits(train_labels=file, label_column="a", val_split=0.1, imbalance=0.5)
    given = torch.cat([y for _, y in split.train_in_order()])
    assert torch.equal(given, other[split.train_index]) and torch.equal(
        split.clean_train_labels, clean[split.train_index]
    )
    assert float((given != split.clean_train_labels).float().mean()) == pytest.approx(split.wrong_labels)


def test_labels_from_a_file_by_path_take_names_and_refuse_gaps(folder, tmp_path):
    paths = [f"{c}/{i}.png" for c in ("ant", "bee") for i in range(6)]
    rows = [(path, "bee" if path == "ant/2.png" else path[:3]) for path in reversed(paths)]
    d = build(folder, train_labels=write_csv(tmp_path / "l.csv", ["file", "label"], rows))
    assert d.wrong_labels == pytest.approx(1 / 12) and d.class_counts == [5, 7]
    assert d.own_counts == [6, 6]  # no class is rare for its labels being wrong
    for bad, says in (
        (rows[1:], "names no label for 1 training images, 'bee/5.png'"),
        (rows + rows[:1], "line 14: 'bee/5.png' is named twice"),
        ([*rows[1:], ("x.png", "ant")], "no training image 'x.png'"),
        ([*rows[1:], ("bee/5.png", "cat")], "'cat' is no class"),
    ):
        file = write_csv(tmp_path / "l.csv", ["file", "label"], bad)
        refused(says, lambda file=file: build(folder, train_labels=file))
    refused(
        "no column 'file'", lambda: build(folder, train_labels=write_csv(tmp_path / "x.csv", ["a"], [(1,)]))
    )


def test_an_empty_label_leaves_the_image_out(folder, tmp_path):
    rows = [(f"{c}/{i}.png", "" if i == 2 else c) for c in ("ant", "bee") for i in range(6)]
    d = build(
        folder,
        train_labels=write_csv(tmp_path / "l.csv", ["file", "label", "was"], [(*r, "x") for r in rows]),
    )
    assert d.class_counts == [5, 5] and "2 training images without a label are left out" in d.notes
    assert d.train_names == [name for name, label in rows if label]
    assert torch.cat([y for _, y in d.train_in_order()]).tolist() == [0] * 5 + [1] * 5


def test_numbers_are_never_taken_for_the_positions_of_classes_called_by_numbers(folder, tmp_path):
    """Labels 1 to 2 of classes 01 and 02 are no indices: they would be read one off."""
    for split in ("train", "test"):
        for old, new in (("ant", "01"), ("bee", "02")):
            (folder / split / old).rename(folder / split / new)
    rows = [(f"0{c}/{i}.png", c) for c in (1, 2) for i in range(6)]
    file = write_csv(tmp_path / "l.csv", ["file", "label"], rows)
    refused("'1' is no class; did you mean 01", lambda: build(folder, train_labels=file))
    file = write_csv(tmp_path / "l.csv", ["file", "label"], [(name, f"0{c}") for name, c in rows])
    assert build(folder, train_labels=file).wrong_labels == 0


def test_names_are_equal_in_both_forms_of_unicode(folder, tmp_path):
    for split, form in (("train", "NFC"), ("test", "NFD")):
        (folder / split / "bee").rename(folder / split / unicodedata.normalize(form, "caf\xe9"))
    rows = [(f"{c}/{i}.png", c) for c in ("ant", unicodedata.normalize("NFD", "caf\xe9")) for i in range(6)]
    d = build(folder, train_labels=write_csv(tmp_path / "l.csv", ["file", "label"], rows))
    assert d.class_names == ["ant", "caf\xe9"] and d.wrong_labels == 0 and d.test.num_samples == 4
    assert build(folder, class_names=["ant", "cafe\u0301"]).num_classes == 2


@pytest.mark.parametrize("size", [8, 70])
def test_bad_images_are_all_listed_or_left_out(folder, size):
    for name in ("ant/0.png", "bee/3.png", "bee/4.png"):
        (folder / "train" / name).write_bytes(b"no image")
    (folder / "train" / "bee" / "4.png").unlink()
    (folder / "train" / "bee" / "4.png").symlink_to("nowhere")
    refused("bee/4.png: a link to nothing", lambda: build(folder, size=size))
    (folder / "train" / "bee" / "4.png").unlink()
    (folder / "train" / "bee" / "4.png").write_bytes(b"")
    says = "images cannot be read: .*ant/0.png.*bee/3.png.*bee/4.png" if size == 8 else r"(0|3|4)\.png"
    refused(says, lambda: list(build(folder, size=size, augment=False).train_in_order()))
    for _ in range(2):  # decoded, then cached
        d = build(folder, size=size, skip_bad=True, augment=False)
        assert d.class_counts == [5, 4] and sum("left out: " in note for note in d.notes) == 3
        assert sum(len(y) for _, y in d.train) == 8  # the ninth would be a batch of one
    for i in range(6):
        (folder / "train" / "ant" / f"{i}.png").write_bytes(b"no image")
    refused("'ant' has no training image", lambda: build(folder, size=size, skip_bad=True))


def test_what_the_net_wants_goes_before_the_sets_own_and_equals_timms_pipeline(folder):
    rng = np.random.default_rng(0)
    for file in folder.glob("test/*/*.png"):
        Image.fromarray(rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)).save(file)
    wish = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "interpolation": "bicubic", "crop_pct": 0.875}
    d = build(folder, size=28, **wish)
    chain = transforms.Compose([
        transforms.Resize(32, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(28),
        transforms.ToTensor(), transforms.Normalize(wish["mean"], wish["std"]),
    ])  # fmt: skip
    expected = torch.stack([chain(Image.open(path)) for path in d.test_paths])
    torch.testing.assert_close(next(iter(d.test))[0], expected, atol=1e-5, rtol=1e-5)
    assert d.image_size == 28
    assert (d.mean, d.interpolation, d.crop_pct) == (wish["mean"], "bicubic", 0.875)
    small, plain = (digits(crop_pct=p, mean=(0.5,) * 3, std=(0.25,) * 3) for p in (0.5, 1.0))
    zoomed = torch.nn.functional.interpolate(next(iter(plain.test))[0], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(next(iter(small.test))[0], zoomed[:, :, 4:12, 4:12], atol=0.03, rtol=0)
