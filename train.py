#!/usr/bin/env python
"""Train an image classifier with a rooted loss, or with what rooted losses are compared with.

python train.py                                                   ViT on CIFAR-10, root loss, k = m = 3
python train.py --dataset digits --net resnet18 --epochs 10       embedded data, half a minute on a CPU
python train.py --dataset folder:my/images --net resnet18 --val-split 0.2
python train.py --resume runs/cifar10-ViT-root-k3-m3-seed0        continue where a run stopped
torchrun --nproc_per_node=8 train.py --dataset food-101 --bs 4096  8 GPUs, one machine
"""

import math
import os
import re
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves it out

# torch and everything that needs it is imported in functions, so that --help and mistakes answer at once.
from common import EXIT_DIVERGED, UserError, cores, one_line_errors
from flags import LOSS, LOSS_PARAMETERS, adopt, difference, flag_of, flags_of, parse, run_name

# Compiling takes 10 to 60 s; --compile auto spends it only on runs that have the steps to earn it back.
COMPILE_FROM_STEPS = 2000
QUICK = 2  # steps, and test batches


def parse_args(argv=None):
    """The flags, and the names of those that were typed."""
    return parse(argv, __doc__)


def main(argv=None):
    args, typed = parse_args(argv)
    with one_line_errors("train.py", "try --accumulate 2 or more, a smaller --bs, --size or net"):
        if args.list_nets:
            list_nets()
        elif args.quick:
            with tempfile.TemporaryDirectory() as args.out:
                args.max_steps = QUICK
                train(args, typed)
        else:
            train(args, typed)


def train(args, typed):
    """One run, from the flags to the last line."""
    from engine.run import Run
    from engine.stop import Stop
    from engine.world import World

    stop = Stop()  # from here on SIGTERM and SIGINT end with 143 and 130
    config, name = settle_flags(args, typed)
    with World(args.device) as world:
        settle_threads(args, typed, config, world)
        weights, info = first_weights(args, typed)
        data = build_data(args, world, info, config)
        loss = build_loss(args, data, info).to(world.device)
        net = build_net(args, data, weights, world.device)
        trainer = build_trainer(args, net, loss, data, world)
        describe(args, typed, data, trainer)
        with Run(world, lambda: open_directory(args, name), args.save_every) as run:
            if args.eval_only:
                scores = report(run.path, trainer, data, stop, args)
                world.say(
                    f"test loss {scores['loss']:.4f} · test accuracy {scores['acc']:.2f} % · "
                    f"calibration error {scores['ece']:.2f} % · {run.path}"
                )
            else:
                train_and_report(trainer, data, run, stop, args)


def train_and_report(trainer, data, run, stop, args):
    """From where the run stands to its last line."""
    from engine.checkpoint import seed_everything
    from engine.meter import Diverged

    world, total_steps = trainer.world, steps_of(args, data)
    seed_everything(args.seed, world.rank)  # dropout draws other numbers in every process
    at = run.restore(trainer)
    if at.step > total_steps:
        raise UserError(f"--max-steps {args.max_steps} lies behind the run, which is at step {at.step}")
    if run.directory:
        run.directory.start(vars(args) | {"data": data.facts(), "total_steps": total_steps}, at.rows)
    world.say(f"run     {run.path}, step {at.step} of {total_steps}")
    try:
        with stop.deferred():
            train_epochs(trainer, data, at, run, stop, args)
            if args.find_label_issues:
                find_label_issues(run.path, trainer, data, stop)
            load_best(run.path, trainer)
            scores = report(run.path, trainer, data, stop, args)
    except SystemExit:
        world.say(f"stopped at step {at.step} of {total_steps}; continue with --resume {run.path}")
        raise
    except Diverged as error:
        last = run.path / "last.pt"
        kept = f"{last} is from before" if last.exists() else "it came before the first checkpoint"
        hint = "try a smaller --lr, --warmup or --clip-grad"
        raise UserError(f"training diverged: {error}; {kept}; {hint}", EXIT_DIVERGED) from None
    if run.directory:
        run.directory.draw()
    world.say(f"memory  {world.peak_memory():.2f} GiB at peak")
    best_of = "validation" if data.val else "test"
    tested = f" · test accuracy {scores['acc']:.2f} %" if data.val else ""
    where = "--quick keeps no files" if args.quick else run.path
    world.say(f"best {best_of} accuracy {at.best_acc:.2f} % at epoch {at.best_epoch}{tested} · {where}")


