"""engine/: atomic files, the learning rate, a step however it is cut, sums that do not wait, what a run keeps."""

import errno
import itertools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, environment

from common import UserError, write_atomically
from engine import checkpoint, optim, report
from engine.checkpoint import Progress
from engine.meter import Diverged, Meter
from engine.precision import Precision
from engine.run import Run
from engine.run_directory import COLUMNS, RunDirectory, in_use, is_finished, read_config
from engine.scores import test_scores as scores_of
from engine.trainer import Trainer
from engine.world import World

ROW = {name: float(i) for i, name in enumerate(COLUMNS)} | {"epoch": 1, "step": 3}


def trainer_of(net, loss, optimizer="sgd", lr=1.0, **options):
    world = World("cpu")
    optimizer = optim.build_optimizer(optimizer, net, lr, 0.0, world.device)
    return Trainer(net, loss, optimizer, world, Precision(world.device), lambda step: lr, **options)


# --- learning rate and optimisers -------------------------------------------------------------------


def test_cosine_is_torch_s_and_warm_up_rises_linearly():
    rate = optim.schedule(2.0, 100)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    for step in range(100):
        assert rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimizer.step()
        cosine.step()
    warm = optim.schedule(1.0, 20, warmup_steps=4)
    assert [warm(s) for s in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert warm(19) < 0.01


def test_step_schedule_divides_the_rate_by_ten():
    rate = optim.schedule(1.0, 100, step_size=30)
    assert [rate(s) for s in (0, 29, 30, 59, 60, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    "name,kind", [("adam", "Adam"), ("AdamW", "AdamW"), ("sgd", "SGD"), ("lion", "Lion")]
)
def test_optimizers_are_timm_s_with_plain_momentum_and_no_decay_of_norms_and_biases(name, kind):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = optim.build_optimizer(name, net, 0.1, 0.01, torch.device("cpu"))
    assert type(optimizer).__name__ == kind
    decayed = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decayed[id(p)] for p in net.parameters()] == [0.01, 0, 0, 0]
    for group in optimizer.param_groups:
        assert group.get("momentum", 0.9) == 0.9 and not group.get("nesterov")
        assert bool(group.get("fused")) == (kind != "Lion")


def test_arguments_of_the_optimizer_are_passed_on():
    options = ["betas=0.8,0.9", "amsgrad=True"]
    optimizer = optim.build_optimizer(
        "adam", torch.nn.Linear(3, 2), 0.1, 0.0, torch.device("cpu"), 0.0, options
    )
    assert optimizer.defaults["betas"] == (0.8, 0.9) and optimizer.defaults["amsgrad"] is True


def test_layer_decay_scales_every_rate_that_is_set():
    from models import build_model

    net = build_model("timm:vit_tiny_patch16_224", 10, 32)
    optimizer = optim.build_optimizer("adamw", net, 0.1, 0.01, torch.device("cpu"), layer_decay=0.5)
    optim.set_learning_rate(optimizer, 2.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(net.head.weight)] == 2.0
    assert rates[id(net.blocks[11].mlp.fc1.weight)] == pytest.approx(1.0)
    assert rates[id(net.blocks[0].mlp.fc1.weight)] == pytest.approx(2 * 0.5**12)


@pytest.mark.parametrize(
    "name,options,says",
    [
        ("adamm", {}, "did you mean adam"),
        ("adahessian", {}, "second backward"),
        ("adam", {"options": ["beta=1"]}, "unexpected keyword argument 'beta'"),
        ("adam", {"options": ["lr=1"]}, "that is --lr"),
        ("adam", {"layer_decay": 0.5}, "--layer-decay needs a net that names the order"),
        ("muon", {}, "is for matrices"),
    ],
)
def test_an_optimizer_that_cannot_be_used_is_refused_by_name(name, options, says):
    net = torch.nn.BatchNorm1d(2) if name == "muon" else torch.nn.Linear(3, 2)
    with pytest.raises(UserError, match=says):
        optim.build_optimizer(name, net, 0.1, 0.0, torch.device("cpu"), **options)


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
    assert torch.load(path, weights_only=True)["model"]["w"].tolist() == [1, 1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_torch_save_on_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *a, _open=open: _open("/dev/full", "wb"))
    with pytest.raises(UserError, match="No space left"):
        checkpoint.save_checkpoint(tmp_path / "last.pt", {"model": torch.zeros(100_000)})


def test_random_state_goes_back_to_where_it_was():
    state = checkpoint.random_state(torch.device("cpu"))
    first = torch.rand(4)
    checkpoint.set_random_state(state, torch.device("cpu"))
    assert torch.equal(torch.rand(4), first)


# --- a step -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_weigh_the_whole_batch_however_it_is_cut(smoothing):
    """A mean over classes' weights divides by their sum: the parts' means have other shares than their images."""
    torch.manual_seed(0)
    images, labels = torch.randn(12, 4), torch.tensor([0] * 6 + [1] * 5 + [2])
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 8.0]), label_smoothing=smoothing)
    states = []
    for parts in (1, 3):
        torch.manual_seed(1)
        net = torch.nn.Linear(4, 3)
        trainer_of(net, loss, accumulate=parts).step(images, labels, 0, 12)
        states.append(net.weight.detach().clone())
    torch.testing.assert_close(*states)


