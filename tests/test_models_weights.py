"""Weights from disk: what is read, what is refused, what must fit."""

import argparse
import logging
import pickle
from fractions import Fraction

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


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": prefixed(s, "module._orig_mod."), "optimizer": {"state": {0: torch.ones(2)}}},
        lambda s: {
            "state_dict": s,
            "args": argparse.Namespace(lr=0.1),
            "epoch": 3,
        },  # timm's scripts, MAE, DeiT
        lambda s: {"model_state_dict": s, "net_config": {"depth": 4}},
        lambda s: {"model": "vit", "net": prefixed(s, "module.")},
        lambda s: {"state_dict": prefixed(s, "model."), "hyper_parameters": {"lr": 0.1}},  # Lightning
        lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s},
        lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(3)},  # torch's AveragedModel
    ],
)
def test_torch_checkpoint_loads_whatever_wrapped_it(tmp_path, state, wrap, caplog):
    torch.save(wrap(state), tmp_path / "net.pth.tar")
    assert_same_weights(small_vit(checkpoint=tmp_path / "net.pth.tar"), state)
    assert not caplog.records


def test_safetensors_load(tmp_path, state):
    save_file(state, tmp_path / "net.safetensors")
    assert_same_weights(small_vit(checkpoint=str(tmp_path / "net.safetensors")), state)


@pytest.mark.parametrize(
    ("name", "image_size", "head"),
    [("vgg11", 16, "classifier"), ("resnet18", 16, "fc"), ("lenet", 16, "11"), ("cait", 16, "head"),
     ("swin_tiny", 16, "head.fc"), ("timm:resnet10t", 32, "fc")],
)  # fmt: skip
def test_only_the_head_starts_afresh_for_another_class_count(tmp_path, caplog, name, image_size, head):
    state = models.build_model(name, 5, image_size).state_dict()
    torch.save(state, tmp_path / "net.pt")
    with caplog.at_level(logging.WARNING):
        tuned = models.build_model(name, 3, image_size, checkpoint=tmp_path / "net.pt")
    assert len(caplog.records) == 1
    assert tuned.get_submodule(head).weight.shape[0] == 3
    body = {key: value for key, value in tuned.state_dict().items() if not key.startswith(head + ".")}
    assert body and all(torch.equal(value, state[key]) for key, value in body.items())
    with pytest.raises(models.ModelError, match="of another shape"):
        models.load_checkpoint(tuned, tmp_path / "net.pt", new_head=False)


def test_checkpoint_without_a_head_is_a_backbone_and_freezing_leaves_its_new_head(tmp_path, state):
    torch.save({key: value for key, value in state.items() if "head.1" not in key}, tmp_path / "net.pt")
    model = small_vit(checkpoint=tmp_path / "net.pt")
    assert_same_weights(model, state, but=("head.1.weight", "head.1.bias"))
    models.freeze_all_but_head(model)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["head.1.weight", "head.1.bias"]


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
        (lambda s: s["head.1.bias"].fill_(float("nan")), r"NaN in head\.1\.bias: .* diverged"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, state, change, message):
    change(state)
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(models.ModelError, match=message):
        small_vit(checkpoint=tmp_path / "net.pt")
    with pytest.raises(models.ModelError, match="does not fit this net"):
        models.build_model("timm:vit_tiny_patch16_224", 3, 32, checkpoint=tmp_path / "net.pt")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def bare_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("dump", [torch.save, bare_pickle])
def test_pickle_that_would_run_code_is_refused_unrun_and_names_what_is_in_the_way(tmp_path, state, dump):
    for beside, name in ((Malicious(tmp_path / "owned"), "open"), (Fraction(1, 2), "fractions.Fraction")):
        content = {"model": state if dump is torch.save else {}, "args": argparse.Namespace(x=beside)}
        dump(content, tmp_path / "net.pt")
        with pytest.raises(models.ModelError, match=rf"not a file of plain tensors: .*{name}") as caught:
            small_vit(checkpoint=tmp_path / "net.pt")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("damage", ["missing", "directory", "empty", "text", "truncated", "flipped"])
def test_damaged_file_is_one_line(tmp_path, state, suffix, damage):
    if (suffix, damage) == ("safetensors", "flipped"):
        pytest.skip("the format has no checksums")
    path = tmp_path / f"net.{suffix}"
    if damage == "directory":
        path.mkdir()
    elif damage in ("truncated", "flipped"):
        (torch.save if suffix == "pt" else save_file)(state, path)
        content = bytearray(path.read_bytes())
        content[content.index(state["positions"].numpy().tobytes())] ^= 1
        path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    elif damage != "missing":
        path.write_text("" if damage == "empty" else "version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(models.ModelError, match=f"net.{suffix}.*; give a .pt or .safetensors") as caught:
        small_vit(checkpoint=path)
    assert "\n" not in str(caught.value)
    print(caught.value)


@pytest.mark.parametrize("content", [{}, [1, 2], {"model": {"epoch": 3}}, {"weights": [torch.zeros(1)]}])
def test_file_without_a_state_dict_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="no state dict"):
        small_vit(checkpoint=tmp_path / "net.pt")
