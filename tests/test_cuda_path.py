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

# Flags of a step, and the kernels it may launch: some 3 % more than when this was written, and the 50 of the sums
# at the end of an epoch.
STEPS = [
    ("--net vit --loss root", 1180),
    ("--net vit_tiny --loss rlo --opt adamw --cache ram --randaug", 640),
    ("--net vgg11 --loss focal --clip-grad 1 --cache ram --imbalance 0.5 --class-weights balanced", 290),
    ("--net swin_tiny --loss rlo --label-smoothing 0.1 --warmup 0.5", 1610),
    ("--net cait --loss root --opt sgd --clip-grad 1 --patch 8", 1035),
    ("--net resnet20 --loss root --accumulate 3 --mixup 0.2 --k-end 8", 1370),
    ("--net resnet20 --loss ce --opt sgd --label-noise 0.4 --ema 0.9 --cutmix 1 --noamp --noaug", 315),
    ("--net vgg11 --loss focal --opt sgd --amp fp16", 242),
    ("--net vit_tiny --loss poly1 --clip-grad 1 --label-noise 0.2 --amp fp16", 560),
    ("--net timm:resnet10t --loss rlo --freeze --size 48", 226),
    (
        "--net vgg11 --loss sce --cache none --workers 0 --dataset folder:images --size 32 --val-split 0.3",
        300,
    ),
    ("--net vgg11 --loss root --k-end 5 --graph on --bs 16", 25),
    ("--net vgg11 --loss apl --graph on --bs 16 --ema 0.9 --amp fp16 --mixup 0.2", 35),
]
# All that STEPS is a sample of: every family of nets is in it, every loss, and each of these.
SAMPLED = (
    "--opt sgd", "--opt adamw", "--cache ram", "--cache none", "--clip-grad", "--accumulate", "--randaug", "--noaug",
    "--label-noise", "--amp fp16", "--noamp", "--k-end", "--mixup", "--cutmix", "--ema", "--val-split", "--freeze",
    "--label-smoothing", "--class-weights", "--graph on",
)  # fmt: skip
RANDAUGMENT = 60
TEST = 80  # kernels of a replayed test of a batch, most of them of its scores


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    return fakecuda.compile_stand_in(tmp_path_factory.mktemp("cc")) or pytest.skip("no C compiler")


@pytest.fixture
def images(tmp_path):
    """An image folder of two classes, 32 images to train on."""
    from PIL import Image

    for split, count in (("train", 16), ("val", 4)):
        for name in ("ant", "bee"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (9 * i, 99, 0)).save(
                    tmp_path / "images" / split / name / f"{i}.png"
                )


def test_the_steps_are_a_sample_of_every_net_loss_and_kind_of_step():
    all_flags = " ".join(flags for flags, _ in STEPS)
    assert {name for name in loss_names() if f"--loss {name} " in all_flags + " "} == set(loss_names())
    assert not [flags for flags in SAMPLED if flags not in all_flags]
    families = {"models.timm_models": ["--net timm:"]}  # the nets of each file
    for name in list_models():
        families.setdefault(find_net(name).build.func.__module__, []).append(f"--net {name} ")
    assert len(families) == 7 and all(any(net in all_flags for net in nets) for nets in families.values())


@pytest.mark.parametrize("which", [STEPS[:5], STEPS[5:]], ids=["five", "eight"])
def test_a_step_never_waits_mixes_no_devices_can_be_deterministic_and_keeps_to_its_kernels(
    stand_in, tmp_path, images, which
):
    cases = [{"flags": f"--bs 32 {flags}", "images": 96 if "graph" in flags else 32} for flags, _ in which]
    (rows,) = fakecuda.scenarios(stand_in, tmp_path, steps=cases)
    for (flags, budget), row in zip(which, rows, strict=True):
        waits = {where: n for where, n in row["waits"].items() if not where.startswith("engine/meter.py")}
        assert not row["varies"], f"{flags} has no deterministic kernel for {row['varies']}"
        assert not waits and sum(row["waits"].values()) <= 4, f"{flags} waits: {row['waits']}"
        assert sum(row["in_test"].values()) <= 4, f"{flags} waits in a test: {row['in_test']}"
        print(f"{row['kernels']:6.0f} of {budget} kernels a step: {flags}")
        assert row["kernels"] <= budget, (flags, row["kernels"], row["by_line"])
        assert row["meter"] <= 6, "the record of a step and its watch on what is not finite"
        assert row["norms"] == ("fp16" not in flags or "--clip-grad" in flags) * ("--graph" not in flags), (
            flags
        )
        if "--graph" in flags:
            assert row["of_test"] <= TEST, (flags, row["of_test"])


