"""Print the lowest versions that pyproject.toml declares, as pip constraints.

    python .ci/lowest_versions.py [EXTRA ...]

The project's own dependencies, and those of the named extras.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import tomllib

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([^;,\s]+)")


def main(extras: list[str]) -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    requirements = list(project["dependencies"])
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    for requirement in requirements:
        if requirement.startswith("dinodeploy["):
            continue
        name, version = REQUIREMENT.match(requirement).groups()  # type: ignore[union-attr]
        print(f"{name}=={version}")


if __name__ == "__main__":
    main(sys.argv[1:])
