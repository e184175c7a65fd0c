"""The wheel and the sdist: they hold every file of the packages, and a fresh environment runs them.

The tests otherwise run on an editable checkout, which has files that a wheel may lack.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=115,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(kind: str, source: Path, folder: Path) -> Path:
    """Build a `wheel` or an `sdist` from a source tree, with the hatchling of this environment."""
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=source)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    return built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def files_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_has_every_file_of_every_package(wheel: Path) -> None:
    # .gitignore had `demo/`, and the build left out the package of that name.
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    want = {
        str(path.relative_to((ROOT / package).parent))
        for package in packages
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name.rpartition(".")[2] for name in want} >= {"py", "lua", "onnx", "json", "jsonl"}
    assert want - files_of(wheel) == set()


def test_the_sdist_makes_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = built("wheel", source, tmp_path / "wheel")
    assert files_of(again) == files_of(wheel)


def test_the_wheel_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        pytest.skip("needs uv: pip install uv")
    environment, empty = tmp_path / "env", tmp_path / "empty"
    empty.mkdir()
    run(uv, "venv", "--quiet", "--python", sys.executable, environment, cwd=empty)
    run(
        *(uv, "pip", "install", "--quiet", "--python", environment / "bin/python"),
        *("--constraint", ROOT / "requirements.lock", f"lengthwise[local] @ {wheel.as_uri()}"),
        cwd=empty,
    )
    lengthwise = environment / "bin/lengthwise"
    assert run(lengthwise, "--version", cwd=empty) == f"lengthwise {version('lengthwise')}\n"
    assert "bundled model" in run(lengthwise, "doctor", "--port", "18080", cwd=empty)
    assert "Race fcfs and sjf" in run(lengthwise, "demo", "--help", cwd=empty)
    assert "--engine" in run(lengthwise, "up", "--help", cwd=empty)
