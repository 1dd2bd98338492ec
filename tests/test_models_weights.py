"""Weights from disk: what is read, what is refused, what must fit."""

import argparse
import logging
import pickle
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

import models


def small_vit(num_classes=5, **kwargs):
    return models.build_model("vit_tiny", num_classes, 8, dim=16, **kwargs)


def assert_same_weights(model, state, but=()):
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]) != (key in but), key


@pytest.fixture
def state():
    return small_vit().state_dict()


@pytest.mark.parametrize("nested", [None, "model", "state_dict", "net", "model_state_dict", "weights"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_torch_checkpoint_loads_whatever_wrapped_it(tmp_path, state, nested, prefix):
    content = {prefix + key: value for key, value in state.items()}
    if nested:
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
        optimizer.param_groups[0]["params"][0].sum().backward()
        optimizer.step()
        # what trainers keep beside it may be called as weights are elsewhere
        content = {
            "epoch": 3,
            "optimizer": optimizer.state_dict(),
            "net_config": {"depth": 4},
            nested: content,
        }
    torch.save(content, tmp_path / "net.pth")
    assert_same_weights(small_vit(checkpoint=tmp_path / "net.pth"), state)


@pytest.mark.parametrize("attribute", ["model.", "backbone.", "model._orig_mod.", "_net.", "module.encoder."])
def test_lightning_checkpoint_loads(tmp_path, state, attribute, caplog):
    content = {
        "epoch": 1,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {attribute + key: value for key, value in state.items()},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": {"lr": 0.1},
    }
    torch.save(content, tmp_path / "last.ckpt")
    assert_same_weights(small_vit(checkpoint=tmp_path / "last.ckpt"), state)
    assert not caplog.records
    content["state_dict"]["criterion.weight"] = torch.ones(5)
    torch.save(content, tmp_path / "last.ckpt")
    assert_same_weights(small_vit(checkpoint=tmp_path / "last.ckpt"), state)
    assert "left out criterion.weight" in caplog.text


def test_several_nets_in_one_file_are_refused_and_settings_called_model_are_none(tmp_path, state):
    for content in (
        {"student": state, "teacher": state},
        {"generator": state, "discriminator": {"w": state["head.1.bias"]}},
    ):
        torch.save(content, tmp_path / "net.pth")
        with pytest.raises(models.ModelError, match=r"several nets .*; save the state_dict"):
            small_vit(checkpoint=tmp_path / "net.pth")
    both = {f"{who}.{key}": value for who in ("student", "teacher") for key, value in state.items()}
    torch.save(both, tmp_path / "net.pth")
    with pytest.raises(models.ModelError, match=r"missing .*unexpected student"):
        small_vit(checkpoint=tmp_path / "net.pth")
    torch.save({"model": {"name": "vit", "depth": 4}, "state_dict": state}, tmp_path / "net.pth")
    assert_same_weights(small_vit(checkpoint=tmp_path / "net.pth"), state)


def test_weights_of_a_training_that_diverged_are_refused(tmp_path, state):
    state["head.1.bias"] = state["head.1.bias"] * float("nan")
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(models.ModelError, match=r"NaN in head\.1\.bias: .* diverged"):
        small_vit(checkpoint=tmp_path / "net.pth")


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1, output_dir=Path("out") / "run"),
        types.SimpleNamespace(lr=0.1),
        np.float64(93.12),
        np.float32(0.5),
        np.int64(3),
        np.bool_(True),
    ],
)
def test_plain_data_beside_the_weights_loads(tmp_path, state, beside):
    torch.save({"state_dict": state, "extra": beside}, tmp_path / "net.pth.tar")
    assert_same_weights(small_vit(checkpoint=tmp_path / "net.pth.tar"), state)


@pytest.mark.parametrize("nested", ["state_dict_ema", "model_ema", "ema"])
def test_averaged_weights_are_taken_before_the_last_ones(tmp_path, state, nested):
    last = {key: value + 1 for key, value in state.items()}
    torch.save({"state_dict": last, nested: state}, tmp_path / "net.pth")
    assert_same_weights(small_vit(checkpoint=tmp_path / "net.pth"), state)


def test_averaged_model_of_torch_loads(tmp_path):
    net = small_vit()
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    torch.save(averaged.state_dict(), tmp_path / "net.pth")
    assert_same_weights(small_vit(checkpoint=tmp_path / "net.pth"), net.state_dict())


@pytest.mark.parametrize(
    ("beside", "named"),
    [(Fraction(1, 2), "fractions.Fraction"), (np.ones(2), "numpy.ndarray"), (print, "builtins.print")],
)
def test_what_is_in_the_way_is_named(tmp_path, state, beside, named):
    torch.save({"state_dict": state, "args": argparse.Namespace(x=beside)}, tmp_path / "net.pth")
    with pytest.raises(models.ModelError, match=f"in the way: .*{named}") as error:
        small_vit(checkpoint=tmp_path / "net.pth")
    assert "Namespace" not in str(error.value)  # which is none of it


