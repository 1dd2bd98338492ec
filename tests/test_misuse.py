"""What users get wrong: each mistake ends in exit code 2 and one line, which names it and says what to do."""

import json
import shlex
import shutil
import subprocess
import sys
import zipfile

import pytest
import sandbox
from conftest import ROOT, command, environment
from PIL import Image

VIT = "--dataset digits --net vit_tiny --dimhead 16"
LONG = "x" * 300  # longer than a file's name may be
FOLDER = "--net vit_tiny --dimhead 16 --workers 0 --max-steps 1 --dataset"

# program, flags, what the line names, and words of what it says to do; a slash parts alternatives.
MISUSES = """
train | --epoch 3 | --epoch 3 | did you mean --epochs?
train | --lerning-rate 3 | --lerning-rate | --help lists the flags
train | --k | --k | expected one argument
train | --k 3,5 | --k | must be a number
train | --k inf | --k | must be a number
train | --loss rooot | --loss | 'ce', 'focal', 'root', 'rlo', 'sce', 'apl', 'poly1'
train | --label-noise 1 | --label-noise | < 1
train | --epochs 1e3 | --epochs | a whole number
train | --epochs 99999999999999999999999 | --epochs | ≤ 1e+09
train | --save-every infs | --save-every | steps (50) or seconds (30s)
train | --dataset '' | --dataset is empty | leave it out
train | --resume '' | --resume is empty | leave it out
train | --noaug --randaug | --noaug | leave one out
train | --schedule step | --step-size | give both
train | --warmup 3 --epochs 2 | --warmup 3 | shorter than the 2 epochs
train | --loss rlo --k-end 2 | --k-end | leave it out
train | --dataset cifar11 | 'cifar11' | did you mean cifar10
train | --dataset folder: | folder | folder:<path> with train/<class>/*
train | --dataset folder:nowhere | nowhere does not exist | expected train/<class>/*
train | --dataset folder:notes.txt | notes.txt is a file | expected train/<class>/*
train | --dataset folder:noval | noval has neither | expected train/<class>/*
train | --dataset folder:lonely | lonely/train | two or more
train | --dataset folder:extra | extra/val | remove it or add training images
train | FOLDER folder:cut | cut/train/ant/0.png: cannot be read as an image | remove or replace
train | FOLDER folder:fake | fake/train/ant/0.png: cannot be read as an image | remove or replace
train | FOLDER folder:bomb | bomb/train/ant/0.png: cannot be read as an image | remove or replace
train | FOLDER folder:deep | deep/train/ant/0.png | save it in 8 bits
train | --dataset cifar10 --data-dir elsewhere | cifar-10-python.tar.gz is missing | put it into elsewhere
train | --dataset food-101 --data-dir notes.txt | notes.txt | put it into
train | --dataset cifar10 | datasets/cifar-10-python.tar.gz is damaged | move it away and get it again
train | --dataset tiny-imagenet | datasets/tiny-imagenet-200.zip is damaged | move it away and get it again
train | --dataset digits --size 3 | --size | 4 to 2048 pixels
train | --dataset digits --net resnet19 | 'resnet19' | did you mean resnet18
train | --dataset digits --net timm:resnot18 | 'resnot18' | did you mean resnet18
train | --dataset digits --net vit --patch 3 | patch size 3 | sizes that work: 6, 9
train | --dataset digits --net swin --size 30 | image size 30 | sizes that work: 24, 32
train | --dataset digits --net cait --dimhead 7 | dim 7 | dims that work: 8
train | --dataset digits --net resnet18 --pretrained | pretrained weights for resnet18 | --checkpoint FILE
train | --dataset digits --accumulate 300 | --accumulate 300 | needs a --bs of 600 or more
train | --dataset digits --device cpu --sync-bn | --sync-bn | leave it out here
train | VIT --device cpu --graph on | --graph on | only CUDA has graphs
train | VIT --opt adamm | --opt adamm | did you mean adam
train | VIT --opt-args speed=2 | speed | --opt
train | VIT --wandb | --wandb | pip install wandb
train | VIT --checkpoint none.pt | none.pt is not there | give a .pt or .safetensors file
train | VIT --checkpoint LONG | is not there | give a .pt or .safetensors file
train | VIT --checkpoint folder.pt | folder.pt is a directory | give a .pt or .safetensors file
train | VIT --checkpoint text.pt | text.pt is | checkpoint text.pt
train | VIT --checkpoint text.safetensors | text.safetensors cannot be read | give a .pt or .safetensors file
train | VIT --checkpoint evil/last.pt | evil/last.pt is not a file of plain tensors | save the state_dict()
train | VIT --dimhead 32 --checkpoint runs/run0/best.pt | run0/best.pt does not fit | give the net
train | VIT --run-name a/b | --run-name | a plain name
train | VIT --run-name $'a\\x07b' | --run-name | printable text
train | VIT --out notes.txt | notes.txt | choose another --out
train | VIT --run-name run0 | runs/run0 exists | --resume runs/run0, or take another --run-name
train | --eval-only | --eval-only | --resume RUN_DIR or --checkpoint FILE
train | --resume nowhere | nowhere is not a run directory | config.json
train | --resume nojson | nojson/config.json is damaged | start a new run with another --run-name
train | --resume torn --max-steps 3 | torn/last.pt | another --run-name
train | --resume evil --max-steps 3 | evil/last.pt | would run code
train | --resume other --max-steps 3 | other/last.pt does not fit | another --run-name
train | --resume runs/run0 --lr 0.5 | --lr 0.5 contradicts | leave the flag out, or start a new run
train | --resume runs/run0 --quick | --quick keeps no files | leave one out
train | --resume runs/run0 --epochs 1 | --epochs may only grow | has --epochs 200
train | --resume runs/run0 --out there | --out | leave one out
regression | --k 0 | --k | > 0
regression | --k | --k | at least one argument
regression | --n 99999999999999 | --n | use fewer
regression | --optimizer adam | --optimizer | 'gd', 'nesterov', 'lbfgs', 'newton'
regression | --optimiser gd | --optimiser | did you mean --optimizer?
regression | --dataset brest_cancer | 'brest_cancer' | did you mean breast_cancer?
regression | --dataset openml:../x | '../x' | as in openml:diabetes
regression | --out notes.txt | --out notes.txt | give another directory
compare | | RUN_DIR, --out | required
compare | runs --out '' | --out is empty | give it a value
compare | nowhere --out o | nowhere | RUN_DIR must hold the config.json and metrics.csv
compare | nojson --out o | nojson | RUN_DIR must hold
compare | runs --out notes.txt | --out notes.txt | give another directory
compare | runs --out o --baseline ce | --baseline | like loss=ce or loss=root,k=3
compare | runs --out o --baseline los=ce | 'los=ce' | like loss=ce
compare | runs --out o --targets 90 | --targets | did you mean --target?
predict | runs/run0 nowhere.png | nowhere.png | is not there
predict | nowhere images | nowhere is not there | give a .pt or .safetensors file
export | nowhere --format onnx | nowhere is not there | give a .pt or .safetensors file
sweep | --seed 0 x --dry-run | --seed | a whole number
sweep | --loss ce hinge --dry-run | --loss | 'ce', 'focal', 'root', 'rlo', 'sce', 'apl', 'poly1'
sweep | --m 1 3 --dry-run | several --m | need --opt sgd
sweep | --epoch 3 --dry-run | --epoch | did you mean --epochs
sweep | --dry-run -- --run-name x | --run-name cannot stand behind -- | the sweep sets it
sweep | --dry-run --seed 0 -- --seed 1 | --seed cannot stand behind -- | the sweep sets it
sweep | --dataset folder:a/b folder:c/b --dry-run | b-ViT-root-k3-m3-seed0 | an --out each
sweep | --lines notes.txt/x | notes.txt/x | give another --lines
sweep | --out notes.txt | --out notes.txt | give another directory
apply | | CLONE | required
apply | clone --dryrun | --dryrun | did you mean --dry-run?
apply | nowhere | nowhere is not a folder | give the folder of your clone
apply | images | images is not a clone | give the folder of your clone
apply | hinge | hinge/training/loss.py | does not call torch.nn.functional.softplus
apply | linked | linked/training/loss.py is a symbolic link | give the folder where the file itself is
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in MISUSES.strip().splitlines()]
EVIL = b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."  # a pickle that would run `touch pwned`


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A working directory with good things, and with each of them spoilt."""
    with sandbox.machine(tmp_path_factory.mktemp("machine").resolve()) as work:
        sandbox.furnish(work)
        spoil(work)
        yield work


