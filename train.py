#!/usr/bin/env python
"""Train an image classifier with a rooted loss, or with what rooted losses are compared with.

python train.py                                                   ViT on CIFAR-10, root loss, k = m = 3
python train.py --dataset digits --net resnet18 --epochs 10       embedded data, half a minute on a CPU
python train.py --dataset folder:my/images --net resnet18 --val-split 0.2
python train.py --resume runs/cifar10-ViT-root-k3-m3-seed0        continue where a run stopped
torchrun --nproc_per_node=8 train.py --dataset food-101 --bs 4096  8 GPUs, one machine
"""

import math
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

# torch and everything that needs it is imported in functions, so that --help and mistakes answer at once.
from common import EXIT_DIVERGED, UserError, one_line_errors
from flags import FREE_ON_RESUME, OF_THE_LOSS, OF_THE_TRAINING_IMAGES, one_name, parse_train, train_parser

# Compiling takes 10 to 60 s; --compile auto spends it only on runs that have the steps to earn it back.
COMPILE_FROM_STEPS = 2000
QUICK = 2  # steps, and test batches


@dataclass
class Job:
    """What a training is made of, once it is built."""

    args: object  # the flags
    world: object  # engine.distributed.World: the processes
    stop: object  # engine.stopping.Stop: whether a signal has come
    data: object  # data.Data
    trainer: object  # engine.trainer.Trainer: net, loss, optimiser
    info: object  # models.ModelInfo: what best.pt says of its net
    total_steps: int
    saver: object = None  # engine.saver.Saver, once there is a run directory
    progress: object = None  # engine.saver.Progress
    report_in: Path = None  # where a test's report goes: the run's directory, or one in it for other data
    notes: list[str] = field(default_factory=list)

    def say(self, text):
        """Print on one process."""
        if self.world.is_main:
            print(text, flush=True)


def parse_args(argv=None):
    """The flags, and the names of those that were typed."""
    return parse_train(argv, __doc__)


def main(argv=None):
    args, typed = parse_args(argv)
    with one_line_errors("train.py", "try --accumulate 2 or more, a smaller --bs, --size or net"):
        if args.list_nets:
            list_nets()
        elif args.quick:
            with tempfile.TemporaryDirectory() as args.out:
                args.max_steps, args.cache = QUICK, args.cache if "cache" in typed else "none"
                train(args, typed)
        else:
            train(args, typed)


def train(args, typed):
    """One run, from the flags to the last line."""
    from engine.stopping import Stop
    from engine.threads import FreeCores, set_threads

    stop, watch = Stop(), FreeCores()  # from here on SIGTERM and SIGINT end with 143 and 130

    from engine.distributed import World
    from engine.meter import Diverged
    from engine.run_directory import RunDirectory, find_run, read_config, run_name, take_flags_of
    from models import net_facts

    config = {}
    if args.wandb and not find_spec("wandb"):
        raise UserError("--wandb needs the package wandb: pip install wandb")
    if args.resume not in ("", "auto"):
        config = take_flags_of(args.resume, args, typed, FREE_ON_RESUME, train_parser(__doc__))
        if args.eval_only and one_name(args.dataset) != one_name(config["dataset"]):
            for flag in OF_THE_TRAINING_IMAGES:
                setattr(args, flag, train_parser().get_default(flag))
    elif args.eval_only and not args.checkpoint:
        raise UserError("--eval-only needs weights to test: --resume RUN_DIR or --checkpoint FILE")
    name = run_name(vars(args))  # before the default learning rate is filled in
    args.lr = args.lr or net_facts(args.net, args.pretrained).lr
    if args.resume == "auto":
        args.resume = str(find_run(args.out, vars(args), name) or "")
        if args.resume:
            config = read_config(args.resume)
            for name in ("threads", "compile", "graph"):
                setattr(args, name, config.get(name, getattr(args, name)))
    args.threads, why = set_threads(args.threads, watch)

    world, directory, path = World(args.device), None, None
    try:
        if world.is_main and not args.eval_only:  # before the data, which may take minutes
            new = (args.out, args.run_name, name)
            directory = RunDirectory(args.resume) if args.resume else RunDirectory.create(*new)
        path = Path(world.gather(str(directory.path) if directory else args.resume)[0])
        job = build(args, typed, world, stop, config)
        if world.device.type == "cpu":
            job.say(f"threads {args.threads}{why}")
        if args.eval_only:
            test(job)
            return
        start(job, path, directory)
        with stop.deferred():
            run_epochs(job, directory)
            report = test(job)
        if directory:
            directory.draw()
        job.say(f"memory  {world.peak_memory():.2f} GiB at peak")
        best, of = job.progress, "validation" if job.data.val else "test"
        end = f" · test accuracy {report['acc']:.2f} %" if job.data.val else ""
        kept = "nothing is kept of --quick" if args.quick else path
        job.say(f"best {of} accuracy {best.best_acc:.2f} % at epoch {best.best_epoch}{end} · {kept}")
    except Diverged as error:
        last = path / "last.pt"
        kept = f"{last} is from before" if last.exists() else "it came before the first checkpoint"
        hint = "try a smaller --lr, --warmup or --clip-grad"
        raise UserError(f"training diverged: {error}; {kept}; {hint}", EXIT_DIVERGED) from None
    finally:
        if directory:
            directory.close()
        world.close()


