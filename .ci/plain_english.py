"""Refuse words that STYLE bans: in comments, docstrings, messages, pages and templates. `make lint` runs it.

    python .ci/plain_english.py [FILE ...]      default: every file of the repository

Names in code are not looked at, nor are strings of one word (JSON keys, option names), quoted words, code in
Markdown, and lines that end with `# names`.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

# word -> what to write instead
BANNED: dict[str, str] = {
    r"who(?:so)?ever": "a user, a caller, anyone who",
    r"(?-i:is none)": "there is no ...",
    r"for ever": "forever, or say what never ends",
    r"(?:go|goes|going|gone|went) on with": "continue, resume",
    r"(?:take|takes|taken|took|taking) up": "resume, use",
    r"mend(?:s|ed|ing)?": "fix",
    r"twins?": "meta copy",
    r"seams?": "custom op",
    r"lanes?": "stream, parallel session",
    r"yardsticks?": "fp32 baseline",
    r"witness(?:es)?": "fp32 baseline, independent check",
    r"given back|gives back|give back": "returns; falls back to fp16",
    r"pictures?": "image",
    r"at birth": "when created",
    r"of old": "earlier",
    r"nothing but": "only",
    r"aught|naught|nought": "anything, nothing, zero",
    r"a machine's own": "of this machine",
    r"likenesse?s?": "similarity",
    r"(?:is|are|was|were) no (?:more|longer) than": "at most",
}
PATTERN = re.compile(
    r"(?<![\w`'\"/.-])(?:" + "|".join(f"({words})" for words in BANNED) + r")(?![\w`'\"/:-])", re.IGNORECASE
)
TEXT = {".md", ".html", ".js", ".css", ".yml", ".yaml", ".toml"}
SKIPPED = (".ci/plain_english.py", "benchmarks/ledger/", "tests/data/", "LICENSE", "NOTICE")


def main(arguments: list[str]) -> int:
    """Exit code 1 and a line for each find."""
    found = 0
    for name in arguments or _tracked():
        if name.startswith(SKIPPED):
            continue
        path = Path(name)
        rows = path.read_text(encoding="utf-8").splitlines() if path.suffix in {".py", *TEXT} else []
        texts = _python(path) if path.suffix == ".py" else _plain(path) if path.suffix in TEXT else ()
        for line, text in texts:
            for match in PATTERN.finditer(text):
                instead = list(BANNED.values())[next(i for i, group in enumerate(match.groups()) if group)]
                row = line + text.count("\n", 0, match.start())
                if rows[row - 1].rstrip().endswith("# names"):
                    continue
                print(f"{name}:{row}: {match[0]!r}: write {instead}")
                found += 1
    if found:
        print(f"{found} banned words", file=sys.stderr)
    return 1 if found else 0


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if Path(name).is_file()]


def _python(path: Path) -> Iterator[tuple[int, str]]:
    """Comments, and strings that are sentences: (first line, text)."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


def _plain(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, without fenced and inline code where it is Markdown."""
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if path.suffix == ".md" and line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, re.sub(r"`[^`]*`", "``", line) if path.suffix == ".md" else line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
