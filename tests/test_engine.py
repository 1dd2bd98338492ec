"""engine/: files that are whole or not there, the learning rate, sums that do not wait, agreements."""

import errno
import json
import math
import os
import socket
import subprocess
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, environment

import common
from common import Parser, UserError, number, write_atomically
from data.workers import usable_workers
from engine import checkpoint, optim, report
from engine.distributed import World
from engine.meter import Diverged, Meter
from engine.precision import Precision
from engine.run_directory import COLUMNS, RunDirectory, take_flags_of
from engine.saver import Progress, Saver
from engine.trainer import Trainer

ROW = {name: float(i) for i, name in enumerate(COLUMNS)} | {"epoch": 1, "step": 3}


# --- learning rate and optimisers -------------------------------------------------------------------


def test_cosine_starts_at_the_base_rate_and_ends_near_zero():
    rates = [optim.learning_rate(s, 2.0, 100) for s in range(100)]
    torch_rates = []
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    for _ in range(100):
        torch_rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(torch_rates, rel=1e-9, abs=1e-12)


def test_warm_up_rises_linearly_to_the_base_rate():
    assert [optim.learning_rate(s, 1.0, 20, 4) for s in range(5)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0]
    )
    assert optim.learning_rate(19, 1.0, 20, 4) < 0.01


@pytest.mark.parametrize("name,kind", [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_optimisers_take_a_step(name, kind):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = optim.build_optimizer(name, [weight], 0.1, 0.01, torch.device("cpu"))
    assert type(optimizer).__name__ == kind and optimizer.param_groups[0]["weight_decay"] == 0.01
    optim.set_learning_rate(optimizer, 0.5)
    weight.sum().backward()
    optimizer.step()
    assert weight.tolist() == pytest.approx([1 - 0.5 * 1.01] * 3 if name == "sgd" else [0.5] * 3, rel=0.02)


# --- atomic files -------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save_checkpoint(path, {"model": {"w": torch.ones(2)}})

    def full_disk(file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"No space left.*previous one is untouched"):
        write_atomically(path, full_disk)
    assert os.listdir(tmp_path) == ["last.pt"]
    assert checkpoint.load_checkpoint(path)["model"]["w"].tolist() == [1, 1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_torch_save_on_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *a, _open=open: _open("/dev/full", "wb"))
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save_checkpoint(tmp_path / "last.pt", {"model": torch.zeros(100_000)})


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="would run code"):
        checkpoint.load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "pwned").exists()


def test_random_state_goes_back_to_where_it_was():
    state = checkpoint.random_state(torch.device("cpu"))
    first = torch.rand(4)
    checkpoint.set_random_state(state, torch.device("cpu"))
    assert torch.equal(torch.rand(4), first)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_weigh_the_whole_batch_however_it_is_cut(smoothing):
    """A mean over classes' weights divides by their sum: the parts' means have other shares than their images."""
    torch.manual_seed(0)
    images, labels = torch.randn(12, 4), torch.tensor([0] * 6 + [1] * 5 + [2])
    weight = torch.tensor([0.5, 1.0, 8.0])
    states = []
    for parts in (1, 3):
        torch.manual_seed(1)
        net, world = torch.nn.Linear(4, 3), World("cpu")
        loss = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
        optimizer = optim.build_optimizer("sgd", net.parameters(), 1.0, 0.0, world.device)
        trainer = Trainer(net, loss, optimizer, world, Precision(world.device), accumulate=parts)
        trainer.step(images, labels, labels, 1, 1.0, 12)
        states.append(net.weight.detach().clone())
    torch.testing.assert_close(*states)


TWO_PROCESSES = """
import sys, torch
from engine.distributed import World
from engine.precision import Precision
from engine.trainer import Trainer
world = World("cpu")
torch.manual_seed(0)
images, labels = torch.randn(12, 4), torch.tensor([0] * 6 + [1] * 5 + [2])
half = slice(0, 6) if world.rank == 0 else slice(6, 12)
mine = (images[half], labels[half], labels[half]) if world.size > 1 else (images, labels, labels)
net = torch.nn.Linear(4, 3)
torch.nn.init.zeros_(net.weight), torch.nn.init.zeros_(net.bias)
loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 8.0]))
trainer = Trainer(net, loss, torch.optim.SGD(net.parameters(), 1.0), world, Precision(world.device), accumulate=2)
trainer.step(*mine, 1, 1.0, 12)
torch.save(net.state_dict(), sys.argv[1])
world.close()
"""


