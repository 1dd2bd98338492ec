"""The registry's names, the embedded digits, and values that make no sense."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import data


def build(name, data_dir, size=0, **options):
    return data.build_data(name, data_dir, size, 8, "cpu", **options)


def test_digits_have_a_fixed_stratified_test_split_and_write_nothing(tmp_path):
    first, second = (build("digits", tmp_path / "x", seed=s) for s in (0, 1))
    assert (first.train.num_samples, first.test.num_samples) == (1437, 360) and first.image_size == 8
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first.test, second.test, strict=True))
    assert not list(tmp_path.iterdir())
    counts = torch.bincount(torch.cat([y for _, y in first.test]))
    assert counts.min() >= 34 and counts.max() <= 38
    assert (
        first.description
        == "digits: 1,437 training and 360 test images, 8 px, 10 classes, in memory on cpu (0.2 MB)"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [("cifar", "cifar10 or cifar100"), ("digit", "did you mean digits"), ("xyz", "known: digits"),
     ("folder", "needs a path"), ("folder:", "needs a path"), ("digits:x", "unknown"), ("", "unknown")],
)  # fmt: skip
def test_an_unknown_name_lists_near_matches_and_all_names(tmp_path, name, says):
    with pytest.raises(data.DataError, match=says):
        build(name, tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"size": 3}, {"size": -1}, {"size": 4096}, {"workers": -1}, {"cache": "disk"}, {"label_noise": 1.0},
     {"label_noise": -0.1}, {"label_noise": float("nan")}],
)  # fmt: skip
def test_values_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(data.DataError) as error:
        build("digits", tmp_path, **options)
    assert "\n" not in str(error.value) and str(next(iter(options.values()))) in str(error.value)


@pytest.mark.parametrize("path", ["~nobody/x", "a\0b", "x" * 5000, "/etc/passwd", "a\nb", "."])
@pytest.mark.parametrize("name", ["folder:{}", "cifar10", "tiny-imagenet", "food-101", "fashion-mnist"])
def test_odd_paths_end_in_one_line(tmp_path, monkeypatch, name, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(data.DataError) as error:
        build(name.format(path), path)
    assert "\n" not in str(error.value)


def test_names_are_listed_without_importing_torch():
    code = "import sys, data; assert 'torch' not in sys.modules; print(*data.list_datasets())"
    root = Path(data.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [*list(data.DATASETS)[:-1], "folder:<path>"]
