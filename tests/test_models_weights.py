"""Weights from disk: what is read, what is refused, what must fit."""

import logging
import pickle

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


@pytest.mark.parametrize("nested", [None, "model", "state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_torch_checkpoint_loads_whatever_wrapped_it(tmp_path, state, nested, prefix):
    content = {prefix + key: value for key, value in state.items()}
    if nested:
        content = {nested: content, "epoch": 3}
    torch.save(content, tmp_path / "net.pth")
    assert_same_weights(small_vit(checkpoint=tmp_path / "net.pth"), state)


def test_safetensors_load(tmp_path, state):
    save_file(state, tmp_path / "net.safetensors")
    assert_same_weights(small_vit(checkpoint=str(tmp_path / "net.safetensors")), state)


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


@pytest.mark.parametrize("content", [{}, [1, 2], {"model": {"epoch": 3}}, {"weights": {"a": torch.zeros(1)}}])
def test_file_without_a_state_dict_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="no state dict"):
        small_vit(checkpoint=tmp_path / "net.pt")
