"""What long and large runs need: batches in parts, --resume auto, --save-every, divergence."""

import csv
import json

import pytest
import torch

import engine.checkpoint
import engine.run
import train
from engine.run_directory import RunDirectory
from engine.world import World

# No dropout and no batch norm: nothing that depends on how a batch is cut.
CAIT = "--dataset digits --net CaiT --dimhead 64 --loss root --bs 100 --opt sgd --lr 0.05 --epochs 1".split()
TINY = "--dataset digits --net vit_tiny --dimhead 16 --bs 128 --epochs 1".split()

pytestmark = pytest.mark.usefixtures("here")


def run(*args):
    try:
        train.main([str(a) for a in args])
    except SystemExit as leaving:
        return leaving.code
    return 0


def weights(directory):
    return torch.load(directory / "last.pt", weights_only=True)["model"]


def rows_of(directory):
    with open(directory / "metrics.csv") as file:
        return list(csv.DictReader(file))


# --- batches in parts ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--clip-grad", "0.1"]])
def test_a_batch_in_parts_trains_as_the_whole_batch(here, flags):
    for parts in (1, 3):  # 1,437 images by 100, by 3: neither is even
        assert run(*CAIT, *flags, "--accumulate", parts, "--run-name", parts) == 0
    whole, cut = weights(here / "runs" / "1"), weights(here / "runs" / "3")
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, atol=1e-5, rtol=0, msg=name)
    (row,), (other,) = (rows_of(here / "runs" / n) for n in "13")
    assert row["step"] == other["step"] == "15"
    assert float(row["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-4)


@pytest.mark.parametrize(
    "flags,says",
    [
        (["--bs", 6, "--accumulate", 4], "--accumulate 4 needs a --bs of 8 or more"),
        (["--device", "cpu", "--sync-bn"], "--sync-bn works on CUDA only"),
        (["--save-every", "soon"], "--save-every: must be a number of steps"),
        (["--save-every", "0s"], "--save-every: must be a number of steps"),
    ],
)
def test_flags_that_cannot_work_are_refused(here, capsys, flags, says):
    assert run(*TINY, *flags) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (here / "runs").exists()


# --- resume auto --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_resume_auto_starts_goes_on_and_finishes_with_one_command(here, capsys):
    command = [*TINY, "--resume", "auto"]
    assert run(*command, "--max-steps", 5) == 0
    assert run(*command) == 0  # another length is another run
    (here / "runs" / "broken").mkdir()
    (here / "runs" / "broken" / "config.json").write_text("[")
    assert run(*command) == 0
    assert "step 12 of 12" in capsys.readouterr().out
    assert run(*command, "--seed", 1) == 0
    assert run(*command, "--workers", 0, "--save-every", "9s") == 0
    runs = {p.name: len(rows_of(p)) for p in (here / "runs").iterdir() if p.name != "broken"}
    assert list(runs.values()) == [1, 1, 1]
    assert all(name.startswith("digits-vit_tiny-root-k3-m3-") for name in runs)
    assert sorted(name.rpartition("-")[2] for name in runs) == ["seed0", "seed0", "seed1"]
    assert sum("maxsteps5" in name for name in runs) == 1


def test_resume_auto_takes_the_directory_that_a_run_was_killed_in_before_it_wrote(here):
    (here / "runs" / "mine").mkdir(parents=True)
    (here / "runs" / "mine" / ".lock").touch()
    (here / "runs" / "mine" / ".config.json.17.tmp").write_text("{")
    assert run(*TINY, "--max-steps", 1, "--run-name", "mine", "--resume", "auto") == 0
    assert (here / "runs" / "mine" / "last.pt").exists()
    assert not (here / "runs" / "mine" / ".config.json.17.tmp").exists()


def test_resume_auto_starts_from_the_given_weights(here):
    assert run(*TINY, "--max-steps", 2, "--run-name", "first") == 0
    start = here / "runs" / "first" / "last.pt"
    still = ["--opt", "sgd", "--lr", 1e-12, "--max-steps", 1, "--run-name", "second"]
    assert run(*TINY, *still, "--checkpoint", start, "--resume", "auto") == 0
    for name, tensor in weights(here / "runs" / "second").items():
        torch.testing.assert_close(tensor, weights(start.parent)[name], atol=1e-6, rtol=0, msg=name)


def test_a_run_from_before_a_flag_existed_goes_on_with_the_default(here):
    assert run(*TINY, "--max-steps", 1, "--run-name", "old") == 0
    config = here / "runs" / "old" / "config.json"
    flags = json.loads(config.read_text())
    del flags["accumulate"], flags["save_every"]
    config.write_text(json.dumps(flags))
    assert run("--resume", here / "runs" / "old", "--max-steps", 2) == 0
    assert rows_of(here / "runs" / "old")[0]["step"] == "2"


# --- saves and divergence -----------------------------------------------------------------------------


def test_save_every_counts_steps_or_seconds(here, monkeypatch):
    saved = []
    monkeypatch.setattr(
        engine.checkpoint,
        "save_checkpoint",
        lambda path, state: path.name == "last.pt" and saved.append(state["progress"]["step"]),
    )
    assert run(*TINY, "--save-every", 5, "--run-name", "run") == 0
    assert saved == [5, 10, 12]
    in_seconds = engine.run.Run(World("cpu"), lambda: RunDirectory(here / "other"), "30s")
    in_seconds._saved_at -= 29
    assert not in_seconds.due(1)
    in_seconds._saved_at -= 2
    assert in_seconds.due(1)


def test_an_infinite_gradient_under_a_finite_loss_is_divergence_named_with_its_step(
    here, monkeypatch, capsys
):
    build_net = train.build_net

    def build_net_with_a_bad_gradient(*args):
        net, calls = build_net(*args), iter(range(1, 1000))
        next(net.parameters()).register_hook(lambda g: g * torch.inf if next(calls) == 7 else g)
        return net

    monkeypatch.setattr(train, "build_net", build_net_with_a_bad_gradient)
    assert run(*TINY, "--save-every", 3) == 3
    error = capsys.readouterr().err
    assert "at step 7" in error and "last.pt is from before" in error and error.count("\n") == 1
    (directory,) = (here / "runs").iterdir()
    kept = torch.load(directory / "last.pt", weights_only=True)
    assert kept["progress"]["step"] == 6 and all(t.isfinite().all() for t in kept["model"].values())
