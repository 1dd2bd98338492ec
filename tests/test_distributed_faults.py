"""Several processes of one run, by torchrun and by hand: signals, a killed process, uneven shares."""

import socket
import subprocess
import sys
import time
from signal import SIGINT, SIGKILL, SIGTERM

import pytest
import torch
from conftest import ROOT, environment
from fault_driver import strike_at
from fault_harness import differences, make_images, metrics_of

pytestmark = pytest.mark.slow

FLAGS = "--dataset digits --net vit_tiny --dimhead 64 --bs 256 --epochs 2 --device cpu --save-every 2".split()
STEPS = 12
DRIVER = str(ROOT / "tests" / "fault_driver.py")


def flags_of(folder, *flags):
    return [*map(str, flags), "--data-dir", str(folder), "--out", str(folder), "--run-name", "run"]


def torchrun(number, strike, flags):
    """torchrun with so many processes; its exit code and what all of them printed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}"]
    # A session of its own: a signal to the process group must not reach pytest.
    done = subprocess.run(
        [sys.executable, *launcher, DRIVER, strike, *flags], env=environment(), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout


def by_hand(number, strike, flags):
    """Processes that know of each other by environment variables, with nobody to look after them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    started = []
    for rank in range(number):
        who = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)}
        command = [sys.executable, DRIVER, strike, *flags]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, env=environment(who | where), **options))
    return started


def codes_of(processes, timeout=300):
    """Exit codes, in order of rank; none of the processes stays, whatever happens."""
    try:
        output = [process.communicate(timeout=timeout)[0] for process in processes]
        print(*output, sep="\n")
        return [process.returncode for process in processes]
    finally:
        for process in processes:
            process.kill()


def saved_step(run):
    return torch.load(run / "last.pt", weights_only=True)["progress"]["step"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run of two processes that was left alone."""
    out = tmp_path_factory.mktemp("reference")
    assert codes_of(by_hand(2, "", flags_of(out, *FLAGS))) == [0, 0]
    return out / "run"


@pytest.mark.parametrize("target", ["parent", "group"])
def test_a_signal_to_torchrun_saves_in_one_step_of_all_and_the_run_resumes_exactly(
    tmp_path, reference, target
):
    """As schedulers do: SIGTERM to torchrun, or to it and to all it has started, which then get two."""
    code, output = torchrun(2, strike_at("step", 4, SIGTERM, target, rank=1), flags_of(tmp_path, *FLAGS))
    run = tmp_path / "run"
    step = saved_step(run)
    assert code != 0 and 4 <= step < STEPS, output
    assert f"stopped at step {step} of {STEPS}" in output
    assert torchrun(2, "", ["--resume", str(run)])[0] == 0
    assert differences(run, reference) == []


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path, reference):
    flags = flags_of(tmp_path, *FLAGS)
    assert codes_of(by_hand(2, strike_at("step", 5, SIGINT, rank=1), flags)) == [143, 130]
    assert saved_step(tmp_path / "run") == 5
    assert codes_of(by_hand(2, "", ["--resume", str(tmp_path / "run")])) == [0, 0]
    assert differences(tmp_path / "run", reference) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_other_within_a_minute(tmp_path, reference, rank):
    processes = by_hand(2, strike_at("step", 6, SIGKILL, rank=rank), flags_of(tmp_path, *FLAGS))
    assert processes[rank].wait(timeout=200) == -SIGKILL
    killed = time.monotonic()
    codes = codes_of(processes, timeout=60)
    print(f"ended {time.monotonic() - killed:.1f} s after the other was killed")
    assert codes[1 - rank] not in (0, None)
    run = tmp_path / "run"
    assert saved_step(run) == 4
    assert codes_of(by_hand(2, "", ["--resume", str(run)])) == [0, 0]
    assert differences(run, reference) == []


def test_a_killed_process_ends_torchrun(tmp_path):
    code, output = torchrun(2, strike_at("step", 3, SIGKILL, rank=1), flags_of(tmp_path, *FLAGS))
    assert code == 1 and "SIGKILL" in output
    assert saved_step(tmp_path / "run") == 2


# Forks of a process that has torch: three times three processes would take a minute to start.
THREE_PROCESSES = """
import sys
from fault_driver import start, strike_at, wait
folder, flags = sys.argv[1], sys.argv[2:]
stopped = ["--resume", f"{folder}/stopped/run"]
whole, stop = ([*flags, "--run-name", "run", "--out", f"{folder}/{name}"] for name in ("whole", "stopped"))
for flags, strike in (whole, ""), (stop, strike_at("step", 3, 15)), (stopped, ""):
    print(wait(start(flags, strike, sys.stderr, processes=3), 200), flush=True)
"""


def test_a_resumed_run_of_three_processes_is_exact(tmp_path):
    """With three or more, sums depend on their order, which DDP changes after the first step of a process."""
    command = [sys.executable, "-c", THREE_PROCESSES, str(tmp_path), *FLAGS]
    environment_ = environment({"PYTHONPATH": str(ROOT / "tests")})
    done = subprocess.run(command, env=environment_, stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.stdout.splitlines() == ["[0, 0, 0]", "[143, 143, 143]", "[0, 0, 0]"]
    assert differences(tmp_path / "stopped" / "run", tmp_path / "whole" / "run") == []


def test_four_processes_count_every_image_once_however_uneven(tmp_path, cli):
    images = make_images(tmp_path / "images", train=11, val=5)  # 43 and 19 images
    flags = f"--dataset folder:{images} --net vit_tiny --dimhead 64 --bs 16 --epochs 2 --device cpu".split()
    # Stopped after the third step of the second epoch: trained on all of it, and not yet tested.
    strike = strike_at("step", 6, SIGTERM, rank=3)
    code, output = torchrun(4, strike, flags_of(tmp_path, *flags, "--lr", 1e-3, "--workers", 0))
    run = tmp_path / "run"
    assert code != 0 and saved_step(run) == 6, output
    meters = torch.load(run / "last.pt", weights_only=True)["meter"]
    images_of = [sum(of_a_rank["sizes"]) for of_a_rank in meters]
    assert sum(images_of) == 43 and len(set(images_of)) > 1
    (row,) = metrics_of(run)
    tested = cli("train.py", "--eval-only", "--resume", run).stdout
    assert f"test loss {float(row['test_loss']):.4f} · test accuracy {float(row['test_acc']):.2f} %" in tested
