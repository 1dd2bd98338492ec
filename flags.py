"""train.py's flags: one table, and beside each flag the role it plays in a run.

Without torch, so that --help and mistakes answer at once, and so that sweep.py and compare.py can read it.
"""

import functools
import hashlib
import re
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from common import Parser, UserError, interval, number, spelling

# The roles. A resumed run refuses another value of a flag with the first two.
RUN = "run"  # says what a run is
LOSS = "loss"  # a parameter of some losses; None stands for the loss's own default
LENGTH = "length"  # says how far a run goes: a resumed run may go further
HOW = "how"  # says where and how a run is computed: two runs that differ in no other flag are the same
REQUEST = "request"  # says what to do with a run

# The losses with their parameters, and the data sets, as --help shows them; tests compare them with the registries.
LOSS_PARAMETERS = {
    "ce": {},
    "focal": {"alpha": 0.25, "gamma": 2.0},
    "root": {"k": 3.0, "m": 3.0},
    "rlo": {"k": 3.0, "m": 3.0},
    "sce": {"alpha": 0.1, "beta": 1.0},
    "apl": {"alpha": 1.0, "beta": 1.0},
    "poly1": {"epsilon": 2.0},
}
DATASETS = (
    "digits",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "tiny-imagenet",
    "food-101",
    "folder:PATH",
)
LONGEST_NAME = 180  # bytes of a run's name: file systems take 255, and .log and temporary files add to it


