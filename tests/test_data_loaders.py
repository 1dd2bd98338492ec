"""Batches: what they hold, in which order, and that nothing but (seed, epoch, batch) decides it."""

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import data
from data import labels as label_tools
from data import plan, randaug
from data.augment import BatchTransform, _crop_by_pixel, _crop_by_run, _crop_by_view, pad_of
from data.loaders import TestLoader, TrainLoader
from data.stores import DeviceStore, HostStore
from engine.trainer import parts_of

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def some_images(n=50, channels=3, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


def train_loader(images, size=None, store="device", **options):
    size = size or images.shape[-1]
    settings = {"batch_size": 16, "augment": True, "flip": True, "randaug": False, "seed": 0}
    settings |= {"rank": 0, "world_size": 1} | options
    transform = BatchTransform(size, MEAN, STD, CPU)
    if store == "device":
        store = DeviceStore(images, CPU, size, settings["augment"])
    else:
        store = HostStore(images, CPU)
    # labels are sample indices, so that a batch tells which samples it shows
    return TrainLoader(store, torch.arange(len(images)), transform, **settings)


def epoch(loader, number=0, start=0):
    loader.set_epoch(number, start)
    return list(loader)


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


def reference(images, number, seed=0, batch=None):
    """Crops, flips and normalises image by image with numpy, given the same draws."""
    n, _, side, _ = images.shape
    pad = pad_of(side)
    order = plan.permutation(n, seed, number)
    draws = plan.draw(n, seed, number, pad=pad, flip=True, randaug=False)
    out = []
    for position, sample in enumerate(order.tolist()):
        padded = np.pad(images[sample], ((0, 0), (pad, pad), (pad, pad)))
        top, left = int(draws.top[position]), int(draws.left[position])
        one = padded[:, top : top + side, left : left + side]
        one = one[:, :, ::-1] if draws.flip[position] else one
        one = one.astype(np.float64) / 255
        out.append((one - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None])
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize("store", ["device", "ram"])
def test_augmented_batches_equal_a_per_image_reference(store):
    images = some_images()
    batches = epoch(train_loader(images, store=store), 3)
    shown = torch.cat([x for x, _ in batches]).double()
    torch.testing.assert_close(shown, reference(images, 3), atol=1e-5, rtol=1e-5)
    assert all(x.is_contiguous() for x, _ in batches)


@pytest.mark.parametrize("way", [_crop_by_run, _crop_by_view, _crop_by_pixel])
def test_every_way_to_crop_takes_the_same_pixels(way):
    padded = torch.from_numpy(some_images(20, side=20))
    index, top, left = torch.arange(19, -1, -1), torch.arange(20) % 5, torch.arange(20) % 4 + 1
    expected = [padded[i, :, t : t + 16, x : x + 16] for i, t, x in zip(index, top, left, strict=True)]
    assert torch.equal(way(padded, 16, index, top, left), torch.stack(expected))


def test_normalisation_equals_torchvision():
    images = torch.from_numpy(some_images())
    chain = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    ours = BatchTransform(16, MEAN, STD, CPU).finish(images)
    torch.testing.assert_close(ours, chain(images), atol=2e-6, rtol=1e-5)


def test_grey_images_become_three_equal_channels():
    grey = some_images(channels=1)
    (a, _), (b, _) = (next(iter(train_loader(x))) for x in (grey, np.repeat(grey, 3, axis=1)))
    assert a.shape == (16, 3, 16, 16) and torch.equal(a, b)


def test_digits_are_never_flipped_and_without_augmentation_nothing_changes():
    d = data.build_data("digits", "unused", 0, 64, "cpu")
    assert plan.draw(9, 0, 0, pad=1, flip=False, randaug=False).flip is None
    assert d.train._kinds["flip"] is False
    plain = data.build_data("digits", "unused", 0, 64, "cpu", augment=False, randaug=True)
    first, again = (next(iter(plain.train))[0] for _ in range(2))
    assert torch.equal(first, again)
    from sklearn.datasets import load_digits

    known = {image.tobytes() for image in np.rint(load_digits().images * 255 / 16).astype(np.uint8)}
    pixels = (first * plain.std[0] + plain.mean[0]) * 255
    assert all(x[0].round().byte().numpy().tobytes() in known for x in pixels)


def test_every_epoch_shows_every_image_once_in_its_own_order():
    loader = train_loader(some_images())
    orders = [torch.cat([y for _, y in epoch(loader, e)]) for e in range(3)]
    assert all(torch.equal(o.sort().values, torch.arange(50)) for o in orders)
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])
    assert loader.num_samples == 50 and len(loader) == 4


@pytest.mark.parametrize("store", ["device", "ram"])
@pytest.mark.parametrize("randaug", [False, True])
def test_starting_at_a_later_batch_gives_the_rest_of_the_same_epoch(store, randaug):
    loader = train_loader(some_images(), store=store, randaug=randaug)
    whole = epoch(loader, 5)
    fresh = train_loader(some_images(), store=store, randaug=randaug)
    assert same(epoch(fresh, 5, 2), whole[2:])
    assert same(list(fresh), whole), "later iterations start at the first batch again"
    assert epoch(fresh, 5, len(fresh)) == []