@pytest.mark.slow
def test_class_weights_weigh_the_whole_batch_of_two_processes(tmp_path, monkeypatch):
    """One has the six images of one class alone, so its weights would cancel out in a mean of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    started = []
    for rank in ("0", "1"):
        who = where | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        words = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path / rank)]
        started.append(subprocess.Popen(words, env=environment(who), cwd=ROOT))
    assert [process.wait(60) for process in started] == [0, 0]
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "alone")])
    exec(TWO_PROCESSES, {})
    first, second, alone = (torch.load(tmp_path / n, weights_only=True) for n in ("0", "1", "alone"))
    for name, whole in alone.items():
        torch.testing.assert_close(first[name], whole)
        torch.testing.assert_close(second[name], whole)


def test_a_report_is_drawn_whatever_the_classes_are_called(tmp_path):
    """A folder's name need not be UTF-8, nor what a font has."""
    p, labels = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 2])
    scores = dict.fromkeys(("acc", "nll", "nll_corrected", "ece", "ece_corrected"), 1.0)
    names = ["caf\udce9", "$x^", "a\tb\n" * 9]
    report.write_report(tmp_path / "new", scores, p, p, labels, names, ["\udce9.png", "b", "c", "d"])
    assert {file.name for file in (tmp_path / "new").iterdir()} == set(report.REPORT)
    assert set(json.loads((tmp_path / "new" / "report.json").read_text())["classes"]) == set(names)


# --- meter and saver --------------------------------------------------------------------------------


def test_meter_weights_batches_by_their_size():
    meter = Meter(World("cpu"))
    meter.update(torch.tensor(1.0), torch.eye(3), torch.arange(3), 1)  # 3 right
    meter.update(torch.tensor(5.0), torch.eye(2), torch.tensor([1, 1]), 2)  # 1 of 2
    assert meter.read() == pytest.approx(((3 * 1 + 2 * 5) / 5, 80.0, 5))
    meter.reset()
    assert meter.read()[2] == 0


def test_meter_names_the_first_step_that_was_not_finite():
    meter = Meter(World("cpu"))
    for step, loss in [(1, 0.5), (2, math.nan), (3, 0.5), (4, math.inf)]:
        meter.update(torch.tensor(loss), torch.eye(2), torch.arange(2), step)
    assert meter.peek()[2] == 2
    with pytest.raises(Diverged, match="step 2"):
        meter.check()


@pytest.fixture
def saver(tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    world = World("cpu")
    optimizer = optim.build_optimizer("adam", net.parameters(), 0.01, 0.0, world.device)
    trainer = Trainer(net, torch.nn.CrossEntropyLoss(), optimizer, world, Precision(world.device), ema=0.9)
    return Saver(tmp_path, trainer, {"net": "mlp"})


def steps(saver, n):
    saver.trainer.train_mode()
    for _ in range(n):
        labels = torch.randint(2, (8,))
        saver.trainer.step(torch.randn(8, 1, 2, 2).flatten(1), labels, labels, 1, 0.01, 8)
    return [p.detach().clone() for p in saver.trainer.net.parameters()]


def test_restore_brings_back_weights_moments_averages_randomness_and_sums(saver):
    steps(saver, 3)
    saver.save(Progress(epoch=0, batch=3, step=3, rows=[]))

    def three_more():
        averages = saver.trainer.averaged.state_dict()
        return [*steps(saver, 3), saver.trainer.meter._summary(), *averages.values()]

    expected = [x.clone() for x in three_more()]
    assert saver.restore() == Progress(epoch=0, batch=3, step=3)
    again = three_more()
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_a_diverged_state_is_never_saved(saver):
    saver.save(Progress(step=1))
    before = (saver.directory / "last.pt").read_bytes()
    with torch.no_grad():
        saver.trainer.net[0].weight[0, 0] = math.nan
    with pytest.raises(Diverged, match="by step 7"):
        saver.save(Progress(step=7))
    assert (saver.directory / "last.pt").read_bytes() == before


def test_best_weights_are_those_of_their_epoch(saver):
    best = [p.clone() for p in steps(saver, 1)]
    saver.keep_best(91.0, 4)
    steps(saver, 2)
    saver.save(Progress())
    stored = checkpoint.load_checkpoint(saver.directory / "best.pt")
    assert (stored["test_acc"], stored["epoch"]) == (91.0, 4)
    assert all(torch.equal(a, b) for a, b in zip(stored["model"].values(), best, strict=True))


def test_a_checkpoint_of_another_net_is_refused(saver):
    saver.save(Progress())
    saver.trainer.net = torch.nn.Linear(3, 3)
    with pytest.raises(UserError, match="does not fit this run"):
        saver.restore()


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: next(iter(s["optimizer"]["state"].values())).update(exp_avg=torch.zeros(3)),
        lambda s: next(iter(s["optimizer"]["state"].values())).pop("exp_avg_sq"),
        lambda s: s.update(optimizer=None),
        lambda s: s["progress"].update(step="x"),
        lambda s: s["progress"].update(step=-5),
        lambda s: s["progress"].update(rows=[{}]),
        lambda s: s["progress"].update(rows=None),
        lambda s: s.update(meter=[]),
        lambda s: s["meter"][0].update(sizes=[1, 2]),
        lambda s: s.update(random=[{}]),
    ],
)
def test_a_checkpoint_whose_values_are_damaged_is_refused_and_not_trusted(saver, damage):
    steps(saver, 1)  # so that the optimiser has a state
    saver.save(Progress())
    path = saver.directory / "last.pt"
    state = torch.load(path, weights_only=True)
    damage(state)
    torch.save(state, path)
    with pytest.raises(UserError, match=r"does not fit this run.*--checkpoint"):
        saver.restore()


