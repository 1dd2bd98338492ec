"""examples/: each is short, runs as it stands on embedded data, and prints an accuracy."""

import re
import runpy
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

NEEDS = {
    "own_loop.py": "sklearn",
    "wrong_labels.py": "sklearn",
    "timm_finetune.py": "timm",
    "lightning_module.py": "lightning",
    "hf_image_classification.py": "transformers",
    "finetune_lm.py": "transformers",
}
# The language model alone has flags: its study varies them.
WORDS = {"finetune_lm.py": "--steps 2 --bs 2 --length 32 --data text.txt --out run".split()}


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """Run an example as a script in an empty folder, where ``rooted_loss`` is what the wheel has."""
    package = tmp_path / "site" / "rooted_loss"
    package.mkdir(parents=True)
    for path in (ROOT / "losses").glob("*.py"):
        (package / path.name).symlink_to(path)
    (package / "sklearn").symlink_to(ROOT / "logreg" / "estimator")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)

    def run(name, *words):
        pytest.importorskip(NEEDS[name])
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        capsys.readouterr()
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    yield run
    for name in [n for n in sys.modules if n.split(".")[0] == "rooted_loss"]:
        del sys.modules[name]


def test_the_folder_holds_these_examples_each_shorter_than_80_lines():
    files = {p.name: len(p.read_text().splitlines()) for p in (ROOT / "examples").glob("*.py")}
    assert set(files) == set(NEEDS)
    assert max(files.values()) < 80, files


@pytest.mark.parametrize("name", NEEDS)
def test_runs_and_prints_an_accuracy(name, example):
    """Better than chance by far, where it trains to an end."""
    said = example(name, *WORDS.get(name, []))
    accuracy = float(re.search(r"accuracy (\d+\.\d+) ?%", said.splitlines()[-1])[1])
    assert accuracy > 70 or name in WORDS, said


@pytest.mark.parametrize("loss", ["ce", "rlo"])
def test_the_language_model_reports_the_true_perplexity_whatever_the_loss(loss, example):
    """Before the first step it is that of nearly uniform bytes; a loaded model starts where the saved one ended."""
    words = ["finetune_lm.py", *WORDS["finetune_lm.py"], "--loss", loss]
    before, after = re.findall(r"perplexity ([\d.]+)", example(*words))
    assert 150 < float(before) < 350 and float(after) < float(before)
    again = example(*words, "--model", "./run", "--steps", 1)
    assert re.search(r"before: perplexity ([\d.]+)", again)[1] == after
