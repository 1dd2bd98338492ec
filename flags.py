"""The flags of every command line: what one is called, takes and means stands here once.

Without torch, so that --help and mistakes answer at once. Names of losses, optimisers and data sets are asked
of their registries. A program's own docstring is its description and its examples.
"""

import functools
import re
from argparse import ArgumentTypeError

import logreg
from common import Parser, UserError, interval, number
from data import canonical_name, list_datasets
from engine.optim import OPTIMIZERS
from losses import loss_names, loss_parameters

# Flags that say what to do with a run, and not what it is.
NOT_OF_THE_RUN = {"resume", "eval_only", "list_nets", "quick"}
# Flags that say where and how a run is made; two runs that differ in no other are the same.
WHERE_AND_HOW = {
    "out", "data_dir", "cache", "workers", "device", "compile", "graph", "save_every", "wandb", "threads",
}  # fmt: skip
# Flags that a resumed run may change; any other that contradicts the run is refused by name.
FREE_ON_RESUME = {
    "epochs", "max_steps", "data_dir", "cache", "workers", "device", "save_every", "wandb", "dataset",
}  # fmt: skip

# Flags that say what is made of the training images; testing a run on other data does without.
OF_THE_TRAINING_IMAGES = (
    "val_split", "label_noise", "label_noise_kind", "train_labels", "label_column", "imbalance",
)  # fmt: skip

# Flags that are parameters of a loss; those of None have the default of the loss that is chosen.
OF_THE_LOSS = ("k", "m", "alpha", "beta", "gamma", "epsilon")
DEFAULT_BASELINE = "loss=ce"

share = number(float, 0, 1, below=True)