def build(args, typed, world, stop, config=None):
    """Data, net, loss and optimiser by name, as the flags say; `config` is the resumed run's."""
    from engine.checkpoint import seed_everything
    from engine.graph import choose_graph, why_not_graph
    from engine.identity import folder_of_test
    from engine.optim import build_optimizer
    from engine.precision import Precision, choose_compile, choose_kernels
    from engine.trainer import Trainer
    from losses import loss_parameters
    from models import ModelInfo, count_parameters, net_facts
    from parts import check_batch, known_weights, load_data, make_loss, make_net

    seed_everything(args.seed)
    choose_kernels(world.device, args.deterministic)
    precision = Precision(world.device, args.amp)
    check_batch(args, world)
    weights, info = known_weights(args, typed)
    data, own = load_data(args, world, info, config or {})
    loss_options = {name: getattr(args, name) for name in loss_parameters(args.loss) if hasattr(args, name)}
    loss = make_loss(args, loss_options, data, info).to(world.device)
    facts = net_facts(args.net)
    net = make_net(args, data, weights, world.device, facts.channels_last)
    learning = [p for p in net.parameters() if p.requires_grad]
    optimizer = build_optimizer(args.opt, learning, args.lr, args.weight_decay, world.device)

    total_steps = args.epochs * len(data.train) if data.train else 0
    total_steps = min(total_steps, args.max_steps or total_steps)
    pays = world.device.type == "cuda" and total_steps >= COMPILE_FROM_STEPS and not args.eval_only
    compiled, notes = choose_compile(args.compile, world.device, pays)
    why_not = why_not_graph(precision, world.size, args.accumulate, args.clip_grad)
    if args.graph == "on" and why_not and "graph" in typed:  # not a run that was begun elsewhere
        raise UserError(f"--graph on: {why_not}; leave it out here")
    wanted = "off" if args.eval_only else args.graph
    fused = optimizer.defaults.get("fused", False)  # and never waits; another library's may
    graphed, why = choose_graph(wanted, why_not, facts.recordable and fused)
    notes += why
    args.compile, args.graph = ("on" if x else "off" for x in (compiled, graphed))  # for when it is resumed
    trainer = Trainer(
        net, loss, optimizer, world, precision, channels_last=facts.channels_last, accumulate=args.accumulate,
        clip_grad=args.clip_grad, ema=args.ema, compiled=compiled, graphed=graphed,
    )  # fmt: skip
    if not (info and args.eval_only):
        info = ModelInfo(
            net=args.net, patch_size=args.patch, dim=args.dimhead, num_classes=data.num_classes,
            image_size=data.image_size, mean=data.mean, std=data.std, interpolation=data.interpolation,
            crop_pct=data.crop_pct, class_names=data.class_names, loss=args.loss, loss_options=loss_options,
            logit_scale=getattr(loss, "logit_scale", 1.0), dataset=args.dataset, fingerprint=data.fingerprint,
        )  # fmt: skip
    job = Job(args, world, stop, data, trainer, info, total_steps)
    if args.resume and args.eval_only:
        job.report_in = Path(args.resume)
        if not own:
            job.report_in = folder_of_test(args.resume, args.dataset, data.fingerprint)
            notes.append(
                f"not the data of the run's training: its report stays, this one is in {job.report_in}"
            )
    elif args.eval_only and not data.train and one_name(info.dataset) == one_name(args.dataset):
        notes.append("the net was trained on images of this folder: its accuracy on new ones may be lower")
    ignored = [f"--{n}" for n in OF_THE_LOSS if n in typed and n not in loss_options]
    notes += [f"{' and '.join(ignored)} ignored: --loss {args.loss} has none"] if ignored else []
    job.say(f"data    {data.description}")
    for note in [*data.notes, *notes]:
        job.say(f"note    {note}")
    smoothed = f", label smoothing {args.label_smoothing:g}" if args.label_smoothing else ""
    shown = " ".join(f"{name}={value:g}" for name, value in loss_options.items())
    job.say(f"net     {args.net}, {count_parameters(net):,} parameters{' learn' if args.freeze else ''}")
    job.say(f"loss    {args.loss} {shown}{smoothed}{f', to k={args.k_end:g}' if args.k_end else ''}")
    how = ", compiled" * compiled + ", a graph a step" * graphed
    job.say(f"device  {world.size} × {world.device.type}, {precision}{how}")
    return job


