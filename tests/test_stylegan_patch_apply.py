"""apply.py on miniature clones: folders with nothing but the lines that it looks for."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stylegan_patch_clones import CHANGED, MINIATURES, PATCH, assert_refused, build, contents, load_apply


@pytest.fixture
def apply(monkeypatch):
    """apply.py as a module: a run is `apply.main([...])`."""
    return load_apply(monkeypatch)


@pytest.fixture(params=MINIATURES)
def kind(request):
    return request.param


@pytest.fixture
def clone(tmp_path, kind):
    return build(tmp_path / "a clone", kind)


def namespace(path, **names):
    names.setdefault("torch", torch)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names


def test_installs_our_loss_and_keeps_the_original_beside_it(apply, clone, kind, capsys):
    assert apply.main([str(clone)]) == 0
    ours = "loss.py" if kind == "stylegan2-ada-pytorch" else "stylegan3_loss.py"
    assert (clone / "training/loss.py").read_bytes() == (PATCH / ours).read_bytes()
    assert (clone / "training/loss_original.py").read_text() == MINIATURES[kind]["training/loss.py"]
    assert (clone / "training/loss.py").stat().st_mode & 0o777 == 0o755
    assert (clone / "README.md").read_text() == "not to be touched\n"
    out = capsys.readouterr().out
    assert f"{kind}, {CHANGED[kind]} files changed" in out and f"stylegan_patch/{ours}" in out


def test_fixed_files_do_what_they_are_for(apply, clone, kind):
    assert apply.main([str(clone)]) == 0
    sampler = namespace(clone / "torch_utils/misc.py")["InfiniteSampler"]([1, 2])
    assert sampler.dataset == [1, 2]
    strtobool = namespace(clone / "dnnlib/util.py")["strtobool"]
    assert [strtobool(s) for s in ("y", "yes", "1", "on", "n", "no", "0", "off")] == [1] * 4 + [0] * 4
    with pytest.raises(ValueError):
        strtobool("perhaps")
    ends = namespace(clone / "metrics/perceptual_path_length.py", np=np)["ends"]
    assert ends(np.arange(101.0)) == (1, 99)
    import scipy.linalg

    root = namespace(clone / "metrics/frechet_inception_distance.py", np=np, scipy=scipy)["root"]
    np.testing.assert_allclose(root(np.diag([4.0, 9.0])), np.diag([4.0, 9.0]))

    class FakeTorch:  # what load returns is what get() must hand on
        utils = type("u", (), {"cpp_extension": type("c", (), {"load": staticmethod(lambda name: [name])})})

    get = namespace(clone / "torch_utils/custom_ops.py", torch=FakeTorch)["get"]
    assert get("no_module_of_this_name", again=True) == ["no_module_of_this_name"]


def test_fixed_grid_sample_gives_the_gradients_of_torch(apply, tmp_path):
    clone = build(tmp_path / "clone", "stylegan2-ada-pytorch")
    assert apply.main([str(clone)]) == 0
    names = namespace(clone / "torch_utils/ops/grid_sample_gradfix.py")
    assert names["use"]()
    torch.manual_seed(0)
    image, grid = torch.randn(2, 3, 5, 5, requires_grad=True), torch.rand(2, 4, 4, 2) * 2 - 1
    out = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    weight = torch.randn_like(out)
    (expected,) = torch.autograd.grad((out * weight).sum(), image)
    torch.testing.assert_close(names["Back"].apply(weight, image, grid)[0], expected)


def test_fixed_versions_compare_and_betas_are_floats(apply, tmp_path):
    clone = build(tmp_path / "clone", "stylegan3")
    assert apply.main([str(clone)]) == 0
    for name in ("conv2d_gradfix.py", "grid_sample_gradfix.py"):
        parse = namespace(clone / "torch_utils/ops" / name)["parse_version"]
        assert parse(torch.__version__) >= parse("1.12.0a") and not parse("1.10.2") >= parse("1.11.0a")
    args, dnnlib = SimpleNamespace(), SimpleNamespace(EasyDict=SimpleNamespace)
    namespace(clone / "train.py", args=args, dnnlib=dnnlib)
    for options in (args.G, args.D):
        torch.optim.Adam([torch.zeros(1, requires_grad=True)], **options)


def test_a_second_run_changes_nothing(apply, clone, capsys):
    apply.main([str(clone)])
    before = contents(clone)
    capsys.readouterr()
    assert apply.main([str(clone)]) == 0
    assert "already installed, nothing changed" in capsys.readouterr().out
    assert contents(clone) == before


def test_revert_restores_every_byte_and_permission_and_leaves_nothing_behind(apply, clone):
    before = contents(clone)
    apply.main([str(clone)])
    assert contents(clone) != before
    assert apply.main([str(clone), "--revert"]) == 0
    assert contents(clone) == before
    assert apply.main([str(clone), "--revert"]) == 0
    assert contents(clone) == before


def test_dry_run_shows_a_diff_and_changes_nothing(apply, clone, kind, capsys):
    before = contents(clone)
    assert apply.main([str(clone), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert contents(clone) == before
    assert "-        super().__init__(dataset)\n+        super().__init__()\n" in out
    assert "+kparam = 2" in out and f"{CHANGED[kind]} files would change" in out
    apply.main([str(clone)])
    installed = contents(clone)
    assert apply.main([str(clone), "--revert", "--dry-run"]) == 0
    assert contents(clone) == installed


def test_line_ends_and_byte_order_marks_stay_as_they_are(apply, clone):
    for name in ("torch_utils/misc.py", "dnnlib/util.py", "torch_utils/custom_ops.py"):
        path = clone / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    before = contents(clone)
    apply.main([str(clone)])
    for name in ("torch_utils/misc.py", "dnnlib/util.py"):
        data = (clone / name).read_bytes()
        assert data.startswith(b"\xef\xbb\xbf") and data.count(b"\r\n") == data.count(b"\n")
        assert data != before[name][0]
    apply.main([str(clone), "--revert"])
    assert contents(clone) == before


def test_a_loss_that_the_user_wrote_is_kept_and_comes_back(apply, clone, capsys):
    (clone / "training/loss.py").write_text("mine = 1\n")
    apply.main([str(clone)])
    assert "was not the published one; yours is kept as training/loss_original.py" in capsys.readouterr().out
    assert (clone / "training/loss_original.py").read_text() == "mine = 1\n"
    apply.main([str(clone), "--revert"])
    assert (clone / "training/loss.py").read_text() == "mine = 1\n"


def test_changes_made_after_installing_survive_a_second_run_and_a_revert(apply, clone, capsys):
    before = contents(clone)
    apply.main([str(clone)])
    loss = clone / "training/loss.py"
    edited = loss.read_bytes().replace(b"kparam = 2 ", b"kparam = 5 ")
    loss.write_bytes(edited)
    assert apply.main([str(clone)]) == 0
    assert loss.read_bytes() == edited and "changed by you" in capsys.readouterr().out
    assert apply.main([str(clone), "--revert"]) == 0
    yours = clone / "training/loss.py.yours"
    assert yours.read_bytes() == edited
    yours.unlink()
    assert contents(clone) == before


def test_files_of_another_branch_are_not_taken_for_ours(apply, clone, capsys):
    """After a checkout or a pull: the loss there is the clone's own, whatever the store says."""
    theirs = clone / "training/loss.py"
    apply.main([str(clone)])
    theirs.write_text("# of a branch\n" + (clone / "training/loss_original.py").read_text())
    capsys.readouterr()
    assert_refused(apply, capsys, clone, says="is not the rooted loss any more, nor what it replaced")
    assert_refused(
        apply, capsys, clone, "--dry-run", says="--revert, which keeps it as training/loss.py.yours"
    )
    assert apply.main([str(clone), "--revert"]) == 0
    (clone / "training/loss.py.yours").rename(theirs)
    assert apply.main([str(clone)]) == 0 and b"Part of rooted-loss." in theirs.read_bytes()
    misc = clone / "torch_utils/misc.py"
    misc.write_text(misc.read_text().replace("__init__()", "__init__(dataset)") + "# of a branch\n")
    capsys.readouterr()
    assert apply.main([str(clone)]) == 0
    out = capsys.readouterr().out
    assert "keep  torch_utils/misc.py: the trouble is back, so look yourself: Sampler.__init__" in out
    assert "See to the lines above" in out and "Train as before" not in out