@functools.cache  # a sweep parses its flags several times a run
def train_parser(documentation: str = "Train an image classifier.\n\npython train.py") -> Parser:
    """train.py's flags, in the groups of --help."""
    parser = Parser("train.py", documentation)

    # fmt: off
    data = parser.add_argument_group("data").add_argument
    data("--dataset", default="cifar10", metavar="NAME",
         help=f"{', '.join(list_datasets())}: PATH has train/<class>/* and val/<class>/*, or one of them")
    data("--data-dir", default="./datasets", metavar="DIR", help="where data sets are kept")
    data("--size", type=number(int, 0, 4096), default=0, metavar="PX",
         help="image size (default: the data set's own, or the pretrained net's)")
    data("--val-split", type=share, default=0.0, metavar="R",
         help="share of the training images kept to choose best.pt with; the test set is then read once, "
         "at the end (default: the test set chooses, unless the data have a validation set)")
    data("--noaug", action="store_true", help="no random crop, flip or RandAugment")
    data("--randaug", action="store_true", help="add RandAugment (2 operations, magnitude 9)")
    data("--mixup", type=number(float, 0, 100), default=0.0, metavar="A",
         help="mix images and labels, Beta(A, A)")
    data("--cutmix", type=number(float, 0, 100), default=0.0, metavar="A",
         help="paste boxes of other images, Beta(A, A); with --mixup each batch draws one")
    data("--class-weights", choices=("none", "balanced"), default="none",
         help="balanced: weigh classes by n / (classes × images of the class)")
    data("--label-noise", type=share, default=0.0, metavar="R",
         help="share of training labels changed to another class, seeded")
    data("--label-noise-kind", default="uniform", metavar="KIND",
         help="uniform, pair (to the next class), or FILE.csv with a matrix whose rows sum to 1")
    data("--train-labels", default="", metavar="FILE",
         help="a CSV with other labels for the training images: columns file or index, and --label-column")
    data("--label-column", default="", metavar="NAME", help="the column of --train-labels")
    data("--imbalance", type=number(float, 0, 1, above=True), default=1.0, metavar="R",
         help="the rarest class keeps this share of its training images, exponential in between")
    data("--skip-bad", action="store_true", help="leave unreadable images out, and list them")
    data("--cache", choices=("auto", "device", "ram"), default="auto",
         help="where images of up to 64 px are kept")
    data("--workers", type=number(int, 0, 1024), default=8, metavar="N", help="decoders of image files")

    net = parser.add_argument_group("net").add_argument
    net("--net", default="ViT", metavar="NAME", help="a name of --list-nets, or timm:NAME")
    net("--patch", type=number(int, 1, 65536), default=4, metavar="PX",
        help="patch size of the ViTs and CaiT")
    net("--dimhead", type=number(int, 1, 65536), default=512, metavar="D", help="width of the ViTs and CaiT")
    net("--pretrained", action="store_true", help="start from timm's pretrained weights")
    net("--checkpoint", default="", metavar="FILE", help="start from the weights in a .pt or .safetensors")
    net("--freeze", action="store_true", help="train the head only")
    net("--list-nets", action="store_true", help="print the nets and their parameters, and exit")

    loss = parser.add_argument_group("loss (docs/losses.md)").add_argument
    loss("--loss", type=str.lower, choices=loss_names(), default="root",
         help="root: bounded, tolerates wrong labels; rlo: convex; ce: cross entropy; others to compare with")
    loss("--k", type=number(float, 0, above=True), default=3.0, help="the root, of root and rlo")
    loss("--m", type=number(float, 0, above=True), default=3.0, help="the scale, of root and rlo")
    loss("--k-end", type=number(float, 0, above=True), metavar="K",
         help="move 1/k in equal steps to 1/K over the run, with m/k fixed (default: k stays)")
    loss("--alpha", type=number(float, 0, above=True), metavar="A",
         help="the scale of focal (default: 0.25), the factor of cross entropy in sce (0.1) and apl (1)")
    loss("--beta", type=number(float, 0), metavar="B",
         help="the factor of reverse cross entropy in sce and apl (default: 1)")
    loss("--gamma", type=number(float, 0), default=2.0, help="the exponent of focal")
    loss("--epsilon", type=number(float, -1), metavar="E",
         help="the factor of 1 - p in poly1 (default: 2)")
    loss("--label-smoothing", type=number(float, 0, 1), default=0.0, metavar="E",
         help="share of the target spread over all classes")

    training = parser.add_argument_group("training").add_argument
    training("--epochs", "--n_epochs", type=number(int, 1, 10**9), default=200, metavar="N",
             help="passes over the training data")
    training("--bs", type=number(int, 1, 10**9), default=512, metavar="N",
             help="images a step, over all processes: with 8 GPUs choose 8 times what one needs to be busy")
    training("--accumulate", type=number(int, 1, 10**9), default=1, metavar="N",
             help="run each batch in N parts, for a --bs that does not fit in memory")
    training("--lr", type=number(float, 0, above=True), metavar="LR",
             help="peak learning rate (default: what the net wants, 1e-4 transformers, 1e-3 CNNs)")
    training("--opt", choices=tuple(OPTIMIZERS), default="adam", help="sgd has momentum 0.9")
    training("--weight-decay", type=number(float, 0), default=0.0, metavar="W", help="of all parameters")
    training("--warmup", type=number(float, 0, 1e6), default=0.0, metavar="E",
             help="epochs of linear warm-up before the cosine")
    training("--clip-grad", type=number(float, 0), default=0.0, metavar="NORM",
             help="largest norm of the gradient (default: no limit)")
    training("--ema", type=share, default=0.0, metavar="D",
             help="keep, test and save a moving average of the weights with this decay (0.999)")
    training("--patience", type=number(int, 0, 10**9), default=0, metavar="N",
             help="end after N epochs without a better accuracy (default: off)")
    training("--seed", type=number(int, 0, 2**31 - 1), default=0, metavar="N", help="same seed, same run")
    training("--max-steps", type=number(int, 0, 10**12), default=0, metavar="N",
             help="end after N steps (default: off)")
    training("--quick", action="store_true",
             help="2 steps, 2 test batches, no files left: does my command work?")

    device = parser.add_argument_group("device").add_argument
    device("--device", choices=("auto", "cuda", "cpu", "mps"), default="auto", help="what to train on")
    device("--amp", choices=("auto", "bf16", "fp16", "off"), default="auto",
           help="precision; auto: bf16 on CUDA, fp16 with a scaler where it has no bf16, float32 elsewhere")
    device("--noamp", dest="amp", action="store_const", const="off", help="the same as --amp off")
    device("--compile", choices=("auto", "on", "off"), default="auto",
           help="torch.compile net and loss; auto: for long runs on CUDA")
    device("--graph", choices=("auto", "on", "off"), default="auto",
           help="replay a step as one CUDA graph; auto: on one GPU, for nets known to allow it (timm's are not)")
    device("--deterministic", action="store_true",
           help="deterministic kernels only, so that resuming is exact on CUDA too; slower")
    device("--threads", type=number(int, 0, 4096), default=0, metavar="N",
           help="CPU threads (default: the free cores); a resumed run takes its own again")
    device("--sync-bn", action="store_true", help="batch norm over all processes (CUDA)")

    run = parser.add_argument_group("run").add_argument
    run("--out", default="./runs", metavar="DIR", help="where run directories are made")
    run("--run-name", default="", metavar="NAME",
        help="(default: from the flags that are not at their defaults)")
    run("--resume", "-r", default="", metavar="RUN_DIR",
        help="continue a stopped run, exactly; auto: the one in --out that has these flags, or start it")
    run("--save-every", type=interval, metavar="N|Ns",
        help="steps or seconds between checkpoints (default: as often as 5 %% of the time allows)")
    run("--eval-only", action="store_true", help="test --checkpoint or --resume's best.pt, report, and exit")
    run("--wandb", action="store_true", help="log to Weights & Biases too (pip install wandb)")
    # fmt: on
    return parser