# From the flags to what is trained.


def settle_flags(args, typed):
    """Fill in what follows from other flags; the resumed run's config.json, or {}, and the default name of a run."""
    from engine.run_directory import read_config
    from models import net_facts

    if args.wandb and not find_spec("wandb"):
        raise UserError("--wandb needs the package wandb: pip install wandb")
    if args.eval_only and not (args.resume or args.checkpoint):
        raise UserError("--eval-only needs weights to test: --resume RUN_DIR or --checkpoint FILE")
    for flag in ("out", "data_dir", "checkpoint", "train_labels", "resume"):
        setattr(args, flag, os.path.expanduser(getattr(args, flag)))
    name = run_name(vars(args))  # before the default learning rate is filled in
    config = {}
    if args.resume not in ("", "auto"):
        config = read_config(args.resume)
        adopt(args, typed, config, args.resume)
    args.lr = args.lr or net_facts(args.net, args.pretrained).lr
    if args.resume == "auto":
        args.resume = find_run(args, name)
        config = read_config(args.resume) if args.resume else {}
    return config, name


def find_run(args, name):
    """The run under --out that was started last with these flags, "" if there is none.

    The directory with the run's usual name goes before copies of it.
    """
    from engine.run_directory import read_config

    found = []
    for path in Path(args.out).glob("*/config.json"):
        try:
            same = not difference(read_config(path.parent), vars(args))
        except UserError:  # not a run that could be continued
            continue
        if same:
            usual = re.fullmatch(rf"{re.escape(args.run_name or name)}(-\d+)?", path.parent.name) is not None
            found.append((usual, path.stat().st_mtime_ns, str(path.parent)))
    return max(found)[-1] if found else ""


def settle_threads(args, typed, config, world):
    """Set torch's threads: those typed, else the resumed run's, else torch's own, within this process's cores."""
    import torch

    then = config.get("threads", 0)
    if "threads" not in typed:
        args.threads = min(then or torch.get_num_threads(), cores())
    torch.set_num_threads(args.threads)
    if then not in (0, args.threads):
        world.say(f"note    the run had {then} CPU threads and has {args.threads} now: its bits may differ")


def open_directory(args, name):
    from engine.run_directory import RunDirectory

    if args.resume:
        return RunDirectory(args.resume)
    return RunDirectory.create(args.out, args.run_name, f"test-{name}" if args.eval_only else name)


def first_weights(args, typed):
    """The file of weights to begin with or to test, and what it says of its net; ("", None) without one.

    A test takes its net from there, and its loss, unless one was typed.
    """
    from models import read_info

    weights = str(Path(args.resume) / "best.pt") if args.resume and args.eval_only else args.checkpoint
    if args.resume and not args.eval_only and not Path(weights).is_file():
        weights = ""  # the run has long had its weights from it
    info = read_info(weights) if weights else None
    if info and args.eval_only:
        for flag, value in (("net", info.net), ("patch", info.patch_size), ("dimhead", info.dim)):
            if flag in typed and str(getattr(args, flag)) != str(value):
                raise UserError(
                    f"{flag_of(flag)} {getattr(args, flag)} contradicts {weights}, which has {value}"
                )
            setattr(args, flag, value)
        if info.loss in LOSS_PARAMETERS and not args.resume and not typed & {"loss", *flags_of(LOSS)}:
            args.loss = info.loss
            for name, value in (LOSS_PARAMETERS[info.loss] | info.loss_options).items():
                setattr(args, name, value)
    return weights, info


