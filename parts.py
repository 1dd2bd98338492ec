"""What a run is made of, from its flags: weights to begin with, data, loss and net."""

from contextlib import suppress
from pathlib import Path

import torch

from common import UserError
from data import DataError, DataOptions, build_data
from engine.identity import same_data
from flags import OF_THE_LOSS, one_name
from losses import build_loss, loss_names, loss_parameters
from models import build_model, freeze_all_but_head, net_facts, read_info


def check_batch(args, world):
    """Refuse batches that some process, or some part of one, would have too few images of."""
    if args.accumulate > 1 and args.accumulate * 2 * world.size > args.bs:
        raise UserError(
            f"--accumulate {args.accumulate} needs a --bs of {args.accumulate * 2 * world.size} or more: "
            f"two images in each part of each process's share, got {args.bs}"
        )
    if args.bs < 2 * world.size:
        raise UserError(f"--bs must be {2 * world.size} or more, two images a process, got {args.bs}")
    if args.sync_bn and world.device.type != "cuda":
        raise UserError("--sync-bn works on CUDA only: leave it out here")


def known_weights(args, typed):
    """The file of weights to begin with or to test, and what it says of its net; ("", None) without one.

    A test takes its net from there, and its loss, unless one was typed.
    """
    weights = Path(args.resume) / "best.pt" if args.resume and args.eval_only else args.checkpoint
    if args.resume and not args.eval_only and not Path(weights).is_file():
        weights = ""  # the run has long had its weights from it
    info = read_info(weights) if weights else None
    if info and args.eval_only:
        for flag, value in (("net", info.net), ("patch", info.patch_size), ("dimhead", info.dim)):
            if flag in typed and str(getattr(args, flag)) != str(value):
                raise UserError(f"--{flag} {getattr(args, flag)} contradicts {weights}, which has {value}")
            setattr(args, flag, value)
        if info.loss in loss_names() and not args.resume and not typed & {"loss", *OF_THE_LOSS}:
            args.loss = info.loss
            for name, value in (loss_parameters(info.loss) | info.loss_options).items():
                setattr(args, name, value)
    return weights, info


def load_data(args, world, info, config):
    """The images as the net wants them, or as it was trained with them; else as is usual for the data set.

    Returns them, and whether they are those of the resumed run.
    """
    wishes, tested = info or net_facts(args.net, args.pretrained), info if args.eval_only else None
    known = config.get("data") or {}
    names = tested.class_names if tested else known.get("class_names")
    size = args.size or (tested.image_size if tested else 0 if info else wishes.native_size)
    options = DataOptions(
        augment=not args.noaug, randaug=args.randaug, label_noise=args.label_noise,
        label_noise_kind=args.label_noise_kind, train_labels=args.train_labels,
        label_column=args.label_column, imbalance=args.imbalance, val_split=args.val_split,
        skip_bad=args.skip_bad, cache=args.cache, workers=args.workers, seed=args.seed, rank=world.rank,
        world_size=world.size, mean=wishes.mean, std=wishes.std, interpolation=wishes.interpolation,
        crop_pct=wishes.crop_pct, eval_only=args.eval_only, class_names=names,
        channels_last=net_facts(args.net).channels_last,
    )  # fmt: skip

    def load(**changes):
        return build_data(args.dataset, args.data_dir, size or 0, args.bs, world.device, options, **changes)

    data, other = None, bool(config) and one_name(args.dataset) != one_name(config["dataset"])
    if other and args.eval_only and config.get("val_split"):
        # The run's own data may have moved: then what it was trained on is no test of it.
        with suppress(DataError):
            data = load(val_split=config["val_split"])
        if data and data.fingerprint != known.get("fingerprint"):
            data = None
    data = data or load()
    changed = known.get("fingerprint", data.fingerprint) != data.fingerprint
    cut_from_training = args.val_split and data.val is None
    if known and (not args.eval_only or (changed and cut_from_training)):
        same_data(known, data.facts(), args.dataset, args.resume)
    return data, not (other or changed)


def make_loss(args, options, data, info):
    """The loss, with class weights n / (classes · n_c) where that is wanted."""
    weight = None
    if args.class_weights == "balanced" and data.train:
        counts = torch.tensor(data.class_counts, dtype=torch.float32)
        if not counts.all():
            absent = data.class_names[int(counts.argmin())]
            raise UserError(
                f"--class-weights balanced: no training image has the label {absent!r}; leave it out"
            )
        weight = counts.sum() / (len(counts) * counts)
    smoothing = {"label_smoothing": args.label_smoothing} if args.label_smoothing else {}
    loss = build_loss(args.loss, **options, **smoothing, weight=weight)
    if args.k_end:
        loss.anneal(info.loss_options["k"] if info and args.eval_only else args.k)
    return loss


def make_net(args, data, weights, device, channels_last):
    """The net on the device, with its first weights."""
    net = build_model(
        args.net, data.num_classes, data.image_size, args.patch, args.dimhead,
        pretrained=args.pretrained, checkpoint=weights or None,
        load_weights=args.eval_only or not args.resume, new_head=not args.eval_only,
    )  # fmt: skip
    if args.freeze:
        freeze_all_but_head(net)
    if args.sync_bn:
        net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return net.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
