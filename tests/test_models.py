"""Nets by name: sizes, counts, shapes, gradients, errors (their parts and their weights: test_models_*.py)."""

import os
import subprocess
import sys

import pytest
import timm
import torch
from conftest import ROOT
from torch import nn

import losses
import models
from models import registry

# At 10 classes, 32 px, patch 4; published, or worked out by hand, not read off these nets.
PARAMETERS = {
    "vgg19": 20_040_522, "vgg16": 14_728_266, "lenet": 62_006, "resnet20": 272_474, "resnet32": 466_906,
    "resnet18": 11_173_962, "resnet34": 21_282_122, "resnet50": 23_520_842, "resnet101": 42_512_970,
    "vit": 37_862_922, "vit_large": 151_232_010, "vit_small": 9_622_512, "vit_tiny": 4_371_438,
    "cait": 15_846_250, "swin": 86_701_186,
}  # fmt: skip
OURS = [name for name in models.list_models() if name != "vit_timm"]
# one of each family, cheap to run
SMALL = ["lenet", "vgg11", "resnet18", "resnet20", "vit_tiny", "vit_small", "cait", "swin_tiny"]


def build_on_meta(*args, **kwargs):
    with torch.device("meta"):
        return models.build_model(*args, **kwargs)


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_count_is_the_published_one(name, count):
    assert models.count_parameters(build_on_meta(name, 10, 32)) == count


def test_list_models_is_sorted_and_holds_every_net():
    names = models.list_models()
    assert names == sorted(names)
    assert {*PARAMETERS, "vgg11", "vgg13", "swin_small", "swin_tiny", "vit_timm"} == set(names)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("ViT", "vit"), ("vit_base", "vit"), ("ViT-Base", "vit"), ("Swin", "swin"), ("swin-base", "swin"),
     ("VGG", "vgg19"), ("res18", "resnet18"), ("RES101", "resnet101"), ("vit timm", "vit_timm"), ("LeNet-5", "lenet")],
)  # fmt: skip
def test_aliases_in_any_case_and_with_hyphens_are_the_same_net(alias, name):
    assert registry.find_net(alias) is registry.find_net(name)


@pytest.mark.parametrize("name", OURS)
def test_logits_have_one_column_a_class_at_every_image_size(name):
    for num_classes, size in ((101, 64), (2, 16 if name == "lenet" else 8)):
        with torch.device("meta"):
            logits = build_on_meta(name, num_classes, size)(torch.empty(2, 3, size, size))
        assert logits.shape == (2, num_classes)


@pytest.mark.parametrize("name", SMALL)
def test_a_step_along_the_gradient_lowers_every_loss(name):
    torch.manual_seed(0)
    net = models.build_model(name, 10, 32, dim=64).eval()  # no dropout: the same function twice
    for module in net.modules():  # but without batch statistics a deep new net says one class with certainty
        module.train(isinstance(module, nn.BatchNorm2d))
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([3, 7])
    parameters = list(net.parameters())
    for loss_name in losses.LOSSES:
        loss = losses.build_loss(loss_name)
        before = loss(net(images), labels)
        gradients = torch.autograd.grad(before, parameters)  # raises if a parameter has none
        norm = torch.stack([g.norm() for g in gradients]).norm()
        assert norm.isfinite() and norm > 0
        step = 1e-3 * before.item() / norm.item() ** 2  # to first order, a drop of a thousandth
        with torch.no_grad():
            torch._foreach_sub_(parameters, torch._foreach_mul(gradients, step))
            after = loss(net(images), labels)
            torch._foreach_add_(parameters, torch._foreach_mul(gradients, step))
        drop = (before.item() - after.item()) / before.item()
        assert 3e-4 < drop < 3e-3, f"{loss_name}: the loss fell by {drop:.1e} instead of 1e-3"


@pytest.mark.parametrize("name", SMALL)
def test_one_image_channels_last_autocast_and_one_graph_agree_with_float32(name):
    torch.manual_seed(0)
    model = models.build_model(name, 5, 32, dim=64).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(image)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(image), expected)
        torch._dynamo.reset()
        model = model.to(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model(image), expected, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(image)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "vti"}, r"unknown net 'vti'; did you mean vit .*known nets: cait, .*timm:<name>"),
        ({"name": ""}, "known nets"),
        ({"name": "timm:resnet8"}, r"timm has no net called 'resnet8'; did you mean .*resnet18"),
        ({"name": "timm:resnet18.no_such_tag"}, "timm has no net"),
        ({"image_size": 30}, r"30 is not divisible by patch size 4; sizes that work: 28, 32"),
        ({"image_size": 3}, r"sizes that work: 4$"),
        ({"name": "cait", "image_size": 32, "patch_size": 5}, "sizes that work: 30, 35"),
        ({"name": "swin", "image_size": 28}, "sizes that work: 24, 32"),
        ({"name": "swin", "image_size": 100}, "sizes that work: 96, 128"),
        ({"name": "cait", "dim": 100}, r"8 heads; dims that work: 96, 104"),
        ({"name": "lenet", "image_size": 8}, "16 px or more, got 8; --size"),
        ({"name": "timm:inception_v3"}, r"does not take images of 32 px .*native size is 299 px"),
        ({"name": "timm:vit_tiny_patch16_224", "image_size": 40}, "sizes that work: 32, 48"),
        ({"num_classes": 1}, "needs 2 classes or more"),
        ({"image_size": None}, "an image size"),
        ({"patch_size": 0}, "a patch size"),
        ({"pretrained": True}, r"no pretrained weights for vit; vit_timm and timm:<name> have them"),
    ],
)
def test_impossible_request_is_a_value_error_with_a_way_out(kwargs, message):
    with pytest.raises(ValueError, match=message) as caught:
        models.build_model(**{"name": "vit", "num_classes": 10, "image_size": 32, **kwargs})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transformer", [True, False])