def spoil(work):
    def copy(what, name):
        shutil.copytree(work / what, work / name, symlinks=True)
        return work / name

    for name in ("text.pt", "text.safetensors"):
        (work / name).write_text("hello")
    for name in ("folder.pt", "datasets", "elsewhere"):
        (work / name).mkdir()
    (work / "datasets/cifar-10-python.tar.gz").write_text("an error page")
    with zipfile.ZipFile(work / "datasets/tiny-imagenet-200.zip", "w") as archive:
        archive.writestr("../../pwned", "x")

    cut = copy("images", "cut") / "train/ant/0.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (copy("images", "fake") / "train/ant/0.png").write_text("<html>")
    Image.new("1", (20000, 20000)).save(copy("images", "bomb") / "train/ant/0.png")
    Image.new("I;16", (20, 20), 4095).save(copy("images", "deep") / "train/ant/0.png")
    shutil.rmtree(copy("images", "noval") / "val")
    shutil.rmtree(copy("images", "lonely") / "train/bee")
    (copy("images", "extra") / "val/cat").mkdir()

    config = copy("runs/run0", "other") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dimhead": 32}))
    (copy("runs/run0", "nojson") / "config.json").write_text("{")
    (copy("runs/run0", "torn") / "last.pt").write_bytes((work / "runs/run0/last.pt").read_bytes()[:5000])
    (copy("runs/run0", "evil") / "last.pt").write_bytes(EVIL)

    (copy("clone", "hinge") / "training/loss.py").write_text("import torch\n")
    loss = copy("clone", "linked") / "training/loss.py"
    loss.unlink()
    loss.symlink_to(work / "notes.txt")


