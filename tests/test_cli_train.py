"""train.py as it is used: every family of nets, every loss, the flags, the files, the mistakes."""

import csv
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, command, environment
from PIL import Image

import data
import losses
import models
import train
from flags import DATASETS, LOSS_PARAMETERS

# One net of each family, at the size it takes least time.
FAMILIES = {
    "vgg11": [],
    "res18": [],
    "ViT": ["--dimhead", "64"],
    "vit_tiny": ["--dimhead", "64", "--patch", "2"],
    "CaiT": ["--dimhead", "64"],
    "swin_tiny": ["--size", "32", "--opt", "sgd"],
    "timm:resnet10t": ["--size", "32"],
}


def run_main(*args):
    """train.main() in this process; what it exited with."""
    try:
        train.main([str(a) for a in args])
    except SystemExit as leaving:
        return leaving.code
    return 0


def rows_of(run):
    with open(run / "metrics.csv") as file:
        return list(csv.DictReader(file))


def noise_folder(root, classes):
    """Images of noise, 16 px: how many of each class."""
    g = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(g.integers(0, 256, (16, 16, 3), np.uint8)).save(root / name / f"{i}.png")


@pytest.fixture
def image_folder(tmp_path):
    """Two classes that differ in brightness, 12 training and 4 test images each, of mixed formats."""
    g = np.random.default_rng(0)
    for split, n in (("train", 12), ("val", 4)):
        for label, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = np.clip(g.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).convert("L" if i % 3 else "RGB").save(folder / f"{i}.png")
    return tmp_path / "images"


# --- what it trains -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "net,loss",
    [
        (net, loss)
        for net, loss, _ in zip(
            itertools.cycle(FAMILIES),
            itertools.cycle(tuple(losses.LOSSES)),
            range(max(len(FAMILIES), len(tuple(losses.LOSSES)))),
        )
    ],
)
def test_every_family_and_every_loss_train_two_steps(here, net, loss, capsys):
    flags = ["--dataset", "digits", "--net", net, "--loss", loss, "--bs", 16, "--max-steps", 2]
    assert run_main(*flags, *FAMILIES[net], "--run-name", "run") == 0
    (row,) = rows_of(here / "runs" / "run")
    assert int(row["step"]) == 2 and float(row["train_loss"]) > 0
    assert 0 <= float(row["test_acc"]) <= 100
    last_line = capsys.readouterr().out.strip().splitlines()[-1]
    assert last_line == f"best test accuracy {float(row['test_acc']):.2f} % at epoch 1 · runs/run"


@pytest.mark.slow
def test_training_learns_the_digits(here, capsys):
    assert run_main("--dataset", "digits", "--net", "resnet20", "--epochs", 3, "--bs", 32, "--lr", 5e-3) == 0
    run = here / "runs" / "digits-resnet20-root-k3-m3-epochs3-bs32-lr0.005-seed0"
    rows = rows_of(run)
    assert [int(r["epoch"]) for r in rows] == [1, 2, 3]
    assert float(rows[-1]["test_acc"]) > 85 and float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert sorted(f.name for f in run.iterdir() if not f.name.startswith(("events", "."))) == [
        "best.pt", "config.json", "confusion.png", "curves.png", "last.pt", "metrics.csv",
        "model.safetensors", "reliability.png", "report.json", "report.md",
    ]  # fmt: skip


def test_an_image_folder_trains(here, image_folder, capsys):
    flags = ["--dataset", f"folder:{image_folder}", "--net", "resnet20", "--epochs", 6, "--bs", 8]
    assert run_main(*flags, "--noaug") == 0
    out = capsys.readouterr().out
    assert "24 training and 8 test images, 16 px, 2 classes" in out
    assert "best test accuracy 100.00 %" in out
    assert {p.name for p in here.iterdir()} == {"images", "runs", "datasets"}


def test_a_run_resumes_on_its_own_data_only(here, image_folder, capsys):
    flags = ["--dataset", f"folder:{image_folder}", "--net", "resnet20", "--bs", 8, "--run-name", "run"]
    assert run_main(*flags, "--max-steps", 1) == 0
    added = image_folder / "train" / "dark" / "99.png"
    Image.new("L", (16, 16)).save(added)
    assert run_main("--resume", "runs/run", "--max-steps", 2) == 2
    assert "24 training images became 25" in capsys.readouterr().err
    added.unlink()
    for split in ("train", "val"):
        (image_folder / split / "dark").rename(image_folder / split / "night")
    assert run_main("--resume", "runs/run", "--max-steps", 2) == 2
    assert "classes are not the run's: 'dark' gone; 'night' new" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        "--opt sgd --lr 0.01 --weight-decay 5e-4 --clip-grad 1 --warmup 1",
        "--opt adamw --label-smoothing 0.1 --label-noise 0.4",
        "--randaug --size 16 --seed 7",
        "--loss focal --alpha 1 --gamma 0.5",
        "--k 8 --m 10 --noamp --compile off --cache ram --workers 0",
    ],
)
def test_flags_are_taken_and_recorded(here, more):
    argv = ["--dataset", "digits", "--net", "resnet20", "--bs", 64, "--max-steps", 3, "--run-name", "run"]
    assert run_main(*argv, *more.split()) == 0
    config = json.loads((here / "runs" / "run" / "config.json").read_text())
    args, typed = train.parse_args([*map(str, argv), *more.split()])
    assert {name: config[name] for name in typed} == {name: vars(args)[name] for name in typed}
    assert config["versions"]["torch"] == torch.__version__
    assert set(vars(args)) <= set(config)