def build_data(args, world, info, config):
    """The images as the net wants them, or as it was trained with them; else as is usual for the data set."""
    from data import DataOptions, build_data
    from models import net_facts

    facts = net_facts(args.net, args.pretrained)
    wanted = info or facts
    before = config.get("data") or {}
    size, class_names = args.size or (0 if info else facts.native_size), before.get("class_names")
    if info and args.eval_only:
        size, class_names = args.size or info.image_size, info.class_names
    options = DataOptions(
        augment=not args.noaug, randaug=args.randaug, label_noise=args.label_noise,
        label_noise_kind=args.label_noise_kind, train_labels=args.train_labels,
        label_column=args.label_column, imbalance=args.imbalance, val_split=args.val_split,
        crop_scale=tuple(args.crop_scale or ((0.35, 1.0) if args.pretrained else (0.08, 1.0))),
        skip_bad=args.skip_bad, cache=args.cache, workers=args.workers, seed=args.seed, rank=world.rank,
        world_size=world.size, mean=wanted.mean, std=wanted.std, interpolation=wanted.interpolation,
        crop_pct=wanted.crop_pct, eval_only=args.eval_only, class_names=class_names,
        channels_last=net_facts(args.net).channels_last,
    )  # fmt: skip
    check_batch(args, world)
    data = build_data(args.dataset, args.data_dir, size or 0, args.bs, world.device, options)
    refuse_other_data(args, before, data.facts())
    return data


def refuse_other_data(args, before, now):
    """Raise unless a run continues, or is tested, on the data that it began with."""
    same_data, same_labels = (before.get(what, now[what]) == now[what] for what in ("fingerprint", "labels"))
    if same_data and same_labels:
        return
    counts = ((split, before.get(split), now[split]) for split in ("training", "test"))
    changed = " and ".join(
        f"{then} {split} images became {today}" for split, then, today in counts if then != today
    )
    what = changed or ("the training labels changed" if same_data else "files or pixels changed")
    other = (
        f"; to test other data, use --eval-only --checkpoint {args.resume}/best.pt" if args.eval_only else ""
    )
    raise UserError(
        f"{args.dataset} is not the data that the run in {args.resume} has begun with: {what}{other}"
    )


def check_batch(args, world):
    """Refuse batches that some process, or some part of one, would have too few images of."""
    if args.accumulate > 1 and args.accumulate * 2 * world.size > args.bs:
        raise UserError(
            f"--accumulate {args.accumulate} needs a --bs of {args.accumulate * 2 * world.size} or more: "
            f"two images in each part of each process's share, got {args.bs}"
        )
    if args.bs < 2 * world.size:
        raise UserError(f"--bs must be {2 * world.size} or more, two images a process, got {args.bs}")


def loss_options(args):
    """The parameters of the loss, by name."""
    return {name: getattr(args, name) for name in LOSS_PARAMETERS[args.loss]}


def build_loss(args, data, info):
    """The loss, with class weights n / (classes · n_c) where that is wanted."""
    import torch

    from losses import build_loss

    weight = None
    if args.class_weights == "balanced" and data.train:
        counts = torch.tensor(data.class_counts, dtype=torch.float32)
        if not counts.all():
            absent = data.class_names[int(counts.argmin())]
            raise UserError(
                f"--class-weights balanced: no training image has the label {absent!r}; leave it out"
            )
        weight = counts.sum() / (len(counts) * counts)
    loss = build_loss(args.loss, **loss_options(args), label_smoothing=args.label_smoothing, weight=weight)
    if args.k_end:
        loss.anneal(info.loss_options["k"] if info and args.eval_only else args.k)
    return loss


def build_net(args, data, weights, device):
    """The net on the device, with its first weights."""
    import torch

    from engine.checkpoint import seed_everything
    from models import build_model, freeze_all_but_head, net_facts

    seed_everything(args.seed)
    net = build_model(
        args.net, data.num_classes, data.image_size, args.patch, args.dimhead,
        pretrained=args.pretrained, checkpoint=weights or None,
        load_weights=args.eval_only or not args.resume, new_head=not args.eval_only,
    )  # fmt: skip
    if args.freeze:
        freeze_all_but_head(net)
    if args.sync_bn:
        if device.type != "cuda":
            raise UserError("--sync-bn works on CUDA only: leave it out here")
        net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    channels_last = net_facts(args.net).channels_last
    return net.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def steps_of(args, data):
    """How many steps the run has in all."""
    steps = args.epochs * len(data.train) if data.train else 0
    return min(steps, args.max_steps or steps)


