"""Batches: what they hold, in which order, and that nothing but (seed, epoch, image) decides it."""

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop, v2

import data
from data import DataOptions, images, plan
from data import labels as label_tools
from data.augment import BatchTransform, pad_of, randaugment
from data.images import Square
from data.loaders import ArrayLoader, FileLoader, pad_images

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def some_images(n=50, channels=3, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


def loader(
    pixels, *, batch_size=16, randaug=False, flip=True, shuffled=True, large=False, size=None, **options
):
    """Over arrays; labels are sample indices, so that a batch tells which samples it shows."""
    side = size or pixels.shape[-1]
    pad = 0 if large else pad_of(side)
    transform, labels = BatchTransform(MEAN, STD, CPU), torch.arange(len(pixels))
    draws = {"pad": pad, "flip": flip, "randaug": randaug} if shuffled else None
    options = DataOptions(**{"workers": 0} | options)
    if large:
        first = FileLoader, pixels, Square(side)
    else:
        first = ArrayLoader, pad_images(pixels, pad, CPU), pad
    return first[0](*first[1:], labels, transform, batch_size, options, shuffled=shuffled, draws=draws)


def same(left, right):
    left, right = list(left), list(right)
    return len(left) == len(right) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


def reference(pixels, number, seed=0):
    """Crops, flips and normalises image by image with numpy, given the same draws."""
    n, _, side, _ = pixels.shape
    pad = pad_of(side)
    order = plan.permutation(n, seed, number)
    draws = plan.draw(n, seed, number, pad=pad, flip=True, randaug=False)
    flipped = plan.alternating_flip(order, seed, number)
    out = []
    for position, sample in enumerate(order.tolist()):
        padded = np.pad(pixels[sample], ((0, 0), (pad, pad), (pad, pad)))
        top, left = int(draws.top[position]), int(draws.left[position])
        one = padded[:, top : top + side, left : left + side]
        one = one[:, :, ::-1] if flipped[position] else one
        one = one.astype(np.float64) / 255
        out.append((one - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None])
    return torch.from_numpy(np.stack(out))


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_batches_equal_a_per_image_reference(channels):
    pixels = some_images(channels=channels)
    batches = list(loader(pixels).from_(3))
    shown = torch.cat([x for x, _ in batches]).double()
    torch.testing.assert_close(shown, reference(np.repeat(pixels, 3 // channels, 1), 3), atol=1e-5, rtol=1e-5)
    assert all(x.is_contiguous() for x, _ in batches)


def test_small_images_are_mirrored_in_every_other_epoch_first_at_random():
    pixels = np.zeros((40, 1, 16, 16), np.uint8)
    pixels[..., :8] = 255  # the left half is white
    left_in = []
    for epoch in range(4):
        mirrored = torch.empty(40, dtype=torch.bool)
        for x, y in loader(pixels, batch_size=20).from_(epoch):
            mirrored[y] = x[:, 0, 8, 3] < x[:, 0, 8, 12]
        left_in.append(mirrored)
    assert 8 <= left_in[0].sum() <= 32
    assert all(torch.equal(a, ~b) for a, b in itertools.pairwise(left_in))


def test_digits_are_never_flipped_and_without_augmentation_nothing_changes():
    d = data.build_data("digits", "unused", 0, 64, "cpu")
    assert "flipped" not in d.description and data.DATASETS["mnist"].flip is False
    plain = data.build_data("digits", "unused", 0, 64, "cpu", augment=False)
    from sklearn.datasets import load_digits

    known = {image.tobytes() for image in np.rint(load_digits().images * 255 / 16).astype(np.uint8)}
    pixels = (next(plain.train.from_(5))[0] * plain.std[0] + plain.mean[0]) * 255
    assert all(x[0].round().byte().numpy().tobytes() in known for x in pixels)


@pytest.mark.parametrize("large", [False, True])
def test_every_epoch_shows_every_image_once_and_goes_on_from_any_batch(large):
    batches = loader(some_images(), large=large, randaug=True)
    epochs = [list(batches.from_(e)) for e in range(3)]
    orders = [torch.cat([y for _, y in epoch]) for epoch in epochs]
    assert all(torch.equal(o.sort().values, torch.arange(50)) for o in orders)
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])
    assert batches.num_samples == 50 and len(batches) == 4
    next(batches.from_(0))  # an iteration that is left
    assert same(batches.from_(2, 2), epochs[2][2:]) and same(batches, epochs[0])
    assert list(batches.from_(2, 4)) == []
    for start in (-1, 5):
        with pytest.raises(data.DataError, match="cannot start"):
            batches.from_(0, start)


@pytest.mark.parametrize(
    ("world", "large", "randaug"), [(2, True, True), (3, False, True), (5, False, False)]
)
def test_the_ranks_parts_make_up_the_global_batch(world, large, randaug):
    how = {"large": large, "randaug": randaug}
    alone = list(loader(some_images(), **how).from_(1))
    ranks = [loader(some_images(), rank=r, world_size=world, **how).from_(1) for r in range(world)]
    steps = list(zip(*ranks, strict=True))
    joined = [tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in steps]
    if 50 % 16 < 2 * world:  # the tail of two images is too small to share
        alone = alone[:-1]
    assert same(joined, alone)
    sizes = [[len(x) for x, _ in step] for step in steps]
    assert all(max(share) - min(share) <= 3 for share in sizes)  # pairs stay together, and the odd one


@pytest.mark.parametrize(
    ("samples", "batch", "world", "expected"),
    [
        (50, 16, 1, [(0, 16), (16, 32), (32, 48), (48, 50)]),
        (49, 16, 1, [(0, 16), (16, 32), (32, 48)]),
        (51, 16, 2, [(0, 16), (16, 32), (32, 48)]),
        (3, 512, 1, [(0, 3)]),
        (1, 8, 1, None), (3, 8, 2, None), (50, 3, 4, None),
    ],
)  # fmt: skip
def test_a_tail_below_two_images_a_rank_is_dropped_and_too_few_are_refused(samples, batch, world, expected):
    if expected is None:
        with pytest.raises(data.DataError):
            plan.train_batches(samples, batch, world)
    else:
        assert plan.train_batches(samples, batch, world) == expected


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_ranks_cut_a_batch_into_pairs(world):
    for size in range(2 * world, 80):
        cuts = [plan.rank_part(100, 100 + size, r, world, unit=2) for r in range(world)]
        assert cuts[0][0] == 100 and cuts[-1][1] == 100 + size
        assert all(a[1] == b[0] and b[0] % 2 == 0 for a, b in itertools.pairwise(cuts)), "a pair was cut"
        shares = [b - a for a, b in cuts]
        assert max(shares) - min(shares) <= 3 and min(shares) >= 2


@pytest.mark.parametrize("world", [1, 3, 24])
def test_ranks_share_the_test_set_without_overlap_or_padding(world):
    pixels = some_images(23)
    loaders = [loader(pixels, batch_size=4, shuffled=False, rank=r, world_size=world) for r in range(world)]
    batches = [batch for part in loaders for batch in part]
    assert torch.cat([y for _, y in batches]).tolist() == list(range(23))
    chain = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    shown = torch.cat([x for x, _ in batches])
    torch.testing.assert_close(shown, chain(torch.from_numpy(pixels)), atol=2e-6, rtol=1e-5)
    assert all(part and part.num_samples == 23 and len(part) == len(list(part)) for part in loaders)


DIGEST = """
def digest(seed):
    d = data.build_data("digits", "x", 0, 300, "cpu", randaug=True, label_noise=0.1, seed=seed)
    return hashlib.sha256(b"".join(x.numpy().tobytes() + y.numpy().tobytes() for x, y in d.train.from_(2))).hexdigest()
"""


def test_another_process_sees_the_same_batches_another_seed_others_and_no_global_generator_is_used():
    code = "import data, hashlib" + DIGEST + "print(digest(7))"
    root = Path(data.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    torch.manual_seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    here = {"data": data, "hashlib": hashlib}
    exec(DIGEST, here)
    assert run.stdout.strip() == here["digest"](7) != here["digest"](8)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


@pytest.mark.parametrize("share", [0.1, 0.999])
def test_label_noise_flips_exactly_its_share_uniformly_to_another_class(share):
    labels = np.arange(20000) % 10
    noisy = label_tools.noisy_labels(labels, 10, share, "uniform", seed=3)
    changed = noisy != labels
    assert changed.sum() == round(share * 20000)
    shift = np.bincount((noisy - labels)[changed] % 10, minlength=10)[1:]
    assert shift.min() > 0.8 * shift.mean() and noisy.min() >= 0 and noisy.max() <= 9
    assert not np.array_equal(noisy, label_tools.noisy_labels(labels, 10, share, "uniform", seed=4))


def test_label_noise_leaves_test_labels_and_is_the_same_on_all_ranks():
    clean = data.build_data("digits", "x", 0, 64, "cpu")
    noisy = [
        data.build_data("digits", "x", 0, 64, "cpu", label_noise=0.3, rank=r, world_size=2) for r in (0, 1)
    ]
    assert noisy[0].labels_digest == noisy[1].labels_digest != clean.labels_digest
    given = torch.cat([torch.cat([y for _, y in d.train_in_order()]) for d in noisy])
    assert (given != clean.clean_train_labels).sum() == round(0.3 * 1437)
    assert torch.equal(*(torch.cat([y for _, y in d.test]) for d in (clean, clean)))
    assert "431 training labels flipped" in noisy[0].description


@pytest.mark.parametrize("side", [16, 64])
def test_randaugment_applies_torchvisions_operations_to_those_images_that_drew_them(side):
    theirs = v2.RandAugment()
    codes = torch.arange(2 * len(plan.OPERATIONS))
    pixels = torch.from_numpy(some_images(len(codes), side=side))
    identity = torch.zeros_like(codes)
    ours = randaugment(pixels, torch.stack([codes, identity]))
    for image, code, got in zip(pixels, codes.tolist(), ours, strict=True):
        name, sign = plan.OPERATIONS[code // 2], -1 if code % 2 else 1
        magnitudes, signed = theirs._AUGMENTATION_SPACE[name]
        values = magnitudes(31, side, side)
        magnitude = 0.0 if values is None else float(values[9]) * (sign if signed else 1)
        expected = theirs._apply_image_or_video_transform(
            image, name, magnitude, interpolation=theirs.interpolation, fill=theirs._fill
        )
        assert (got.int() - expected.int()).abs().max() <= 1, (name, sign)  # of a factor's rounding
    one_by_one = randaugment(ours, torch.stack([codes.flip(0), identity]))
    assert torch.equal(randaugment(pixels, torch.stack([codes, codes.flip(0)])), one_by_one)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_gpu_branch_of_a_batch_gives_the_cpus_numbers_in_the_layout_asked_for(channels_last, monkeypatch):
    class Cuda(str):  # a CPU that says it is not one
        type = "cuda"

    pixels, ran, addcmul = torch.from_numpy(some_images(9)), [], torch.addcmul
    monkeypatch.setattr(torch, "addcmul", lambda *a, **k: (ran.append(1), addcmul(*a, **k))[1])
    draws = plan.draw(9, 0, 0, pad=2, flip=True, randaug=True)
    transforms = [BatchTransform(MEAN, STD, CPU, channels_last) for _ in range(2)]
    transforms[1].device = Cuda("cpu")
    here, there = (t(pixels, draws) for t in transforms)
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-6)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert ran == [1] and all(x.is_contiguous(memory_format=layout) for x in (here, there))


def boxes(width, height, scale=(0.08, 1.0), n=1000):
    return np.array([plan.crop_box(k, width, height, scale) for k in plan.crop_keys(n, 0, 0).tolist()])


def test_random_resized_crops_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    image = torch.empty(3, 300, 400)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(4000)])
    ours = boxes(400, 300, n=4000)
    w, h = ours[:, 2] - ours[:, 0], ours[:, 3] - ours[:, 1]
    for a, b in ((w * h, theirs[:, 2] * theirs[:, 3]), (w / h, theirs[:, 3] / theirs[:, 2]),
                 (ours[:, 0], theirs[:, 1]), (ours[:, 1], theirs[:, 0])):  # fmt: skip
        spread = np.quantile(b, 0.9) - np.quantile(b, 0.1)
        assert np.abs(np.quantile(a, [0.1, 0.5, 0.9]) - np.quantile(b, [0.1, 0.5, 0.9])).max() < 0.06 * spread
    assert ((w * h >= 0.0799 * 120_000) & (ours[:, 2] <= 400) & (ours[:, 3] <= 300)).all()


@pytest.mark.parametrize(("width", "height"), [(300, 100), (100, 500), (5000, 1), (1, 1)])
def test_crops_see_every_part_of_pictures_of_any_shape(width, height):
    seen = np.zeros((height, width))
    for left, top, right, bottom in boxes(width, height):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        seen[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 1
    assert seen.mean() > (0.99 if max(width, height) < 1000 else 0.1)
    aspect = np.ptp(boxes(width, height)[:, [0, 2]], 1) / np.ptp(boxes(width, height)[:, [1, 3]], 1)
    assert aspect.min() >= 3 / 4 - 1e-9 and aspect.max() <= 4 / 3 + 1e-9


@pytest.mark.parametrize("form", ["png", "jpg"])
def test_a_crop_of_a_file_is_that_part_of_it_antialiased(tmp_path, form):
    y, x = np.mgrid[0:600, 0:900]
    pixels = np.stack([x * 255 // 899, y * 255 // 599, (x + y) % 256 // 2], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{form}", quality=95)
    box = (90, 60, 810, 510)
    got = images.decode(
        str(tmp_path / f"a.{form}"), 96, box_of=lambda w, h: (w * 0.1, h * 0.1, w * 0.9, h * 0.85)
    )
    crop = Image.fromarray(pixels).crop(box).resize((96, 96), Image.Resampling.BILINEAR)
    assert np.abs(got[:2].astype(int) - np.asarray(crop).transpose(2, 0, 1)[:2]).mean() < 2


def test_jpegs_are_decoded_at_the_smallest_scale_that_is_large_enough(tmp_path, monkeypatch):
    sizes = []
    draft = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, *a, **k: (sizes.append(self.size), draft(self, *a, **k))[1]
    )
    tags = Image.Exif()
    tags[0x0112] = 6  # lies on its side
    pixels = np.zeros((1200, 1600, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=tags)
    for size, shrunk in ((150, (150, 200)), (151, (300, 400)), (600, (600, 800)), (601, (1200, 1600))):
        images.decode(str(tmp_path / "a.jpg"), size)
        assert sizes.pop() == shrunk
    images.decode(str(tmp_path / "a.jpg"), 150, box_of=lambda w, h: (0, h / 2, w / 2, h))
    assert sizes.pop() == (300, 400)


@pytest.mark.slow
def test_photos_are_the_same_with_any_workers_processes_and_stops(tmp_path):
    rng = np.random.default_rng(0)
    for split, c, i in itertools.product(("train", "val"), ("ant", "bee"), range(10)):
        file = tmp_path / "set" / split / c / f"{i}.{'jpg' if i % 2 else 'png'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (90, 70 + 20 * i, 3), dtype=np.uint8)).save(file)

    def build(**options):
        name = f"folder:{tmp_path / 'set'}"
        return data.build_data(name, tmp_path / "data", 80, 8, "cpu", randaug=True, progress=False, **options)

    monkey = pytest.MonkeyPatch()
    monkey.setattr("data.workers.usable_workers", lambda n: n)
    alone = build(workers=0)
    whole, tests = [list(alone.train.from_(e)) for e in (0, 1)], list(alone.test)
    assert "random crops of 8 to 100 % of each image, flipped, RandAugment" in alone.description
    assert alone.image_size == 80 and not same(*whole)
    for workers in (1, 3):
        d = build(workers=workers)
        assert same(d.train.from_(0), whole[0]) and same(d.test, tests)
        assert same(d.train.from_(1, 1), whole[1][1:])
        next(d.train.from_(1))  # left in the middle
        assert same(d.train.from_(1), whole[1])
    ranks = [build(workers=1, rank=r, world_size=2).train.from_(1) for r in range(2)]
    joined = [[torch.cat(t) for t in zip(*step, strict=True)] for step in zip(*ranks, strict=True)]
    assert same(joined, whole[1])
    monkey.undo()


def test_without_augmentation_photos_are_seen_as_tests_see_them():
    d = data.build_data("digits", "x", 96, 200, "cpu", augment=False, workers=0)
    images_, labels = next(d.train.from_(3))
    order = plan.permutation(1437, 0, 3)[:200]
    shown = torch.cat([x for x, _ in d.train_in_order()])[order]
    assert torch.equal(images_, shown) and torch.equal(labels, d.clean_train_labels[order])