TWO_PROCESSES = """
import sys, torch
from engine.precision import Precision
from engine.trainer import Trainer
from engine.world import World
with World("cpu") as world:
    torch.manual_seed(0)
    images, labels = torch.randn(12, 4), torch.tensor([0] * 6 + [1] * 5 + [2])
    half = slice(0, 6) if world.rank == 0 else slice(6, 12)
    mine = (images[half], labels[half]) if world.size > 1 else (images, labels)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3, affine=False, momentum=1.0))
    net[1].eval()
    torch.nn.init.zeros_(net[0].weight), torch.nn.init.zeros_(net[0].bias)
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 8.0]))
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    trainer = Trainer(
        net, loss, optimizer, world, Precision(world.device), lambda step: 1.0, accumulate=2, ema=0.5
    )
    trainer.step(*mine, 0, 12)
    for x in (net[1].running_mean, trainer.averaged.module[1].running_mean):
        x.fill_(world.rank + 1)  # each process sees other images
    trainer.share_statistics()
    torch.save([net.state_dict(), trainer.averaged.state_dict()], f"{sys.argv[1]}/{world.size}-{world.rank}")
"""


@pytest.mark.slow
def test_two_processes_take_the_step_of_one_and_share_their_statistics(tmp_path):
    """One has the six images of one class alone, so its weights would cancel out in a mean of its own."""
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for words in ([], torchrun):
        command = [sys.executable, *words, str(script), str(tmp_path)]
        subprocess.run(command, env=environment({"PYTHONPATH": str(ROOT)}), check=True, timeout=120)
    (alone, _), *both = (torch.load(tmp_path / n, weights_only=True) for n in ("1-0", "2-0", "2-1"))
    for net, average in both:
        torch.testing.assert_close(net, alone)
        assert average["module.1.running_mean"].tolist() == [1, 1, 1]


def test_the_average_of_the_weights_and_the_k_of_each_step():
    from losses import build_loss

    net, k_of = torch.nn.Linear(4, 2), [8.0, 2.0].__getitem__
    trainer = trainer_of(net, build_loss("root", k=8.0, m=8.0), ema=0.5, k_of=k_of)
    weights = []
    for step in range(2):
        trainer.step(torch.randn(6, 4), torch.arange(6) % 2, step, 6)
        weights.append(net.weight.detach().clone())
        assert float(trainer.loss.k) == k_of(step)
    torch.testing.assert_close(trainer.averaged.module.weight, (weights[0] + weights[1]) / 2)


@pytest.mark.slow
def test_a_signal_ends_a_loop_that_hangs_and_waits_for_one_that_asks():
    program = """
import os, signal, sys, time
import engine.stop
engine.stop.PATIENCE = 1
stop = engine.stop.Stop()
with stop.deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    if sys.argv[1] == "asks":
        assert stop.requested
        time.sleep(2)
        print("saved")
        stop.leave()
    time.sleep(60)
"""
    for how, says in (("asks", "saved"), ("hangs", "")):
        words = [sys.executable, "-c", program, how]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout.strip()) == (143, says)


# --- scores and report --------------------------------------------------------------------------------


def test_scores_are_those_of_scikit_learn_and_of_the_definition():
    from sklearn.metrics import accuracy_score, log_loss

    torch.manual_seed(0)
    logits, labels = torch.randn(500, 4), torch.randint(4, (500,))
    scores = scores_of(logits, labels, torch.nn.functional.cross_entropy, 0.5, [10, 1, 10, 10])
    p = torch.softmax(logits.double(), 1).numpy()
    halved = torch.softmax(logits.double() / 2, 1).numpy()
    right = p.argmax(1) == labels.numpy()
    assert scores["acc"] == pytest.approx(100 * accuracy_score(labels, p.argmax(1)))
    assert scores["nll"] == pytest.approx(log_loss(labels, p)) == pytest.approx(scores["loss"], rel=1e-5)
    assert scores["nll_corrected"] == pytest.approx(log_loss(labels, halved))
    assert scores["rare_acc"] == pytest.approx(100 * right[labels == 1].mean())
    bins = itertools.pairwise(np.linspace(0, 1, 16))
    members = [(p.max(1) > low) & (p.max(1) <= high) for low, high in bins]
    gaps = [abs(right[m].sum() - p.max(1)[m].sum()) for m in members]
    assert scores["ece"] == pytest.approx(100 * sum(gaps) / 500)


