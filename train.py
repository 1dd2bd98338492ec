#!/usr/bin/env python
"""Train an image classifier with a rooted loss, or with what rooted losses are compared with.

python train.py                                                   ViT on CIFAR-10, root loss, k = m = 3
python train.py --dataset digits --net resnet18 --epochs 10       embedded data, half a minute on a CPU
python train.py --dataset cifar100 --net Swin --k 8 --m 10
python train.py --resume runs/cifar10-ViT-root-k3-m3-seed0        go on where a run stopped
torchrun --nproc_per_node=8 train.py --dataset food-101           8 GPUs, one machine
"""

import sys
import time
from contextlib import nullcontext
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

# torch and everything that needs it is imported in main(), so that --help and mistakes answer at once.
from common import EXIT_DIVERGED, EXIT_USAGE, UserError
from engine.cli import fail
from flags import FREE_ON_RESUME, train_parser

# Compiling takes a minute or so; --compile auto spends it only on runs that have the steps to earn it back.
COMPILE_FROM_STEPS = 2000


def parse_args(argv=None):
    """The flags, and the names of those that were typed."""
    parser = train_parser(__doc__)
    args, typed = parser.parse_typed(argv)
    for name in ("dataset", "net", "data_dir", "out", "run_name", "checkpoint", "resume"):
        if name in typed and not getattr(args, name):  # an unset variable of the shell, as a rule
            parser.error(f"--{name.replace('_', '-')} is empty: give it a value, or leave it out")
    return args, typed


def main(argv=None):
    args, typed = parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    from data import DataError
    from engine.precision import is_out_of_memory

    try:
        if args.list_nets:
            list_nets()
        else:
            train(args, typed)
    except (UserError, DataError) as error:
        fail(error, code=getattr(error, "exit_code", EXIT_USAGE))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).split("\n")[0][:200]
        fail(f"out of memory: try --accumulate 2 or more, a smaller --bs, --size or net ({reason})")


def train(args, typed):
    """One run, from the flags to the last line."""
    from engine.stopping import Stop

    stop = Stop()  # from here on SIGTERM and SIGINT end with 143 and 130

    from engine.checkpoint import seed_everything
    from engine.distributed import World
    from engine.meter import Diverged, Meter
    from engine.run_directory import RunDirectory, find_run, take_flags_of
    from engine.saver import Saver

    if args.wandb and not find_spec("wandb"):
        raise UserError("--wandb needs the package wandb: pip install wandb")
    automatic = args.resume == "auto"
    if args.resume and not automatic:
        take_flags_of(args.resume, args, typed, FREE_ON_RESUME, train_parser(__doc__))
    elif args.eval_only and (automatic or not args.checkpoint):
        raise UserError("--eval-only needs weights to test: --resume RUN_DIR or --checkpoint FILE")
    world = World(args.device)
    try:
        job = build(args, world)
        if args.eval_only:
            loss, accuracy, ece = evaluate(job, Meter(world))
            job.say(f"test loss {loss:.4f} · test accuracy {accuracy:.2f} % · calibration error {ece:.2f} %")
            return

        run = None
        if world.is_main:
            new = (args.out, args.run_name, job.name)
            old = find_run(args.out, vars(args)) if automatic else args.resume
            run = RunDirectory(old) if old else RunDirectory.create(*new)
        path = Path(world.gather(str(run.path) if run else "")[0])
        job.saver = Saver(
            path, job.net, job.optimizer, job.precision.scaler, job.meter, world, args.save_every
        )
        seed_everything(args.seed + world.rank)  # dropout draws other numbers in every process
        job.progress = job.saver.restore()
        if job.progress.step > job.total_steps:
            raise UserError(f"--max-steps {args.max_steps} is behind the run, at step {job.progress.step}")
        if run:
            run.start(vars(args), job.progress.rows)
        job.say(f"run     {path}, step {job.progress.step} of {job.total_steps}")

        with stop.deferred():
            run_epochs(job, run, stop)
        job.say(f"memory  {world.peak_memory():.2f} GiB at peak")
        job.say(
            f"best test accuracy {job.progress.best_acc:.2f} % at epoch {job.progress.best_epoch} · {path}"
        )
    except Diverged as error:
        last = path / "last.pt"
        kept = f"{last} is from before" if last.exists() else "it came before the first checkpoint"
        hint = "try a smaller --lr, --warmup or --clip-grad"
        raise UserError(f"training diverged: {error}; {kept}; {hint}", EXIT_DIVERGED) from None
    finally:
        world.close()