def build_trainer(args, net, loss, data, world):
    """The optimiser and everything else that a step needs."""
    from engine.graph import choose_graph, why_not_graph
    from engine.mixing import Mixing
    from engine.optim import build_optimizer, schedule
    from engine.precision import Precision, choose_compile, choose_kernels
    from engine.trainer import Trainer, linear_in_inverse
    from models import net_facts

    choose_kernels(world.device, args.deterministic)
    precision, facts, steps = Precision(world.device, args.amp), net_facts(args.net), steps_of(args, data)
    optimizer = build_optimizer(
        args.opt, net, args.lr, args.weight_decay, world.device, args.layer_decay, args.opt_args
    )
    pays = world.device.type == "cuda" and steps >= COMPILE_FROM_STEPS and not args.eval_only
    why_not = why_not_graph(precision, world.size, args.accumulate, args.clip_grad)
    recordable = facts.recordable and optimizer.defaults.get("fused", False) and not args.eval_only
    warmup_steps = round(args.warmup * len(data.train)) if data.train else 0
    return Trainer(
        net, loss, optimizer, world, precision, schedule(args.lr, steps, warmup_steps, args.step_size),
        k_of=linear_in_inverse(args.k, args.k_end, steps) if args.k_end else None,
        mix=Mixing(args.mixup, args.cutmix, data.num_classes, args.seed) if args.mixup or args.cutmix else None,
        channels_last=facts.channels_last, accumulate=args.accumulate, clip_grad=args.clip_grad, ema=args.ema,
        compiled=choose_compile(args.compile, pays), graphed=choose_graph(args.graph, why_not, recordable),
    )  # fmt: skip


def describe(args, typed, data, trainer):
    """Print what is trained on what, and what was noticed on the way."""
    from models import count_parameters

    ignored = [
        flag_of(name) for name in flags_of(LOSS) if name in typed and name not in LOSS_PARAMETERS[args.loss]
    ]
    notes = [f"{' and '.join(ignored)} ignored: --loss {args.loss} has none"] if ignored else []
    smoothed = f", label smoothing {args.label_smoothing:g}" if args.label_smoothing else ""
    shown = " ".join(f"{name}={value:g}" for name, value in loss_options(args).items())
    how = ", compiled" * trainer.compiled + ", a graph a step" * trainer.graphed
    world, say = trainer.world, trainer.world.say
    say(f"data    {data.description}")
    for note in [*data.notes, *notes]:
        say(f"note    {note}")
    say(f"net     {args.net}, {count_parameters(trainer.net):,} parameters{' learn' if args.freeze else ''}")
    say(f"loss    {args.loss} {shown}{smoothed}{f', to k={args.k_end:g}' if args.k_end else ''}")
    threads = f", {args.threads} threads" if world.device.type == "cpu" else ""
    say(f"device  {world.size} × {world.device.type}, {trainer.precision}{how}{threads}")


# The epochs.


