"""A trained net that stands alone: its file, its pixels, and export.py."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
import export
import models
import predict


def info_for(net="resnet20", **changes):
    values = dict(
        net=net,
        num_classes=3,
        image_size=16,
        class_names=["a", "b", "c"],
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.25),
        patch_size=4,
        dim=32,
        loss="root",
        loss_options={"k": 3.0, "m": 3.0},
        logit_scale=2 / 3,
        dataset="folder:/not/there",
        fingerprint="ab",
    )
    return models.ModelInfo(**{**values, **changes})


def save_run(folder, net="resnet20", **changes):
    """A run directory as far as load_run needs one."""
    info = info_for(net, **changes)
    torch.manual_seed(0)
    model = models.build_model(info.net, info.num_classes, info.image_size, info.patch_size, info.dim)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "info": info.to_dict()}, folder / "best.pt")
    models.save_safetensors(folder / "model.safetensors", model.state_dict(), info)
    return model.eval(), info


def save_images(folder, sizes, seed=0):
    g = np.random.default_rng(seed)
    paths = []
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        for i, (width, height) in enumerate(sizes):
            path = folder / name / f"{i}.png"
            Image.fromarray(g.integers(0, 256, (height, width, 3), np.uint8)).save(path)
            paths.append(path)
    return paths


def test_info_survives_both_files(tmp_path):
    _, info = save_run(tmp_path)
    for name in ("best.pt", "model.safetensors"):
        assert models.read_info(tmp_path / name) == info
    assert json.loads(json.dumps(info.to_dict())) == {
        **info.to_dict(),
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.25],
    }


def test_run_directory_and_its_files_give_the_same_net_from_anywhere(tmp_path, monkeypatch):
    model, _ = save_run(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path / "runs")
    images = torch.randn(2, 3, 16, 16)
    for path in ("mine", "mine/best.pt", tmp_path / "runs/mine/model.safetensors"):
        net, _, names = models.load_run(path)
        assert not net.training and names == ["a", "b", "c"]
        assert torch.equal(net(images), model(images))


@pytest.mark.parametrize("sizes", [[(16, 16)] * 2, [(12, 12)] * 2, [(40, 30), (20, 51)]])
@pytest.mark.parametrize(("interpolation", "crop_pct"), [("bilinear", 1.0), ("bicubic", 0.875)])
def test_transform_gives_the_pixels_that_the_test_saw(tmp_path, sizes, interpolation, crop_pct):
    paths = save_images(tmp_path / "set" / "test", sizes)
    _, info = save_run(tmp_path / "run", interpolation=interpolation, crop_pct=crop_pct)
    _, transform, _ = models.load_run(tmp_path / "run")
    options = data.DataOptions(
        mean=info.mean,
        std=info.std,
        interpolation=interpolation,
        crop_pct=crop_pct,
        eval_only=True,
        class_names=info.class_names,
        workers=0,
    )
    test = data.build_data(f"folder:{tmp_path / 'set'}", str(tmp_path / "cache"), 16, 4, "cpu", options).test
    seen = torch.cat([images for images, _ in test])
    torch.testing.assert_close(transform(paths), seen, rtol=0, atol=1e-6)


def test_transform_takes_files_pillow_images_and_lists(tmp_path):
    paths = save_images(tmp_path / "new", [(40, 30)])
    save_run(tmp_path / "run")
    _, transform, _ = models.load_run(tmp_path / "run")
    batch = transform(paths)
    assert batch.shape == (3, 3, 16, 16)
    with Image.open(paths[0]) as image:
        torch.testing.assert_close(transform([image, str(paths[1])]), batch[:2], rtol=0, atol=0)
        assert image.size == (40, 30)  # still the caller's
    in_memory = Image.fromarray(np.asarray(Image.open(paths[2])))
    assert torch.equal(transform(in_memory), batch[2:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": "x"}, "mean is 'x'"),
        ({"num_classes": 4}, "contradict"),
        ({"class_names": None}, "class_names is None"),
        ({"version": 99}, "later version"),
    ],
)
def test_info_that_makes_no_sense_is_refused(tmp_path, change, message):
    model, info = save_run(tmp_path)
    torch.save({"model": model.state_dict(), "info": {**info.to_dict(), **change}}, tmp_path / "best.pt")
    with pytest.raises(models.ModelError, match=message):
        models.load_run(tmp_path)


def test_a_folder_without_weights_and_weights_without_a_name_are_refused(tmp_path):
    with pytest.raises(models.ModelError, match="holds no weights"):
        models.load_run(tmp_path)
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "best.pt")
    with pytest.raises(models.ModelError, match="does not say what net"):
        models.load_run(tmp_path)


FORMATS = [
    "safetensors",
    "pt2",
    pytest.param("onnx", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("net", ["resnet20", "vit_tiny"])
@pytest.mark.parametrize("form", FORMATS)
def test_exported_file_says_the_same_for_any_number_of_images(tmp_path, capsys, form, net):
    for package in export.PACKAGES.get(form, ()):
        pytest.importorskip(package)
    model, _ = save_run(tmp_path / "run", net)
    paths = save_images(tmp_path / "new", [(20, 20)])
    words = [str(tmp_path / "run"), "--format", form, "--images", str(tmp_path / "new")]
    if form != "safetensors" and net == "vit_tiny" and torch.__version__.startswith("2.6."):
        with pytest.raises(SystemExit):  # its torch.export fixes the number of images, and is refused
            export.main(words)
        assert "torch.export cannot trace vit_tiny" in capsys.readouterr().err
        return
    export.main(words)
    assert "on 3 images of" in capsys.readouterr().out
    content = (tmp_path / "run" / f"model.{form}").read_bytes()
    again = export.FORMATS[form][1](content)
    _, transform, _ = models.load_run(tmp_path / "run")
    with torch.inference_mode():
        for count in (1, 2, 3):
            images = transform(paths[:count])
            torch.testing.assert_close(again(images), model(images), rtol=0, atol=1e-5)


def test_predict_and_export_write_over_their_own_files_alone(tmp_path, capsys, monkeypatch):
    """A shell expands `--csv photos/*` so that the first picture is the file to write."""
    monkeypatch.chdir(tmp_path)
    run = Path("run")
    save_run(run, num_classes=2, class_names=["cat", "dog"])
    image = Path(os.fsdecode(b"caf\xe9.png"))  # no UTF-8, as archives made elsewhere have names
    Image.new("RGB", (16, 16), "red").save(image)
    predict.main(["run", str(image)])  # two classes are all there are, though the default is three
    assert len(capsys.readouterr().out.splitlines()[1].split(",")) == 5
    other = Path("other.png")
    other.write_bytes(image.read_bytes())
    words = (
        ["--csv", "other.png"],
        ["--csv", "run/best.pt"],
        ["--out", "run/best.pt"],
        ["--out", "other.png"],
    )
    before = {path: path.read_bytes() for path in (other, run / "best.pt")}
    for name, file in words:
        with pytest.raises(SystemExit) as stop:
            export.main(["run", "--format", "pt2", name, file]) if name == "--out" else predict.main(
                ["run", str(image), name, file]
            )
        line = capsys.readouterr().err
        assert stop.value.code == 2 and f"give another {name}" in line and line.count("\n") == 1
    assert before == {path: path.read_bytes() for path in before}
    for _ in range(2):  # the second goes over the first
        predict.main(["run", str(image), "--csv", "out.csv"])
    assert os.fsencode(image) in Path("out.csv").read_bytes()
    # the weights' average has a name of its own
    (run / "best.pt").rename(run / "best_ema.pt")
    export.main(["run/best_ema.pt", "--format", "safetensors", "--images", str(image)])
    assert (run / "model_ema.safetensors").is_file()


def test_a_file_that_says_something_else_is_not_written(tmp_path, monkeypatch, capsys):
    save_run(tmp_path)
    worse = lambda content: lambda images: models.load_run(tmp_path)[0](images) + 2e-4  # noqa: E731
    monkeypatch.setitem(export.FORMATS, "pt2", (lambda net, info: b"x", worse))
    with pytest.raises(SystemExit) as stop:
        export.main([str(tmp_path), "--format", "pt2", "--out", str(tmp_path / "new.pt2")])
    assert stop.value.code == 2 and not (tmp_path / "new.pt2").exists()
    assert "would say something else" in capsys.readouterr().err


def test_what_export_cannot_do_is_one_line(tmp_path, monkeypatch, capsys):
    def refused(*words):
        with pytest.raises(SystemExit) as stop:
            export.main([str(tmp_path / "run"), *words])
        line = capsys.readouterr().err
        assert stop.value.code == 2 and line.count("\n") == 1
        return line

    assert "nor model.safetensors" in refused_missing(tmp_path, refused)
    model, _ = save_run(tmp_path / "run")
    assert "--format" in refused()
    assert "is not there" in refused("--format", "pt2", "--images", str(tmp_path / "nowhere.png"))
    (tmp_path / "empty").mkdir()
    assert "no images" in refused("--format", "pt2", "--images", str(tmp_path / "empty"))
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert "pip install onnx onnxscript onnxruntime" in refused("--format", "onnx")

    # a branch that depends on values
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x: forward(self, x) if x.sum() > 0 else x)
    assert "cannot trace resnet20" in refused("--format", "pt2")


def refused_missing(tmp_path, refused):
    (tmp_path / "run").mkdir()
    return refused("--format", "pt2")
