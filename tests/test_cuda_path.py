"""The CUDA path on a device that is not there (tests/fakecuda.py): no step waits, no devices mix, runs run."""

import csv
import json

import fakecuda
import pytest
import torch

from losses import loss_names
from models import list_models
from models.registry import find_net

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(torch._C, "_ensureCUDADeviceGuardSet"),
        reason="a torch this old, 2.6 for one, has no device guard to pretend with",
    ),
]

# Flags of a step, and the kernels it may launch: 3 % more than when this was written.
STEPS = [
    ("--net vit --loss root", 1157),
    ("--net vit_tiny --loss rlo --opt adamw --cache ram --randaug", 912),
    ("--net vgg11 --loss focal --clip-grad 1 --cache ram --imbalance 0.5 --class-weights balanced", 240),
    ("--net swin_tiny --loss rlo --label-smoothing 0.1 --warmup 0.5", 1604),
    ("--net cait --loss root --opt sgd --clip-grad 1 --patch 8", 995),
    ("--net resnet20 --loss root --accumulate 3 --mixup 0.2 --k-end 8", 1350),
    ("--net resnet20 --loss ce --opt sgd --label-noise 0.4 --ema 0.9 --cutmix 1 --noamp --noaug", 263),
    ("--net lenet --loss focal --opt sgd --amp fp16", 126),
    ("--net vit_tiny --loss poly1 --clip-grad 1 --label-noise 0.2 --amp fp16", 529),
    ("--net timm:resnet10t --loss rlo --freeze --size 48", 178),
    ("--net resnet20 --loss sce --dataset folder:images --size 96 --val-split 0.3", 422),
    ("--net vgg11 --loss root --k-end 5 --graph on", 24),
    ("--net vgg11 --loss apl --graph on --ema 0.9 --amp fp16 --mixup 0.2", 35),
]
# All that STEPS is a sample of: every family of nets is in it, every loss, and each of these.
SAMPLED = (
    "--opt sgd", "--opt adamw", "--cache ram", "--size 96", "--clip-grad", "--accumulate", "--randaug", "--noaug",
    "--label-noise", "--amp fp16", "--noamp", "--k-end", "--mixup", "--cutmix", "--ema", "--val-split", "--freeze",
    "--label-smoothing", "--class-weights", "--graph on",
)  # fmt: skip
RANDAUGMENT = 505  # kernels that it adds to a step: twice 26 operations, some 10 each
REPLAYED_TEST = 5  # kernels of a test batch under --graph: its copies


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    return fakecuda.compile_stand_in(tmp_path_factory.mktemp("cc")) or pytest.skip("no C compiler")


@pytest.fixture
def images(tmp_path):
    """An image folder of two classes, 96 images to train on."""
    from PIL import Image

    for split, count in (("train", 48), ("val", 4)):
        for name in ("ant", "bee"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (5 * i, 99, 0)).save(folder / f"{i}.png")


def test_the_steps_are_a_sample_of_every_net_loss_and_kind_of_step():
    all_flags = " ".join(flags for flags, _ in STEPS)
    assert {name for name in loss_names() if f"--loss {name} " in all_flags + " "} == set(loss_names())
    assert not [flags for flags in SAMPLED if flags not in all_flags]
    families = {"models.timm_models": ["--net timm:"]}  # the nets of each file
    for name in list_models():
        families.setdefault(find_net(name).build.func.__module__, []).append(f"--net {name} ")
    assert all(any(net in all_flags for net in nets) for nets in families.values()), families