def test_a_start_beyond_the_epoch_is_refused():
    loader = train_loader(some_images())
    for start in (-1, len(loader) + 1):
        with pytest.raises(data.DataError, match="cannot start"):
            loader.set_epoch(0, start)


@pytest.mark.parametrize("randaug", [False, True])
@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_ranks_parts_make_up_the_global_batch(world, randaug):
    images = some_images()
    alone = epoch(train_loader(images, randaug=randaug), 1)
    ranks = [epoch(train_loader(images, randaug=randaug, rank=r, world_size=world), 1) for r in range(world)]
    joined = [
        tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in zip(*ranks, strict=True)
    ]
    if 50 % 16 < 2 * world:  # the tail of two images is too small to share
        alone = alone[:-1]
    assert same(joined, alone)
    sizes = (
        [len(step[0][0]) for step in zip(*ranks, strict=True)],
        [len(s[-1][0]) for s in zip(*ranks, strict=True)],
    )
    assert max(map(max, sizes)) - min(map(min, sizes)) <= 3  # pairs stay together, and the odd one


@pytest.mark.parametrize(
    ("samples", "batch", "world", "expected"),
    [
        (50, 16, 1, [(0, 16), (16, 32), (32, 48), (48, 50)]),
        (49, 16, 1, [(0, 16), (16, 32), (32, 48)]),
        (51, 16, 2, [(0, 16), (16, 32), (32, 48)]),
        (3, 512, 1, [(0, 3)]),
        (4, 1, 1, [(0, 1), (1, 2), (2, 3), (3, 4)]),
    ],
)
def test_a_tail_below_two_images_a_rank_is_dropped(samples, batch, world, expected):
    assert plan.train_batches(samples, batch, world) == expected


@pytest.mark.parametrize(("samples", "batch", "world"), [(1, 8, 1), (3, 8, 2), (50, 3, 4)])
def test_too_few_images_for_the_ranks_are_refused(samples, batch, world):
    with pytest.raises(data.DataError):
        plan.train_batches(samples, batch, world)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_share_the_test_set_without_overlap_or_padding(world):
    images = some_images(23)
    transform = BatchTransform(16, MEAN, STD, CPU)
    store = DeviceStore(images, CPU, 16, False)
    loaders = [
        TestLoader(store, torch.arange(23), transform, 4, rank=r, world_size=world) for r in range(world)
    ]
    batches = [batch for loader in loaders for batch in loader]
    assert torch.cat([y for _, y in batches]).tolist() == list(range(23))
    assert torch.equal(torch.cat([x for x, _ in batches]), transform.finish(torch.from_numpy(images)))
    assert all(loader.num_samples == 23 and len(loader) == len(list(loader)) for loader in loaders)


def test_more_ranks_than_test_images_leave_some_without():
    assert [plan.rank_part(0, 2, r, 4) for r in range(4)] == [(0, 0), (0, 1), (1, 1), (1, 2)]


@pytest.mark.parametrize("randaug", [False, True])
def test_loading_leaves_the_global_random_state_alone(randaug):
    torch.manual_seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    d = data.build_data("digits", "unused", 0, 64, "cpu", randaug=randaug, label_noise=0.2)
    list(d.train), list(d.test)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


DIGEST = """
def digest(seed):
    d = data.build_data("digits", "x", 0, 300, "cpu", randaug=True, label_noise=0.1, seed=seed)
    d.train.set_epoch(2)
    return hashlib.sha256(b"".join(x.numpy().tobytes() + y.numpy().tobytes() for x, y in d.train)).hexdigest()
"""