def test_randaugment_costs_sixty_kernels_and_precision_follows_what_the_gpu_computes_in(stand_in, tmp_path):
    cases = [{"flags": f"--bs 512 --net vgg11{more}", "images": 512} for more in ("", " --randaug")]
    gpus = {"V100": [7, 0], "T4": [7, 5], "A100": [8, 0], "H100": [9, 0]}
    choices = [[capability, amp] for capability in gpus.values() for amp in ("auto", "bf16", "fp16", "off")]
    (plain, augmented), said = fakecuda.scenarios(stand_in, tmp_path, steps=cases, precisions=choices)
    assert augmented["kernels"] - plain["kernels"] <= RANDAUGMENT
    assert augmented["waits"] == plain["waits"]

    refusal = "--amp bf16: this GPU does not compute in bfloat16; use --amp fp16"
    for i, gpu in enumerate(gpus):
        auto, bf16, fp16, off = said[4 * i : 4 * i + 4]
        old = gpu in ("V100", "T4")
        assert auto == (fp16 if old else "bfloat16") and bf16 == (refusal if old else "bfloat16"), gpu
        assert fp16 == "float16 with a scaler" and off == "float32"


def test_the_acceptance_of_gpus_sees_a_step_that_waits_and_its_other_checks_run(stand_in, tmp_path):
    flags = "--net vgg11 --randaug --graph on"
    cases = [
        {"flags": flags},
        {"flags": flags, "spoiled": True},
        *({"check": c} for c in ("nets", "speed", "gap")),
    ]
    ((free, spoiled, nets, speed, gap),) = fakecuda.scenarios(stand_in, tmp_path, acceptance=cases)
    assert not free["failures"] and free["rows"][0]["waited"] == "never"
    assert "synchronizing CUDA operation (item)" in spoiled["failures"][0]
    assert [r["net"] for r in nets["rows"]] == ["timm:vit_base_patch16_384"] and not nets["failures"]
    figures = {"eager", "compiled", "graphed", "published", "share of matmul", "times published"}
    assert set(speed["rows"][0]) >= figures and not speed["failures"] and not gap["failures"]


def test_a_run_starts_stops_continues_and_is_tested(stand_in, tmp_path):
    run = "--dataset digits --net resnet20 --bs 720 --run-name a"
    commands = [
        {"flags": f"{run} --epochs 2 --save-every 1 --deterministic", "signal_at": 1},
        {"flags": "--resume runs/a"},
        {"flags": "--resume runs/a --eval-only"},
        {"flags": f"{run[:-1]}b --max-steps 1", "compiler": "broken"},
        {"flags": f"{run[:-1]}c --epochs 1 --compile on", "compiler": "broken"},
    ]
    (done,) = fakecuda.scenarios(stand_in, tmp_path, runs=commands)
    stopped, resumed, tested, fell_back, refused = done
    assert stopped["code"] == 143 and "stopped at step 1 of 4; continue with --resume" in stopped["said"]
    assert resumed["code"] == 0 and "step 1 of 4" in resumed["said"], resumed["said"]
    assert "1 × cuda, bfloat16, a graph a step" in resumed["said"]
    config = json.loads((tmp_path / "runs/a/config.json").read_text())  # a resumed run computes as it did
    assert (config["deterministic"], config["compile"], config["graph"]) == (True, "off", "on")
    with open(tmp_path / "runs/a/metrics.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
    weights = torch.load(tmp_path / "runs/a/best.pt", weights_only=True)["model"].values()
    assert {x.device.type for x in weights} == {"cpu"}
    assert tested["code"] == 0 and "test accuracy" in tested["said"]
    assert fell_back["code"] == 0
    assert "note    not compiled, torch.compile does not work here (no C compiler)" in fell_back["said"]
    assert refused["code"] == 2 and refused["said"].count("\n") == 1 and "no C compiler" in refused["said"]