def test_learning_rate_follows_the_family(here):
    for net, lr in (("resnet20", 1e-3), ("vit_tiny", 1e-4)):
        flags = ["--dataset", "digits", "--dimhead", 64, "--bs", 64, "--max-steps", 1]
        assert run_main(*flags, "--net", net, "--run-name", net) == 0
        assert json.loads((here / "runs" / net / "config.json").read_text())["lr"] == lr


@pytest.mark.slow
def test_label_noise_makes_training_labels_wrong_and_leaves_the_test_set(here):
    flags = [
        "--dataset",
        "digits",
        "--net",
        "resnet20",
        "--bs",
        32,
        "--lr",
        5e-3,
        "--epochs",
        4,
        "--label-noise",
        0.5,
    ]
    assert run_main(*flags, "--run-name", "run") == 0
    row = rows_of(here / "runs" / "run")[-1]
    assert float(row["train_acc"]) < 60 < float(row["test_acc"])


@pytest.mark.slow
def test_the_labels_that_the_net_believes_least_are_wrong(here):
    flags = (
        "--dataset digits --net resnet20 --epochs 6 --bs 64 --lr 3e-3 --k 2 --m 2 --label-noise 0.2".split()
    )
    assert run_main(*flags, "--run-name", "run", "--find-label-issues") == 0
    with open(here / "runs" / "run" / "label_issues.csv") as file:
        rows = list(csv.DictReader(file))
    digits = data.build_data("digits", here, 0, 64, "cpu")
    truth = dict(zip(digits.train_index.tolist(), digits.clean_train_labels.tolist(), strict=True))
    assert len(rows) == 1437 and [float(r["quality"]) for r in rows] == sorted(
        float(r["quality"]) for r in rows
    )
    wrong = [truth[int(row["index"])] != int(row["label"]) for row in rows]
    assert sum(wrong) == round(0.2 * 1437) and np.mean(wrong[:144]) > 0.9
    # a person empties the worst labels, and the images are left out
    lines = (here / "runs" / "run" / "label_issues.csv").read_text().splitlines()
    lines[1:145] = [
        line.replace(f",{row['label']},", ",,", 1) for line, row in zip(lines[1:145], rows, strict=False)
    ]
    (here / "seen.csv").write_text("\n".join(lines))
    again = ["--dataset", "digits", "--net", "resnet20", "--max-steps", 1, "--train-labels", "seen.csv"]
    assert run_main(*again, "--run-name", "again") == 0
    assert json.loads((here / "runs" / "again" / "config.json").read_text())["data"]["training"] == 1437 - 144


@pytest.mark.slow
def test_compiled_training_agrees_with_eager(here):
    # 1,437 images in three equal batches: one graph to train with, one to test with
    flags = ["--dataset", "digits", "--net", "vit_tiny", "--dimhead", 16, "--bs", 479, "--epochs", 1]
    for switch in ("on", "off"):
        assert run_main(*flags, "--compile", switch, "--run-name", switch) == 0
    (on,), (off,) = (rows_of(here / "runs" / switch) for switch in ("on", "off"))
    assert float(on["train_loss"]) == pytest.approx(float(off["train_loss"]), rel=1e-2)


def test_divergence_exits_3_names_the_step_and_keeps_the_last_good_checkpoint(here, capsys):
    flags = ["--dataset", "digits", "--net", "vit_tiny", "--dimhead", 64, "--loss", "ce", "--run-name", "run"]
    assert run_main(*flags, "--epochs", 1, "--max-steps", 2, "--opt", "sgd", "--lr", 1e30) == 3
    error = capsys.readouterr().err
    assert "diverged" in error and "at step 2" in error and error.count("\n") == 1
    assert not (here / "runs" / "run" / "last.pt").exists()