def test_safetensors_load(tmp_path, state):
    save_file(state, tmp_path / "net.safetensors")
    assert_same_weights(small_vit(checkpoint=str(tmp_path / "net.safetensors")), state)
    (tmp_path / "net.safetensors").rename(tmp_path / "NET.SAFETENSORS")
    assert_same_weights(small_vit(checkpoint=str(tmp_path / "NET.SAFETENSORS")), state)


@pytest.mark.parametrize(
    ("name", "image_size", "head"),
    [
        ("vgg11", 16, "classifier"),
        ("resnet18", 16, "fc"),
        ("vit_tiny", 16, "head.1"),
        ("cait", 16, "head"),
        ("swin_tiny", 16, "head.fc"),
        ("timm:resnet10t", 32, "fc"),
    ],
)
def test_only_the_head_starts_afresh_for_another_class_count(tmp_path, caplog, name, image_size, head):
    state = models.build_model(name, 5, image_size).state_dict()
    torch.save(state, tmp_path / "net.pt")
    with caplog.at_level(logging.WARNING):
        assert_same_weights(models.build_model(name, 5, image_size, checkpoint=tmp_path / "net.pt"), state)
        assert not caplog.records
        tuned = models.build_model(name, 3, image_size, checkpoint=tmp_path / "net.pt")
    assert len(caplog.records) == 1
    assert tuned.get_submodule(head).weight.shape[0] == 3
    body = {key: value for key, value in tuned.state_dict().items() if not key.startswith(head + ".")}
    assert body
    assert all(torch.equal(value, state[key]) for key, value in body.items())


def test_checkpoint_without_a_head_is_a_backbone(tmp_path, state):
    torch.save({key: value for key, value in state.items() if "head.1" not in key}, tmp_path / "net.pt")
    model = small_vit(checkpoint=tmp_path / "net.pt")
    assert_same_weights(model, state, but=("head.1.weight", "head.1.bias"))


def test_timm_position_embeddings_are_resampled_to_the_image_size(tmp_path):
    source = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=7).state_dict()
    save_file(source, tmp_path / "net.safetensors")
    model = models.build_model(
        "timm:vit_tiny_patch16_224", 3, 96, checkpoint=tmp_path / "net.safetensors", pretrained=True
    )
    expected = resample_abs_pos_embed(source["pos_embed"], new_size=(6, 6), num_prefix_tokens=1)
    torch.testing.assert_close(model.pos_embed, expected)
    assert torch.equal(model.blocks[0].attn.qkv.weight, source["blocks.0.attn.qkv.weight"])
    assert model.head.weight.shape[0] == 3


def test_vit_timm_asks_for_no_download_when_it_has_a_checkpoint_or_wants_no_weights(tmp_path):
    assert models.build_model("vit_timm", 3, 32, load_weights=False).head.out_features == 3
    with pytest.raises(ValueError, match=r"none\.pt is not there"):
        models.build_model("vit_timm", 3, 32, checkpoint=tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("positions"), "does not fit this net: missing positions;"),
        (lambda s: s.pop("head.1.bias"), r"missing head\.1\.bias;"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected extra;"),
        (lambda s: s.update(positions=torch.zeros(2, 2)), "of another shape positions;"),
        (lambda s: [s.pop(key) for key in list(s) if "blocks.0" in key], "missing .*, .*, .* and 9 more;"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, state, change, message):
    change(state)
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=message):
        small_vit(checkpoint=tmp_path / "net.pt")


def test_weights_of_another_net_are_an_error_for_timm_nets_too(tmp_path, state):
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="does not fit this net"):
        models.build_model("timm:vit_tiny_patch16_224", 3, 32, checkpoint=tmp_path / "net.pt")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def bare_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("dump", [torch.save, bare_pickle])
def test_pickle_that_would_run_code_is_refused_unrun(tmp_path, dump):
    dump({"model": Malicious(tmp_path / "owned")}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="not a file of plain tensors") as caught:
        small_vit(checkpoint=tmp_path / "net.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("damage", ["missing", "directory", "empty", "text", "truncated"])
def test_damaged_file_is_one_line(tmp_path, state, suffix, damage):
    path = tmp_path / f"net.{suffix}"
    if damage == "directory":
        path.mkdir()
    elif damage == "truncated":
        (torch.save if suffix == "pt" else save_file)(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage != "missing":
        path.write_text("" if damage == "empty" else "version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=f"net.{suffix}") as caught:
        small_vit(checkpoint=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, [1, 2], {"model": {"epoch": 3}}, {"weights": [torch.zeros(1)]}])
def test_file_without_a_state_dict_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="no state dict"):
        small_vit(checkpoint=tmp_path / "net.pt")
