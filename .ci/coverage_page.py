"""Write the documentation's page on test coverage from coverage.py's JSON report: `make coverage` runs it.

python .ci/coverage_page.py build/coverage.json docs/development/coverage.md
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

HEAD = """# Test coverage

Statements that the tests run, by room. Written by `make coverage`; do not edit. Code in child processes
(workers of `serve`, ranks of `torchrun`, commands that tests start) is not counted.

| room | statements | covered |
|---|---:|---:|
"""


def main(report: str, page: str) -> None:
    rooms: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, facts in json.loads(Path(report).read_text(encoding="utf-8"))["files"].items():
        parts = Path(name).parts
        summary = facts["summary"]
        for room in {parts[0], "/".join(parts[:2]) if len(parts) > 2 else parts[0]}:
            rooms[room][0] += summary["num_statements"]
            rooms[room][1] += summary["covered_lines"]
    rows = [
        f"| `{room}` | {total} | {covered / total:.0%} |"
        for room, (total, covered) in sorted(rooms.items())
        if total
    ]
    Path(page).write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