# Dropout draws other numbers in each process, so this runs train.py without any.
WITHOUT_DROPOUT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch, train
attention = torch.nn.functional.scaled_dot_product_attention
torch.nn.functional.scaled_dot_product_attention = lambda *a, **k: attention(*a, **k | dict(dropout_p=0.0))
torch.nn.Dropout.forward = lambda self, x: x
train.main()
"""


@pytest.mark.slow
def test_two_processes_follow_one(tmp_path):
    script = tmp_path / "train_without_dropout.py"
    script.write_text(WITHOUT_DROPOUT)
    flags = (
        "--dataset digits --net vit_tiny --dimhead 64 --bs 100 --epochs 1 --noaug --opt sgd --lr 0.01 "
        "--mixup 0.4 --cutmix 1 --ema 0.9 --val-split 0.1"
    ).split()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, str(script), *flags, "--out", str(tmp_path), "--run-name", name]
        subprocess.run(command, check=True, env=environment(), timeout=300)
    states = [torch.load(tmp_path / r / "last.pt", weights_only=True) for r in ("one", "two")]
    for one, two in (
        [state["model"] for state in states],
        [state["averaged"] for state in states],
    ):
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
    (row_one,), (row_two,) = (rows_of(tmp_path / r) for r in ("one", "two"))
    assert float(row_one["train_loss"]) == pytest.approx(float(row_two["train_loss"]), abs=1e-4)
    assert row_one["val_acc"] == row_two["val_acc"] and row_one["ema_acc"] == row_two["ema_acc"]


def test_a_moving_root_is_what_best_pt_and_a_later_test_know(here, capsys):
    """--k-end: 1/k goes linearly from 1/1000 to 1/1.5, and m/k stays."""
    flags = "--dataset digits --net resnet20 --bs 512 --epochs 2 --k 1000 --m 500 --k-end 1.5 --run-name run"
    assert run_main(*flags.split()) == 0
    best = torch.load(here / "runs" / "run" / "best.pt", weights_only=True)
    last_step, steps = 3 * best["epoch"] - 1, 6
    k = 1 / (1 / 1000 + (1 / 1.5 - 1 / 1000) * last_step / (steps - 1))
    assert best["info"]["loss_options"] == {
        "k": pytest.approx(k, rel=1e-4),
        "m": pytest.approx(k / 2, rel=1e-4),
    }
    assert best["info"]["logit_scale"] == pytest.approx(1 - 1 / k, rel=1e-4)
    row = rows_of(here / "runs" / "run")[best["epoch"] - 1]
    capsys.readouterr()
    assert run_main("--resume", "runs/run", "--eval-only") == 0
    assert f"test loss {float(row['test_loss']):.4f}" in capsys.readouterr().out
    report = json.loads((here / "runs" / "run" / "report.json").read_text())
    assert report["nll_corrected"] == pytest.approx(float(row["test_nll_corrected"]), rel=1e-3)


def test_patience_ends_a_run_that_resumes_to_nothing_more(here, capsys):
    flags = "--dataset digits --net vit_tiny --dimhead 16 --bs 512 --epochs 9 --lr 1e-30 --patience 2"
    flags = [*flags.split(), "--run-name", "run"]
    assert run_main(*flags) == 0
    assert len(rows_of(here / "runs" / "run")) == 3
    assert "no better accuracy in 2 epochs: --patience ends the run" in capsys.readouterr().out
    before = (here / "runs" / "run" / "last.pt").read_bytes()
    assert run_main("--resume", "runs/run") == 0
    assert (here / "runs" / "run" / "last.pt").read_bytes() == before
    assert len(rows_of(here / "runs" / "run")) == 3


def test_a_run_knows_its_labels(here, capsys):
    lines = [f"{name}/{i}.png,{name}\n" for name in "ab" for i in range(8)]
    noise_folder(here / "set", {"a": 8, "b": 8})
    (here / "l.csv").write_text("file,label\n" + "".join(lines))
    labelled = "--dataset folder:set --net resnet20 --bs 4 --epochs 1 --workers 0 --val-split 0.25".split()
    labelled += ["--train-labels", "l.csv", "--label-column", "label"]
    assert run_main(*labelled, "--run-name", "run") == 0
    # other labels in a file of the same size; at least one of each class is trained on
    swapped = "".join(lines)
    for i in range(3):
        swapped = swapped.replace(f"a/{i}.png,a", f"a/{i}.png,b").replace(f"b/{i}.png,b", f"b/{i}.png,a")
    (here / "l.csv").write_text("file,label\n" + swapped)
    assert run_main("--resume", "runs/run", "--epochs", "2") == 2
    assert "the training labels changed" in capsys.readouterr().err
    # a class that no label names has no balanced weight, only NaN
    (here / "l.csv").write_text("file,label\n" + "".join(lines).replace(",b", ",a"))
    assert run_main(*labelled, "--run-name", "other", "--class-weights", "balanced") == 2
    assert "no training image has the label 'b'" in capsys.readouterr().err


def test_a_report_is_of_the_best_weights_and_other_data_have_a_folder_of_their_own(here, capsys):
    noise_folder(here / "set", {"accuracy": 8, "b": 8})  # the first is a word of scikit-learn's own report
    noise_folder(here / "other", {"accuracy": 3, "b": 2})
    flags = (
        "--dataset folder:set --net resnet20 --bs 4 --epochs 1 --workers 0 --val-split 0.25 --run-name run"
    )
    run = here / "runs" / "run"
    assert run_main(*flags.split(), "--loss", "poly1", "--epsilon", 1.5) == 0
    kept = (run / "report.json").read_bytes()
    assert json.loads(kept)["classes"]["accuracy"]["support"] == 2
    capsys.readouterr()
    assert run_main("--resume", "runs/run", "--eval-only", "--dataset", "folder:other") == 2
    assert "--eval-only --checkpoint runs/run/best.pt" in capsys.readouterr().err
    assert run_main("--eval-only", "--checkpoint", run / "best.pt", "--dataset", "folder:other") == 0
    out = capsys.readouterr().out
    assert "loss    poly1 epsilon=1.5" in out and "5 test images" in out
    (of_other,) = (here / "runs").glob("test-other-*/report.json")
    assert json.loads(of_other.read_text())["images"] == 5 and (run / "report.json").read_bytes() == kept
    # the run's own folder has changed: nobody knows any more which images it was trained on
    shutil.copy("set/b/0.png", "set/b/00.png")
    assert run_main("--resume", "runs/run", "--eval-only") == 2
    assert "12 training images became 13" in capsys.readouterr().err
    (here / "set" / "b" / "00.png").unlink()
    (run / "best.pt").unlink()
    assert run_main("--resume", "runs/run") == 2
    assert "best.pt is gone" in capsys.readouterr().err


def test_weights_to_begin_with_are_needed_once(here):
    flags = "--dataset digits --net resnet20 --bs 512 --epochs 1 --max-steps 1 --checkpoint start.pt --run-name run"
    torch.save(models.build_model("resnet20", 10, 8).state_dict(), "start.pt")
    assert run_main(*flags.split()) == 0
    (here / "start.pt").unlink()
    assert run_main("--resume", "runs/run", "--max-steps", "2") == 0


# --- help, lists, mistakes ------------------------------------------------------------------------------


def test_help_needs_no_torch_and_groups_the_flags():
    code = (
        "import sys, train\ntry: train.main(['--help'])\nexcept SystemExit: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for group in ("data", "net", "loss", "training", "device", "run"):
        assert f"\n{group}" in done.stdout
    assert "python train.py --dataset digits" in done.stdout


def test_the_flags_of_the_design_have_their_defaults():
    args, typed = train.parse_args([])
    assert typed == set()
    assert (args.dataset, args.net, args.loss, args.epochs, args.k, args.m) == (
        "cifar10",
        "ViT",
        "root",
        200,
        3,
        3,
    )
    assert (args.bs, args.opt, args.seed, args.patch, args.dimhead, args.lr) == (512, "adam", 0, 4, 512, None)
    assert train.parse_args(["--n_epochs", "7"])[0].epochs == 7
    assert train.parse_args(["-r", "x"])[0].resume == "x"


def test_the_table_of_flags_names_what_the_registries_hold():
    assert list(losses.LOSSES) == list(LOSS_PARAMETERS)
    for name, parameters in LOSS_PARAMETERS.items():
        in_signature = losses.loss_parameters(name)
        assert parameters == {p: value for p, value in in_signature.items() if p != "A"}  # which has no flag
    assert set(DATASETS) == {name.replace("<path>", "PATH") for name in data.list_datasets()}


def test_list_nets_prints_the_published_parameter_counts(capsys):
    assert run_main("--list-nets") == 0
    table = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert (
        table["vit"] == "37,862,922" and table["vit_small"] == "9,622,512" and table["cait"] == "15,846,250"
    )
    assert (
        table["swin"] == "86,701,186"
        and table["resnet101"] == "42,512,970"
        and table["vgg19"] == "20,040,522"
    )


@pytest.mark.slow
def test_without_data_or_network_the_error_says_what_is_missing_and_where(tmp_path):
    # A proxy that nobody listens at is as good as no network.
    no_network = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "HTTP", "HTTPS")}
    for flags, file in [
        ([], "cifar-10-python.tar.gz"),
        (["--dataset", "tiny-imagenet"], "tiny-imagenet-200.zip"),
    ]:
        done = subprocess.run(
            command("train.py", *flags), cwd=tmp_path, env=environment(no_network),
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert file in done.stderr and "datasets" in done.stderr and "http" in done.stderr
        assert done.stderr.strip().count("\n") == 0
        assert not (tmp_path / "runs").exists()