def test_a_flipped_bit_in_a_checkpoint_is_noticed(saver):
    saver.save(Progress())
    path = saver.directory / "last.pt"
    content = bytearray(path.read_bytes())
    weight = saver.trainer.net[0].weight.detach().numpy().tobytes()
    content[content.index(weight)] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        saver.restore()


class Averager(torch.optim.Optimizer):
    """An optimiser that the saver does not know: a state tensor and a count, not named as Adam's are."""

    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                mean = state.setdefault("mean", torch.zeros_like(p))
                state["count"] = state.get("count", torch.zeros(())) + 1
                mean.lerp_(p.grad, 1 / float(state["count"]))
                p.sub_(mean, alpha=group["lr"])


def test_an_optimiser_nobody_knows_is_saved_restored_and_checked(saver, monkeypatch):
    monkeypatch.setitem(optim.OPTIMIZERS, "averager", (f"{__name__}:Averager", {}))
    trainer = saver.trainer
    trainer.optimizer = optim.build_optimizer(
        "averager", trainer.net.parameters(), 0.1, 0.0, trainer.world.device
    )
    steps(saver, 2)
    saver.save(Progress())
    expected = steps(saver, 2)
    saver.restore()
    assert all(torch.equal(a, b) for a, b in zip(steps(saver, 2), expected, strict=True))
    path = saver.directory / "last.pt"
    state = torch.load(path, weights_only=True)
    next(iter(state["optimizer"]["state"].values()))["mean"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(UserError, match="the optimiser's mean does not fit"):
        saver.restore()


def test_rows_without_a_checkpoint_are_not_started_over(saver):
    (saver.directory / "metrics.csv").write_text("epoch,step\n")
    assert saver.restore() == Progress()  # killed before the first save
    (saver.directory / "metrics.csv").write_text("epoch,step\n1,4\n")
    with pytest.raises(UserError, match=r"no last.pt to continue from.*--checkpoint"):
        saver.restore()


def test_ranks_and_seeds_never_share_their_random_numbers():
    drawn = set()
    for seed in range(20):
        for rank in range(20):
            checkpoint.seed_everything(seed, rank)
            drawn.add(float(torch.rand(1, dtype=torch.float64)))
    assert len(drawn) == 400


# --- run directory ----------------------------------------------------------------------------------


def test_default_names_are_numbered_and_given_names_must_be_new(tmp_path):
    first = RunDirectory.create(tmp_path, "", "digits-timm:x-root")
    second = RunDirectory.create(tmp_path, "", "digits-timm:x-root")
    assert [first.path.name, second.path.name] == ["digits-timm-x-root", "digits-timm-x-root-2"]
    RunDirectory.create(tmp_path, "mine", "x").close()
    mine = RunDirectory.create(tmp_path, "mine", "x")  # a run was killed in it before it wrote anything
    (mine.path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="--resume"):
        RunDirectory.create(tmp_path, "mine", "x")
    for name in ("../up", "a/b", ".."):
        with pytest.raises(UserError, match="plain name"):
            RunDirectory.create(tmp_path, name, "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        RunDirectory.create(tmp_path / "file", "", "x")


def test_metrics_have_the_columns_in_order_and_a_row_once(tmp_path, capsys):
    run = RunDirectory(tmp_path / "run")
    run.start({"wandb": False, "k": 3.0}, {"data": {"fingerprint": "x"}}, [])
    run.record([ROW])
    run.record([ROW, ROW | {"epoch": 2}])
    lines = (run.path / "metrics.csv").read_text().splitlines()
    assert lines[0] == (
        "epoch,step,train_loss,train_acc,test_loss,test_acc,lr,epoch_seconds,images_per_second,test_ece"
    )
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2"]
    assert capsys.readouterr().out.count("\n") == 2
    config = json.loads((run.path / "config.json").read_text())
    assert config["k"] == 3.0 and config["versions"]["torch"] == torch.__version__
    assert (run.path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any(file.name.startswith("events.out.tfevents") for file in run.path.iterdir())
    run.close()


def test_a_resumed_run_takes_the_flags_of_the_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"k": 8.0, "lr": 0.1, "epochs": 5, "resume": ""}))
    parser = Parser("train.py", "what it is\n\nexamples")
    parser.add_argument("--k", type=number(float, 1), default=3.0)
    parser.add_argument("--lr", type=number(float, 0))
    parser.add_argument("--epochs", type=number(int, 1), default=200)
    parser.add_argument("--resume", default="")
    args = Namespace(k=3.0, lr=None, epochs=9, resume="x")
    take_flags_of(tmp_path, args, {"epochs", "resume"}, {"epochs"}, parser)
    assert (args.k, args.lr, args.epochs, args.resume) == (8.0, 0.1, 9, "x")
    too_deep = "[" * 100_000
    wrong = ('{"epochs": "9"}', '{"epochs": 9, "k": 0.5}', '{"epochs": 9, "lr": [1]}', '{"epochs": 9.5}')
    for damage in ("", "[]", '{"k": 8.0}', too_deep, *wrong):
        (tmp_path / "config.json").write_text(damage)
        with pytest.raises(UserError, match="damaged"):
            take_flags_of(tmp_path, args, set(), set(), parser)
    with pytest.raises(UserError, match="not a run directory"):
        take_flags_of(tmp_path / "none", args, set(), set(), parser)