def train_epochs(trainer, data, at, run, stop, args):
    """Train, test and write a row, epoch after epoch, until the steps are done."""
    total_steps, chooser = steps_of(args, data), "val" if data.val else "test"
    counts = data.own_counts if args.imbalance < 1 else ()

    def is_over():
        """All steps done, or no better accuracy for too long, and each epoch has its row."""
        too_long = args.patience and at.epoch - at.best_epoch >= args.patience
        return not at.batch and (at.step == total_steps or too_long)

    def save():
        run.save(trainer, at, net_info(args, data, trainer).to_dict(), publish)

    def test(averaged=False):
        """Scores on the images that choose the best weights; a signal saves that the epoch has no row yet."""
        try:
            return evaluate(trainer, data.val or data.test, stop, counts, averaged, args.quick)[0]
        except SystemExit:
            save()
            raise

    while not is_over():
        train_loss, train_acc, images = train_epoch(trainer, data.train, at, run, stop, args, save)
        began, train_seconds = time.perf_counter(), at.seconds
        scores = test()
        whole_epoch = at.batch == len(data.train)  # --max-steps may end within one
        row = {
            "epoch": at.epoch + 1, "step": at.step, "train_loss": train_loss, "train_acc": train_acc,
            "test_loss": math.nan, "test_acc": math.nan,  # until the end, where a validation set chooses
            **{f"{chooser}_{name}": value for name, value in scores.items()},
            "lr": trainer.rate(max(0, at.step - 1)),
        }  # fmt: skip
        # A part of an epoch has no claim where there are whole ones: it is trained to its end when the run goes on.
        eligible = whole_epoch or not at.best_epoch
        info = net_info(args, data, trainer).to_dict()
        if trainer.averaged is not None:
            of_average = test(averaged=True)
            row |= {f"ema_{name}": of_average[name] for name in ("loss", "acc")}
            if eligible and row["ema_acc"] > max([r["ema_acc"] for r in at.rows], default=-1):
                run.keep_best(trainer, row["ema_acc"], row["epoch"], info, averaged=True)
        row["epoch_seconds"] = train_seconds + time.perf_counter() - began
        row["images_per_second"] = images / train_seconds
        at.rows.append(row)
        if eligible and scores["acc"] > at.best_acc:
            at.best_acc, at.best_epoch = scores["acc"], row["epoch"]
            run.keep_best(trainer, scores["acc"], row["epoch"], info)
        if whole_epoch:
            at.epoch, at.batch, at.seconds = at.epoch + 1, 0, 0.0
            trainer.meter.reset()
        ended = is_over() or at.step == total_steps
        # Rows without a checkpoint could not be continued: the first row has one.
        due = run.due(at.step) or ended or not run.has_saved
        stopping, saving = trainer.world.any(stop.requested, due)
        if stopping or saving:
            save()
        if run.directory:
            run.directory.record(at.rows)
        if stopping:
            stop.leave()
        if ended:
            break
    if at.step < total_steps:
        trainer.world.say(f"no better accuracy in {args.patience} epochs: --patience ends the run")


def train_epoch(trainer, batches, at, run, stop, args, save):
    """What is left of the epoch under way. Returns mean loss, accuracy in percent and images of all of it."""
    from tqdm import tqdm

    from engine.meter import NEVER, PEEK_EVERY

    world, meter = trainer.world, trainer.meter
    left = max(0, args.max_steps - at.step) if args.max_steps else len(batches)
    began = time.perf_counter() - at.seconds
    bar = tqdm(
        total=len(batches), initial=at.batch, desc=f"epoch {at.epoch + 1}/{args.epochs}", unit="step", leave=False,
        disable=None if world.is_main else True,
    )  # fmt: skip
    bad_step, stopping = NEVER, False
    trainer.train_mode(max(0, at.step - 1))
    # A run that was stopped after the last step of an epoch has no batch left, only the row to write.
    for images, labels in islice(batches.from_(at.epoch, at.batch), left):
        whole_batch = min(args.bs, batches.num_samples - at.batch * args.bs)
        trainer.step(images, labels, at.step, whole_batch)  # mixing, rate and k are functions of the step
        at.batch += 1
        at.step += 1
        bar.update()
        if at.step % PEEK_EVERY == 0 or at.batch == 1:
            mean_loss, accuracy, bad_step = meter.peek()
            bar.set_postfix_str(f"loss {mean_loss:.4f}, accuracy {accuracy:.1f} %", refresh=False)
        diverged, stopping, saving = world.any(bad_step < NEVER, stop.requested, run.due(at.step))
        if (stopping or saving) and not diverged:
            at.seconds = time.perf_counter() - began
            save()
        if stopping or diverged:
            break
    bar.close()
    meter.check()  # raises Diverged
    if stopping:
        stop.leave()
    trainer.share_statistics()
    results = meter.read()
    at.seconds = time.perf_counter() - began
    return results


def evaluate(trainer, batches, stop, class_counts=(), averaged=False, quick=False):
    """Scores of the net, or of the moving average of its weights, on test images, with all logits and labels.

    A signal ends it between two batches.
    """
    import torch
    from tqdm import tqdm

    from engine.scores import test_scores

    world, loss = trainer.world, trainer.loss
    # Processes may have one batch more than others; they agree on how often they ask for a signal.
    length = QUICK if quick else max(world.gather(len(batches)))
    logits, labels, remaining = [], [], iter(batches)
    trainer.test_mode()
    bar = tqdm(range(length), desc="test", unit="batch", leave=False, disable=None if world.is_main else True)
    for _ in bar:
        for some_images, some_labels in islice(remaining, 1):
            logits.append(trainer.answer(some_images, averaged))
            labels.append(some_labels)
        if world.any(stop.requested)[0]:
            stop.leave()
    here = (torch.cat(logits).cpu(), torch.cat(labels).cpu()) if logits else None
    parts = [part for part in world.gather(here) if part]
    logits, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def mean_loss(logits, labels):
        with torch.no_grad():
            return loss(logits.to(world.device), labels.to(world.device))

    scores = test_scores(logits, labels, mean_loss, getattr(loss, "logit_scale", 1.0), class_counts)
    return scores, logits, labels


