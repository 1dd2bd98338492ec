"""From a run to a use: train on one's own pictures, read the report, predict elsewhere, export."""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import call
from PIL import Image
from test_models_run import save_images, save_run

import export
import models
import predict
from models import registry
from models.swin import build_swin


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


def predicted(cli, run, *args, code=0):
    done = cli("predict.py", run, *args, code=code)
    return list(csv.DictReader(done.stdout.splitlines())), done.stderr


def test_the_run_reports_what_a_user_asks_first(story):
    report = json.loads((story / "mine" / "report.json").read_text())
    assert report["images"] == 15 and list(report["classes"]) == ["blue", "green", "red"]
    assert all(row["support"] == 5 for row in report["classes"].values())
    assert "precision" in (story / "mine" / "report.md").read_text()
    for picture in ("confusion.png", "reliability.png"):
        assert Image.open(story / "mine" / picture).size[0] > 300


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
    paths = list((tmp_path / "test").rglob("*.png"))
    with torch.inference_mode():
        right = [
            names[i] == path.parent.name
            for i, path in zip(net(transform(paths)).argmax(1), paths, strict=True)
        ]
    assert f"test accuracy {100 * np.mean(right):.2f} %" in out
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "rot")
    err = cli("train.py", *test, code=2).stderr
    assert "'red'" in err and "'rot'" in err and err.count("\n") == 1


def test_predict_says_the_corrected_probabilities_of_the_runs_net(story, cli):
    image = story / "pictures" / "green" / "3.png"
    (row,), _ = predicted(cli, story / "mine", image)
    net, transform, names = models.load_run(story / "mine")
    with torch.inference_mode():
        logits = net(transform(image))
        twin, _, _ = models.load_run(story / "mine" / "model.safetensors")
        assert torch.equal(twin(transform(image)), logits)
    p = (logits * (1 - 1 / 2)).softmax(1)[0]  # corrected for root, k = 2
    assert names[int(p.argmax())] == row["class1"]
    assert float(row["probability1"]) == pytest.approx(float(p.max()), abs=1e-5)
    (raw,), _ = predicted(cli, story / "mine", image, "--raw", "--top", 1)
    assert float(raw["probability1"]) == pytest.approx(float(logits.softmax(1).max()), abs=1e-5)