def build(args, world):
    """Data, net, loss and optimiser by name, and what else an epoch needs, as one namespace."""
    import torch

    from data import build_data
    from engine.checkpoint import seed_everything
    from engine.meter import Meter
    from engine.optim import build_optimizer
    from engine.precision import Precision
    from losses import LOSSES, build_loss
    from models import build_model, count_parameters, default_image_size, is_transformer, load_checkpoint

    seed_everything(args.seed)
    if args.accumulate * 2 * world.size > args.bs:
        raise UserError(
            f"--accumulate {args.accumulate} needs a --bs of {args.accumulate * 2 * world.size} or more: "
            f"two images in each part of each process's share, got {args.bs}"
        )
    if args.sync_bn and world.device.type != "cuda":
        raise UserError("--sync-bn works on CUDA only: leave it out here")
    loss_flags = {"k": args.k, "m": args.m, "alpha": args.alpha, "gamma": args.gamma}
    loss_flags = {
        name: loss_flags[name] for name in signature(LOSSES[args.loss]).parameters if name in loss_flags
    }
    try:
        loss = build_loss(args.loss, **loss_flags, label_smoothing=args.label_smoothing)
        size = args.size or default_image_size(args.net, pretrained=args.pretrained) or 0
        data = build_data(
            args.dataset, args.data_dir, size, args.bs, world.device,
            augment=not args.noaug, randaug=args.randaug, label_noise=args.label_noise, cache=args.cache,
            workers=args.workers, seed=args.seed, rank=world.rank, world_size=world.size,
        )  # fmt: skip
        net = build_model(
            args.net, data.num_classes, data.image_size, args.patch, args.dimhead,
            pretrained=args.pretrained, checkpoint=args.checkpoint or None,
            load_weights=not args.eval_only and args.resume in ("", "auto"),
        )  # fmt: skip
        if args.eval_only:
            load_checkpoint(
                net, Path(args.resume) / "best.pt" if args.resume else args.checkpoint, new_head=False
            )
    except ValueError as error:
        raise UserError(error) from None

    # Convolutions are fastest where a pixel's channels lie together.
    layout = torch.contiguous_format if is_transformer(net) else torch.channels_last
    if args.sync_bn:
        net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    net.to(world.device, memory_format=layout)
    args.lr = args.lr or (1e-4 if is_transformer(net) else 1e-3)
    optimizer = build_optimizer(args.opt, net.parameters(), args.lr, args.weight_decay, world.device)
    precision = Precision(world.device, mixed=args.amp != "off")

    def forward(module, images, labels):
        images = images.contiguous(memory_format=layout)
        with precision.autocast():
            logits = module(images)
            return loss(logits, labels), logits

    total_steps = args.epochs * len(data.train)
    total_steps = min(total_steps, args.max_steps or total_steps)
    worth_it = world.device.type == "cuda" and total_steps >= COMPILE_FROM_STEPS and not args.eval_only
    compiled = args.compile == "on" or (args.compile == "auto" and worth_it)

    say = print if world.is_main else (lambda *_: None)
    say(f"data    {data.description}")
    say(f"net     {args.net}, {count_parameters(net):,} parameters")
    say(f"loss    {loss}")
    say(f"device  {world.size} × {world.device.type}, {precision}{', compiled' if compiled else ''}")
    name = [
        args.dataset.rpartition("/")[2],
        args.net,
        args.loss,
        *(f"{f}{v:g}" for f, v in loss_flags.items()),
    ]
    return SimpleNamespace(
        args=args, world=world, say=say, name="-".join([*name, f"seed{args.seed}"]),
        data=data, net=net, module=world.wrap(net), forward=forward,
        train_forward=torch.compile(forward) if compiled else forward,
        optimizer=optimizer, precision=precision, total_steps=total_steps, meter=Meter(world),
    )  # fmt: skip


def run_epochs(job, run, stop):
    """Train, test and write a row, epoch after epoch, until the steps are done."""
    from engine.meter import Meter

    progress = job.progress
    while progress.step < job.total_steps or progress.batch:  # batch: of an epoch that has no row yet
        train_loss, train_acc, images = train_one_epoch(job, stop)
        train_seconds = progress.seconds
        start = time.perf_counter()
        test_loss, test_acc, test_ece = evaluate(job, Meter(job.world))
        row = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_loss": train_loss,
            "train_acc": train_acc,
            "test_loss": test_loss,
            "test_acc": test_acc,
            "lr": job.optimizer.param_groups[0]["lr"],
            "epoch_seconds": train_seconds + time.perf_counter() - start,
            "images_per_second": images / train_seconds,
            "test_ece": test_ece,
        }
        progress.rows.append(row)
        if test_acc > progress.best_acc:
            progress.best_acc, progress.best_epoch = test_acc, row["epoch"]
            job.saver.keep_best(test_acc, row["epoch"])
        if progress.batch == len(job.data.train):  # and not ended early by --max-steps
            progress.epoch, progress.batch, progress.seconds = progress.epoch + 1, 0, 0.0
            job.meter.reset()
        due = job.saver.due(progress.step) or progress.step == job.total_steps
        stopping, saving = job.world.any(stop.requested, due)
        if stopping or saving:
            job.saver.save(progress)
        if run:
            run.record(progress.rows)
        if stopping:
            leave(job, stop)
        if progress.step == job.total_steps:
            break  # --max-steps may end within an epoch


