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
train | --k 0 | --k | > 0
train | --k inf | --k | must be a number
train | --k 3,5 | --k | must be a number
train | --m -1 | --m | > 0
train | --m nan | --m | > 0
train | --loss rooot | --loss | 'ce', 'focal', 'root', 'rlo', 'sce', 'apl', 'poly1'
train | --alpha 0 | --alpha | > 0
train | --beta -1 | --beta | ≥ 0
train | --gamma -1 | --gamma | ≥ 0
train | --epsilon -2 | --epsilon | ≥ -1
train | --label-smoothing 1.1 | --label-smoothing | ≤ 1
train | --label-noise 1 | --label-noise | < 1
train | --label-noise -0.1 | --label-noise | ≥ 0
train | --epochs 0 | --epochs | ≥ 1
train | --epochs 1e3 | --epochs | a whole number
train | --epochs 99999999999999999999999 | --epochs | ≤ 1e+09
train | --bs 0 | --bs | ≥ 1
train | --bs 2.5 | --bs | a whole number
train | --accumulate 0 | --accumulate | ≥ 1
train | --lr 0 | --lr | > 0
train | --lr 1e400 | --lr | must be a number
train | --opt rmsprop | --opt | 'adam', 'adamw', 'sgd'
train | --weight-decay -1 | --weight-decay | ≥ 0
train | --warmup 1e308 | --warmup | ≤ 1e+06
train | --clip-grad -1 | --clip-grad | ≥ 0
train | --max-steps -1 | --max-steps | ≥ 0
train | --seed -1 | --seed | ≥ 0
train | --seed 99999999999999999999 | --seed | ≤ 2.14748e+09
train | --size 5000 | --size | ≤ 4096
train | --patch 0 | --patch | ≥ 1
train | --dimhead 0 | --dimhead | ≥ 1
train | --dimhead 100000000000000000000 | --dimhead | ≤ 65536
train | --workers -1 | --workers | ≥ 0
train | --cache disk | --cache | 'auto', 'device', 'ram', 'none'
train | --device tpu | --device | 'cpu'
train | --compile maybe | --compile | 'auto', 'on', 'off'
train | --save-every 0 | --save-every | steps (50) or seconds (30s)
train | --save-every 5m | --save-every | steps (50) or seconds (30s)
train | --save-every infs | --save-every | steps (50) or seconds (30s)
train | --dataset '' | --dataset is empty | leave it out
train | --net '' | --net is empty | leave it out
train | --checkpoint '' | --checkpoint is empty | leave it out
train | --resume '' | --resume is empty | leave it out
train | --out '' | --out is empty | leave it out
train | --data-dir '' | --data-dir is empty | leave it out
train | --dataset cifar11 | 'cifar11' | did you mean cifar10
train | --dataset folder: | folder | folder:<path> with train/<class>/*
train | --dataset folder:nowhere | nowhere does not exist | expected train/<class>/*
train | --dataset folder:notes.txt | notes.txt is a file | expected train/<class>/*
train | --dataset folder:noval | noval has neither | expected train/<class>/*
train | --dataset folder:lonely | lonely/train | two or more
train | --dataset folder:extra | extra/val | remove it or add training images
train | FOLDER folder:cut | cut/train/ant/0.png: cannot be read as an image | remove or replace
train | FOLDER folder:fake | fake/train/ant/0.png: cannot be read as an image | remove or replace
train | FOLDER folder:bomb | bomb/train/ant/0.png: refused | remove the file or make the image smaller
train | FOLDER folder:loud | loud/train/ant/0.tif | mode F / expected 0 to 1
train | FOLDER folder:dim | dim/train/ant/0.png | mode I;16 / stretch it
train | FOLDER folder:ints | ints/train/ant/0.tif | mode I / which value is white
train | FOLDER folder:stack | stack/train/ant/0.tif | 2 pages / save the one
train | FOLDER folder:clear | clear/train/ant/0.tif | wholly transparent
train | --dataset fashion-mnist --data-dir mnist | MNIST's files have the same names | get it again
train | FOLDER folder:cut --cache none | cut/train/ant/0.png: cannot be read | remove or replace
train | --dataset cifar10 --data-dir elsewhere | cifar-10-python.tar.gz is missing | put it into elsewhere
train | --dataset food-101 --data-dir notes.txt | notes.txt cannot be written | put it into
train | --dataset cifar10 | datasets/cifar-10-python.tar.gz is damaged | move it away and get it again
train | --dataset tiny-imagenet | datasets/tiny-imagenet-200.zip is damaged | move it away and get it again
train | --dataset digits --size 3 | --size | 4 to 2048 pixels
train | --dataset digits --net resnet19 | 'resnet19' | did you mean resnet18
train | --dataset digits --net timm:resnot18 | 'resnot18' | did you mean resnet18
train | --dataset digits --net timm: | timm | timm.list_models() lists them
train | --dataset digits --net vit --patch 3 | patch size 3 | sizes that work: 6, 9
train | --dataset digits --net swin --size 30 | image size 30 | sizes that work: 24, 32
train | --dataset digits --net cait --dimhead 7 | dim 7 | dims that work: 8
train | --dataset digits --net resnet18 --pretrained | pretrained weights for resnet18 | --checkpoint FILE
train | --dataset digits --accumulate 300 | --accumulate 300 | needs a --bs of 600 or more
train | --dataset digits --device cpu --sync-bn | --sync-bn | leave it out here
train | VIT --checkpoint none.pt | none.pt is not there | give a .pt or .safetensors file
train | VIT --checkpoint LONG | is not there | give a .pt or .safetensors file
train | VIT --checkpoint folder.pt | folder.pt is a directory | give a .pt or .safetensors file
train | VIT --checkpoint text.pt | text.pt is | checkpoint text.pt
train | VIT --checkpoint empty.pt | empty.pt is | checkpoint empty.pt
train | VIT --checkpoint text.safetensors | text.safetensors cannot be read | give a .pt or .safetensors file
train | VIT --checkpoint evil/last.pt | evil/last.pt is not a file of plain tensors | save the state_dict()
train | VIT --dimhead 32 --checkpoint runs/run0/best.pt | run0/best.pt does not fit | give the net
train | VIT --run-name a/b | --run-name | a plain name
train | VIT --run-name .. | --run-name | a plain name
train | VIT --run-name $'a\\x07b' | --run-name | printable text
train | VIT --out notes.txt | notes.txt | choose another --out
train | VIT --out notes.txt/x | notes.txt/x | choose another --out
train | VIT --run-name run0 | runs/run0 exists | --resume runs/run0, or take another --run-name
train | --eval-only | --eval-only | --resume RUN_DIR or --checkpoint FILE
train | --eval-only VIT --checkpoint none.pt | none.pt | give a .pt or .safetensors file
train | --resume nowhere | --resume nowhere | config.json
train | --resume notes.txt | --resume notes.txt | config.json
train | --resume nojson | --resume nojson | its config.json is damaged
train | --resume deep | --resume deep | its config.json is damaged
train | --resume badbs | --resume badbs | --bs: must be a whole number
train | --resume badloss | --resume badloss | choose from 'ce'
train | --resume torn --max-steps 3 | torn/last.pt is damaged | started anew with another --run-name
train | --resume evil --max-steps 3 | evil/last.pt | would run code
train | --resume other --max-steps 3 | other/last.pt does not fit | another --run-name, or from its weights
train | --resume runs/run0 --lr 0.5 | --lr 0.5 contradicts | leave the flag out, or start a new run
train | --resume runs/run0 --loss ce | --loss ce contradicts | leave the flag out, or start a new run
train | --resume runs/run0 --quick | --quick keeps nothing | leave one out
train | --resume runs/run0 --epochs 1 | --epochs may only grow | has --epochs 200
regression | --k 0 | --k | > 0
regression | --k | --k | at least one argument
regression | --l2 -1 | --l2 | ≥ 0
regression | --lr 0 | --lr | > 0
regression | --tol inf | --tol | must be a number
regression | --max-iter 0 | --max-iter | ≥ 1
regression | --n 1 | --n | ≥ 2
regression | --n 99999999999999 | --n | use fewer
regression | --d 0 | --d | ≥ 1
regression | --d 99999999 | --d | use fewer
regression | --margin -1 | --margin | ≥ 0
regression | --condition 0.5 | --condition | ≥ 1
regression | --test-size 1 | --test-size | < 1
regression | --n 4 --test-size 0.01 | cannot split 4 samples | another --test-size
regression | --seed 4294967296 | --seed | ≤ 4.29497e+09
regression | --optimizer adam | --optimizer | 'gd', 'nesterov', 'lbfgs', 'newton'
regression | --optimiser gd | --optimiser | did you mean --optimizer?
regression | --dataset '' | --dataset is empty | leave it out
regression | --target '' | --target is empty | leave it out
regression | --dataset brest_cancer | 'brest_cancer' | did you mean breast_cancer?
regression | --dataset wine --test-file table.csv | --test-file | goes with a file as --dataset
regression | --dataset nowhere.csv | nowhere.csv | give the path
regression | --dataset images | images is a directory | give one of the files in it
regression | --dataset red.csv | red.csv, line 2: column 1 (b) is 'red' | --drop b
regression | --dataset hole.csv | hole.csv, line 3: column 1 (b) is missing | --drop b
regression | --dataset inf.csv | inf.csv, line 3: column 1 (b) is 'inf' | --drop b
regression | --dataset one.csv | one.csv: one class only | give --target
regression | --dataset ragged.csv | ragged.csv, line 3: 4 cells | fix the line
regression | --dataset short.csv | short.csv: 1 sample | add some
regression | --dataset empty.csv | empty.csv is empty | a sample a line
regression | --dataset header.csv | header.csv has a header and no samples | add some
regression | --dataset thin.csv | thin.csv has one column | --sep
regression | --dataset price.csv | price.csv: the target, column 1 (y), looks continuous | pass --target 1
regression | --dataset lone.csv | lone.csv: a class | give --test-file
regression | --dataset bytes.csv | bytes.csv | save it as UTF-8
regression | --dataset bad.svm | bad.svm is not in LIBSVM format | label index:value
regression | --dataset bad.svm --target 1 | bad.svm: LIBSVM files | take no --target
regression | --dataset table.csv --target size | 'size' in table.csv | it has a, b, sick
regression | --dataset table.csv --target 9 | '9' in table.csv | indices 0 to 2
regression | --dataset table.csv --test-file nowhere.csv | nowhere.csv | give the path
regression | --dataset table.csv --test-file other.csv | other.csv has no column 'b' | must name the columns
regression | --dataset table.csv --test-file new.csv | new.csv has classes | remove their samples
regression | --dataset semi.csv | semi.csv has one column | --sep
regression | --dataset headless.csv | looks like data | --header no
regression | --dataset extra.csv --test-file table.csv | table.csv has no column 'c' | must name the columns
regression | --dataset thousands.csv | thousands.csv: is 1.250 in column 0 (a) a fraction | --decimal .
regression | --dataset nameless.csv | column 0 has no name | --drop 0
regression | --dataset twins.csv | two columns are called 'a' | --drop 1
regression | --dataset quote.csv | a quote is not closed | save it as CSV
regression | --dataset pointer.csv | a git-lfs pointer | git lfs pull
regression | --dataset table.csv --target sik | 'sik' | did you mean sick?
regression | --dataset table.csv --drop sick --target sick | is the target | --drop
regression | --dataset table.csv --drop a b | no features | --drop
regression | --dataset table.csv --sep ;; | --sep | must be one character
regression | --dataset wine --target 1 | --target | goes with a file as --dataset
regression | --dataset synthetic --header no | --header | goes with a file as --dataset
regression | --dataset openml:../x | '../x' | as in openml:diabetes
regression | --out notes.txt | --out notes.txt | give another directory
regression | --out runs/run0 | runs/run0 is a training run | give another directory
compare | | RUN_DIR, --out | required
compare | runs | --out | required
compare | runs --out '' | --out is empty | give it a value
compare | '' --out o | RUN_DIR is empty | give it a value
compare | nowhere --out o | nowhere | RUN_DIR must hold the config.json and metrics.csv
compare | LONG --out o | it has no config.json that can be read | RUN_DIR must hold
compare | images --out o | images | RUN_DIR must hold
compare | nojson badbs --out o | nojson/config.json is damaged | RUN_DIR must hold
compare | runs --out notes.txt | --out notes.txt | give another directory
compare | runs --out notes.txt/x | --out notes.txt/x | give another directory
compare | runs --out o --baseline ce | --baseline | like loss=ce or loss=root,k=3
compare | runs --out o --baseline los=ce | 'los=ce' | like loss=ce
compare | runs nojson --out o --baseline lr=7 | lr=7 | skipped nojson / give another --baseline
compare | runs --out o --target 101 | --target | ≤ 100
compare | runs --out o --target | --target | at least one argument
compare | runs --out o --targets 90 | --targets | did you mean --target?
sweep | --k 0 --dry-run | --k | > 0
sweep | --k --dry-run | --k | at least one argument
sweep | --seed 0 x --dry-run | --seed | a whole number
sweep | --loss ce hinge --dry-run | --loss | 'ce', 'focal', 'root', 'rlo', 'sce', 'apl', 'poly1'
sweep | --net '' --dry-run | --net is empty | leave it out
sweep | --m 1 3 --dry-run | several --m | need --opt sgd
sweep | --jobs 0 --dry-run | --jobs | ≥ 1
sweep | --epoch 3 --dry-run | --epoch | did you mean --epochs
sweep | --dry-run -- --nets vit | --nets | did you mean --net?
sweep | --dry-run -- --run-name x | --run-name cannot stand behind -- | the sweep sets it
sweep | --dry-run --seed 0 -- --seed 1 | --seed cannot stand behind -- | the sweep sets it
sweep | --dataset folder:a/b folder:c/b --dry-run | b-ViT-root-k3-m3-seed0 | an --out each
sweep | --lines '' | --lines is empty | leave it out
sweep | --lines none/lines | none/lines | give another --lines
sweep | --lines images | images | give another --lines
sweep | --lines notes.txt/x | notes.txt/x | give another --lines
sweep | --lines . | . | give another --lines
sweep | --out notes.txt | --out notes.txt | give another directory
sweep | --out notes.txt/x | --out notes.txt/x | give another directory
apply | | CLONE | required
apply | clone --dryrun | --dryrun | did you mean --dry-run?
apply | clone clone | clone | --help lists the flags
apply | '' | '' is not a folder | give the folder of your clone
apply | nowhere | nowhere is not a folder | give the folder of your clone
apply | notes.txt | notes.txt is not a folder | give the folder of your clone
apply | images | images is not a clone | give the folder of your clone
apply | noloss | training/loss.py | give the folder of your clone
apply | hinge | hinge/training/loss.py | does not call torch.nn.functional.softplus
apply | linked | linked/training/loss.py is a symbolic link | give the folder where the file itself is
"""
ROWS = [[cell.strip() for cell in line.split("|")] for line in MISUSES.strip().splitlines()]

TABLES = {
    "red": "a,b,y\n1,red,p\n2,blue,q\n",
    "hole": "a,b,y\n1,2,p\n2,,q\n1,3,p\n",
    "inf": "a,b,y\n1,2,p\n2,inf,q\n",
    "one": "a,b,y\n1,2,p\n2,3,p\n",
    "ragged": "a,b,y\n1,2,p\n1,2,3,q\n",
    "short": "a,b,y\n1,2,p\n",
    "empty": "",
    "header": "a,b,c\n",
    "thin": "1\n2\n3\n",
    "price": "a,y\n1,0.15\n2,0.25\n3,0.35\n4,0.15\n",
    "lone": "a,y\n1,p\n2,p\n3,p\n4,q\n",
    "other": "a,sick\n1,0\n2,1\n",
    "semi": "a;b;sick\n1;2;0\n2;1;1\n",
    "headless": "1,2,0\n2,1,1\n1,1,0\n2,2,1\n",
    "extra": "a,b,c,sick\n1,2,5,0\n2,1,6,1\n",
    "thousands": "a,y\n950,p\n1.250,q\n",
    "nameless": ",a,y\n0,1.5,p\n1,2.5,q\n",
    "twins": "a,a,y\n1,2,p\n3,4,q\n",
    "quote": 'a,y\n1,p\n2,"q\n3,p\n',
    "pointer": "version https://git-lfs.github.com/spec/v1\n",
    "new": "a,b,sick\n1,1,7\n2,2,1\n",
}
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

    for name, text in TABLES.items():
        (work / f"{name}.csv").write_text(text)
    (work / "bytes.csv").write_bytes(b"\xff\xfe\0")
    (work / "bad.svm").write_text("1 a:b\n")
    for name in ("text.pt", "text.safetensors"):
        (work / name).write_text("hello")
    (work / "empty.pt").touch()
    for name in ("folder.pt", "datasets", "elsewhere"):
        (work / name).mkdir()
    (work / "datasets/cifar-10-python.tar.gz").write_text("an error page")
    with zipfile.ZipFile(work / "datasets/tiny-imagenet-200.zip", "w") as archive:
        archive.writestr("../../pwned", "x")

    cut = copy("images", "cut") / "train/ant/0.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (copy("images", "fake") / "train/ant/0.png").write_text("<html>")
    Image.new("1", (20000, 20000)).save(copy("images", "bomb") / "train/ant/0.png")
    # modes and depths that leave open what is black and what is white
    page = Image.new("L", (20, 20))
    odd = {
        "loud": (Image.new("F", (20, 20), 300.0), {}), "dim": (Image.new("I;16", (20, 20), 4095), {}),
        "ints": (Image.new("I", (20, 20), 200), {}), "clear": (Image.new("RGBA", (20, 20)), {}),
        "stack": (page, {"save_all": True, "append_images": [page]}),
    }  # fmt: skip
    for name, (image, options) in odd.items():
        old = copy("images", name) / "train/ant/0.png"
        old.unlink()
        image.save(old.with_suffix(".png" if name == "dim" else ".tif"), **options)
    (work / "mnist").mkdir()
    (work / "mnist/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\3" + bytes(12))
    shutil.rmtree(copy("images", "noval") / "val")
    shutil.rmtree(copy("images", "lonely") / "train/bee")
    (copy("images", "extra") / "val/cat").mkdir()

    changes = {"badbs": {"bs": "many"}, "badloss": {"loss": "hinge"}, "other": {"dimhead": 32}}
    for name, changed in changes.items():
        config = copy("runs/run0", name) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    for name, text in (("nojson", "{"), ("deep", "[" * 100_000)):
        (copy("runs/run0", name) / "config.json").write_text(text)
    (copy("runs/run0", "torn") / "last.pt").write_bytes((work / "runs/run0/last.pt").read_bytes()[:5000])
    (copy("runs/run0", "evil") / "last.pt").write_bytes(EVIL)

    (copy("clone", "noloss") / "training/loss.py").unlink()
    (copy("clone", "hinge") / "training/loss.py").write_text("import torch\n")
    loss = copy("clone", "linked") / "training/loss.py"
    loss.unlink()
    loss.symlink_to(work / "notes.txt")


def test_there_are_more_misuses_than_were_asked_for():
    print(f"\nmisuses: {len(ROWS)}")
    assert len(ROWS) >= 80 and len({tuple(row[:2]) for row in ROWS}) == len(ROWS)


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
    ("train.py", f"{VIT} --checkpoint evil/last.pt", "evil/last.pt is not a file of plain tensors"),
    ("train.py", f"{FOLDER} folder:cut", "cut/train/ant/0.png: cannot be read as an image"),
    ("train.py", "--dataset tiny-imagenet", "tiny-imagenet-200.zip is damaged or not the original"),
    ("train.py", "--resume evil --max-steps 3", "would run code"),
    ("train.py", f"{VIT} --size 2048 --bs 1024 --out big", "out of memory: try"),
    ("regression.py", "--dataset ragged.csv", "fix the line"),
    ("compare.py", "nojson --out o", "RUN_DIR must hold"),
    ("sweep.py", "--k 0", "--k: must be a number > 0"),
    ("predict.py", "runs/run0 nowhere.png", "nowhere.png is not there"),
    ("stylegan_patch/apply.py", "linked", "is a symbolic link"),
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