def test_where_no_correction_is_known_predict_says_so_and_waits_for_no_other_process(
    tmp_path, cli, monkeypatch
):
    save_run(tmp_path / "run", loss="focal", logit_scale=None)
    save_images(tmp_path / "new", [(16, 16)] * 3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    rows, err = predicted(cli, tmp_path / "run", tmp_path / "new", "--bs", 2, "--workers", 3)
    assert [row["image"].partition("new/")[2] for row in rows] == [
        f"{c}/{i}.png" for c in "abc" for i in range(3)
    ]
    assert err == "predict.py: plain softmax: no correction is known for the loss focal\n"
    assert rows == predicted(cli, tmp_path / "run", tmp_path / "new", "--raw", "--workers", 0)[0]


def test_folders_are_searched_and_bad_images_named_after_all_others(story, cli, tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (30, 20), (220, 10, 10)).save(tmp_path / "new" / "red.jpg")
    Image.new("1", (3000, 3000)).save(tmp_path / "new" / "bomb.png")
    (tmp_path / "new" / "a.HEIC").write_bytes(b"of a phone")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    rows, err = predicted(cli, story / "mine", tmp_path / "new", "--top", 2, code=2)
    assert [row["image"].rpartition("/")[2] for row in rows] == ["red.jpg"]
    assert "broken.png" in err and "bomb.png" in err and "2 of the images could not be read" in err
    assert "left out for their suffix: 1 file (1 .heic)" in err


def test_ctrl_c_and_a_closed_output_end_predict_without_a_traceback(story, cli, tmp_path, monkeypatch):
    words = [str(word) for word in (story / "mine", story / "pictures", "--csv", tmp_path / "out.csv")]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        predict.main(words)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 61

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("data.workers.decode", interrupted)
    assert cli("predict.py", *words, code=130).stderr.count("\n") == 1


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


def test_predict_and_export_write_over_their_own_files_alone(tmp_path, cli):
    """A shell expands `--csv photos/*` so that the first picture is the file to write."""
    save_run(tmp_path / "run")
    image = Path(os.fsdecode(b"caf\xe9.png"))  # no UTF-8, as archives made elsewhere have names
    Image.new("RGB", (16, 16), "red").save(tmp_path / image)
    other = tmp_path / "other.png"
    other.write_bytes((tmp_path / image).read_bytes())
    before = {path: path.read_bytes() for path in (other, tmp_path / "run" / "best.pt")}
    predict, exported = ("predict.py", "run", image), ("export.py", "run", "--format", "safetensors")
    for *words, flag, file in (
        [*predict, "--csv", "other.png"], [*predict, "--csv", "run/best.pt"], [*exported, "--out", "run/best.pt"],
        [*exported, "--out", "other.png"],
    ):  # fmt: skip
        line = cli(*words, flag, file, code=2).stderr
        assert f"give another {flag}" in line and line.count("\n") == 1
    assert before == {path: path.read_bytes() for path in before}
    for _ in range(2):  # the second goes over the first
        cli(*predict, "--csv", "out.csv")
    assert os.fsencode(image) in (tmp_path / "out.csv").read_bytes()
    # the weights' average has a name of its own
    (tmp_path / "run/best.pt").rename(tmp_path / "run/best_ema.pt")
    cli("export.py", "run/best_ema.pt", "--format", "safetensors", "--images", image)
    assert (tmp_path / "run" / "model_ema.safetensors").is_file()


@pytest.fixture
def swin_mini(monkeypatch):
    """A Swin that is traced in a second."""
    monkeypatch.setattr(registry, "_NETS", dict(registry._NETS))
    monkeypatch.setattr(registry, "_NAMES", dict(registry._NAMES))
    registry.register("swin_mini", width=16, depths=(2, 1, 1, 1), heads=(1, 1, 1, 1))(build_swin)


@pytest.mark.parametrize(
    "form,net",
    [("safetensors", "resnet20"), ("pt2", "resnet20"), ("pt2", "vit_tiny"),
     *(pytest.param("onnx", net, marks=pytest.mark.slow) for net in ("vit_tiny", "swin_mini"))],
)  # fmt: skip
def test_exported_file_says_the_same_for_any_number_of_images(tmp_path, cli, swin_mini, form, net):
    for package in export.PACKAGES.get(form, ()):
        pytest.importorskip(package)
    model = save_run(tmp_path / "run", net=net)
    paths = save_images(tmp_path / "new", [(20, 20)])
    words = ["export.py", tmp_path / "run", "--format", form, "--images", tmp_path / "new"]
    if form != "safetensors" and net == "vit_tiny" and torch.__version__.startswith("2.6."):
        # its torch.export fixes the number of images, and is refused
        assert "torch.export cannot trace vit_tiny" in cli(*words, code=2).stderr
        return
    assert "on 3 images of" in cli(*words).stdout
    again = export.FORMATS[form][1]((tmp_path / "run" / f"model.{form}").read_bytes())
    _, transform, _ = models.load_run(tmp_path / "run")
    with torch.inference_mode():
        for count in (1, 2, 3):
            images = transform(paths[:count])
            torch.testing.assert_close(again(images), model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("scale", "error", "code"), [(1, 5e-5, 0), (1, 1e-2, 2), (1000, 1e-2, 0), (1, float("nan"), 2)]
)
def test_a_file_that_says_something_else_is_not_written(tmp_path, monkeypatch, cli, scale, error, code):
    """The difference that is allowed grows with the logits; one NaN, in the single image, is too many."""
    save_run(tmp_path)
    state = torch.load(tmp_path / "best.pt", weights_only=True)
    for name in ("fc.weight", "fc.bias"):
        state["model"][name] *= scale
    torch.save(state, tmp_path / "best.pt")
    net = models.load_run(tmp_path)[0]
    worse = lambda content: lambda images: net(images) + (error if len(images) == 1 else 0)  # noqa: E731
    monkeypatch.setitem(export.FORMATS, "pt2", (lambda weights, info: b"x", worse))
    done = cli("export.py", tmp_path, "--format", "pt2", "--out", tmp_path / "new.pt2", code=code)
    assert (tmp_path / "new.pt2").exists() == (code == 0)
    assert ("would give other logits" in done.stderr) == (code == 2)


def test_what_export_cannot_do_is_one_line(tmp_path, monkeypatch, cli):
    def refused(*words):
        line = cli("export.py", tmp_path / "run", *words, code=2).stderr
        assert line.count("\n") == 1
        return line

    (tmp_path / "run").mkdir()
    assert "nor model.safetensors" in refused("--format", "pt2")
    model = save_run(tmp_path / "run")
    assert "--format" in refused()
    assert "is not there" in refused("--format", "pt2", "--images", tmp_path / "nowhere.png")
    (tmp_path / "empty").mkdir()
    assert "no images" in refused("--format", "pt2", "--images", tmp_path / "empty")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert "pip install onnx onnxscript onnxruntime" in refused("--format", "onnx")

    # a branch that depends on values
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x: forward(self, x) if x.sum() > 0 else x)
    assert "cannot trace resnet20" in refused("--format", "pt2")
