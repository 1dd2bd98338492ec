"""The drop-in loss without a clone: a miniature generator and discriminator drive every phase."""

import math

import pytest
import torch
from stylegan_patch_stand_in import LAYERS, PATCH, PHASES, Bench, N, explicit_objective, load

STATS = {
    "Gmain": ["Loss/scores/fake", "Loss/signs/fake", "Loss/G/loss"],
    "Greg": ["Loss/pl_penalty", "Loss/G/reg"],
    "Dmain": ["Loss/scores/fake", "Loss/signs/fake", "Loss/scores/real", "Loss/signs/real", "Loss/D/loss"],
    "Dreg": ["Loss/scores/real", "Loss/signs/real", "Loss/r1_penalty", "Loss/D/reg"],
}
STATS["Gboth"] = STATS["Gmain"] + STATS["Greg"]
STATS["Dboth"] = STATS["Dmain"] + STATS["Dreg"][2:]


@pytest.fixture
def loss(monkeypatch):
    """loss.py as a fresh module, and the log of what it calls in the clone."""
    return load(monkeypatch, PATCH / "loss.py")


def assert_same_gradients(found, expected):
    for name, grad in expected.items():
        if grad is None:  # a regulariser does not reach this bias
            assert not found[name].any(), name
        else:
            torch.testing.assert_close(found[name], grad, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("augment", [False, True], ids=["plain", "augmented"])
@pytest.mark.parametrize(("ls", "k"), [("ce", 2.0), ("rlo", 2.0), ("rlo", 5.0)])
@pytest.mark.parametrize("phase", PHASES)
def test_gradients_of_every_phase_equal_the_written_out_objective(monkeypatch, phase, ls, k, augment):
    module, _ = load(monkeypatch, PATCH / "loss.py", RLO_LS=ls, RLO_K=str(k))
    bench = Bench(module, augment)
    found = bench.step(phase, gain=3.0)
    net = bench.G if phase[0] == "G" else bench.D
    parameters = dict(net.named_parameters())
    objective = explicit_objective(bench, phase, ls, k, gain=3.0)
    expected = torch.autograd.grad(objective, list(parameters.values()), allow_unused=True)
    assert any(grad is not None and grad.abs().max() > 1e-4 for grad in expected)
    assert_same_gradients(found, dict(zip(parameters, expected, strict=True)))


@pytest.mark.parametrize("phase", PHASES)
def test_only_the_network_of_the_phase_receives_gradients(loss, phase):
    bench = Bench(loss[0])
    bench.step(phase)
    other = bench.D if phase[0] == "G" else bench.G
    assert all(p.grad is None for p in other.parameters())


def test_two_rounds_add_up_their_gradients(loss):
    once = {name: grad.clone() for name, grad in Bench(loss[0]).step("Dmain").items()}
    bench = Bench(loss[0])
    bench.step("Dmain")
    assert_same_gradients(bench.step("Dmain"), {name: 2 * grad for name, grad in once.items()})


@pytest.mark.parametrize("phase", PHASES)
def test_statistics_carry_the_names_that_the_clone_logs(loss, phase):
    module, log = loss
    Bench(module).step(phase)
    assert sorted(name for name, _ in log["stats"]) == sorted(STATS[phase])


def test_logged_scores_signs_and_losses_are_those_of_the_logits(loss):
    module, log = loss
    bench = Bench(module)
    bench.step("Dmain")
    stats = dict(log["stats"])
    real = bench.D(bench.real, bench.c).detach()
    fake = bench.D(bench.G.synthesis(bench.G.mapping(bench.z, bench.c)), bench.c).detach()
    torch.testing.assert_close(stats["Loss/scores/real"], real)
    torch.testing.assert_close(stats["Loss/signs/fake"], fake.sign())
    expected = 2 * (1 + fake.exp()).sqrt() + 2 * (1 + (-real).exp()).sqrt()
    torch.testing.assert_close(stats["Loss/D/loss"], expected)


def test_regularisers_with_weight_zero_do_nothing(loss):
    module, log = loss
    bench = Bench(module, pl_weight=0, r1_gamma=0)
    for phase in ("Greg", "Dreg"):
        assert all(grad is None for grad in bench.step(phase).values())
    assert log["stats"] == []
    for phase, like in (("Gboth", "Gmain"), ("Dboth", "Dmain")):
        assert_same_gradients(Bench(module, pl_weight=0, r1_gamma=0).step(phase), Bench(module).step(like))


def test_path_length_mean_follows_the_measured_lengths(loss):
    module, log = loss
    bench = Bench(module, pl_decay=0.25)
    bench.step("Greg")
    mean = bench.loss.pl_mean
    assert not mean.requires_grad and mean != 0.7
    # penalty = (length − mean)², both lengths on one side of the mean or not: solve 0.75·0.7 + 0.25·E length.
    roots = dict(log["stats"])["Loss/pl_penalty"].sqrt()
    candidates = [(mean + a * roots[0] + mean + b * roots[1]) / 2 for a in (-1, 1) for b in (-1, 1)]
    assert any(abs(0.75 * 0.7 + 0.25 * c - mean) < 1e-12 for c in candidates)


@pytest.mark.parametrize(("images", "shrink", "measured"), [(N, 4, 1), (N, 1, N), (3, 2, 1), (1, 2, 1)])
def test_path_length_is_measured_on_a_share_of_the_batch_and_on_one_image_at_least(
    loss, images, shrink, measured
):
    module, log = loss
    grads = Bench(module, pl_batch_shrink=shrink).step("Greg", n=images)
    assert len(dict(log["stats"])["Loss/pl_penalty"]) == measured
    assert all(torch.isfinite(grad).all() for grad in grads.values())


def test_second_order_gradients_leave_out_the_convolutions_weights(loss):
    module, log = loss
    bench = Bench(module)
    for phase, calls in (("Gmain", 0), ("Gboth", 1), ("Dmain", 1), ("Dboth", 2)):
        bench.step(phase)
        assert log["no_weight_gradients"] == calls


def test_style_mixing_swaps_the_layers_from_a_random_one_on(loss):
    bench = Bench(loss[0], style_mixing_prob=1.0)
    plain = bench.G.mapping(bench.z, bench.c)
    firsts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        _, ws = bench.loss.run_G(bench.z, bench.c, sync=True)
        same = (ws == plain).all(dim=2)
        assert (same == same[0]).all(), "the whole batch crosses over at one layer"
        first = int(same[0].sum())
        assert same[0, :first].all() and not same[0, first:].any()
        firsts.add(first)
    assert firsts == set(range(1, LAYERS))


def test_style_mixing_happens_at_its_probability(loss):
    bench = Bench(loss[0], style_mixing_prob=0.3)
    plain = bench.G.mapping(bench.z, bench.c)
    torch.manual_seed(0)
    mixed = sum(not torch.equal(bench.loss.mix_styles(plain, bench.z, bench.c), plain) for _ in range(400))
    assert abs(mixed / 400 - 0.3) < 3 * math.sqrt(0.3 * 0.7 / 400)


def test_style_mixing_keeps_gradients_and_does_not_move_the_mean_of_w(loss):
    bench = Bench(loss[0], style_mixing_prob=1.0)
    grads = bench.step("Gmain")
    assert all(torch.isfinite(g).all() and g.any() for g in grads.values())
    assert bench.G.mapping.calls == [{}, {"skip_w_avg_update": True}]


def test_gpus_share_gradients_in_the_last_pass_of_a_phase_only(loss):
    module, log = loss
    passes = {
        "Gmain": [("Mapping", True), ("Synthesis", True), ("Discriminator", False)],
        "Greg": [("Mapping", True), ("Synthesis", True)],
        "Dreg": [("Discriminator", True)],
    }
    before = [(name, False) for name, _ in passes["Gmain"]]
    passes["Gboth"] = before + passes["Greg"]
    passes["Dmain"] = passes["Dboth"] = before + passes["Dreg"]
    for phase, expected in passes.items():
        for sync in (True, False):
            log["synced"].clear()
            Bench(module).step(phase, sync=sync)
            assert log["synced"] == [(name, sync and shared) for name, shared in expected], phase


def test_every_phase_reaches_every_parameter_as_ddp_needs(loss):
    for phase in PHASES:
        assert all(grad is not None for grad in Bench(loss[0]).step(phase).values())


def test_an_unknown_phase_is_an_error_that_lists_the_known_ones(loss):
    for phase in ("Dmian", "Xmain"):
        with pytest.raises(ValueError, match="is not G or D with main, reg or both"):
            Bench(loss[0]).step(phase)