def test_a_report_is_drawn_whatever_the_classes_are_called(tmp_path, capsys):
    """A folder's name need not be UTF-8, nor what a font has."""
    logits, labels = 9 * torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 2])
    scores = dict.fromkeys(("acc", "nll", "nll_corrected", "ece", "ece_corrected"), 1.0)
    names = ["caf\udce9", "$x^", "a\tb\n" * 9]
    report.write_report(tmp_path, scores, logits, labels, 0.5, names, ["\udce9.png", "b", "c", "d"])
    assert {file.name for file in tmp_path.iterdir()} == set(report.REPORT) and not capsys.readouterr().out
    written = json.loads((tmp_path / "report.json").read_text())
    assert len(written["classes"]) == 3 and [m["image"] for m in written["mistakes"]] == ["d"]


def test_a_loss_without_a_correction_is_reported_uncorrected(tmp_path):
    logits, labels = torch.randn(20, 3), torch.arange(20) % 3
    scores = scores_of(logits, labels, torch.nn.functional.cross_entropy, None)
    report.write_report(tmp_path, scores, logits, labels, None, ["a", "b", "c"])
    assert "uncorrected" in (tmp_path / "report.md").read_text()
    assert not any("corrected" in name for name in json.loads((tmp_path / "report.json").read_text()))


# --- meter and run ------------------------------------------------------------------------------------


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
def run(tmp_path):
    return Run(World("cpu"), lambda: RunDirectory(tmp_path / "run"), None)


@pytest.fixture
def trainer():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    return trainer_of(net, torch.nn.CrossEntropyLoss(), "adam", 0.01, ema=0.9)


def steps(trainer, n):
    trainer.train_mode(0)
    for _ in range(n):
        trainer.step(torch.randn(8, 4), torch.randint(2, (8,)), 0, 8)
    return [p.detach().clone() for p in trainer.net.parameters()]


def save(run, trainer, progress):
    run.save(trainer, progress, {"net": "mlp"}, lambda path, content: None)


def test_restore_brings_back_weights_moments_averages_randomness_and_sums(run, trainer):
    steps(trainer, 3)
    save(run, trainer, Progress(epoch=0, batch=3, step=3))

    def three_more():
        averages = trainer.averaged.state_dict()
        return [*steps(trainer, 3), torch.tensor(trainer.meter.read()), *averages.values()]

    expected = [x.clone() for x in three_more()]
    assert run.restore(trainer) == Progress(epoch=0, batch=3, step=3)
    assert all(torch.equal(a, b) for a, b in zip(expected, three_more(), strict=True))


def test_the_best_accuracy_is_always_one_of_a_row(run, trainer):
    rows = [ROW | {"epoch": 1, "test_acc": 70.0}, ROW | {"epoch": 2, "test_acc": 90.0}]
    run.keep_best(trainer, 70.0, 1, {})
    save(run, trainer, Progress(1, 2, 7, 0.0, 90.0, 2, rows))  # --max-steps ended the second epoch early
    assert run.restore(trainer) == Progress(1, 2, 7, 0.0, 70.0, 1, rows[:1])


def test_a_diverged_state_is_never_saved(run, trainer):
    save(run, trainer, Progress(step=1))
    before = (run.path / "last.pt").read_bytes()
    with torch.no_grad():
        trainer.net[0].weight[0, 0] = math.nan
    with pytest.raises(Diverged, match="by step 7"):
        save(run, trainer, Progress(step=7))
    assert (run.path / "last.pt").read_bytes() == before


def test_best_weights_are_those_of_their_epoch(run, trainer):
    best = steps(trainer, 1)
    run.keep_best(trainer, 91.0, 4, {})
    steps(trainer, 2)
    save(run, trainer, Progress())
    stored = torch.load(run.path / "best.pt", weights_only=True)
    assert (stored["test_acc"], stored["epoch"]) == (91.0, 4)
    assert all(torch.equal(a, b) for a, b in zip(stored["model"].values(), best, strict=True))


