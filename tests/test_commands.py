"""Every command that a page of this repository tells the user to type, against the real parsers."""

import itertools
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

import compare
import export
import predict
import regression
import sweep
import train
from data.registry import resolve

ROOT = Path(__file__).resolve().parent.parent
# No packages: files that are copied from one, and programs in the other.
sys.path += [str(ROOT / "stylegan_patch"), str(ROOT / "benchmarks"), str(ROOT / "paper")]

import acceleration  # noqa: E402
import apply  # noqa: E402
import bench_data  # noqa: E402
import bench_lm  # noqa: E402
import bench_losses  # noqa: E402
import bench_predict  # noqa: E402
import bench_train  # noqa: E402

PARSERS = {
    "train.py": train.parse_args,
    "regression.py": regression.parse_args,
    "compare.py": compare.parse_args,
    "export.py": export.parse_args,
    "predict.py": predict.parse_args,
    "sweep.py": lambda words: sweep.make_jobs(sweep.parse_args(words)),
    "stylegan_patch/apply.py": apply.parse_args,
    "paper/acceleration.py": acceleration.parse_args,
    "benchmarks/bench_data.py": bench_data.parse_args,
    "benchmarks/bench_lm.py": bench_lm.parse_args,
    "benchmarks/bench_losses.py": bench_losses.parse_args,
    "benchmarks/bench_predict.py": bench_predict.parse_args,
    "benchmarks/bench_train.py": bench_train.parse_args,
}
OURS = re.compile(rf"^(?:(?:\.venv/bin/)?python|torchrun(?: --\S+)*) ({'|'.join(PARSERS)})\b(.*)")
LOOP = re.compile(r"^for (\w+) in ([^;]+); do (.+); done$")


def expand(line):
    """The commands of a line: one, or those of a shell loop with its variable filled in."""
    loop = LOOP.match(line)
    if not loop:
        return [line]
    name, values, body = loop.groups()
    return [body.replace(f"${name}", value) for value in values.split()]


def commands_of(text):
    """(script, arguments) of every command in `text` that is ours, and not of a clone we went into."""
    elsewhere = False
    text = text.replace("\\\n", " ")
    text = re.sub(r"`((?:for|python|torchrun)\b[^`\n]*)`", r"\n\1\n", text)  # within a sentence or a table
    for line in itertools.chain.from_iterable(map(expand, text.splitlines())):
        for part in line.split("&&"):
            command = re.sub(r"\s#.*", "", part.strip())
            elsewhere = command != "cd .." if command.startswith("cd ") else elsewhere
            found = OURS.match(command)
            if found and not elsewhere:
                yield found[1], shlex.split(found[2])


PAGES = ["commands.txt", "README.md", "docs/results.md", "docs/losses.md", "docs/reliability.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page):
    found = list(commands_of((ROOT / page).read_text()))
    for script, words in found:
        words = [word for word in words if word not in ("…", "...")]
        try:
            PARSERS[script](words)
        except SystemExit as leaving:  # a wrong flag exits with 2, --help with 0
            assert leaving.code == 0, (script, words)
    assert len(found) > {"commands.txt": 40, "README.md": 8}.get(page, 0)


def test_every_command_names_a_loss_a_net_and_a_data_set_that_exist():
    import models

    for script, words in commands_of((ROOT / "commands.txt").read_text()):
        if script == "train.py":
            args, _ = train.parse_args(words)
            resolve(args.dataset)
            models.net_facts(args.net)  # raises for an unknown net


def test_a_command_with_a_wrong_flag_would_be_found(capsys):
    ((script, words),) = commands_of("for k in 2; do python train.py --kk $k; done")
    with pytest.raises(SystemExit):
        PARSERS[script](words)
    assert "--kk" in capsys.readouterr().err


def test_continuous_integration_runs_the_readmes_test_command():
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if "-m pytest" in line]
    assert lines == [
        "python3 -m venv .venv && .venv/bin/pip install -r requirements-dev.txt && .venv/bin/python -m pytest"
    ]
    script = (ROOT / ".ci" / "run").read_text()
    assert "grep -m 1 'requirements-dev.txt.*pytest' README.md" in script
    needed = (ROOT / "requirements-dev.txt").read_text()
    tools = re.findall(r"^\.venv/bin/(\w+)", script, re.MULTILINE)
    assert tools and all(re.search(rf"^{tool}\b", needed, re.MULTILINE) for tool in tools)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert "3.10" in job["strategy"]["matrix"]["python"]  # text: as a number it would be 3.1
