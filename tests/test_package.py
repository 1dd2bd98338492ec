"""The wheel: one name, `rooted_loss`, beside a project with folders of our names; torch and nothing more."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser

import pytest
from conftest import ROOT

import losses


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built without a network from a copy (a build leaves folders behind)."""
    source = tmp_path_factory.mktemp("source") / "rooted-loss"
    shutil.copytree(
        ROOT, source, symlinks=True,
        ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", "datasets", "build", "*.egg-info"),
    )  # fmt: skip
    out = tmp_path_factory.mktemp("wheel")
    pip(*"wheel . --no-deps --no-build-isolation --no-index --quiet -w".split(), out, cwd=source)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the wheel installed in it, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--quiet", "--target", folder, wheel)
    return folder


@pytest.fixture
def python(site, tmp_path):
    """Run code in somebody's project that owns losses/, models/ and data/, with the wheel installed."""
    for name in ("losses", "models", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"mine = {name!r}\n")

    def run(code, code_of_exit=0):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert done.returncode == code_of_exit, done.stdout + done.stderr
        return done

    return run


def pip(*words, cwd=None):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_the_package_and_its_metadata_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {re.split(r"[/-]", name)[0] for name in names} == {"rooted_loss"}
    assert {"rooted_loss/__init__.py", "rooted_loss/linear.py", "rooted_loss/py.typed"} <= set(names)
    folders = {"rooted_loss": ROOT / "losses", "rooted_loss/sklearn": ROOT / "logreg" / "estimator"}
    sources = {f"{name}/{p.name}" for name, path in folders.items() for p in path.glob("*.py")}
    inside = {name for name in names if name.startswith("rooted_loss/")}
    assert inside == sources | {"rooted_loss/py.typed"}


def test_it_asks_for_torch_alone(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (n for n in archive.namelist() if n.endswith("METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    wanted = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert [re.match(r"[\w-]+", r)[0] for r in wanted] == ["torch"]
    assert metadata["Version"] == losses.__version__
    assert metadata.get_all("Provides-Extra") == ["sklearn"]


def test_every_public_name_works_beside_a_project_that_owns_our_folders_names(python):
    out = python(
        "import rooted_loss, losses, models, data, torch\n"
        "assert (losses.mine, models.mine, data.mine) == ('losses', 'models', 'data')\n"
        "for name in rooted_loss.__all__: assert getattr(rooted_loss, name) is not None, name\n"
        "z = torch.randn(8, 5, requires_grad=True); y = torch.arange(8) % 5\n"
        "for name in rooted_loss.LOSSES: rooted_loss.build_loss(name)(z, y).backward()\n"
        "rooted_loss.linear_root_loss(z, torch.randn(7, 5), y).backward()\n"
        "rooted_loss.CausalLMLoss()((z[None],), y[None]).backward()\n"
        "print(rooted_loss.__version__)"
    ).stdout
    assert out.strip() == losses.__version__


def test_the_losses_import_nothing_but_torch(python):
    out = python(
        "import sys, torch\nbefore = set(sys.modules)\nimport rooted_loss\n"
        "[getattr(rooted_loss, name) for name in rooted_loss.__all__]\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(new - {'torch'}))"
    ).stdout
    assert out.strip() == "['rooted_loss']"


def test_the_estimator_fits_without_the_nets_of_this_repository(python):
    out = python(
        "import sys\nfrom rooted_loss.sklearn import RootedLogisticRegression\n"
        "from sklearn.datasets import load_wine\n"
        "X, y = load_wine(return_X_y=True); X = (X - X.mean(0)) / X.std(0)\n"
        "assert RootedLogisticRegression().fit(X, y).score(X, y) > 0.95\n"
        "unwanted = {'timm', 'torchvision', 'matplotlib', 'losses', 'models', 'logreg'}\n"
        "print(sorted(unwanted & set(sys.modules)))"
    ).stdout
    assert out.strip() == "[]"


def test_without_scikit_learn_the_estimator_says_what_to_install_in_one_line(python):
    code = "import sys; sys.modules['sklearn'] = None; import rooted_loss.sklearn"
    last = python(code, code_of_exit=1).stderr.splitlines()[-1]
    assert last == "ImportError: the estimator needs scikit-learn: pip install 'rooted-loss[sklearn]'"


def test_the_version_stands_in_pyproject_alone():
    assert f'\nversion = "{losses.__version__}"\n' in (ROOT / "pyproject.toml").read_text()