def key_value(text: str) -> str:
    """An argparse type: ``momentum=0.95``, given back as it is."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals and value):
        raise ArgumentTypeError(f"must be KEY=VALUE, as in momentum=0.95, got {text!r}")
    return text


@functools.cache
def train_parser(documentation: str = "Train an image classifier.\n\npython train.py") -> Parser:
    """train.py's flags, in the groups of --help; each action has the attribute `role`."""
    parser = Parser("train.py", documentation)

    def group(title, default_role):
        arguments = parser.add_argument_group(title)

        def flag(*names, role=default_role, **options):
            arguments.add_argument(*names, **options).role = role

        return flag

    share = number(float, 0, 1, below=True)
    positive = number(float, 0, above=True)

    # fmt: off
    data = group("data", RUN)
    data("--dataset", default="cifar10", metavar="NAME",
         help=f"{', '.join(DATASETS)}: PATH has train/<class>/* and val/<class>/*, or one of them")
    data("--data-dir", role=HOW, default="./datasets", metavar="DIR", help="where data sets are kept")
    data("--size", type=number(int, 0, 4096), default=0, metavar="PX",
         help="image size (default: the data set's own, or the pretrained net's)")
    data("--val-split", type=share, default=0.0, metavar="R",
         help="share of the training images kept to choose best.pt with; the test set is then read once, "
         "at the end (default: the test set chooses, unless the data have a validation set)")
    data("--noaug", action="store_true", help="no random crop and no flip")
    data("--randaug", action="store_true", help="add RandAugment (2 operations, magnitude 9)")
    data("--mixup", type=number(float, 0, 100), default=0.0, metavar="A",
         help="mix images and labels, Beta(A, A)")
    data("--cutmix", type=number(float, 0, 100), default=0.0, metavar="A",
         help="paste boxes of other images, Beta(A, A); with --mixup each batch draws one")
    data("--crop-scale", nargs=2, type=number(float, 0, 1, above=True), metavar=("A", "B"),
         help="above 64 px training crops show this share of a photo's area (default: 0.08 1; with --pretrained "
         "0.35 1, since the weights know whole objects already)")
    data("--class-weights", choices=("none", "balanced"), default="none",
         help="balanced: weigh classes by n / (classes × images of the class)")
    data("--label-noise", type=share, default=0.0, metavar="R",
         help="share of training labels changed to another class, seeded")
    data("--label-noise-kind", choices=("uniform", "pair"), default="uniform",
         help="uniform: any other class; pair: the next class")
    data("--train-labels", default="", metavar="FILE",
         help="a CSV with other labels for the training images: columns file or index, and --label-column; "
         "an empty label leaves the image out")
    data("--label-column", default="", metavar="NAME", help="the column of --train-labels (default: label)")
    data("--imbalance", type=number(float, 0, 1, above=True), default=1.0, metavar="R",
         help="the rarest class keeps this share of its training images, exponential in between")
    data("--skip-bad", action="store_true", help="leave unreadable images out, and list them")
    data("--cache", role=HOW, choices=("auto", "device", "ram"), default="auto",
         help="where decoded images of up to 64 px are kept")
    data("--workers", role=HOW, type=number(int, 0, 1024), default=8, metavar="N", help="decoders of image files")

    net = group("net", RUN)
    net("--net", default="ViT", metavar="NAME", help="a name of --list-nets, or timm:NAME")
    net("--patch", type=number(int, 1, 65536), default=4, metavar="PX",
        help="patch size of the ViTs and CaiT")
    net("--dimhead", type=number(int, 1, 65536), default=512, metavar="D", help="width of the ViTs and CaiT")
    net("--pretrained", action="store_true", help="start from timm's pretrained weights")
    net("--checkpoint", default="", metavar="FILE", help="start from the weights in a .pt or .safetensors")
    net("--freeze", action="store_true", help="train the head only")
    net("--list-nets", role=REQUEST, action="store_true", help="print the nets and their parameters, and exit")

    loss = group("loss (docs/losses.md)", LOSS)
    loss("--loss", role=RUN, type=str.lower, choices=tuple(LOSS_PARAMETERS), default="root",
         help="root: bounded; rlo: convex; ce: cross entropy; others to compare with")
    loss("--k", type=positive, default=3.0, help="the root, of root and rlo")
    loss("--m", type=positive, default=3.0, help="the scale, of root and rlo")
    loss("--k-end", role=RUN, type=positive, metavar="K",
         help="move 1/k in equal steps to 1/K over the run, with m/k fixed (default: k stays)")
    loss("--alpha", type=positive, metavar="A",
         help="the scale of focal (default: 0.25), the factor of cross entropy in sce (0.1) and apl (1)")
    loss("--beta", type=number(float, 0), metavar="B",
         help="the factor of reverse cross entropy in sce and apl (default: 1)")
    loss("--gamma", type=number(float, 0), default=2.0, help="the exponent of focal")
    loss("--epsilon", type=number(float, -1), metavar="E",
         help="the factor of 1 - p in poly1 (default: 2)")
    loss("--label-smoothing", role=RUN, type=number(float, 0, 1), default=0.0, metavar="E",
         help="share of the target spread over all classes")

    training = group("training", RUN)
    training("--epochs", "--n_epochs", role=LENGTH, type=number(int, 1, 10**9), default=200, metavar="N",
             help="passes over the training data")
    training("--schedule", choices=("cosine", "step"), default="cosine",
             help="cosine: to zero over the run; step: a tenth every --step-size steps")
    training("--step-size", type=number(int, 0, 10**12), default=0, metavar="N",
             help="steps between two falls of --schedule step")
    training("--bs", type=number(int, 1, 10**9), default=512, metavar="N",
             help="images a step, over all processes: with 8 GPUs choose 8 times what one needs to be busy")
    training("--accumulate", type=number(int, 1, 10**9), default=1, metavar="N",
             help="run each batch in N parts, for a --bs that does not fit in memory")
    training("--lr", type=positive, metavar="LR",
             help="peak learning rate (default: what the net wants, 1e-4 transformers, 1e-3 CNNs)")
    training("--opt", default="adam", metavar="NAME",
             help="any optimizer of timm: adam, adamw, sgd (momentum 0.9), muon, lion, …")
    training("--opt-args", type=key_value, nargs="+", default=[], metavar="KEY=VALUE",
             help="more arguments of the optimizer: betas=0.9,0.95 nesterov=True")
    training("--weight-decay", type=number(float, 0), default=0.0, metavar="W",
             help="of all parameters but norms and biases")
    training("--layer-decay", type=number(float, 0, 1), default=0.0, metavar="D",
             help="for fine-tuning: each layer has the rate of the next one times D (0.75; default: off)")
    training("--warmup", type=number(float, 0, 1e6), default=0.0, metavar="E",
             help="epochs of linear warm-up before the schedule")
    training("--clip-grad", type=number(float, 0), default=0.0, metavar="NORM",
             help="largest norm of the gradient (default: no limit)")
    training("--ema", type=share, default=0.0, metavar="D",
             help="keep, test and save a moving average of the weights with this decay (0.999)")
    training("--patience", type=number(int, 0, 10**9), default=0, metavar="N",
             help="end after N epochs without a better accuracy (default: off)")
    training("--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N", help="same seed, same run")
    training("--max-steps", role=LENGTH, type=number(int, 0, 10**12), default=0, metavar="N",
             help="end after N steps (default: off)")
    training("--quick", role=REQUEST, action="store_true",
             help="2 steps, 2 test batches, no files left: does my command work?")

    device = group("device", HOW)
    device("--device", choices=("auto", "cuda", "cpu", "mps"), default="auto", help="what to train on")
    device("--amp", role=RUN, choices=("auto", "bf16", "fp16", "off"), default="auto",
           help="precision; auto: bf16 on CUDA, fp16 with a scaler where it has no bf16, float32 elsewhere")
    device("--noamp", role=RUN, dest="amp", action="store_const", const="off", help="the same as --amp off")
    device("--compile", choices=("auto", "on", "off"), default="auto",
           help="torch.compile net and loss; auto: for long runs on CUDA")
    device("--graph", choices=("auto", "on", "off"), default="auto",
           help="replay a step as one CUDA graph; auto: on one GPU, for nets known to allow it (timm's are not)")
    device("--deterministic", role=RUN, action="store_true",
           help="deterministic kernels only, so that resuming is exact on CUDA too; slower")
    device("--threads", type=number(int, 0, 4096), default=0, metavar="N",
           help="CPU threads (default: the cores of this process); a resumed run takes its own again")
    device("--sync-bn", role=RUN, action="store_true", help="batch norm over all processes (CUDA)")

    run = group("run", REQUEST)
    run("--out", role=HOW, default="./runs", metavar="DIR", help="where run directories are made")
    run("--run-name", role=RUN, default="", metavar="NAME",
        help="(default: from the flags that are not at their defaults)")
    run("--resume", "-r", default="", metavar="RUN_DIR",
        help="continue a stopped run, exactly; auto: the one in --out that has these flags, or start it")
    run("--save-every", role=HOW, type=interval, metavar="N|Ns",
        help="steps or seconds between checkpoints (default: as often as 5 %% of the time allows)")
    run("--eval-only", action="store_true", help="test --checkpoint or --resume's best.pt, report, and exit")
    run("--find-label-issues", action="store_true",
        help="at the end, list the training images by how little the net believes their labels: label_issues.csv, .png")
    run("--wandb", role=HOW, action="store_true", help="log to Weights & Biases too (pip install wandb)")
    # fmt: on
    return parser


