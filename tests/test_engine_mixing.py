"""Mixup and CutMix against their definitions, and the same with any number of processes."""

import pytest
import torch
from scipy import stats

from data import plan
from engine.mixing import Mixing


def batch(n=9, classes=5, size=8):
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, size, size, generator=g), torch.arange(n) % classes


def test_mixup_is_a_convex_combination_of_two_images_and_of_their_labels():
    images, labels = batch()
    shares = []
    for step in range(400):
        mixed, target = Mixing(0.4, 0, 5, seed=3)(images, labels, step)
        share = target[0, 0].item()  # image 0 is of class 0, its partner of class 1
        shares.append(share)
        torch.testing.assert_close(mixed[0], share * images[0] + (1 - share) * images[1])
        torch.testing.assert_close(mixed[1], share * images[1] + (1 - share) * images[0])
        assert target[1, 0].item() == pytest.approx(1 - share, abs=1e-6)
        assert torch.equal(mixed[8], images[8]) and target[8, 3] == 1  # the odd one
        torch.testing.assert_close(target.sum(1), torch.ones(9))
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_cutmix_pastes_a_box_and_the_label_gets_its_share():
    images, labels = batch()
    shares = []
    for step in range(400):
        mixed, target = Mixing(0, 1.0, 5, seed=3)(images, labels, step)
        pasted = (mixed[0] == images[1]).all(0)
        assert torch.equal(torch.where(pasted, images[1], images[0]), mixed[0])
        rows, columns = pasted.any(1), pasted.any(0)
        assert pasted.sum() == rows.sum() * columns.sum(), "no box"
        assert target[0, 1].item() == pytest.approx(pasted.float().mean().item(), abs=1e-6)
        shares.append(pasted.float().mean().item())
    assert min(shares) == 0 and max(shares) > 0.8 and 0.2 < sum(shares) / 400 < 0.45


def test_with_both_each_batch_draws_one_and_the_step_is_all_the_state():
    images, labels = batch()
    mix = Mixing(0.4, 1.0, 5, seed=0)
    kinds = set()
    for step in range(20):
        mixed, target = mix(images, labels, step)
        again = Mixing(0.4, 1.0, 5, seed=0)(images, labels, step)
        assert torch.equal(mixed, again[0]) and torch.equal(target, again[1])
        kinds.add(bool(((mixed[0] == images[0]) | (mixed[0] == images[1])).all()))
    assert kinds == {True, False}
    assert not torch.equal(
        Mixing(0.4, 0, 5, seed=1)(images, labels, 0)[1], Mixing(0.4, 0, 5, 0)(images, labels, 0)[1]
    )


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("n", [16, 19, 29])
def test_processes_mix_what_one_process_mixes(world, n):
    images, labels = batch(n)
    for alphas in ((0.4, 0), (0, 1.0)):
        mix = Mixing(*alphas, 5, seed=0)
        whole = mix(images, labels, 7)
        cuts = [slice(*plan.rank_part(0, n, rank, world, unit=2)) for rank in range(world)]
        shares = [mix(images[cut], labels[cut], 7) for cut in cuts]
        for one, parts in zip(whole, zip(*shares, strict=True), strict=True):
            assert torch.equal(one, torch.cat(parts))
