"""The GAN losses without a clone: a miniature generator and discriminator drive every phase."""

import math

import pytest
import torch
from stylegan_patch_stand_in import (
    FILES,
    LAYERS,
    PHASES,
    Bench,
    N,
    explicit_objective,
    load_loss,
)

FLAVOURS = tuple(FILES)
STATS = {
    "Gmain": ["Loss/scores/fake", "Loss/signs/fake", "Loss/G/loss"],
    "Greg": ["Loss/pl_penalty", "Loss/G/reg"],
    "Dmain": ["Loss/scores/fake", "Loss/signs/fake", "Loss/scores/real", "Loss/signs/real", "Loss/D/loss"],
    "Dreg": ["Loss/scores/real", "Loss/signs/real", "Loss/r1_penalty", "Loss/D/reg"],
}
STATS["Gboth"] = STATS["Gmain"] + STATS["Greg"]
STATS["Dboth"] = STATS["Dmain"] + STATS["Dreg"][2:]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    monkeypatch.delenv("RLO_K", raising=False)
    monkeypatch.delenv("RLO_LS", raising=False)


@pytest.fixture(params=FLAVOURS)
def flavour(request):
    return request.param


def assert_same_gradients(found, expected):
    for name, grad in expected.items():
        if grad is None:  # a regulariser that does not reach a bias: no gradient, or one of zeros
            assert found[name] is None or not found[name].any(), name
        else:
            torch.testing.assert_close(found[name], grad, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("augment", [False, True], ids=["plain", "augmented"])
@pytest.mark.parametrize(("ls", "k"), [("ce", 2.0), ("rlo", 2.0), ("rlo", 5.0), ("rlo", 1.0)])
@pytest.mark.parametrize("phase", PHASES)
def test_gradients_of_every_phase_equal_the_written_out_objective(
    monkeypatch, flavour, phase, ls, k, augment
):
    module, _ = load_loss(monkeypatch, flavour)
    module.ls, module.kparam = ls, k
    bench = Bench(module, flavour, augment)
    found = bench.step(phase, gain=3.0)
    net = bench.G if phase[0] == "G" else bench.D
    parameters = dict(net.named_parameters())
    objective = explicit_objective(bench, phase, ls, k, gain=3.0)
    expected = torch.autograd.grad(objective, list(parameters.values()), allow_unused=True)
    assert any(grad is not None and grad.abs().max() > 1e-4 for grad in expected)
    assert_same_gradients(found, dict(zip(parameters, expected, strict=True)))


@pytest.mark.parametrize("phase", PHASES)
def test_only_the_network_of_the_phase_receives_gradients(monkeypatch, flavour, phase):
    module, _ = load_loss(monkeypatch, flavour)
    bench = Bench(module, flavour)
    bench.step(phase)
    other = bench.D if phase[0] == "G" else bench.G
    assert all(p.grad is None for p in other.parameters())


def test_two_rounds_add_up_their_gradients(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    once = {n: g.clone() for n, g in Bench(module, flavour).step("Dmain").items()}
    bench = Bench(module, flavour)
    bench.step("Dmain")
    assert_same_gradients(bench.step("Dmain"), {name: 2 * grad for name, grad in once.items()})


@pytest.mark.parametrize("phase", PHASES)
def test_statistics_carry_the_names_that_the_clone_logs(monkeypatch, flavour, phase):
    module, log = load_loss(monkeypatch, flavour)
    Bench(module, flavour).step(phase)
    assert sorted(name for name, _ in log["stats"]) == sorted(STATS[phase])


def test_logged_scores_signs_and_losses_are_those_of_the_logits(monkeypatch, flavour):
    module, log = load_loss(monkeypatch, flavour)
    bench = Bench(module, flavour)
    bench.step("Dmain")
    stats = dict(log["stats"])
    real = bench.D(bench.real, bench.c).detach()
    fake = bench.D(bench.G.synthesis(bench.G.mapping(bench.z, bench.c)), bench.c).detach()
    torch.testing.assert_close(stats["Loss/scores/real"], real)
    torch.testing.assert_close(stats["Loss/signs/fake"], fake.sign())
    expected = 2 * (1 + fake.exp()).sqrt() + 2 * (1 + (-real).exp()).sqrt()
    torch.testing.assert_close(stats["Loss/D/loss"], expected)


def test_regularisers_with_weight_zero_do_nothing(monkeypatch, flavour):
    module, log = load_loss(monkeypatch, flavour)
    bench = Bench(module, flavour, pl_weight=0, r1_gamma=0)
    for phase in ("Greg", "Dreg"):
        assert all(grad is None for grad in bench.step(phase).values())
    assert log["stats"] == []
    for phase, like in (("Gboth", "Gmain"), ("Dboth", "Dmain")):
        both = Bench(module, flavour, pl_weight=0, r1_gamma=0).step(phase)
        assert_same_gradients(both, Bench(module, flavour).step(like))


def test_path_length_mean_follows_the_measured_lengths(monkeypatch, flavour):
    module, log = load_loss(monkeypatch, flavour)
    bench = Bench(module, flavour, pl_decay=0.25)
    bench.step("Greg")
    mean = bench.loss.pl_mean
    assert not mean.requires_grad and mean != 0.7
    # penalty = (length − mean)², both lengths on one side of the mean or not: solve 0.75·0.7 + 0.25·E length.
    roots = dict(log["stats"])["Loss/pl_penalty"].sqrt()
    candidates = [(mean + a * roots[0] + mean + b * roots[1]) / 2 for a in (-1, 1) for b in (-1, 1)]
    assert any(abs(0.75 * 0.7 + 0.25 * c - mean) < 1e-12 for c in candidates)


def test_path_length_is_measured_on_a_share_of_the_batch(monkeypatch, flavour):
    module, log = load_loss(monkeypatch, flavour)
    Bench(module, flavour, pl_batch_shrink=4).step("Greg")
    assert len(dict(log["stats"])["Loss/pl_penalty"]) == N // 4


def test_second_order_gradients_leave_out_the_convolutions_weights_where_the_clone_asks(monkeypatch):
    module, log = load_loss(monkeypatch, "stylegan2")
    bench = Bench(module, "stylegan2")
    bench.step("Gboth")
    bench.step("Dboth")
    assert log["no_weight_gradients"] == [True, True]
    for asked in (False, True):
        module, log = load_loss(monkeypatch, "stylegan3")
        Bench(module, "stylegan3", pl_no_weight_grad=asked).step("Gboth")
        assert log["no_weight_gradients"] == [asked]


def test_style_mixing_swaps_the_layers_from_a_random_one_on(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    bench = Bench(module, flavour, style_mixing_prob=1.0)
    plain = bench.G.mapping(bench.z, bench.c)
    run = {"sync": True} if flavour == "stylegan2" else {}
    firsts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        _, ws = bench.loss.run_G(bench.z, bench.c, **run)
        same = (ws == plain).all(dim=2)
        assert (same == same[0]).all(), "the whole batch crosses over at one layer"
        first = int(same[0].sum())
        assert same[0, :first].all() and not same[0, first:].any()
        firsts.add(first)
    assert firsts == set(range(1, LAYERS))


def test_style_mixing_happens_at_its_probability(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    bench = Bench(module, flavour, style_mixing_prob=0.3)
    plain = bench.G.mapping(bench.z, bench.c)
    torch.manual_seed(0)
    mixed = sum(not torch.equal(bench.loss.mix_styles(plain, bench.z, bench.c), plain) for _ in range(400))
    assert abs(mixed / 400 - 0.3) < 3 * math.sqrt(0.3 * 0.7 / 400)


def test_style_mixing_keeps_gradients_to_both_latents(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    bench = Bench(module, flavour, style_mixing_prob=1.0)
    grads = bench.step("Gboth")
    assert all(torch.isfinite(g).all() and g.any() for g in grads.values())


def test_stylegan2_style_mixing_does_not_move_the_mean_of_w(monkeypatch):
    module, _ = load_loss(monkeypatch, "stylegan2")
    bench = Bench(module, "stylegan2", style_mixing_prob=1.0)
    bench.step("Gmain")
    assert bench.G.mapping.calls == [{}, {"skip_w_avg_update": True}]


def test_stylegan3_moves_running_averages_only_with_the_fakes_of_dmain(monkeypatch):
    module, _ = load_loss(monkeypatch, "stylegan3")
    for phase, moves in (("Gboth", []), ("Dmain", [True]), ("Dreg", [])):
        bench = Bench(module, "stylegan3", style_mixing_prob=1.0)
        bench.step(phase)
        for net in (bench.G.mapping, bench.G.synthesis, bench.D):
            assert [call["update_emas"] for call in net.calls if call["update_emas"]] == moves


def test_stylegan2_shares_gradients_in_the_last_pass_of_a_phase_only(monkeypatch):
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
            module, log = load_loss(monkeypatch, "stylegan2")
            Bench(module, "stylegan2").step(phase, sync=sync)
            assert log["synced"] == [(name, sync and shared) for name, shared in expected], phase


def test_stylegan2_reaches_every_parameter_in_every_phase_as_ddp_needs(monkeypatch):
    module, _ = load_loss(monkeypatch, "stylegan2")
    for phase in PHASES:
        assert all(grad is not None for grad in Bench(module, "stylegan2").step(phase).values())


def test_stylegan3_blur_fades_linearly_and_is_a_normalised_gaussian(monkeypatch):
    module, _ = load_loss(monkeypatch, "stylegan3")
    loss = Bench(module, "stylegan3", blur_init_sigma=10, blur_fade_kimg=200).loss
    assert [loss.blur_sigma(n) for n in (0, 50_000, 200_000, 400_000)] == [10, 7.5, 0, 0]
    assert Bench(module, "stylegan3", blur_init_sigma=10).loss.blur_sigma(0) == 0
    size, sigma = 31, 1.7
    dot = torch.zeros(1, 1, size, size, dtype=torch.float64)
    dot[..., size // 2, size // 2] = 1
    spread = module.blurred(dot, sigma)[0, 0]
    i = torch.arange(size, dtype=torch.float64) - size // 2
    line = torch.where(i.abs() <= int(3 * sigma), 2 ** -((i / sigma) ** 2), 0.0)
    line = line / line.sum()
    torch.testing.assert_close(spread, line[:, None] * line[None, :], rtol=1e-5, atol=1e-8)
    assert module.blurred(dot, 0.33) is dot


def test_stylegan3_blurs_before_the_discriminator_early_in_training_only(monkeypatch):
    module, log = load_loss(monkeypatch, "stylegan3")
    options = {"blur_init_sigma": 2, "blur_fade_kimg": 1}
    early = Bench(module, "stylegan3", **options)
    early.step("Dmain", cur_nimg=0)
    blurred = module.blurred(early.real, 2)
    torch.testing.assert_close(dict(log["stats"])["Loss/scores/real"], early.D(blurred, early.c).detach())
    late, never = Bench(module, "stylegan3", **options), Bench(module, "stylegan3")
    assert_same_gradients(late.step("Dboth", cur_nimg=1000), never.step("Dboth", cur_nimg=1000))


def test_an_unknown_phase_is_an_error_that_lists_the_known_ones(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    with pytest.raises(ValueError, match=r"unknown phase 'Dmian'.*Gmain, Greg, Gboth, Dmain, Dreg, Dboth"):
        Bench(module, flavour).step("Dmian")


def test_base_class_leaves_accumulate_gradients_to_its_heirs(monkeypatch, flavour):
    module, _ = load_loss(monkeypatch, flavour)
    with pytest.raises(NotImplementedError):
        module.Loss().accumulate_gradients("Gmain", None, None, None, None, 1, 1)
    assert issubclass(module.StyleGAN2Loss, module.Loss)
