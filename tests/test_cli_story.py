"""From a run to a use: train on one's own pictures, read the report, predict elsewhere, load in three lines."""

import csv
import json

import numpy as np
import pytest
import torch
from conftest import call
from PIL import Image

import models


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Three classes of pictures in one split, and a run that was trained on them with --val-split."""
    here = tmp_path_factory.mktemp("story")
    g = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (here / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            pixels = g.integers(0, 90, (20, 20, 3))
            pixels[..., channel] += 140
            Image.fromarray(pixels.astype(np.uint8)).save(here / "pictures" / name / f"{i}.png")
    words = "--net resnet20 --epochs 4 --bs 12 --val-split 0.25 --k 2 --m 2 --run-name mine".split()
    flags = ["--dataset", f"folder:{here / 'pictures'}", *words, "--out", here, "--data-dir", here / "cache"]
    code, _, err = call("train.py", [*flags, "--device", "cpu"])
    assert code == 0, err
    return here


def predicted(cli, story, *args, code=0):
    done = cli("predict.py", story / "mine", *args, code=code)
    return list(csv.DictReader(done.stdout.splitlines())), done.stderr


def test_the_run_reports_what_a_user_asks_first(story):
    report = json.loads((story / "mine" / "report.json").read_text())
    assert report["images"] == 15 and list(report["classes"]) == ["blue", "green", "red"]
    assert all(row["support"] == 5 for row in report["classes"].values())
    assert "precision" in (story / "mine" / "report.md").read_text()
    for picture in ("confusion.png", "reliability.png"):
        assert Image.open(story / "mine" / picture).size[0] > 300


def test_predict_loaded_net_and_safetensors_say_the_same_probabilities(story, cli, tmp_path):
    image = story / "pictures" / "green" / "3.png"
    (row,), _ = predicted(cli, story, image)
    net, transform, names = models.load_run(story / "mine")
    with torch.inference_mode():
        logits = net(transform(image))
        twin, _, _ = models.load_run(story / "mine" / "model.safetensors")
        assert torch.equal(twin(transform(image)), logits)
    p = (logits * (1 - 1 / 2)).softmax(1)[0]  # corrected for root, k = 2
    assert names[int(p.argmax())] == row["class1"]
    assert float(row["probability1"]) == pytest.approx(float(p.max()), abs=1e-5)
    (raw,), _ = predicted(cli, story, image, "--raw", "--top", 1)
    assert float(raw["probability1"]) == pytest.approx(float(logits.softmax(1).max()), abs=1e-5)


def test_folders_are_searched_and_bad_images_named_after_all_others(story, cli, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (30, 20), (220, 10, 10)).save(tmp_path / "new" / "red.jpg")
    (tmp_path / "new" / "a.HEIC").write_bytes(b"of a phone")
    rows, err = predicted(cli, story, tmp_path / "new", "--top", 2, code=2)
    assert [row["image"].rpartition("/")[2] for row in rows] == ["red.jpg"]
    assert "broken.png" in err and "1 of the images could not be read" in err
    assert "left out for their suffix: 1 file (1 .heic)" in err


def test_testing_again_uses_the_runs_own_statistics_and_classes(story, cli, tmp_path):
    """A darker folder would have other statistics of its own; a renamed class is refused by name."""
    for name in ("red", "green", "blue"):
        (tmp_path / "test" / name).mkdir(parents=True)
        for i in range(4):
            picture = Image.open(story / "pictures" / name / f"{i}.png").point(lambda x: x * 0.8)
            picture.save(tmp_path / "test" / name / f"{i}.png")
    test = ["--eval-only", "--checkpoint", story / "mine" / "best.pt", "--dataset", f"folder:{tmp_path}"]
    out = cli("train.py", *test).stdout
    net, transform, names = models.load_run(story / "mine")
    with torch.inference_mode():
        right = [
            names[int(net(transform(path)).argmax())] == path.parent.name
            for path in (tmp_path / "test").rglob("*.png")
        ]
    assert f"test accuracy {100 * np.mean(right):.2f} %" in out
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "rot")
    err = cli("train.py", *test, code=2).stderr
    assert "'red'" in err and "'rot'" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "words,said",
    [(["RUN", "nowhere.png"], "is not there"), (["RUN", "EMPTY"], "no images"), (["EMPTY", "EMPTY"], "no weights"),
     (["RUN", "RED", "--top", "9"], "knows 3 classes")],
)  # fmt: skip
def test_a_mistake_is_one_line(story, cli, tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    places = {"RUN": story / "mine", "EMPTY": tmp_path / "empty", "RED": story / "pictures" / "red"}
    done = cli("predict.py", *(places.get(w, w) for w in words), code=2)
    assert said in done.stderr and done.stderr.count("\n") == 1