def start(job, path, directory):
    """From where the run stands: its checkpoint, or the beginning."""
    from engine.checkpoint import seed_everything
    from engine.report import REPORT
    from engine.saver import Saver
    from models import ModelInfo, save_safetensors

    args = job.args

    def publish(best, content):
        if best.name == "best.pt":  # what a report says, it says of the weights before
            for name in REPORT:
                (path / name).unlink(missing_ok=True)
        other = best.with_name(best.name.replace("best", "model")).with_suffix(".safetensors")
        save_safetensors(other, content["model"], ModelInfo.from_dict(content["info"]))

    job.report_in = path
    job.saver = Saver(path, job.trainer, job.info.to_dict(), args.save_every, publish)
    seed_everything(args.seed, job.world.rank)  # dropout draws other numbers in every process
    job.progress = job.saver.restore()
    if job.progress.step > job.total_steps:
        raise UserError(f"--max-steps {args.max_steps} is behind the run, at step {job.progress.step}")
    if directory:
        facts = {"data": job.data.facts(), "total_steps": job.total_steps}
        directory.start(vars(args), facts, job.progress.rows, job.progress.step)
    job.say(f"run     {path}, step {job.progress.step} of {job.total_steps}")


def run_epochs(job, directory):
    """Train, test and write a row, epoch after epoch, until the steps are done."""
    args, progress, trainer, world = job.args, job.progress, job.trainer, job.world
    chooser = "val" if job.data.val else "test"

    def is_over():
        """All steps done, or no better accuracy for too long; batch: of an epoch that has no row yet."""
        too_long = args.patience and progress.epoch - progress.best_epoch >= args.patience
        return not progress.batch and (progress.step == job.total_steps or too_long)

    while not is_over():
        train_loss, train_acc, images = train_one_epoch(job)
        train_seconds = progress.seconds
        if args.k_end:  # best.pt names the loss as it is by now
            job.info.loss_options = {"k": float(trainer.loss.k), "m": float(trainer.loss.m)}
            job.info.logit_scale = trainer.loss.logit_scale
            job.saver.info = job.info.to_dict()
        began = time.perf_counter()
        scores = evaluate(job, job.data.val or job.data.test)
        row = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_loss": train_loss,
            "train_acc": train_acc,
            "lr": float(trainer.optimizer.param_groups[0]["lr"]),
            "test_loss": math.nan,  # until the end, where a validation set chooses
            "test_acc": math.nan,
            **{f"{chooser}_{name}": value for name, value in scores.items()},
        }
        if trainer.averaged is not None:
            of_average = evaluate(job, job.data.val or job.data.test, averaged=True)
            if of_average["acc"] > max([r["ema_acc"] for r in progress.rows], default=-1):
                job.saver.keep_best(of_average["acc"], row["epoch"], averaged=True)
            row |= {f"ema_{name}": of_average[name] for name in ("loss", "acc")}
        row["epoch_seconds"] = train_seconds + time.perf_counter() - began
        row["images_per_second"] = images / train_seconds
        progress.rows.append(row)
        if scores["acc"] > progress.best_acc:
            progress.best_acc, progress.best_epoch = scores["acc"], row["epoch"]
            job.saver.keep_best(scores["acc"], row["epoch"])
        if progress.batch == len(job.data.train):  # and not ended early by --max-steps
            progress.epoch, progress.batch, progress.seconds = progress.epoch + 1, 0, 0.0
            trainer.meter.reset()
        # Rows without a checkpoint could not be continued: the first row has one.
        ended = is_over() or progress.step == job.total_steps  # --max-steps may end within an epoch
        due = job.saver.due(progress.step) or ended or not job.saver.has_saved
        stopping, saving = world.any(job.stop.requested, due)
        if stopping or saving:
            job.saver.save(progress)
        if directory:
            directory.record(progress.rows)
        if stopping:
            leave(job)
        if ended:
            break
    if progress.step < job.total_steps:
        job.say(f"no better accuracy in {args.patience} epochs: --patience ends the run")


