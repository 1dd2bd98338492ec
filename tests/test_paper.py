"""paper/*.sh: every command that they run, word by word, against the real parsers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_commands import parse

import train

SCRIPTS = sorted(path.name for path in (ROOT / "paper").glob("*.sh"))
HEADER = ("Paper", "Expected", "Settings", "Time", "Run")
ELSEWHERE = {"train.py", "dataset_tool.py"}  # of a StyleGAN clone that the script went into


def commands(name, tmp_path, *arguments):
    """Run a script with a ``python`` that only notes what it was called with; its (folder, words) in order."""
    log, folder = tmp_path / "log", tmp_path / "stylegan2-ada-pytorch"
    folder.mkdir(exist_ok=True)
    log.write_bytes(b"")
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\0" "$PWD" "$@" >> "{log}"\nprintf "\\n\\0" >> "{log}"\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = str(ROOT / "paper" / name)
    done = subprocess.run(
        ["bash", "-u", script, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, (name, done.stderr)
    lines = [line.split("\0")[:-1] for line in log.read_text().split("\n\0") if line]
    return [(Path(line[0]), line[1:]) for line in lines]


def test_every_script_says_paper_figure_settings_hours_and_command():
    assert len(SCRIPTS) >= 10
    for name in SCRIPTS:
        lines = (ROOT / "paper" / name).read_text().splitlines()
        starts = [line.removeprefix("# ").partition(":")[0] for line in lines if line.startswith("# ")]
        assert starts[0] in ("Claim", "Question"), name
        assert [start for start in starts if start in HEADER] == list(HEADER), name
        assert f"bash paper/{name}" in next(line for line in lines if line.startswith("# Run:")), name
        assert os.access(ROOT / "paper" / name, os.X_OK) and "set -e" in lines, name


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_command_of_a_script_parses(name, tmp_path):
    found = commands(name, tmp_path)
    assert found
    for folder, (script, *words) in found:
        if folder != tmp_path:
            assert script in ELSEWHERE
        elif script == "examples/finetune_lm.py":  # parses only while it runs, so its source names its flags
            text = (ROOT / script).read_text()
            flags = {word.removeprefix("--") for word in words if word.startswith("--")}
            assert flags and all(f'"{flag}"' in text or f'"--{flag}"' in text for flag in flags)
        else:
            parse(script, words)


@pytest.mark.slow
def test_the_tuned_baseline_is_three_losses_at_three_rates_over_ten_seeds(here, tmp_path, capsys):
    def jobs_of(*arguments):
        found = commands("tuned_resnet18.sh", tmp_path, *arguments)
        return [job for _, (script, *words) in found if script == "sweep.py" for job in parse(script, words)]

    kinds = {}
    for job in jobs_of():
        flags = job.flags
        kinds.setdefault((flags["loss"], flags["k_end"]), set()).add((flags["lr"], flags["seed"]))
        assert (flags["opt"], flags["weight_decay"], flags["epochs"]) == ("sgd", 5e-4, 30)
    assert set(kinds) == {("ce", None), ("root", None), ("root", 1.5)}
    assert all(len(runs) == 30 for runs in kinds.values())

    # And each loss takes two steps of the recipe, on images that need no download.
    jobs = {(job.flags["loss"], job.flags["k_end"]): job for job in jobs_of("digits")}
    for kind in kinds:
        words = jobs[kind].words
        cut = words.index("--out")  # where the sweep puts the run; --quick keeps nothing
        train.main([*words[:cut], "--quick", "--bs", "64", "--threads", "1"])
        said = capsys.readouterr().out
        assert "step 0 of 2" in said and "--quick keeps no files" in said


def test_the_page_on_reproduction_names_every_script():
    text = (ROOT / "docs" / "reproduction.md").read_text()
    assert {name for name in SCRIPTS if f"paper/{name}" in text} == set(SCRIPTS)


def test_memorised_counts_what_a_net_says_of_right_and_of_wrong_labels(tmp_path, monkeypatch, capsys):
    import models
    from data import build_data

    sys.path.insert(0, str(ROOT / "paper"))
    import memorised

    class Sevens(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(torch.full((len(images),), 7), 10).float()

    monkeypatch.setattr(models, "load_run", lambda path: (Sevens(), None, None))
    flags = vars(train.parse_args(["--dataset", "digits", "--label-noise", "0.4", "--seed", "3"])[0])
    (tmp_path / "config.json").write_text(json.dumps(flags))
    names, grey = list("0123456789"), (0.5, 0.5, 0.5)
    info = models.ModelInfo("resnet20", 10, 8, names, grey, grey)
    torch.save({"model": {}, "info": info.to_dict()}, tmp_path / "last.pt")
    memorised.main([str(tmp_path)])
    header, row = (line.split(",") for line in capsys.readouterr().out.splitlines())
    said = dict(zip(header, row, strict=True))

    data = build_data("digits", ".", 0, 10**6, "cpu", augment=False, label_noise=0.4, seed=3)
    (_, labels), clean = next(iter(data.train_in_order())), data.clean_train_labels
    wrong = labels != clean
    for name, hit, of in (("wrong", wrong, wrong == wrong), ("right_learned", labels == 7, ~wrong),
                          ("wrong_learned", labels == 7, wrong), ("wrong_corrected", clean == 7, wrong)):  # fmt: skip
        assert float(said[name]) == pytest.approx(100 * float(hit[of].float().mean()), abs=0.006), name