# --- command line and world -------------------------------------------------------------------------


def test_number_types_say_what_they_want():
    assert number(int, 0)("7") == 7 and number(float, 0, 1, below=True)("0.5") == 0.5
    for kind, text in [
        (number(int, 1), "0"),
        (number(int, 1), "1.5"),
        (number(float, 0, above=True), "0"),
        (number(float, 0, 1, below=True), "1"),
        (number(float, 0), "nan"),
        (number(float, 0), "inf"),
        (number(float, 0), "lots"),
    ]:
        with pytest.raises(ArgumentTypeError, match=f"must be a .*, got '{text}'"):
            kind(text)


def test_the_parser_knows_what_was_typed_even_if_it_is_the_default(capsys):
    parser = Parser("x.py", "What it does.\n\nAn example.")
    parser.add_argument("--k", type=number(float, 1), default=3.0)
    parser.add_argument("--flag", action="store_true")
    args, typed = parser.parse_typed(["--k", "3"])
    assert (args.k, args.flag, typed) == (3.0, False, {"k"})
    for wrong in (["--k", "0"], ["--kk", "3"], ["--k"]):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_typed(wrong)
        assert capsys.readouterr().err.count("\n") == 1


def test_one_process_is_a_world_of_its_own():
    world = World("cpu")
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert world.any(True, False) == [True, False] and world.gather("x") == ["x"]
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda is not available"):
            World("cuda")


def test_cores_are_those_of_the_containers_quota_shared_by_the_ranks_of_a_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    for quota, there in (("max 100000", 8), ("350000 100000", 3), ("50000 100000", 1)):
        monkeypatch.setattr(Path, "read_text", lambda path, quota=quota: quota)
        assert common.cores() == there
    monkeypatch.setattr(Path, "read_text", lambda path: "400000 100000")
    for ranks, there in (("", 4), ("2", 2), ("9", 1), ("two", 4)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert usable_workers(6) == there