def test_a_newer_loss_of_ours_replaces_the_older_one(apply, clone, kind, monkeypatch, tmp_path):
    before = contents(clone)
    apply.main([str(clone)])
    for name in ("loss.py", "stylegan3_loss.py"):
        (tmp_path / name).write_bytes((PATCH / name).read_bytes() + b"# newer\n")
    monkeypatch.setattr(apply, "HERE", tmp_path)
    assert apply.main([str(clone)]) == 0
    assert (clone / "training/loss.py").read_bytes().endswith(b"# newer\n")
    assert (clone / "training/loss_original.py").read_text() == MINIATURES[kind]["training/loss.py"]
    apply.main([str(clone), "--revert"])
    assert contents(clone) == before


def test_our_loss_copied_by_hand_is_left_and_the_rest_is_fixed(apply, tmp_path, capsys):
    clone = build(tmp_path / "clone", "stylegan2-ada-pytorch")
    (clone / "training/loss.py").write_bytes((PATCH / "loss.py").read_bytes())
    before = contents(clone)
    assert apply.main([str(clone)]) == 0
    assert "copied by hand" in capsys.readouterr().out
    assert not (clone / "training/loss_original.py").exists()
    assert (clone / "torch_utils/misc.py").read_bytes() != before["torch_utils/misc.py"][0]
    capsys.readouterr()
    assert apply.main([str(clone), "--revert"]) == 0
    assert "keep  training/loss.py is the rooted loss still" in capsys.readouterr().out
    assert contents(clone) == before
    assert_refused(
        apply, capsys, clone, "--revert", says="nothing to put back, but training/loss.py is the rooted"
    )