def one_name(dataset: object) -> object:
    """One spelling of a --dataset: ``folder:x``, ``folder:x/`` and the absolute path are the same."""
    try:
        return canonical_name(dataset) if isinstance(dataset, str) else dataset
    except UserError:  # a data set that is no more
        return dataset


def one_spelling(net: object) -> object:
    """One spelling of a --net: ``ViT`` and ``vit``, ``vit_tiny`` and ``vit-tiny`` are the same."""
    ours = isinstance(net, str) and ":" not in net
    return re.sub(r"[-_\s]", "", net.lower()) if ours else net


def separator(text: str) -> str:
    """An argparse type: what stands between two cells, itself or its name."""
    names = {
        "comma": ",",
        "semicolon": ";",
        "tab": "\t",
        "\\t": "\t",
        "bar": "|",
        "blank": " ",
        "blanks": " ",
    }
    mark = names.get(text.lower(), text)
    if len(mark) != 1 or mark.isalnum() or mark in "\"'+-._\r\n" or not (mark.isprintable() or mark == "\t"):
        raise ArgumentTypeError(f"must be one character, or one of {', '.join(names)}, got {text!r}")
    return mark


def lowest(text: str):
    """An argparse type: a value ≥ 0, or ``solve``: to be found first."""
    return text if text == "solve" else number(float, 0)(text)


def regression_parser(documentation: str = "Logistic regression.\n\npython regression.py") -> Parser:
    """regression.py's flags, in the groups of --help."""
    parser = Parser("regression.py", documentation)
    positive = number(float, 0, above=True)

    # fmt: off
    data = parser.add_argument_group("data").add_argument
    data("--dataset", default="synthetic", metavar="NAME",
         help=f"{', '.join(logreg.NAMES)}, openml:<name>, or a .csv, .data or .svm file")
    data("--test-file", metavar="FILE", help="the test part; its columns are matched by name (default: a "
         "stratified split)")
    data("--test-size", type=number(float, 0, 1, above=True, below=True), default=0.25, metavar="R",
         help="share of samples that is split off")
    data("--data-dir", default="./datasets", metavar="DIR", help="where downloads are kept")

    # What is not given is guessed, once for both files, and printed; what is ambiguous is refused.
    table = parser.add_argument_group("files of --dataset and --test-file").add_argument
    table("--target", metavar="COLUMN",
          help="name, or index from 0 (default: the last; asked if another is called class, target, label, …)")
    table("--header", choices=("yes", "no"), help="does the first line name the columns (default: a guess)")
    table("--sep", type=separator, metavar="C",
          help="comma, semicolon, tab, bar, blanks or another character (default: a guess)")
    table("--decimal", choices=(".", ","), metavar="./,", help="mark of fractions (default: a guess)")
    table("--drop", nargs="*", metavar="COLUMN",
          help="columns to leave out, by name or index; none after it: keep all (default: row numbers)")

    made = parser.add_argument_group("synthetic data").add_argument
    made("--n", type=number(int, 2), default=500, help="samples")
    made("--d", type=number(int, 1), default=2, help="features; 2 draws decision boundaries")
    made("--margin", type=number(float, 0), default=0.0, help="0: overlapping classes; > 0: separable")
    made("--condition", type=number(float, 1), default=10.0, help="largest over smallest variance")

    goal = parser.add_argument_group("objectives").add_argument
    goal("--k", type=positive, nargs="+", default=[2.0, 3.0, 5.0, 10.0], help="roots of rlo")
    goal("--l2", type=number(float, 0), nargs="+", default=[0.0, 1e-3], help="penalties l2/2 ||W||^2")
    goal("--l2-scaled", action="store_true",
         help="multiply each objective's l2 by its curvature at 0 over logistic regression's, "
         "C^(1/k) (1 + 1/k) with C classes: equal regularisation for all k")

    how = parser.add_argument_group("optimisers").add_argument
    how("--optimizer", nargs="+", choices=logreg.OPTIMIZERS, default=list(logreg.OPTIMIZERS[:4]),
        metavar="NAME", help=f"{', '.join(logreg.OPTIMIZERS)}; normalised: gradient descent on log F "
        f"(default: {' '.join(logreg.OPTIMIZERS[:4])})")
    how("--lr", type=positive, nargs="+",
        help="steps of gd, nesterov (default: 1/L of the data), and of normalised, in log F")
    how("--fmin", type=lowest, metavar="F|solve",
        help="the minimum F* that polyak steps towards; solve: Newton or L-BFGS finds it first, for each "
        "objective (default: 0, the infimum of separable data without l2)")
    how("--tol", type=positive, default=1e-8, help="done at this gradient norm")
    how("--max-iter", type=number(int, 1), default=10000, help="iterations at most")

    run = parser.add_argument_group("run").add_argument
    run("--seed", type=number(int, 0, 2**32 - 1), default=0, help="of synthetic data and of the split")
    run("--out", metavar="DIR",
        help="directory for the table and plots (default: ./runs/regression-<dataset>)")
    # fmt: on
    return parser