def test_a_transformer_wants_a_small_rate_and_a_cnn_its_channels_last(transformer):
    names = [n for n in models.list_models() if n.startswith(("vit", "swin", "cait")) == transformer]
    theirs = {
        True: "vit_base_patch16_224 beit_base_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224 "
        "swinv2_cr_tiny_224 twins_svt_small pvt_v2_b0 mvitv2_tiny hiera_tiny_224 levit_128 xcit_nano_12_p16_224",
        False: "resnet50 seresnet50 ecaresnet26t skresnet18 resnest14d efficientnet_b0 mobilenetv3_large_100 "
        "regnety_002 convnext_tiny convmixer_768_32 densenet121 vgg16 nfnet_l0 repvit_m0_9 ghostnet_100",
    }
    names += [f"timm:{name}" for name in theirs[transformer].split()]
    for name in names:
        facts = models.net_facts(name)
        assert (facts.lr, facts.channels_last) == ((1e-4, False) if transformer else (1e-3, True)), name


@pytest.mark.parametrize("name", ["vit_base_patch16_384", "resnet50.tv_in1k", "vit_base_patch16_clip_224"])
def test_pretrained_nets_are_fed_what_their_weights_expect_and_others_the_datas_own(name):
    truth = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    facts = models.net_facts(f"timm:{name}", pretrained=True)
    found = (facts.mean, facts.std, facts.interpolation, facts.crop_pct, facts.native_size)
    wanted = (truth["mean"], truth["std"], truth["interpolation"], truth["crop_pct"], truth["input_size"][-1])
    assert found == wanted
    from_scratch = models.net_facts(f"timm:{name}")
    assert (from_scratch.mean, from_scratch.std, from_scratch.crop_pct) == (None, None, 1.0)
    vit_timm = models.net_facts("vit_timm")
    assert vit_timm.mean == vit_timm.std == (0.5, 0.5, 0.5) and vit_timm.interpolation == "bicubic"


def test_a_native_size_is_set_only_where_the_net_asks_for_one():
    def size(name, **options):
        return models.net_facts(name, **options).native_size

    assert {name: size(name) for name in OURS} == dict.fromkeys(OURS)
    assert size("ViT-timm") == 384
    assert size("timm:vit_tiny_patch16_224") == 224
    assert size("timm:resnet18") is None
    assert size("timm:resnet18", pretrained=True) == 224
    with torch.device("meta"):
        assert build_on_meta("vit_timm", 10, 0)(torch.empty(1, 3, 384, 384)).shape == (1, 10)
        assert build_on_meta("vit_timm", 10, 96)(torch.empty(1, 3, 96, 96)).shape == (1, 10)


@pytest.mark.parametrize("name", ["timm:resnet10t", "TIMM:vit_tiny_patch16_224", "timm:resnet18.a1_in1k"])
def test_timm_nets_take_the_image_size_and_class_count_asked_for(name):
    model = models.build_model(name, 12, 48)
    assert model.training
    assert model(torch.randn(2, 3, 48, 48)).shape == (2, 12)


def test_new_net_is_one_decorated_builder(monkeypatch):
    monkeypatch.setattr(registry, "_NETS", dict(registry._NETS))
    monkeypatch.setattr(registry, "_NAMES", dict(registry._NAMES))

    @registry.register("linear_probe", "probe", bias=False)
    def build_probe(spec, bias):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * spec.image_size**2, spec.num_classes, bias=bias))

    model = models.build_model("Linear-Probe", 4, 8)
    assert models.count_parameters(model) == 3 * 64 * 4
    assert "linear_probe" in models.list_models()
    with pytest.raises(RuntimeError, match="two nets"):
        registry.register("probe")(build_probe)


def test_import_needs_no_scikit_learn_and_offline_pretrained_ends_fast_in_one_line(tmp_path):
    script = (
        "import sys, models\n"
        "assert 'sklearn' not in sys.modules\n"
        "try: models.build_model('timm:resnet10t', 10, 32, pretrained=True)\n"
        "except models.WeightsUnavailable as error: print(error)\n"
    )
    closed_port = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, **closed_port}, capture_output=True,
        text=True, timeout=40,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "--checkpoint FILE" in done.stdout and "resnet10t" in done.stdout
