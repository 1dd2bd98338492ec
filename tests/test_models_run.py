"""A trained net that stands alone: its file, and its pixels."""

import json
import pickle
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

import data
import models

# What best.pt has held since the first version.
INFO = dict(
    net="resnet20", num_classes=3, image_size=16, class_names=["a", "b", "c"], mean=[0.4, 0.5, 0.6],
    std=[0.2, 0.3, 0.25], patch_size=4, dim=32, interpolation="bilinear", crop_pct=1.0, loss="root",
    loss_options={"k": 3.0, "m": 3.0}, logit_scale=2 / 3, dataset="folder:/not/there", fingerprint="ab", version=1,
)  # fmt: skip


def save_run(folder, **changes):
    """A run directory as far as load_run needs one: as train.py's first version wrote it."""
    info = {**INFO, **changes}
    torch.manual_seed(0)
    model = models.build_model(info["net"], len(INFO["class_names"]), info["image_size"], 4, 32)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "info": info, "test_acc": 50.0, "epoch": 1}, folder / "best.pt")
    return model.eval()


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


def test_run_directory_and_its_files_give_the_same_net_from_anywhere(tmp_path, monkeypatch):
    model = save_run(tmp_path / "runs" / "mine", logit_scale=None)
    info = models.read_info(tmp_path / "runs/mine/best.pt")
    assert json.loads(json.dumps(info.to_dict())) == {**INFO, "logit_scale": None}
    models.save_safetensors(tmp_path / "runs/mine/model.safetensors", model.state_dict(), info)
    assert models.read_info(tmp_path / "runs/mine/model.safetensors") == info
    monkeypatch.chdir(tmp_path / "runs")
    images = torch.randn(2, 3, 16, 16)
    for path in ("mine", "mine/best.pt", tmp_path / "runs/mine/model.safetensors"):
        net, _, names = models.load_run(path)
        assert not net.training and names == ["a", "b", "c"]
        assert torch.equal(net(images), model(images))


@pytest.mark.parametrize(("interpolation", "crop_pct"), [("bilinear", 1.0), ("bicubic", 0.875)])
def test_transform_gives_the_pixels_that_the_test_saw(tmp_path, interpolation, crop_pct):
    paths = save_images(tmp_path / "set" / "test", [(40, 30), (20, 51)])
    save_run(tmp_path / "run", interpolation=interpolation, crop_pct=crop_pct)
    _, transform, names = models.load_run(tmp_path / "run")
    info = models.read_info(tmp_path / "run" / "best.pt")
    options = data.DataOptions(
        mean=info.mean, std=info.std, interpolation=interpolation, crop_pct=crop_pct, eval_only=True,
        class_names=names, workers=0,
    )  # fmt: skip
    test = data.build_data(f"folder:{tmp_path / 'set'}", str(tmp_path / "cache"), 16, 4, "cpu", options).test
    seen = torch.cat([images for images, _ in test])
    torch.testing.assert_close(transform(paths), seen, rtol=0, atol=1e-6)


def test_transform_takes_files_pillow_images_and_lists_in_other_processes_too(tmp_path):
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
    assert torch.equal(pickle.loads(pickle.dumps(transform))(paths), batch)  # what a spawned process does


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mean": None}, "not what train.py writes"), ({"num_classes": 4}, "not what"), ({"class_names": 3}, "not what"),
     ({"version": 99}, "later version")],
)  # fmt: skip
def test_info_that_makes_no_sense_is_refused(tmp_path, change, message):
    save_run(tmp_path, **change)
    with pytest.raises(models.ModelError, match=message):
        models.load_run(tmp_path)


def test_a_folder_without_weights_and_weights_without_a_name_are_refused(tmp_path):
    with pytest.raises(models.ModelError, match="holds no weights"):
        models.load_run(tmp_path)
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "best.pt")
    with pytest.raises(models.ModelError, match="does not say what net"):
        models.load_run(tmp_path)


def test_class_names_have_one_form_wherever_the_run_was_made(tmp_path):
    save_run(tmp_path, class_names=[unicodedata.normalize("NFD", name) for name in ("café", "thé", "eau")])
    assert models.load_run(tmp_path)[2] == ["café", "thé", "eau"]