# After the epochs.


def net_info(args, data, trainer):
    """What a file of weights says of its net, so that it can be used without the run."""
    from models import ModelInfo

    loss, options = trainer.loss, loss_options(args)
    if args.k_end:
        options = {"k": float(loss.k), "m": float(loss.m)}
    return ModelInfo(
        net=args.net, patch_size=args.patch, dim=args.dimhead, num_classes=data.num_classes,
        image_size=data.image_size, mean=data.mean, std=data.std, interpolation=data.interpolation,
        crop_pct=data.crop_pct, class_names=data.class_names, loss=args.loss, loss_options=options,
        logit_scale=getattr(loss, "logit_scale", 1.0), dataset=args.dataset, fingerprint=data.fingerprint,
    )  # fmt: skip


def publish(best, content):
    """Beside best.pt its safetensors; reports of the weights before are gone."""
    from engine.report import REPORT
    from models import ModelInfo, save_safetensors

    if best.name == "best.pt":
        for name in REPORT:
            (best.parent / name).unlink(missing_ok=True)
    other = best.with_name(best.name.replace("best", "model")).with_suffix(".safetensors")
    save_safetensors(other, content["model"], ModelInfo.from_dict(content["info"]))


def load_best(path, trainer):
    """Give the net the weights of best.pt, and the loss the k that they were trained with."""
    from models import load_checkpoint, read_info

    world, k = trainer.world, None
    if world.is_main:  # other processes may look before the file is there, or on another machine
        load_checkpoint(trainer.net, path / "best.pt", new_head=False)
        k = read_info(path / "best.pt").loss_options.get("k")
    world.share([*trainer.net.parameters(), *trainer.net.buffers()])
    if trainer.k_of:
        trainer.loss.anneal(world.gather(k)[0])


def report(path, trainer, data, stop, args):
    """Test on the test set and write the report: its only look at the test set where a validation set chose."""
    from engine.report import write_report

    counts = data.own_counts if args.imbalance < 1 else ()
    scores, logits, labels = evaluate(trainer, data.test, stop, counts, quick=args.quick)
    if trainer.world.is_main:
        scale = getattr(trainer.loss, "logit_scale", 1.0)
        write_report(path, scores, logits, labels, scale, data.class_names, data.test_paths)
    return scores


def find_label_issues(path, trainer, data, stop):
    """List the training images by how little the net of the last step, or its average, believes their labels."""
    from engine.label_issues import WORST, write_label_issues
    from losses import label_quality

    world, averaged = trainer.world, trainer.averaged is not None
    _, logits, labels = evaluate(trainer, data.train_in_order(), stop, averaged=averaged)
    quality = label_quality(logits, labels, trainer.loss)
    pictures = pictures_of(quality.argsort(stable=True)[:WORST].tolist(), data, world)
    if world.is_main:
        names = ("file", data.train_names) if data.train_names else ("index", data.train_index.tolist())
        write_label_issues(path, quality, labels, logits.argmax(1), data.class_names, *names, pictures)
        world.say(f"labels  the least believed are in {path / 'label_issues.csv'} and label_issues.png")


def pictures_of(wanted, data, world):
    """These training images as uint8 arrays (H, W, 3), by position; each process has a part of them."""
    import torch

    loader = data.train_in_order()
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (data.mean, data.std))
    counts = world.gather(sum(len(labels) for _, labels in loader))
    position, found = sum(counts[: world.rank]), {}
    for images, _ in loader:
        for i in set(wanted) & set(range(position, position + len(images))):
            pixels = (images[i - position].float().cpu() * std + mean).clamp(0, 1) * 255
            found[i] = pixels.round().byte().permute(1, 2, 0).numpy()
        position += len(images)
    return {i: picture for part in world.gather(found) for i, picture in part.items()}


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