def predict_parser(documentation: str = "Predict.\n\npython predict.py") -> Parser:
    """predict.py's flags."""
    parser = Parser("predict.py", documentation)
    add = parser.add_argument
    # fmt: off
    add("run", metavar="RUN", help="a run directory, or its best.pt or model.safetensors")
    add("images", nargs="+", metavar="IMAGE", help="image files, or folders that are searched for some")
    add("--top", type=number(int, 1), metavar="N", help="classes an image (default: 3, or all of fewer)")
    add("--csv", default="", metavar="FILE", help="write CSV there (default: a table on a terminal, else CSV)")
    add("--raw", action="store_true", help="plain softmax, not corrected for the loss (docs/losses.md)")
    add("--bs", type=number(int, 1, 10**6), default=128, metavar="N", help="images at a time")
    add("--workers", type=number(int, 0, 1024), default=2, metavar="N", help="processes that decode")
    add("--device", choices=("auto", "cuda", "cpu", "mps"), default="auto", help="what to compute on")
    # fmt: on
    return parser


def parse_train(argv: list[str] | None = None, documentation: str | None = None):
    """train.py's flags, checked as far as they can be alone, and the names of those that were typed."""
    parser = train_parser(documentation) if documentation else train_parser()
    args, typed = parser.parse_typed(argv)
    for name in ("dataset", "net", "data_dir", "out", "run_name", "checkpoint", "resume", "train_labels"):
        if name in typed and not getattr(args, name):  # an unset variable of the shell, as a rule
            parser.error(f"--{name.replace('_', '-')} is empty: give it a value, or leave it out")
    if args.quick and args.resume not in ("", "auto"):
        parser.error(
            "--quick keeps nothing, and --resume continues or tests a run that is kept: leave one out"
        )
    if bool(args.train_labels) != bool(args.label_column):
        parser.error("--train-labels FILE and --label-column NAME go together: give both")
    if args.warmup and args.warmup >= args.epochs:
        parser.error(f"--warmup {args.warmup:g} must be shorter than the {args.epochs} epochs of --epochs")
    if args.k_end and args.loss != "root":
        parser.error(f"--k-end moves the k of the root loss: leave it out with --loss {args.loss}")
    own = loss_parameters(args.loss)
    for name in OF_THE_LOSS:
        if getattr(args, name) is None:
            setattr(args, name, own.get(name))
    return args, typed


def export_parser(documentation: str = "Export.\n\npython export.py") -> Parser:
    """export.py's flags."""
    parser = Parser("export.py", documentation)
    add = parser.add_argument
    add("run", metavar="RUN", help="a run directory, or its best.pt or model.safetensors")
    add("--format", choices=("onnx", "pt2", "safetensors"), required=True, help="what to write")
    add("--out", default="", metavar="FILE", help="write there (default: model.FORMAT beside the weights)")
    add(
        "--images",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="image files or folders to compare both nets on (default: those of the folder that the run was "
        "trained on, if it is there, else random ones)",
    )
    return parser