@functools.cache
def flags_of(*roles: str) -> tuple[str, ...]:
    """The flags with one of these roles, as argparse calls them: ``flags_of(LOSS)`` is k, m, alpha, …"""
    actions = train_parser()._actions
    return tuple(dict.fromkeys(a.dest for a in actions if getattr(a, "role", None) in roles))


def flag_of(name: str) -> str:
    """How a flag is typed: ``data_dir`` is ``--data-dir``."""
    return f"--{name.replace('_', '-')}"


def parse(argv: list[str] | None = None, documentation: str | None = None) -> tuple[Namespace, set[str]]:
    """train.py's flags, checked as far as they can be alone, and the names of those that were typed."""
    parser = train_parser(documentation) if documentation else train_parser()
    args, typed = parser.parse_typed(argv)
    for name in ("dataset", "net", "data_dir", "out", "run_name", "checkpoint", "resume", "train_labels"):
        if name in typed and not getattr(args, name):  # as a rule an unset variable of the shell
            parser.error(f"{flag_of(name)} is empty: give it a value, or leave it out")
    if args.quick and args.resume not in ("", "auto"):
        parser.error("--quick keeps no files, and --resume works on a run that is kept: leave one out")
    if args.label_column and not args.train_labels:
        parser.error("--label-column names a column of --train-labels FILE: give that, too")
    if args.find_label_issues and (args.quick or args.eval_only):
        parser.error("--find-label-issues needs a whole training: leave out --quick and --eval-only")
    if args.crop_scale and args.crop_scale[0] > args.crop_scale[1]:
        parser.error("--crop-scale A B: the smallest share A must not be above the largest, B")
    if args.noaug and args.randaug:
        parser.error("--noaug turns augmentation off and --randaug adds some: leave one out")
    if args.warmup and args.warmup >= args.epochs:
        parser.error(f"--warmup {args.warmup:g} must be shorter than the {args.epochs} epochs of --epochs")
    if args.k_end and args.loss != "root":
        parser.error(f"--k-end moves the k of the root loss: leave it out with --loss {args.loss}")
    if (args.schedule == "step") != bool(args.step_size):
        parser.error("--schedule step and --step-size N go together: give both")
    if args.out != parser.get_default("out") and args.resume not in ("", "auto") and not args.eval_only:
        parser.error("--out says where a new run goes, and --resume continues one: leave one out")
    for name in flags_of(LOSS):
        if getattr(args, name) is None:
            setattr(args, name, LOSS_PARAMETERS[args.loss].get(name))
    return args, typed