def train_one_epoch(job):
    """What is left of the epoch under way. Returns mean loss, accuracy in percent and images of all of it."""
    from tqdm import tqdm

    from engine.meter import NEVER, PEEK_EVERY
    from engine.mixing import Mixing
    from engine.optim import learning_rate, set_learning_rate
    from engine.trainer import linear_in_inverse

    args, progress, trainer, world = job.args, job.progress, job.trainer, job.world
    batches, meter = job.data.train, trainer.meter
    warmup_steps = round(args.warmup * len(batches))
    mix = (
        Mixing(args.mixup, args.cutmix, job.data.num_classes, args.seed)
        if args.mixup or args.cutmix
        else None
    )
    k_at = linear_in_inverse(args.k, args.k_end) if args.k_end else None
    bad_step, stopping = NEVER, False

    def rate(step):
        """The learning rate of a step; moves k to its place too."""
        if k_at:
            trainer.loss.anneal(k_at(step / max(1, job.total_steps - 1)))
        return learning_rate(step, args.lr, job.total_steps, warmup_steps)

    set_learning_rate(trainer.optimizer, rate(max(0, progress.step - 1)))  # for the row, if no step is left
    trainer.train_mode()
    # A run that was stopped after the last step of an epoch has no batch left, only the row to write.
    batches.set_epoch(progress.epoch, progress.batch if progress.step < job.total_steps else len(batches))
    bar = tqdm(
        total=len(batches), initial=progress.batch, desc=f"epoch {progress.epoch + 1}/{args.epochs}",
        unit="step", leave=False, disable=None if world.is_main else True,
    )  # fmt: skip
    began = time.perf_counter() - progress.seconds
    for images, labels in batches:
        step = progress.step
        images, target = mix(images, labels, step) if mix else (images, labels)
        whole_batch = min(args.bs, batches.num_samples - progress.batch * args.bs)
        trainer.step(images, labels, target, step + 1, rate(step), whole_batch)
        progress.batch += 1
        progress.step += 1
        bar.update()
        if progress.step % PEEK_EVERY == 0 or progress.batch == 1:
            mean_loss, accuracy, bad_step = meter.peek()
            bar.set_postfix_str(f"loss {mean_loss:.4f}, accuracy {accuracy:.1f} %", refresh=False)

        diverged = bad_step < NEVER
        diverged, stopping, saving = world.any(diverged, job.stop.requested, job.saver.due(progress.step))
        if (stopping or saving) and not diverged:
            progress.seconds = time.perf_counter() - began
            job.saver.save(progress)
        if stopping or diverged or progress.step == job.total_steps:
            break
    bar.close()
    meter.check()
    if stopping:
        leave(job)
    world.share_buffers(trainer.net)
    results = meter.read()
    progress.seconds = time.perf_counter() - began
    return results


