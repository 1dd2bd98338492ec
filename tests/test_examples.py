"""examples/: each runs for a few steps, is short, and names in one line what is missing or wrong."""

import re
import runpy
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = {
    "own_loop.py": ["--epochs", 2],
    "wrong_labels.py": [],
    "timm_finetune.py": ["--steps", 2, "--bs", 8],
    "lightning_module.py": ["--epochs", 1],
    "hf_image_classification.py": ["--steps", 2, "--bs", 8, "--out", "run"],
    "finetune_lm.py": ["--steps", 2, "--bs", 2, "--length", 32, "--data", "text.txt", "--out", "run"],
}
NEEDS = {
    "own_loop.py": "sklearn.datasets",
    "wrong_labels.py": "sklearn.datasets",
    "timm_finetune.py": "timm",
    "lightning_module.py": "lightning",
    "hf_image_classification.py": "transformers",
    "finetune_lm.py": "transformers",
}


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

    def run(name, *words, code=0):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        capsys.readouterr()
        ended = 0
        try:
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        except SystemExit as end:
            ended = end.code
        said = capsys.readouterr()
        assert ended == code, said
        return said.err if code else said.out

    yield run
    for name in [n for n in sys.modules if n.split(".")[0] == "rooted_loss"]:
        del sys.modules[name]


def test_the_folder_holds_these_examples_each_shorter_than_80_lines():
    files = {p.name: len(p.read_text().splitlines()) for p in (ROOT / "examples").glob("*.py")}
    assert set(files) == set(EXAMPLES)
    assert max(files.values()) < 80, files


@pytest.mark.parametrize("name", EXAMPLES)
def test_runs_a_few_steps_and_prints_an_accuracy(name, example):
    pytest.importorskip(NEEDS[name])
    assert re.search(r"accuracy \d+\.\d+%", example(name, *EXAMPLES[name]).splitlines()[-1])


@pytest.mark.parametrize("loss", ["ce", "rlo"])
def test_the_language_model_reports_the_true_perplexity_whatever_the_loss(loss, example):
    """Before the first step it is that of nearly uniform bytes; a loaded model starts where the saved one ended."""
    pytest.importorskip("transformers")
    words = ["finetune_lm.py", *EXAMPLES["finetune_lm.py"], "--loss", loss]
    before, after = re.findall(r"perplexity ([\d.]+)", example(*words))
    assert 150 < float(before) < 350 and float(after) < float(before)
    again = example(*words, "--model", "./run", "--steps", 1)
    assert re.search(r"before: perplexity ([\d.]+)", again)[1] == after


def test_own_images_in_folders_train_a_timm_net(example, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "val"):
        for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(4):
                image.new("RGB", (40, 30), colour).save(tmp_path / "images" / split / name / f"{i}.png")
    words = [
        "--data",
        "images",
        "--model",
        "test_resnet",
        "--steps",
        5,
        "--bs",
        2,
    ]  # more steps than an epoch has
    assert "after 5 steps" in example("timm_finetune.py", *words)


@pytest.mark.parametrize("name,missing", [*NEEDS.items(), *((name, "rooted_loss") for name in NEEDS)])
def test_a_missing_package_is_one_line(name, missing, example, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    (line,) = example(name, code=2).splitlines()
    assert missing in line.partition(": pip install")[0]


@pytest.mark.parametrize(
    "words,said",
    [
        (["own_loop.py", "--k", "0"], "k must be"),
        (["lightning_module.py", "--k", "-1"], "k must be"),
        (["timm_finetune.py", "--model", "resnt10t"], "resnt10t"),
        (["timm_finetune.py", "--data", "nowhere"], "nowhere"),
        (["hf_image_classification.py", "--model", "x"], "belong together"),
        (["finetune_lm.py", "--loss", "rot"], "did you mean root"),
        (["finetune_lm.py", "--model", "./nowhere"], "./nowhere"),
        (["finetune_lm.py", "--data", "text.txt", "--length", "5000"], "--length must be 2 to 256"),
        (["finetune_lm.py", "--data", "text.txt", "--label-noise", "2"], "--label-noise"),
    ],
)
def test_a_mistake_is_one_line(words, said, example):
    pytest.importorskip(NEEDS[words[0]])
    assert said in example(*words, code=2).splitlines()[-1]