def words_of(flags):
    flags = flags.replace("FOLDER", FOLDER).replace("VIT", VIT).replace("LONG", LONG)
    return [word.encode().decode("unicode_escape") for word in shlex.split(flags.replace("$'", "'"))]


@pytest.mark.parametrize(("program", "flags", "names", "remedy"), ROWS, ids=[f"{p} {f}" for p, f, *_ in ROWS])
def test_a_misuse_is_one_line_that_names_it_and_a_remedy(work, program, flags, names, remedy):
    before = sandbox.snapshot(work.parent.parent)
    code, _, err = sandbox.call(program, words_of(flags))
    assert code == 2 and err.count("\n") == 1, err
    assert [part for part in (names, *remedy.split(" / ")) if part not in err] == [], err
    # A run's lock may be newer, and what training read may be kept decoded in the data directory.
    allowed = [work / "datasets" / "cache", *work.glob("*/.lock"), *work.glob("runs/*/.lock")]
    assert sandbox.differences(before, sandbox.snapshot(work.parent.parent), allowed) == []


PROCESSES = [
    ("train.py", f"{FOLDER} folder:cut --workers 2", "cut/train/ant/0.png: cannot be read as an image"),
    ("train.py", "--resume evil --max-steps 3", "would run code"),
    ("train.py", f"{VIT} --size 2048 --bs 1024 --out big", "out of memory: try"),
]
# The address space that a process may have: enough for torch, too little for a batch of 51 GB.
LIMITED = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30)); "
LIMITED += "sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[1]); del sys.argv[1]; "
LIMITED += "runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.slow
@pytest.mark.parametrize(("script", "flags", "says"), PROCESSES, ids=[f"{s} {f}" for s, f, _ in PROCESSES])
def test_a_misuse_in_a_process_of_its_own_is_one_line_too(work, script, flags, says):
    before = sandbox.snapshot(work.parent.parent)
    words = command(script, *words_of(flags))
    if "--out big" in flags:
        if sys.platform != "linux":
            pytest.skip("no limit of the address space")
        words[1:1] = ["-c", LIMITED]
        words.insert(4, str(ROOT))
    done = subprocess.run(
        words,
        cwd=work,
        env=environment({"HOME": str(work.parent)}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and says in done.stderr, done.stderr
    allowed = [work / "datasets" / "cache", work / "big", *work.glob("*/.lock")]
    assert sandbox.differences(before, sandbox.snapshot(work.parent.parent), allowed) == []
    assert not list(work.parent.parent.rglob("pwned"))