def evaluate(job, batches, averaged=False, keep=False):
    """Scores of the net, or of the moving average of its weights, on a loader of test images.

    A signal ends it between two batches: the checkpoint then says that the epoch has no row yet, and the run
    tests again when it continues.
    """
    from engine.scores import Scores

    def leave_if_asked():
        if job.world.any(job.stop.requested)[0]:
            leave(job, save=not keep)  # for the report the net has best.pt's weights, and last.pt is whole

    data, trainer = job.data, job.trainer
    scale = getattr(trainer.loss, "logit_scale", job.info.logit_scale)
    weight = getattr(trainer.loss, "weight", None)
    scores = Scores(job.world, data.num_classes, scale, data.own_counts, keep, weight)
    trainer.test_on(batches, scores, averaged, QUICK if job.args.quick else 0, leave_if_asked)
    job.outputs = scores.outputs() if keep else None
    return scores.read()


def test(job):
    """Test the best weights for the report: the only look at the test set where a validation set chose."""
    from engine.report import write_report
    from models import load_checkpoint, read_info

    best = job.saver and job.saver.directory / "best.pt"
    if best and best.exists():
        load_checkpoint(job.trainer.net, best, new_head=False)
        job.info = read_info(best)
        if job.args.k_end:
            job.trainer.loss.anneal(job.info.loss_options["k"])
    scores = evaluate(job, job.data.test, keep=True)
    if job.report_in and job.world.is_main:
        logits, labels = job.outputs
        scale = job.info.logit_scale or 1.0  # None: nothing to correct by
        write_report(
            job.report_in, scores, logits.float().softmax(1).numpy(), (scale * logits.float()).softmax(1).numpy(),
            labels.numpy(), job.data.class_names, job.data.test_paths,
        )  # fmt: skip
    if job.saver is None:
        job.say(
            f"test loss {scores['loss']:.4f} · test accuracy {scores['acc']:.2f} % · "
            f"calibration error {scores['ece']:.2f} %"
        )
    return scores


def leave(job, save=False):
    """A signal has come: save if that is still to do, say how to continue, and end with its exit code."""
    path, code = (
        job.saver and job.saver.directory,
        job.stop.exit_code or 143,
    )  # another process may have had it
    if job.saver is None:
        sys.exit(code)
    if save:
        job.saver.save(job.progress)
    job.say(f"stopped at step {job.progress.step} of {job.total_steps}; continue with --resume {path}")
    sys.exit(code)


def list_nets():
    """Print the nets with their parameters, at 10 classes and the size they have of their own, or 32 px."""
    import torch

    from models import build_model, count_parameters, list_models, net_facts

    print(f"{'net':<14}{'parameters':>12}  at 10 classes, 32 px, patch 4")
    for name in list_models():
        size = net_facts(name).native_size
        with torch.device("meta"):
            net = build_model(name, 10, size or 32)
        print(f"{name:<14}{count_parameters(net):>12,}{f'  at {size} px' if size else ''}")
    print("timm:NAME     any net of timm: python -c 'import timm; print(*timm.list_models())'")


if __name__ == "__main__":
    main()
