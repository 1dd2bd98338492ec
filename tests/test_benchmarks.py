"""benchmarks/: each runs from end to end on tiny sizes, and its figures belong together. Never how fast."""

import json

import pytest

from data import DATASETS

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_data_set_is_left():
    yield
    DATASETS.pop("random", None)


TINY = {
    "bench_losses.py": ["--mode", "eager", "--classes", 3, 5, "--bs", 4, "--rounds", 2],
    "bench_data.py": ["--images", 40, "--photos", 8, "--crop", 72, "--bs", 8, "--workers", 1,
                      "--rounds", 1],
    "bench_lm.py": ["--cases", "40x50xfloat32", "24x30xbfloat16", "--dim", 8, "--rounds", 1],
    "bench_train.py": ["--nets", "resnet18", "vit_tiny", "--bs", 2, "--steps", 2, "--rounds", 1],
}  # fmt: skip


@pytest.mark.parametrize("benchmark", TINY)
def test_prints_a_table_and_writes_the_same_rows_as_json(benchmark, cli, tmp_path):
    out = cli(f"benchmarks/{benchmark}", "--device", "cpu", *TINY[benchmark], "--json", "out.json").stdout
    _, machine, _, heading, rule, *table = out.splitlines()
    assert "thread" in machine and len({line.count("|") for line in (heading, rule, *table)}) == 1
    results = json.loads((tmp_path / "out.json").read_text())
    assert len(table) == len(results["rows"]) >= 2
    assert results["benchmark"] == benchmark and {*map(str, TINY[benchmark])} <= {*results["command"]}
    if benchmark == "bench_losses.py":
        for row in results["rows"]:
            assert row["ce"]["ratio"] == 1
            assert row["rlo"]["ratio"] == pytest.approx(row["rlo"]["median_us"] / row["ce"]["median_us"])
    if benchmark == "bench_train.py":
        row = results["rows"][0]
        assert row["ratio"] == pytest.approx(row["ours"] / row["baseline"])
        assert row["share_of_peak"] == pytest.approx(row["tflops"] / row["peak_tflops"])
        # ResNet-18 at 32 px has 0.556 billion multiply-adds forward, and twice as many backward but for the first
        assert row["tflops"] * 1e12 / row["ours"] == pytest.approx(2 * 3 * 0.556e9, rel=0.01)


def test_the_memory_of_a_step_is_what_it_holds_beyond_what_stood_before(process):
    """Plain, there are three matrices of tokens × words, log-softmax and two gradients, and the weight's gradient."""
    args = ["--cases", "1024x8192xfloat32", "--dim", 64, "--rounds", 1, "--json", "-"]
    (row,) = json.loads(process("benchmarks/bench_lm.py", "--device", "cpu", *args).stdout)["rows"]
    logits, weight = 4 * 1024 * 8192 / 2**20, 4 * 8192 * 64 / 2**20
    assert row["plain"]["mib"] == pytest.approx(3 * logits + weight, rel=0.25)
    assert weight < row["root"]["mib"] < logits
    assert row["root"]["memory"] == pytest.approx(row["root"]["mib"] / row["plain"]["mib"])


@pytest.mark.parametrize(
    "words,said",
    [
        (["bench_train.py", "--nets", "resnt18", "--device", "cpu"], "did you mean resnet18"),
        (["bench_train.py", "--nets", "vit", "--size", "33", "--device", "cpu"], "33"),
        (["bench_data.py", "--device", "cuda"], "not available"),
        (["bench_losses.py", "--classes", "1"], "≥ 2"),
        (["bench_lm.py", "--cases", "1024x8192"], "2048x32000xfloat32"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, said, cli):
    benchmark, *flags = words
    done = cli(f"benchmarks/{benchmark}", *flags, code=2)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1 and said in done.stderr
