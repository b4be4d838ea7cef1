"""The wheel: pure Python, and enough on its own to judge and to embed where nothing else is installed."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dinodeploy import load_embeddings
from tests.support.images.photographs import photograph

ROOT = Path(__file__).parent.parent
OLDEST = (3, 10)
PINNED_MINOR = 11  # that constraints.txt was made for


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("dinodeploy", "dinov3_ref", "exporters"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--no-index",
    ]
    built = subprocess.run(
        [*command, "--wheel-dir", folder, source], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_is_pure(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "dinodeploy/py.typed" in names
    assert not [name for name in names if name.endswith((".so", ".pyd", ".dylib", ".c", ".pyx"))]
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "examples"))]


@pytest.mark.slow
def test_the_wheel_alone_judges_and_embeds(wheel: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """In an environment of its own that has what the wheel says it needs, without extras, and no torch."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    (site,) = home.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    for distribution in needed(wheel):
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    photograph("coffee").save(tmp_path / "coffee.jpg")
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def python(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(home / "bin" / "python"), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )

    for absent in ("torch", "onnx", "pyarrow"):
        assert "ModuleNotFoundError" in python("-c", f"import {absent}").stderr
    judged = python("-m", "dinodeploy", "check", bundle)
    assert judged.returncode == 0, judged.stderr
    embedded = python("-m", "dinodeploy", "embed", "coffee.jpg", "--engine", bundle, "--out", "out")
    assert embedded.returncode == 0, embedded.stderr
    ids, vectors = load_embeddings(tmp_path / "out")
    assert ids == ["coffee.jpg"]
    assert vectors.shape == (1, 128)  # type: ignore[union-attr]


def needed(wheel: Path) -> list[importlib.metadata.Distribution]:
    """Everything the wheel requires without an extra, and what that requires, as installed here."""
    metadata = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    waiting = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    found: dict[str, importlib.metadata.Distribution] = {}
    while waiting:
        requirement = Requirement(waiting.pop())
        name = requirement.name.lower().replace("_", "-")
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = importlib.metadata.distribution(name)
        waiting += found[name].requires or []
    return list(found.values())


@pytest.mark.matrix
@pytest.mark.parametrize("minor", [10, 11, 12, 13])
def test_what_the_wheel_requires_has_wheels_for_aarch64(minor: int, tmp_path: Path) -> None:
    """Asks the package index, and downloads only the metadata of a few wheels.

    By the ranges of pyproject.toml; for the Python of constraints.txt, by its versions. pytest -m matrix
    """
    pins = [f"--constraint={ROOT / 'constraints.txt'}"] if minor == PINNED_MINOR else []
    platforms = [f"--platform=manylinux{tag}_aarch64" for tag in ("_2_28", "_2_27", "_2_17", "2014")]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps", *pins]
    command += ["--only-binary=:all:", *platforms, f"--python-version=3.{minor}", f"--target={tmp_path}"]
    asked = subprocess.run(
        [*command, f"--report={tmp_path / 'report.json'}", *dependencies()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    wheels = {
        one["metadata"]["name"].lower(): one["download_info"]["url"].rpartition("/")[2]
        for one in report["install"]
    }
    print(*sorted(wheels.values()))
    assert sorted(wheels) == sorted(Requirement(line).name for line in dependencies())
    assert all(name.endswith(("aarch64.whl", "-none-any.whl")) for name in wheels.values())
    assert all("aarch64" in wheels[name] for name in ("numpy", "pillow", "onnxruntime"))


def dependencies() -> list[str]:
    """What the runtime requires without an extra, as pyproject.toml says it."""
    text = (ROOT / "pyproject.toml").read_text()
    block = text.partition("\ndependencies = [")[2].partition("]")[0]
    return [str(line) for line in ast.literal_eval(f"[{block}]")]


def test_the_runtime_is_written_for_the_oldest_python() -> None:
    """Its grammar; ruff and mypy watch over the names."""
    for package in ("dinodeploy", "exporters", "dinov3_ref"):
        for path in sorted((ROOT / package).rglob("*.py")):
            ast.parse(path.read_text(), str(path), feature_version=OLDEST)


def find_others() -> list[str]:
    """Pythons that are installed beside this one, or on the path."""
    beside = Path(sys.base_prefix).parent.glob("3.1[0-4]*/bin/python3")
    named = (shutil.which(f"python3.{minor}") for minor in (10, 12, 13, 14))
    return [str(path) for path in sorted(beside)] or [path for path in named if path]


OTHERS = find_others()


@pytest.mark.parametrize("interpreter", OTHERS or [None])
def test_other_pythons_compile_the_runtime(interpreter: str | None, tmp_path: Path) -> None:
    if interpreter is None:
        pytest.skip("no other Python between 3.10 and 3.14 is installed here")
    copy = shutil.copytree(ROOT / "dinodeploy", tmp_path / "dinodeploy")
    command = [interpreter, "-m", "compileall", "-q", str(copy)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