def test_a_checkpoint_of_another_net_or_of_another_format_is_refused(run, trainer):
    save(run, trainer, Progress())
    with pytest.raises(UserError, match=r"does not fit this run.*--checkpoint"):
        run.restore(trainer_of(torch.nn.Linear(3, 3), torch.nn.CrossEntropyLoss(), ema=0.9))
    state = torch.load(run.path / "last.pt", weights_only=True)
    for name in ("optimizer", "progress", "random", "meter"):
        torch.save(state | {name: None}, run.path / "last.pt")
        with pytest.raises(UserError, match="does not fit this run"):
            run.restore(trainer)


def test_rows_without_a_checkpoint_are_not_started_over(run, trainer):
    (run.path / "metrics.csv").write_text("epoch,step\n")
    assert run.restore(trainer) == Progress()  # killed before the first save
    (run.path / "metrics.csv").write_text("epoch,step\n1,4\n")
    with pytest.raises(UserError, match=r"no last.pt to continue from.*--checkpoint"):
        run.restore(trainer)


def test_ranks_and_seeds_never_share_their_random_numbers():
    drawn = set()
    for seed in range(20):
        for rank in range(20):
            checkpoint.seed_everything(seed, rank)
            drawn.add(float(torch.rand(1, dtype=torch.float64)))
    assert len(drawn) == 400


# --- run directory ----------------------------------------------------------------------------------


def test_default_names_are_numbered_and_given_names_must_be_new(tmp_path):
    first = RunDirectory.create(tmp_path, "", "digits-root")
    second = RunDirectory.create(tmp_path, "", "digits-root")
    assert [first.path.name, second.path.name] == ["digits-root", "digits-root-2"]
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
    run.start({"wandb": False, "k": 3.0, "epochs": 3}, [])
    run.record([ROW])
    run.record([ROW, ROW | {"epoch": 2}])
    run.record([ROW, ROW | {"epoch": 2}, ROW | {"epoch": 3, "new": 0.5}])  # a column that the header has not
    lines = (run.path / "metrics.csv").read_text().splitlines()
    assert lines[0] == (
        "epoch,step,train_loss,train_acc,test_loss,test_acc,lr,epoch_seconds,images_per_second,test_ece,new"
    )
    assert [(line.split(",")[0], line.split(",")[-1]) for line in lines[1:]] == [
        ("1", ""),
        ("2", ""),
        ("3", "0.5"),
    ]
    assert capsys.readouterr().out.count("\n") == 3
    config = read_config(run.path)
    assert config["k"] == 3.0 and config["versions"]["torch"] == torch.__version__
    assert (run.path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any(file.name.startswith("events.out.tfevents") for file in run.path.iterdir())
    run.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_note_and_not_another_program(tmp_path, monkeypatch, capsys, number):
    import filelock

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    RunDirectory(tmp_path / "run").close()
    assert "cannot be locked" in capsys.readouterr().out and not in_use(tmp_path / "run")


def test_a_directory_that_a_live_run_holds_is_refused(tmp_path):
    held = RunDirectory(tmp_path / "run")
    with pytest.raises(UserError, match="in use by another program"):
        RunDirectory(tmp_path / "run", patience=0)
    held.close()
    assert not in_use(tmp_path / "run")


def test_a_damaged_config_is_refused_and_none_is_no_run(tmp_path):
    for damage in ("", "[]", '{"k": 8.0}', "[" * 100_000):
        (tmp_path / "config.json").write_text(damage)
        with pytest.raises(UserError, match="damaged"):
            read_config(tmp_path)
    with pytest.raises(UserError, match="not a run directory"):
        read_config(tmp_path / "none")


def test_a_run_is_finished_by_epochs_steps_or_patience():
    rows = [{"epoch": e, "step": 10 * e, "test_acc": acc} for e, acc in ((1, 50.0), (2, 60.0), (3, 55.0))]
    flags = {"epochs": 9, "max_steps": 0, "patience": 0}
    assert not is_finished(flags, []) and not is_finished(flags, rows)
    for changed in ({"epochs": 3}, {"max_steps": 30}, {"patience": 1}):
        assert is_finished(flags | changed, rows) and not is_finished(flags | changed, rows[:2])


def test_one_process_is_a_world_of_its_own(monkeypatch):
    world = World("cpu")
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert world.any(True, False) == [True, False] and world.gather("x") == ["x"]
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda is not available"):
            World("cuda")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start several processes with torchrun"):
        World("cpu")
