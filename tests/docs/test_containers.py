"""The Dockerfiles, checked by reading them: no Docker daemon is needed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "containers").glob("Dockerfile.*"))
KNOWN = {
    *("FROM", "RUN", "COPY", "ENV", "ARG", "USER", "WORKDIR", "EXPOSE"),
    *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
}


def instructions(text: str) -> list[tuple[str, str]]:
    """(word, the rest) of each instruction. Continued lines are joined, comments removed."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def faults(text: str) -> list[str]:
    """The problems of a Dockerfile, one line each."""
    found = instructions(text)
    words = [word for word, _ in found]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    bad = [f"{word} is not an allowed instruction" for word in words if word not in KNOWN]
    for word, rest in found:
        if word == "FROM" and not re.fullmatch(r"[\w./-]+:[\w.-]*\d+\.\d+\.\d+[\w.-]*( AS \w+)?", rest):
            bad.append(f"FROM {rest}: not pinned to a release")
        if word == "COPY" and not rest.startswith("--from="):
            for source in rest.split()[:-1]:
                if not (ROOT / source).exists():
                    bad.append(f"COPY {source}: does not exist")
                if f"!{source}" not in ignored:
                    bad.append(f"COPY {source}: excluded by .dockerignore")
        if word in ("CMD", "ENTRYPOINT"):
            json.loads(rest)
        if word == "RUN" and "pip install" in rest and "--no-cache-dir" not in rest:
            bad.append("pip keeps its cache in the image")
        if word == "RUN" and "apt-get install" in rest and "rm -rf /var/lib/apt/lists" not in rest:
            bad.append("apt keeps its lists in the image")
    last = len(words) - 1 - words[::-1].index("FROM")
    final = found[last:]
    users = [rest for word, rest in final if word == "USER"]
    if not users or users[-1] in ("root", "0"):
        bad.append("runs as root")
    if "HEALTHCHECK" not in dict(final):
        bad.append("no HEALTHCHECK")
    return bad


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_dockerfiles_follow_the_rules(path: Path) -> None:
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("slim-bookworm AS build", "slim AS build", ""),
        ("FROM python:3.11.13-slim-bookworm\n", "FROM python:latest\n", "not pinned"),
        ("USER 10001\n", "", "root"),
        ("COPY dinodeploy dinodeploy", "ADD https://example.com/x /x", "not an allowed"),
        ("COPY dinodeploy dinodeploy", "COPY nothing nothing", "does not exist"),
        ("COPY dinodeploy dinodeploy", "COPY tests tests", ".dockerignore"),
        (" --no-cache-dir", "", "cache"),
    ],
)
def test_each_rule_can_fail(old: str, new: str, fault: str) -> None:
    text = (ROOT / "containers" / "Dockerfile.cpu").read_text()
    assert old in text
    found = faults(text.replace(old, new, 1) if fault != "root" else text.replace(old, new))
    assert (found == []) if not fault else any(fault in one for one in found), found


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_the_entry_point_is_a_dinodeploy_command(path: Path) -> None:
    """ENTRYPOINT with CMD; the health check's program at least compiles."""
    import typer.main

    from dinodeploy.cli.app import make_app

    found = dict(instructions(path.read_text()))
    program, *arguments = [*json.loads(found["ENTRYPOINT"]), *json.loads(found["CMD"])]
    assert program == "dinodeploy"
    command = typer.main.get_command(make_app()).commands[arguments[0]]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known
    check = json.loads(found["HEALTHCHECK"][found["HEALTHCHECK"].index("[") :])
    compile(check[2], "HEALTHCHECK", "exec")
    assert shlex.join(check).startswith("python")
