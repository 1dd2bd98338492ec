"""Several processes of one run, by torchrun: signals, a killed process, uneven shares, what each has for itself."""

import re
import subprocess
import sys
from signal import SIGINT, SIGKILL, SIGTERM

import pytest
import torch
from conftest import ROOT, environment
from fault_driver import strike_at
from fault_harness import differences, make_images, metrics_of

pytestmark = pytest.mark.slow

FLAGS = "--dataset digits --net vit_tiny --dimhead 64 --bs 256 --epochs 2 --device cpu --save-every 2".split()
STEPS = 12
# Each process is a fork of one that has torch, with torchrun's variables: nobody looks after them.
FORKS = """
import ast, sys
from fault_driver import start, wait
for strike, flags in ast.literal_eval(sys.argv[2]):
    print(wait(start(flags, strike, sys.stderr, processes=int(sys.argv[1])), 100), flush=True)
"""


def flags_of(folder, *flags):
    return [*map(str, flags), "--data-dir", str(folder), "--out", str(folder), "--run-name", "run"]


def torchrun(number, strike, flags):
    """torchrun with so many processes; its exit code and what all of them printed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}"]
    driver = str(ROOT / "tests" / "fault_driver.py")
    # A session of its own: a signal to the process group must not reach pytest.
    done = subprocess.run(
        [sys.executable, *launcher, driver, strike, *flags], env=environment(), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout


def forks(number, *starts):
    """Exit codes of the processes of each start, a strike and flags."""
    command = [sys.executable, "-c", FORKS, str(number), repr(starts)]
    paths = environment({"PYTHONPATH": str(ROOT / "tests")})
    done = subprocess.run(command, env=paths, stdout=subprocess.PIPE, text=True, timeout=300)
    return [eval(line) for line in done.stdout.splitlines()]


def saved_step(run):
    return torch.load(run / "last.pt", weights_only=True)["progress"]["step"]


@pytest.mark.parametrize("target", ["parent", "group"])
def test_a_signal_to_torchrun_saves_in_one_step_of_all(tmp_path, target):
    """As schedulers do: SIGTERM to torchrun, or to it and to all it has started, which then get two."""
    code, output = torchrun(2, strike_at("step", 4, SIGTERM, target, rank=1), flags_of(tmp_path, *FLAGS))
    step = saved_step(tmp_path / "run")
    assert code != 0 and 4 <= step < STEPS, output
    assert f"stopped at step {step} of {STEPS}" in output


def test_a_killed_process_ends_torchrun(tmp_path):
    code, output = torchrun(2, strike_at("step", 3, SIGKILL, rank=1), flags_of(tmp_path, *FLAGS))
    assert code == 1 and "SIGKILL" in output
    assert saved_step(tmp_path / "run") == 2


def test_signals_and_deaths_stop_all_processes_and_two_resume_exactly(tmp_path):
    """With three or more, sums depend on their order, which DDP changes after the first step of a process."""
    whole, stopped, killed = (flags_of(tmp_path / name, *FLAGS) for name in ("whole", "stopped", "killed"))
    resumed = ["--resume", str(tmp_path / "stopped" / "run")]
    codes = forks(
        2, ("", whole), (strike_at("step", 5, SIGINT, rank=1), stopped), ("", resumed),
        (strike_at("step", 6, SIGKILL, rank=0), killed),
    )  # fmt: skip
    assert codes[:3] == [[0, 0], [143, 130], [0, 0]]
    assert codes[3][0] == -SIGKILL and not {0, None} & set(codes[3][1:])
    assert saved_step(tmp_path / "killed" / "run") == 4
    assert differences(tmp_path / "stopped" / "run", tmp_path / "whole" / "run") == []


def test_four_processes_count_every_image_once_however_uneven(tmp_path, cli):
    images = make_images(tmp_path / "images", train=11, val=5)  # 43 and 19 images
    flags = f"--dataset folder:{images} --net vit_tiny --dimhead 64 --bs 16 --epochs 2 --device cpu".split()
    # Stopped after the third step of the second epoch: trained on all of it, and not yet tested.
    strike = strike_at("step", 6, SIGTERM, rank=3)
    assert forks(4, (strike, flags_of(tmp_path, *flags, "--workers", 0))) == [[143, 143, 143, 143]]
    run = tmp_path / "run"
    assert saved_step(run) == 6
    meters = torch.load(run / "last.pt", weights_only=True)["meter"]
    images_of = [sum(of_a_rank["sizes"]) for of_a_rank in meters]
    assert sum(images_of) == 43 and len(set(images_of)) > 1
    (row,) = metrics_of(run)
    tested = cli("train.py", "--eval-only", "--resume", run).stdout
    assert f"test loss {float(row['test_loss']):.4f} · test accuracy {float(row['test_acc']):.2f} %" in tested


def test_the_average_of_two_processes_is_what_its_file_says_when_tested_alone(tmp_path, cli):
    """Batch norm's running statistics are of each process's own images; a test and a file have rank 0's."""
    flags = "--dataset digits --net resnet20 --bs 8 --ema 0.5 --epochs 2 --max-steps 100 --device cpu".split()
    assert forks(2, ("", flags_of(tmp_path, *flags))) == [[0, 0]]
    (row,) = metrics_of(tmp_path / "run")
    for file, accuracy in (("best.pt", row["test_acc"]), ("best_ema.pt", row["ema_acc"])):
        alone = ["--eval-only", "--checkpoint", tmp_path / "run" / file, "--dataset", "digits"]
        said = cli("train.py", *alone, "--out", tmp_path / "alone").stdout
        assert float(re.search(r"test accuracy ([\d.]+) %", said)[1]) == pytest.approx(
            float(accuracy), abs=6e-3
        )