def train_one_epoch(job, stop):
    """What is left of the epoch under way. Returns mean loss, accuracy in percent and images of all of it."""
    import torch
    from tqdm import tqdm

    from engine.meter import NEVER
    from engine.optim import learning_rate, set_learning_rate

    args, progress, batches = job.args, job.progress, job.data.train
    optimizer, scaler, world = job.optimizer, job.precision.scaler, job.world
    warmup_steps = round(args.warmup * len(batches))
    bad_step, stopping = NEVER, False
    job.net.train()
    # A run that was stopped after the last step of an epoch has no batch left, only the row to write.
    before = max(0, progress.step - 1)
    set_learning_rate(optimizer, learning_rate(before, args.lr, job.total_steps, warmup_steps))
    batches.set_epoch(progress.epoch, progress.batch if progress.step < job.total_steps else len(batches))
    bar = tqdm(
        total=len(batches), initial=progress.batch, desc=f"epoch {progress.epoch + 1}/{args.epochs}",
        unit="step", leave=False, disable=None if world.is_main else True,
    )  # fmt: skip
    began = time.perf_counter() - progress.seconds
    for images, labels in batches:
        set_learning_rate(optimizer, learning_rate(progress.step, args.lr, job.total_steps, warmup_steps))
        whole_batch = min(args.bs, batches.num_samples - progress.batch * args.bs)
        parts = max(1, min(args.accumulate, len(labels) // 2))  # batch norm needs two images
        pairs = zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
        for part, (some_images, some_labels) in enumerate(pairs, 1):
            with nullcontext() if part == parts else world.unsynchronised(job.module):
                loss, logits = job.train_forward(job.module, some_images, some_labels)
                # DDP averages over processes, however uneven their shares: make it the whole batch's mean.
                scaler.scale(loss * (len(some_labels) * world.size / whole_batch)).backward()
            job.meter.update(loss, logits, some_labels, progress.step + 1)
        if args.clip_grad:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(job.net.parameters(), args.clip_grad)
        if not scaler.is_enabled():  # float16's scaler steps over infinite gradients: that is no divergence
            gradients = [p.grad for p in job.net.parameters() if p.grad is not None]
            job.meter.watch(torch.nn.utils.get_total_norm(gradients), progress.step + 1)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        progress.batch += 1
        progress.step += 1
        bar.update()
        if progress.step % 20 == 0:
            mean_loss, accuracy, bad_step = job.meter.peek()
            bar.set_postfix_str(f"loss {mean_loss:.4f}, accuracy {accuracy:.1f} %", refresh=False)

        diverged, stopping, saving = world.any(bad_step < NEVER, stop.requested, job.saver.due(progress.step))
        if (stopping or saving) and not diverged:
            progress.seconds = time.perf_counter() - began
            job.saver.save(progress)
        if stopping or diverged or progress.step == job.total_steps:
            break
    bar.close()
    job.meter.check()
    if stopping:
        leave(job, stop)
    world.share_buffers(job.net)
    results = job.meter.read()
    progress.seconds = time.perf_counter() - began
    return results


def evaluate(job, meter):
    """Mean loss, accuracy and expected calibration error, both in percent, on the test set."""
    import torch

    from engine.calibration import Calibration

    calibration = Calibration(job.world)
    job.net.eval()
    with torch.inference_mode():
        for step, (images, labels) in enumerate(job.data.test):
            loss, logits = job.forward(job.net, images, labels)
            meter.update(loss, logits, labels, step)
            calibration.update(logits, labels)
    mean_loss, accuracy, _ = meter.read()
    return mean_loss, accuracy, calibration.read()


def leave(job, stop):
    """After the save that a signal asked for: say how to go on, and end with the signal's exit code."""
    path = job.saver.directory
    job.say(f"stopped at step {job.progress.step} of {job.total_steps}; go on with --resume {path}")
    sys.exit(stop.exit_code or 143)  # another process may have had the signal


def list_nets():
    """Print the nets with their parameters, at 10 classes and the size they have of their own, or 32 px."""
    import torch

    from models import build_model, count_parameters, default_image_size, list_models

    print(f"{'net':<14}{'parameters':>12}  at 10 classes, 32 px, patch 4")
    for name in list_models():
        size = default_image_size(name)
        with torch.device("meta"):
            net = build_model(name, 10, size or 32)
        print(f"{name:<14}{count_parameters(net):>12,}{f'  at {size} px' if size else ''}")
    print("timm:NAME     any net of timm: python -c 'import timm; print(*timm.list_models())'")


if __name__ == "__main__":
    main()