def adopt(args: Namespace, typed: set[str], config: dict, run: str) -> None:
    """Give `args` the flags of the run in directory `run`, whose config.json is `config`.

    What was typed stays where a resumed run may change it: how far it goes, and where and how it is computed.
    A flag younger than the run has its default.

    Raises
    ------
    UserError
        If a typed flag contradicts the run, or would shorten it.
    """
    # A data set may have moved: its fingerprint says whether it is the same.
    may_change = {"dataset", *flags_of(LENGTH, HOW)}
    for name, value in vars(args).items():
        then = config.get(name, train_parser().get_default(name))
        if name in flags_of(REQUEST) or (name in typed and name in may_change):
            continue
        if name in typed and then != value:
            raise UserError(
                f"{flag_of(name)} {value} contradicts the run in {run}, which has {flag_of(name)} {then}: "
                "leave the flag out, or start a new run"
            )
        setattr(args, name, then)
    if "epochs" in typed and args.epochs < config["epochs"]:
        raise UserError(f"--epochs may only grow: the run in {run} has --epochs {config['epochs']}")


def difference(config: dict, flags: dict, ignored: tuple[str, ...] = ()) -> str:
    """The first flag of a run in which a config.json differs, ``"--bs 64, not 128"``; empty if it is the same run."""
    ignored = {*ignored, *flags_of(HOW, REQUEST)}
    for name, value in flags.items():
        then = config.get(name, train_parser().get_default(name))
        same = spelling(then) == spelling(value) if name in ("dataset", "net") else then == value
        if name not in ignored and not same:
            return f"{flag_of(name)} {then}, not {value}"
    return ""


def run_name(flags: dict) -> str:
    """A name that says data, net, loss and seed, and every flag that differs from its default.

    A name longer than `LONGEST_NAME` bytes is cut, and tells the flags by a digest.
    """
    folder = spelling(flags["dataset"]).partition(":")[2]
    data = Path(folder).name if folder else flags["dataset"].lower()
    parameters = [f"{name}{flags[name]:g}" for name in LOSS_PARAMETERS[flags["loss"]]]
    parts = [data, flags["net"], flags["loss"], *parameters]
    for name in flags_of(RUN, LENGTH):
        value = flags[name]
        if name in ("dataset", "net", "loss", "seed", "run_name") or value is None:
            continue
        if value == train_parser().get_default(name):
            continue
        if name in ("checkpoint", "train_labels"):
            value = Path(value).stem
        if isinstance(value, list):
            value = "-".join(map(str, value))
        shown = "" if value is True else f"{value:g}" if isinstance(value, float) else value
        parts.append(f"{name.replace('_', '')}{shown}")
    name = re.sub(r"[^\w.+]+", "-", "-".join(map(str, parts))).strip("-")
    room = LONGEST_NAME - len(f"-seed{2**31}")  # so that the names of all seeds begin alike
    if len(name.encode()) > room:
        digest = f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        name = name.encode()[: room - len(digest)].decode(errors="ignore").rstrip("-") + digest
    return f"{name}-seed{flags['seed']}"
