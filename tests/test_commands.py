"""Every command that a page of this repository tells the user to type, against the real parsers."""

import importlib
import itertools
import re
import shlex
import sys

import pytest
import yaml
from conftest import ROOT

# No packages: files that are copied from one, and programs in the others.
sys.path += [str(ROOT / folder) for folder in ("stylegan_patch", "benchmarks", "paper")]

PROGRAMS = [
    path for path in (*ROOT.glob("*.py"), *ROOT.glob("*/*.py")) if "def parse_args(" in path.read_text()
]
PROGRAMS = {str(path.relative_to(ROOT)): path.stem for path in PROGRAMS if path.parent.name != "tests"}
OURS = re.compile(rf"^(?:(?:\.venv/bin/)?python|torchrun(?: --\S+)*) ({'|'.join(PROGRAMS)})\b(.*)")
LOOP = re.compile(r"^for (\w+) in ([^;]+); do (.+); done$")
PAGES = ["commands.txt", "README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def parse(script, words):
    """As the program itself does before it begins; for a sweep, the flags of its runs too."""
    program = importlib.import_module(PROGRAMS[script])
    args = program.parse_args([word for word in words if word not in ("…", "...")])
    return program.make_jobs(args) if script == "sweep.py" else args


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


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = list(commands_of((ROOT / page).read_text()))
    for script, words in found:
        try:
            parse(script, words)
        except SystemExit as leaving:  # a wrong flag exits with 2, --help with 0
            assert leaving.code == 0, (script, words)
    assert len(found) > {"commands.txt": 40, "README.md": 5}.get(page, -1)


def test_every_command_names_a_net_and_a_data_set_that_exist():
    import models
    from data.registry import resolve

    for script, words in commands_of((ROOT / "commands.txt").read_text()):
        if script == "train.py":
            args, _ = parse(script, words)
            resolve(args.dataset)
            models.net_facts(args.net)  # raises for an unknown net


def test_a_command_with_a_wrong_flag_would_be_found(capsys):
    ((script, words),) = commands_of("for k in 2; do python train.py --kk $k; done")
    with pytest.raises(SystemExit):
        parse(script, words)
    assert "--kk" in capsys.readouterr().err


def test_continuous_integration_runs_the_readmes_test_command():
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if "-m pytest" in line]
    assert lines == [
        "python3 -m venv .venv && .venv/bin/pip install -r requirements-dev.txt && .venv/bin/python -m pytest"
    ]
    script = (ROOT / ".ci" / "run").read_text()
    assert "grep -m 1 'requirements-dev.txt.*pytest' README.md" in script
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