def test_a_trouble_written_another_way_is_left_alone_and_reported(apply, clone, capsys):
    path = clone / "metrics/perceptual_path_length.py"
    path.write_text("import pkg_resources\n")
    before = path.read_bytes()
    assert apply.main([str(clone)]) == 0
    assert (
        "keep  metrics/perceptual_path_length.py: written another way, so look yourself"
        in capsys.readouterr().out
    )
    assert path.read_bytes() == before


def test_a_clone_that_needs_no_fixes_gets_the_loss_only(apply, clone, kind, tmp_path, capsys):
    assert apply.main([str(clone)]) == 0
    fixed = build(tmp_path / "fixed", kind)
    for name in MINIATURES[kind]:
        if not name.startswith("training/"):
            (fixed / name).write_bytes((clone / name).read_bytes())
    capsys.readouterr()
    assert apply.main([str(fixed)]) == 0
    out = capsys.readouterr().out
    assert "1 file changed" in out and "\nfix " not in out and "\nkeep" not in out


@pytest.mark.parametrize("at", range(24))
def test_a_run_that_breaks_off_anywhere_can_be_finished_or_reverted(apply, tmp_path, monkeypatch, capsys, at):
    """`at`: the file operation that fails, in the order of an installation and then of a revert."""
    root = build(tmp_path / "clone", "stylegan2-ada-pytorch")
    before = contents(root)
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) - 1 == at:
            raise OSError(28, "No space left on device", str(target))
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    codes = [apply.main([str(root)]), apply.main([str(root), "--revert"])]
    monkeypatch.setattr(os, "replace", real)
    assert codes in ([2, 0], [0, 2]) if at < len(calls) else codes == [0, 0]
    again = build(tmp_path / "again", "stylegan2-ada-pytorch")
    calls.clear()
    monkeypatch.setattr(os, "replace", replace)
    apply.main([str(again)])
    monkeypatch.setattr(os, "replace", real)
    assert apply.main([str(again)]) == 0  # finish it …
    assert (again / "training/loss.py").read_bytes() == (PATCH / "loss.py").read_bytes()
    for folder in (root, again):  # … or put it back
        assert apply.main([str(folder), "--revert"]) == 0
        assert contents(folder) == before


def test_folders_that_are_no_clones_are_refused_untouched(apply, clone, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused(apply, capsys, empty, says="is no clone of stylegan2-ada-pytorch or stylegan3")
    assert_refused(apply, capsys, empty, "--revert", says="is no clone of")
    assert_refused(apply, capsys, tmp_path / "nowhere", says="is no folder")
    (clone / "training/training_loop.py").unlink()
    assert_refused(apply, capsys, clone, says="it has no training/training_loop.py")


def test_a_loss_original_of_the_users_own_is_not_overwritten(apply, clone, capsys):
    (clone / "training/loss_original.py").write_text("precious\n")
    assert_refused(apply, capsys, clone, says="move it away first")


def test_links_out_of_the_clone_are_refused(apply, clone, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere.py"
    loss = clone / "training/loss.py"
    elsewhere.write_bytes(loss.read_bytes())
    loss.unlink()
    loss.symlink_to(elsewhere)
    assert_refused(apply, capsys, clone, says="symbolic link")


def test_a_link_to_the_clone_is_fine(apply, clone, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(clone, target_is_directory=True)
    assert apply.main([str(link)]) == 0
    assert (clone / "training/loss_original.py").exists() and link.is_symlink()


def test_a_clone_that_cannot_be_written_is_refused(apply, clone, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert_refused(apply, capsys, clone, says="cannot be written")


def test_a_damaged_store_is_refused_in_one_line(apply, clone, capsys):
    apply.main([str(clone)])
    capsys.readouterr()
    store = clone / ".rooted-loss"
    kept = store / "originals/training/loss.py"
    whole = kept.read_bytes()
    kept.write_text("changed")
    assert_refused(apply, capsys, clone, "--revert", says="is not the original any more")
    kept.write_bytes(whole)
    (store / "manifest.json").write_text("{")
    assert_refused(apply, capsys, clone, "--revert", says="is damaged")
    assert_refused(apply, capsys, clone, says="is damaged")


def test_the_command_line_explains_itself_and_ends_in_one_line_on_a_mistake(tmp_path):
    command = [sys.executable, str(PATCH / "apply.py")]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0
    for word in ("CLONE", "--dry-run", "--revert", "loss_original.py", ".rooted-loss"):
        assert word in shown.stdout
    wrong = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr.startswith("apply.py: ") and wrong.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    clone = build(tmp_path / "clone", "stylegan3")
    command = [sys.executable, str(PATCH / "apply.py"), str(clone)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        run.stdout.close()
        assert (run.stderr.read(), run.wait(timeout=60)) == ("", 0)
    assert (clone / "training/loss.py").read_bytes() == (PATCH / "stylegan3_loss.py").read_bytes()