def compare_parser(documentation: str = "Compare.\n\npython compare.py") -> Parser:
    """compare.py's flags."""
    parser = Parser("compare.py", documentation)
    add = parser.add_argument
    # fmt: off
    add("runs", nargs="+", metavar="RUN_DIR", help="run directories, or folders that hold some")
    add("--out", required=True, metavar="DIR", help="where table.md, .csv, .tex and the pictures go")
    add("--baseline", default=DEFAULT_BASELINE, metavar="FLAG=VALUE[,…]",
        help="what to change in a group's flags to find what it is compared with")
    add("--target", type=number(float, 0, 100), nargs="+", metavar="ACC",
        help="accuracies in percent to be reached (default: 90, 95 and 99 %% of the last accuracy of "
        "the best group with the same data and net)")
    add("--format", choices=("png", "pdf", "svg"), default="png", help="of the pictures")
    # fmt: on
    return parser


# Flags of train.py that a sweep sets for every run, or never.
SET_BY_SWEEP = {"out", "run_name", "resume", "eval_only", "list_nets", "quick"}
# Loops of a sweep nest in this order, the last one turns fastest; all other flags come before them.
FASTEST = ("dataset", "net", "label-noise", "opt", "lr", "loss", "k", "m")


def grid_flags() -> dict[str, bool]:
    """Flags of train.py that may have several values in a sweep, without their dashes, in the order of its loops.

    The value says whether it is a switch, which takes ``on`` and ``off``.
    """
    found = {}
    for action in train_parser()._actions:
        is_switch = action.nargs == 0 and action.const is True
        if (action.nargs is None or is_switch) and action.dest not in SET_BY_SWEEP:
            found[action.option_strings[0].removeprefix("--")] = is_switch
    return {name: found[name] for name in (*sorted(found.keys() - set(FASTEST)), *FASTEST)}


def key_value(text: str) -> tuple[str, str]:
    """An argparse type: ``partition=gpu``."""
    name, equals, value = text.partition("=")
    name = name.strip().lstrip("-")
    if not (name and equals and value) or not f"{name}{value}".isprintable():
        raise ArgumentTypeError(f"must be key=value, like partition=gpu, got {text!r}")
    return name, value


def sweep_parser(documentation: str = "Sweep.\n\npython sweep.py") -> Parser:
    """sweep.py's flags: each of train.py's with one value or several, and its own."""
    parser = Parser("sweep.py", documentation)
    why = "m scales the loss, and Adam divides the gradient's scale out again: its runs would be the same"
    helps = {
        "k": "of root and rlo; other losses run once",
        "m": f"likewise; several need --opt sgd: {why}",
        "k-end": "of root; other losses run once",
    }
    # fmt: off
    grid = parser.add_argument_group("the grid: one value or several of a flag of train.py").add_argument
    for name, is_switch in grid_flags().items():
        if is_switch:
            grid(f"--{name}", nargs="*", choices=("on", "off"), metavar="on|off", help="as in train.py")
        else:
            grid(f"--{name}", nargs="+", metavar="V", help=helps.get(name, "as in train.py"))
    add = parser.add_argument_group("the sweep").add_argument
    add("--sweep-m-under-adam", action="store_true", help="several --m all the same")
    add("--out", default="./runs", metavar="DIR", help="where the run directories and their logs are")
    add("--jobs", type=number(int, 1, 1024), default=1, metavar="N",
        help="runs at a time, which share the cores unless OMP_NUM_THREADS is set")
    add("--launcher", choices=("here", "submitit"), default="here",
        help="here: on this machine; submitit: one Slurm array with a task a run (pip install submitit)")
    add("--slurm", type=key_value, nargs="+", metavar="KEY=VALUE",
        help="any option of sbatch, as time=240 partition=gpu gpus_per_node=1 array_parallelism=8; "
        "cluster=local tries the array on this machine, all runs at once")
    add("--dry-run", action="store_true", help="print the commands, and run nothing")
    add("--lines", metavar="FILE", help="write a command a line to FILE, and run nothing")
    # fmt: on
    return parser
