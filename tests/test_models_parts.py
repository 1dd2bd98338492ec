"""What the nets are made of: attention, tokens, stems and windows against independent truths."""

import numpy as np
import pytest
import torch
import torchvision
from timm.models.swin_transformer import WindowAttention
from torch import nn

import models
from models.attention import Attention
from models.swin import swin_geometry
from models.vit_small import LocalitySelfAttention, ShiftedPatchTokens


def explicit_attention(q, k, v, scale, diagonal):
    scores = q @ k.transpose(-2, -1) * scale
    if not diagonal:
        scores = scores.masked_fill(torch.eye(q.shape[-2], dtype=torch.bool), -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("locality", [False, True])
def test_attention_equals_explicit_softmax_in_float64(locality):
    torch.manual_seed(0)
    heads, head_dim, num_tokens = 3, 5, 7
    if locality:
        attention = LocalitySelfAttention(12, heads, head_dim, 0.0, num_tokens=num_tokens).double()
        nn.init.constant_(attention.log_temperature, 0.7)
        scale = np.exp(-0.7)
    else:
        attention, scale = Attention(12, heads, head_dim).double(), head_dim**-0.5
    tokens = torch.randn(2, num_tokens, 12, dtype=torch.float64)
    q, k, v = attention.qkv(attention.norm(tokens)).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (heads, head_dim)).transpose(1, 2) for part in (q, k, v))
    mixed = explicit_attention(q, k, v, scale, diagonal=not locality)
    expected = attention.out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(tokens), expected, rtol=1e-12, atol=1e-12)


def test_no_token_attends_to_itself_in_locality_attention():
    attention = LocalitySelfAttention(16, 1, 6, 0.0, num_tokens=6)
    q, k = torch.randn(2, 1, 1, 6, 6)
    weights = attention.attend(q, k, torch.eye(6)[None, None])[0, 0]  # unit values give the weights
    assert (weights.diagonal() == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    assert (weights[~torch.eye(6, dtype=torch.bool)] > 0).all()


def test_attention_dropout_is_active_in_training_only():
    attention = Attention(16, 2, 8, dropout=0.5)
    q, k, v = torch.randn(3, 1, 2, 9, 8)
    assert not torch.equal(attention.attend(q, k, v), attention.attend(q, k, v))
    attention.eval()
    assert torch.equal(attention.attend(q, k, v), attention.attend(q, k, v))


def test_shifted_patches_are_the_image_and_four_one_pixel_shifts():
    images = torch.randn(2, 3, 8, 8)

    def shift(rows, columns):
        moved = np.roll(images.numpy(), (rows, columns), axis=(2, 3)).copy()
        if rows:
            moved[:, :, 0 if rows > 0 else -1] = 0
        if columns:
            moved[:, :, :, 0 if columns > 0 else -1] = 0
        return moved

    expected = np.concatenate([shift(0, 0), shift(0, 1), shift(0, -1), shift(1, 0), shift(-1, 0)], axis=1)
    np.testing.assert_array_equal(ShiftedPatchTokens.stack_shifts(images).numpy(), expected)


@pytest.mark.parametrize("name", ["vit", "vit_small"])
def test_each_token_is_one_patch_in_reading_order(name):
    to_tokens = models.build_model(name, 2, 8, patch_size=4, dim=16).to_tokens
    image = torch.zeros(1, 3, 8, 8)
    blank = to_tokens(image)
    image[:, :, 1:3, 5:7] = torch.randn(
        3, 2, 2
    )  # inside the top right patch, more than a pixel from its edge
    changed = (to_tokens(image) != blank).any(-1)[0]
    assert changed.tolist() == [False, True, False, False]


def test_vgg_features_are_those_of_torchvision_at_32_px():
    ours, theirs = (
        models.build_model("vgg11", 10, 32),
        torchvision.models.vgg11_bn(init_weights=False).features,
    )
    theirs.load_state_dict(ours.features.state_dict())
    images = torch.randn(2, 3, 32, 32)
    features = theirs(images)
    assert features.shape == (2, 512, 1, 1)
    torch.testing.assert_close(ours(images), ours.classifier(features.flatten(1)))


@pytest.mark.parametrize(("image_size", "pools"), [(8, 3), (28, 4), (32, 5), (224, 5)])
def test_vgg_leaves_out_only_pools_that_would_empty_the_map(image_size, pools):
    with torch.device("meta"):
        features = models.build_model("vgg19", 10, image_size).features
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in features) == pools


def test_resnet_above_64_px_is_torchvisions():
    torch.manual_seed(0)
    ours = models.build_model("resnet18", 7, 96)
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=7)
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)


def test_resnet_up_to_64_px_keeps_the_resolution_in_its_stem():
    model = models.build_model("resnet18", 7, 64)
    stem = model.maxpool(model.conv1(torch.randn(1, 3, 64, 64)))
    assert stem.shape == (1, 64, 64, 64)


def test_lenet_of_28_px_is_the_1998_nets_on_32_px():
    torch.manual_seed(0)
    small, large = (models.build_model("lenet", 10, size) for size in (28, 32))
    large.load_state_dict(small.state_dict())
    digits = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(small(digits), large(nn.functional.pad(digits, (2, 2, 2, 2))))
    assert [m.weight.shape[0] for m in small if hasattr(m, "weight")] == [6, 16, 120, 84, 10]


def test_cifar_resnet_halves_twice_and_has_6n_plus_2_layers():
    for depth in (20, 32):
        model = models.build_model(f"resnet{depth}", 10, 32)
        sides = [stage(images).shape for images, stage in ((torch.randn(1, 16, 32, 32), model.stages[0]),
                                                           (torch.randn(1, 16, 32, 32), model.stages[:2]),
                                                           (torch.randn(1, 16, 32, 32), model.stages))]  # fmt: skip
        assert [(s[1], s[2]) for s in sides] == [(16, 32), (32, 16), (64, 8)]
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert len(layers) + 1 == depth  # the projections do not count


def test_swins_fused_attention_equals_timms_own_in_values_and_gradients():
    torch.manual_seed(0)
    model = models.build_model("swin_tiny", 5, 32).double().eval()
    attentions = [m for m in model.modules() if isinstance(m, WindowAttention)]
    assert attentions and all(m.fused_attn for m in attentions)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    results = []
    for fused in (True, False):
        for m in attentions:
            m.fused_attn = fused
        model.zero_grad()
        logits = model(images)
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*results)


def test_swin_windows_tile_every_stage_of_every_size_it_accepts():
    accepted = [size for size in range(1, 513) if swin_geometry(size)]
    published = {32: (2, 4), 64: (2, 4), 224: (4, 7), 384: (4, 12)}  # patch and window
    assert {size: swin_geometry(size) for size in published} == published
    assert {8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 384, 512} <= set(accepted)
    for size in accepted:
        patch, window = swin_geometry(size)
        sides = [size // patch // 2**stage for stage in range(4)]
        assert sides[-1] * 8 * patch == size
        assert all(side <= window or side % window == 0 for side in sides)
