"""The wheel in an environment of its own, used outside any checkout and without what extras install."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from pipeline.policies.refs import published
from pipeline.store import open_store
from tests.support.served_ui import served
from tests.support.tiny import SMALLEST, set_options

ROOT = Path(__file__).parents[3]
PRODUCT = ("pipeline", "trainer", "evals", "assets", "experiments")
OF_EXTRAS = (
    *("reasoning_gym", "gguf", "accelerate", "peft", "vllm", "ray", "dagster_postgres"),
    *("s3fs", "gcsfs", "adlfs", "wandb", "tensorboard", "trackio", "dagster_k8s", "kubernetes"),
)


def pip(folder: Path, *arguments: str) -> None:
    """Run pip in a folder."""
    command = [sys.executable, "-m", "pip", "--quiet", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy: a build leaves folders behind, and takes up what lies in them."""
    folder = tmp_path_factory.mktemp("built")
    for name in PRODUCT:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "dagster.yaml"):
        shutil.copy(ROOT / name, folder)
    pip(folder, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", ".")
    (built,) = (folder / "dist").glob("tbrm-*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment with the wheel. It sees the libraries that are installed here, but those of extras."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    pip(folder, "--python", str(folder / "bin" / "python"), "install", "--no-deps", str(wheel))
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    libraries = [path for path in sys.path if Path(path).name == "site-packages"]
    (own / "libraries.pth").write_text("\n".join(libraries) + "\n")
    (own / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({OF_EXTRAS}))\n")
    return folder / "bin"


def said(program: Path, folder: Path, *arguments: str) -> str:
    """Output of an installed program that somebody without a checkout starts in a folder."""
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("TBRM_", "DAGSTER_", "PYTHONPATH"))
    }
    command = [str(program), *arguments]
    done = subprocess.run(command, cwd=folder, env=outside | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_carries_the_experiments_and_dagsters_configuration(wheel: Path) -> None:
    carried = set(zipfile.ZipFile(wheel).namelist())
    files = [ROOT / "dagster.yaml", *(ROOT / "experiments").rglob("*.yaml")]
    assert {f"pipeline/defaults/{file.relative_to(ROOT)}" for file in files} <= carried
    assert {str(file.relative_to(ROOT)) for file in (ROOT / "evals").rglob("*.j2")} <= carried
    assert not [name for name in carried if name.startswith(("tests/", "benchmarks/", "experiments/"))]


def newest_python() -> str | None:
    """The newest Python of this machine that the package supports beside the one that runs the tests."""
    for version in ("3.13", "3.12"):
        names = [f"python{version}", *sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))]
        for name in names:
            found = shutil.which(name)
            if found and subprocess.run([found, "-c", "import venv"], capture_output=True).returncode == 0:
                return found
    return None


def test_the_newest_python_of_this_machine_installs_and_compiles_it(wheel: Path, tmp_path: Path) -> None:
    """The libraries are not there for that Python, so that nothing of it is run."""
    python = newest_python()
    if python is None:
        pytest.skip("there is neither Python 3.13 nor 3.12 here")
    subprocess.run([python, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    pip(tmp_path, "--python", str(tmp_path / "bin" / "python"), "install", "--no-deps", str(wheel))
    said(tmp_path / "bin" / "python", tmp_path, "-W", "error", "-m", "compileall", "-q", "-f", str(tmp_path / "lib"))


def test_an_experiment_runs_outside_a_checkout(programs: Path, tmp_path: Path) -> None:
    loaded = said(programs / "python", tmp_path, "-c", "import pipeline; print(pipeline.__file__)")
    assert Path(loaded).is_relative_to(programs.parent), "it is the installed package that runs"
    said(programs / "tbrm", tmp_path, "run", "arith_tiny", "--root", "data", *set_options(SMALLEST))
    store = open_store(str(tmp_path / "data"))
    before, after = (published(store, "arith_tiny", generation)["policy_id"] for generation in (0, 1))
    assert before != after


def test_the_ui_shows_the_experiments_that_come_with_it(programs: Path, tmp_path: Path) -> None:
    with served(tmp_path / "data", tmp_path, tbrm=[str(programs / "tbrm")]) as ui:
        nodes = ui.query("{ assetNodes { assetKey { path } } }")["assetNodes"]
    shown = {"/".join(node["assetKey"]["path"]) for node in nodes}
    assert {"arith_tiny/rollouts", "smollm2_135m/rollouts"} <= shown
    assert not any(name.startswith("broken_experiments") for name in shown)
