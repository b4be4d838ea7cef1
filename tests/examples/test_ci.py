"""The example workflow and the example test are run: their commands exist and do what they say."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from dinov3_ref.checkpoints import random_checkpoint, save_checkpoint
from tests.support.processes.command_line import CommandLine
from tests.support.tiny_models import tiny_config

CI = Path(__file__).parents[2] / "examples" / "07_ci_gate"


@pytest.fixture(scope="module")
def steps() -> list[dict[str, Any]]:
    workflow = yaml.safe_load((CI / "parity.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert job["runs-on"]
    found: list[dict[str, Any]] = job["steps"]
    return found


def test_its_commands_run(
    steps: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: CommandLine
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(random_checkpoint(tiny_config()), "official", tmp_path / "model.safetensors")
    lines = [line for step in steps for line in step.get("run", "").splitlines()]
    ours = [shlex.split(line)[1:] for line in lines if line.startswith("dinodeploy ")]
    assert [arguments[0] for arguments in ours] == ["export", "check"]
    for arguments in ours:
        ran = run(*arguments)
        assert ran.code == 0, ran.err
    (upload,) = (step for step in steps if "upload-artifact" in step.get("uses", ""))
    assert upload["if"] == "always()", "a report of a failure is the one that is needed"
    for name in upload["with"]["path"].split():
        assert (tmp_path / name).stat().st_size > 1000, name
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().tag == "testsuites"


def test_the_extra_it_installs_exists(steps: list[dict[str, Any]]) -> None:
    (install,) = (step["run"] for step in steps if "pip install" in step.get("run", ""))
    pyproject = (CI.parents[1] / "pyproject.toml").read_text()
    for extra in re.findall(r"dinodeploy\[(\w+)\]", install):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)


def test_the_example_test_passes_and_fails(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copy(CI / "test_bundle.py", tmp_path)
    for bundle, code in ((tiny_bundle, 0), (tmp_path / "nothing", 1)):
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_bundle.py"],
            cwd=tmp_path,
            env={"BUNDLE": str(bundle), "PYTHONPATH": str(CI.parents[1]), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == code, ran.stdout