def test_another_process_sees_the_same_batches_and_another_seed_others():
    code = "import data, hashlib" + DIGEST + "print(digest(7))"
    root = Path(data.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    here = {"data": data, "hashlib": hashlib}
    exec(DIGEST, here)
    assert run.stdout.strip() == here["digest"](7) != here["digest"](8)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_label_noise_flips_exactly_its_share_uniformly_to_another_class(share):
    labels = np.arange(20000) % 10
    noisy = label_tools.noisy_labels(labels, 10, share, "uniform", seed=3)
    changed = noisy != labels
    assert changed.sum() == round(share * 20000)
    shift = np.bincount((noisy - labels)[changed] % 10, minlength=10)[1:]
    assert shift.min() > 0.8 * shift.mean() and noisy.min() >= 0 and noisy.max() <= 9
    assert np.array_equal(noisy, label_tools.noisy_labels(labels, 10, share, "uniform", seed=3))
    assert not np.array_equal(noisy, label_tools.noisy_labels(labels, 10, share, "uniform", seed=4))


def test_label_noise_leaves_test_labels_and_is_the_same_on_all_ranks():
    clean = data.build_data("digits", "x", 0, 64, "cpu")
    noisy = [
        data.build_data("digits", "x", 0, 64, "cpu", label_noise=0.3, rank=r, world_size=2) for r in (0, 1)
    ]
    assert torch.equal(noisy[0].train._labels, noisy[1].train._labels)
    assert (noisy[0].train._labels != clean.train._labels).sum() == round(0.3 * 1437)
    assert torch.equal(noisy[0].test._labels, clean.test._labels)
    assert "431 training labels flipped" in noisy[0].description


@pytest.mark.parametrize("side", [16, 32, 64])
def test_randaugment_operations_are_torchvisions_within_a_grey_level(side):
    noise = torch.from_numpy(some_images(6, side=side))
    smooth = torch.nn.functional.avg_pool2d(noise.float(), 5, 1, 2).to(torch.uint8)
    flat, two_levels = torch.full_like(noise[:1], 7), (noise[:1] > 128) * torch.tensor([3], dtype=torch.uint8)
    images = torch.cat([noise, smooth, flat, two_levels])
    theirs = v2.RandAugment()
    for code in range(2 * len(randaug.OPERATIONS)):
        name, sign = randaug.OPERATIONS[code // 2], -1 if code % 2 else 1
        magnitudes, signed = theirs._AUGMENTATION_SPACE[name]
        values = magnitudes(31, side, side)
        magnitude = 0.0 if values is None else float(values[9]) * (sign if signed else 1)
        expected = theirs._apply_image_or_video_transform(
            images, name, magnitude, interpolation=theirs.interpolation, fill=theirs._fill
        )
        ours = torch.tensor([[code], [0]]).expand(2, len(images))
        for ops in (ours, ours.flip(0)):
            difference = (randaug.randaugment(images, ops).int() - expected.int()).abs()
            assert difference.max() <= 1, (name, sign)
        of_levels = name in ("Color", "Contrast", "Sharpness", "AutoContrast")
        assert difference.float().mean() <= (0.15 if of_levels else 0), (name, sign)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_gpu_branches_of_a_batch_give_the_cpus_numbers_in_the_layout_asked_for(
    channels_last, monkeypatch
):
    class Cuda(str):  # a CPU that says it is not one
        type = "cuda"

    images, ran, addcmul = torch.from_numpy(some_images(9)), [], torch.addcmul
    monkeypatch.setattr(torch, "addcmul", lambda *a, **k: (ran.append(1), addcmul(*a, **k))[1])
    draws = plan.draw(9, 0, 0, pad=2, flip=True, randaug=True)
    transforms = [BatchTransform(16, MEAN, STD, CPU, channels_last=channels_last) for _ in range(2)]
    transforms[1].device = Cuda("cpu")
    here, there = (t.finish(images, draws) for t in transforms)
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-6)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert ran == [1] and all(x.is_contiguous(memory_format=layout) for x in (here, there))


def test_randaugment_treats_each_sample_as_it_would_be_alone():
    images = torch.from_numpy(some_images(40, side=32))
    ops = plan.draw(40, 0, 0, pad=0, flip=False, randaug=True).ops
    together = randaug.randaugment(images, ops)
    alone = torch.cat([randaug.randaugment(images[i : i + 1], ops[:, i : i + 1]) for i in range(40)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, images)


def test_larger_images_than_stored_are_resized_a_batch_at_a_time_like_torchvision():
    images = some_images(side=8)
    loader = train_loader(images, size=32, augment=False)
    x, y = next(iter(loader))
    wanted = v2.functional.resize(torch.from_numpy(images)[y], [32, 32], antialias=True)
    assert torch.equal(x, loader._transform.finish(wanted))
    assert next(iter(train_loader(images, size=32)))[0].shape == (16, 3, 32, 32)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_all_ranks_cut_their_share_into_the_same_number_of_parts(world):
    for size in range(2 * world, 80):
        for accumulate in (1, 2, 4, 9):
            parts = parts_of(size, world, accumulate)
            cuts = [plan.rank_part(100, 100 + size, r, world, unit=2) for r in range(world)]
            assert cuts[0][0] == 100 and cuts[-1][1] == 100 + size
            assert all(a[1] == b[0] and b[0] % 2 == 0 for a, b in itertools.pairwise(cuts)), "a pair was cut"
            shares = [b - a for a, b in cuts]
            assert max(shares) - min(shares) <= 3
            assert 1 <= parts <= accumulate and (min(shares) >= 2 * parts or parts == 1)
            assert parts == accumulate or min(shares) < 2 * (parts + 1), "more would have fitted"
    # 1,437 images by 128, 4 ranks: the last batch of 29 had 3, 3, 3 and 4 parts
    assert parts_of(29, 4, 4) == 3


def test_a_rank_without_images_to_test_has_a_loader_all_the_same():
    transform = BatchTransform(16, MEAN, STD, CPU)
    store = DeviceStore(some_images(2), CPU, 16, False)
    empty = TestLoader(store, torch.arange(2), transform, 4, rank=0, world_size=3)
    assert empty and len(empty) == 0 and list(empty) == []
