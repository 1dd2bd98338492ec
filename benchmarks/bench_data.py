#!/usr/bin/env python
"""Images a second of our loaders, against torchvision's transforms on PIL images and timm's loader of photos.

python benchmarks/bench_data.py                            50,000 random images of 32 px; photos of two sizes
python benchmarks/bench_data.py --images 10000 --size 64 --photos 0
"""

import tempfile
from pathlib import Path

import numpy as np
from measure import Column, parser, prepare, register_random_images, report, take_turns, wait
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from common import number
from data import DATASETS, DataOptions, build_data

PROG = "bench_data.py"


def parse_args(argv=None):
    p = parser(PROG, __doc__)
    p.add_argument("--images", type=number(int, 2), default=50_000, metavar="N", help="images in memory")
    p.add_argument("--size", type=number(int, 8), default=32, metavar="PX", help="of the images in memory")
    p.add_argument("--photos", type=number(int, 0), default=200, metavar="N", help="JPEGs a size; 0: none")
    p.add_argument("--crop", type=number(int, 65), default=224, metavar="PX", help="of the crops of photos")
    p.add_argument("--bs", type=number(int, 2), default=512, metavar="N", help="images a batch")
    p.add_argument("--workers", type=number(int, 0), default=2, metavar="N", help="processes, of both sides")
    p.add_argument("--rounds", type=number(int, 1), default=3, metavar="N", help="turns of each contender")
    return p.parse_args(argv)


class PilImages(Dataset):
    """Arrays in memory, made PIL images one at a time, as torchvision's CIFAR-10 does."""

    def __init__(self, split, transform):
        self.images, self.labels = split.images.transpose(0, 2, 3, 1).copy(), split.labels.tolist()
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def published_transform(size, randaug=False):
    """Crop, flip, normalise as in most training scripts for CIFAR, on one PIL image."""
    steps = [transforms.RandAugment(2, 9)] if randaug else []
    steps += [transforms.RandomCrop(size, padding=size // 8), transforms.RandomHorizontalFlip()]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)])


def published_loader(dataset, args):
    return DataLoader(dataset, batch_size=args.bs, shuffle=True, num_workers=args.workers)


def epoch(loader, device):
    """Go through the images once; the device has all of them in the end."""
    for images, labels in loader:
        images.to(device), labels.to(device)
    wait(device)


def rates(loaders, count, args, device):
    """Images a second of each loader, in its fastest epoch."""
    contenders = {name: lambda loader=loader: epoch(loader, device) for name, loader in loaders.items()}
    times = take_turns(contenders, args.rounds, device, least=1.0)
    return {name: count / min(spent) for name, spent in times.items()}


def row(what, baseline, ours):
    return {"what": what, "baseline": baseline, "ours": ours, "ratio": ours / baseline}


def in_memory(args, device):
    """Rows of the images in memory: with and without RandAugment."""
    register_random_images(args.images, args.size)
    train = DATASETS["random"].load("random", Path(), DataOptions()).train
    for randaug in (False, True):
        ours = build_data("random", ".", args.size, args.bs, device, randaug=randaug).train
        baseline = published_loader(PilImages(train, published_transform(args.size, randaug)), args)
        got = rates({"baseline": baseline, "ours": ours}, args.images, args, device)
        yield row(f"in memory, {args.size} px{', RandAugment' if randaug else ''}", **got)


PHOTOS = {"12 megapixels": (4000, 3000), "500 px": (667, 500)}


def write_photos(root, count, size):
    """`count` JPEGs in ``train/`` and a few in ``val/``: coarse noise, which compresses as photographs do."""
    rng = np.random.default_rng(0)
    for split, n in (("train", count), ("val", 4)):
        for i in range(n):
            folder = root / split / str(i % 2)
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8))
            coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)


def photos(args, device):
    """Rows of training crops from JPEGs, decoded by as many processes on both sides."""
    import timm.data

    for name, size in PHOTOS.items():
        with tempfile.TemporaryDirectory() as directory:
            root, batch = Path(directory), min(args.bs, args.photos // 4)
            write_photos(root, args.photos, size)
            ours = build_data(f"folder:{root}", root / "data", args.crop, batch, device, workers=args.workers)
            baseline = timm.data.create_loader(
                timm.data.ImageDataset(str(root / "train")), (3, args.crop, args.crop), batch,
                is_training=True, use_prefetcher=False, color_jitter=None, interpolation="bilinear",
                num_workers=args.workers, persistent_workers=args.workers > 0,
            )  # fmt: skip
            got = rates({"baseline": baseline, "ours": ours.train}, args.photos, args, device)
            yield row(f"crops of {args.crop} px from photos of {name}", **got)


def main(argv=None):
    args = parse_args(argv)
    device = prepare(args, PROG)
    rows = [*in_memory(args, device), *(photos(args, device) if args.photos else ())]
    columns = [
        Column("what", "images/s"), Column("baseline", "baseline", "{:,.0f}"),
        Column("ours", "ours", "{:,.0f}"), Column("ratio", "ratio", "{:.1f}"),
    ]  # fmt: skip
    title = (
        f"crop, flip, normalise; batches of {args.bs} (photos: a quarter of them), {args.workers} workers; fastest "
        "epochs; baseline: PIL in a DataLoader, timm's loader of photos"
    )
    report(PROG, title, rows, columns, device, args.json)


if __name__ == "__main__":
    main()