@pytest.mark.parametrize("which", [STEPS[:5], STEPS[5:]], ids=["five", "eight"])
def test_a_step_never_waits_mixes_no_devices_can_be_deterministic_and_keeps_to_its_kernels(
    stand_in, tmp_path, images, which
):
    cases = [{"flags": f"--bs 32 {flags}"} for flags, _ in which]
    (rows,) = fakecuda.scenarios(stand_in, tmp_path, steps=cases)
    for (flags, budget), row in zip(which, rows, strict=True):
        print(f"{row['kernels']:6.0f} of {budget} kernels a step: {flags}")
        for what, most in (("waits", 4), ("test_waits", 6)):
            few, many = row[what]
            assert few == many, f"{flags}: {what} grow with the batches"
            assert sum(many.values()) <= most, f"{flags}: {what} {many}"
        assert not row["varies"], f"{flags} has no deterministic kernel for {row['varies']}"
        assert row["kernels"] <= budget, (flags, row["kernels"], row["by_line"])
        assert row["meter"] <= 6, "the record of a step and its watch on what is not finite"
        graphed = "--graph" in flags
        assert row["norms"] == (("fp16" not in flags or "--clip-grad" in flags) and not graphed), flags
        assert not graphed or row["of_test"] <= REPLAYED_TEST, (flags, row["of_test"])


def test_randaugment_never_waits_and_precision_follows_what_the_gpu_computes_in(stand_in, tmp_path):
    cases = [{"flags": f"--bs 512 --net vgg11{more}", "images": 1024} for more in ("", " --randaug")]
    gpus = {"V100": [7, 0], "T4": [7, 5], "A100": [8, 0], "H100": [9, 0]}
    choices = [[capability, amp] for capability in gpus.values() for amp in ("auto", "bf16", "fp16", "off")]
    (plain, augmented), said = fakecuda.scenarios(stand_in, tmp_path, steps=cases, precisions=choices)
    assert augmented["kernels"] - plain["kernels"] <= RANDAUGMENT
    assert augmented["waits"] == plain["waits"]

    refusal = "--amp bf16: this GPU does not compute in bfloat16; use --amp fp16"
    for i, gpu in enumerate(gpus):
        auto, bf16, fp16, off = said[4 * i : 4 * i + 4]
        old = gpu in ("V100", "T4")
        assert auto.startswith("float16") == old and bf16 == (refusal if old else "bfloat16"), gpu
        assert fp16 == "float16 with a scaler" and off.startswith("float32")


def test_the_checks_of_a_gpu_run_and_see_a_step_and_a_test_that_wait(stand_in, tmp_path):
    waits = {"module": "test_gpu_waits", "function": "check_waits", "arguments": ["--net vgg11 --graph on"]}
    gap = {"module": "test_gpu_speed", "function": "check_gap", "arguments": [2000]}
    cases = [waits, waits | {"spoiled": "step"}, waits | {"spoiled": "answer"}, gap]
    ((free, step, answer, between),) = fakecuda.scenarios(stand_in, tmp_path, checks=cases)
    assert free == between == ""
    assert "a step waits" in step and "a test batch waits" in answer


def test_a_run_starts_stops_continues_and_is_tested(stand_in, tmp_path):
    run = "--dataset digits --net resnet20 --bs 720 --run-name a"
    commands = [
        {"flags": f"{run} --epochs 2 --save-every 1 --deterministic", "signal_at": 0},
        {"flags": "--resume runs/a"},
        {"flags": "--resume runs/a --eval-only"},
    ]
    ((stopped, resumed, tested),) = fakecuda.scenarios(stand_in, tmp_path, runs=commands)
    assert stopped["code"] == 143 and "stopped at step 1 of 4; continue with --resume" in stopped["said"]
    assert resumed["code"] == 0 and "step 1 of 4" in resumed["said"], resumed["said"]
    assert "1 × cuda, bfloat16, a graph a step" in resumed["said"]
    config = json.loads((tmp_path / "runs/a/config.json").read_text())
    assert config["deterministic"]  # so that a resumed run computes as before
    with open(tmp_path / "runs/a/metrics.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
    weights = torch.load(tmp_path / "runs/a/best.pt", weights_only=True)["model"].values()
    assert {x.device.type for x in weights} == {"cpu"}
    assert tested["code"] == 0 and "test accuracy" in tested["said"]
