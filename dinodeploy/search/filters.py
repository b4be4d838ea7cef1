"""Filter language for metadata, translated to Lance SQL.

    width > 640 and (label = 'cat' or label like 'dog%') and not note is null
    "taken on" between '2024-01-01' and '2024-12-31'      quote column names that are not plain words
    label in ('cat', 'dog')                               = != < <= > >=, in like between is null, and or not

User text never reaches the database: column names are looked up and literals are written anew, so SQL
injection is not possible. A comparison with a missing value is neither true nor false, as in SQL.
Why not Lance's own parser or sqlglot: `benchmarks/LOG.md`, 2026-11-30.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from dinodeploy.errors import MisuseError

Kind = Literal["text", "integer", "real", "boolean"]
WANTED: dict[Kind, str] = {
    "text": "a text in quotes",
    "integer": "a number",
    "real": "a number",
    "boolean": "true or false",
}

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
    |(?P<text>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`)
    |(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|!=|<>|==|[=<>(),])|(?P<end>\Z))""",
    re.VERBOSE,
)
_SIGNS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_KEYWORDS = ("and", "or", "not", "in", "like", "between", "is", "null", "true", "false")
_INT64 = range(-(2**63), 2**63)
_DEEPEST = 50  # nested brackets and nots
_HINT = "wanted something like: width > 640 and label = 'cat'"


def filter_sql(text: str, columns: Mapping[str, Kind]) -> str:
    """The filter `text` as Lance SQL. Raises MisuseError, one line that shows where it becomes invalid."""
    return _Parser(text, columns).parse()


def contains_sql(word: str, columns: Sequence[str]) -> str:
    """Lance SQL for: a text column contains `word`, ignoring case. Raises MisuseError for an empty word."""
    if not word:
        raise MisuseError("--text-filter is empty; wanted a word to search for")
    return " OR ".join(f"contains(lower({_name(name)}), lower({text_literal(word)}))" for name in columns)


@dataclass(frozen=True)
class _Token:
    kind: str
    value: str
    begin: int

    def matches(self, *words: str) -> bool:
        value = self.value.lower() if self.kind == "word" else self.value
        return self.kind in ("word", "sign") and value in words


class _Parser:
    """Recursive descent: `_any` parses a chain of ors, `_all` of ands, `_one` a comparison or a bracket."""

    def __init__(self, text: str, columns: Mapping[str, Kind]) -> None:
        self._text, self._columns = text, columns
        self._tokens = self._split()
        self._at = self._depth = 0

    def parse(self) -> str:
        sql = self._any()
        if self._next.kind != "end":
            self._fail("'and', 'or' or the end")
        return sql

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        kind, end = "", 0
        while kind != "end":
            match = _TOKEN.match(self._text, end)
            if match is None:
                rest = self._text[end:].lstrip()
                raise MisuseError(f"--filter {self._text!r}: {rest!r} is not valid; {_HINT}")
            kind, end = str(match.lastgroup), match.end()
            tokens.append(_Token(kind, match[kind], match.start(kind)))
        return tokens

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, *words: str) -> bool:
        """Consume the next token if it is one of `words`."""
        found = self._next.matches(*words)
        self._at += found
        return found

    def _expect(self, word: str) -> None:
        """Consume the next token, which must be `word`."""
        if not self._take(word):
            self._fail(repr(word))

    def _any(self) -> str:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def _all(self) -> str:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})"

    def _one(self) -> str:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise MisuseError(f"--filter: more than {_DEEPEST} nested brackets; wanted a flatter condition")
        if self._take("not"):
            sql = f"NOT ({self._one()})"
        elif self._take("("):
            sql = f"({self._any()})"
            self._expect(")")
        else:
            sql = self._comparison()
        self._depth -= 1
        return sql

    def _comparison(self) -> str:
        column, kind = self._column()
        if self._take("is"):
            word = "IS NOT NULL" if self._take("not") else "IS NULL"
            self._expect("null")
            return f"{_name(column)} {word}"
        negated = "NOT " if self._take("not") else ""
        if self._take("in"):
            self._expect("(")
            parts = [self._compare(column, kind, "=")]
            while self._take(","):
                parts.append(self._compare(column, kind, "="))
            if not self._take(")"):
                self._fail("',' or ')'")
            return f"{negated}({' OR '.join(parts)})"
        if self._take("between"):
            low = self._compare(column, kind, ">=")
            self._expect("and")
            return f"{negated}({low} AND {self._compare(column, kind, '<=')})"
        if kind == "text" and self._take("like"):
            return f"{_name(column)} {negated}LIKE {self._literal(column, kind)[1]}"
        if negated or self._next.value not in _SIGNS:
            signs = "" if negated else f"{', '.join(_SIGNS)}, "
            self._fail(f"{signs}in, between{', like' if kind == 'text' else ''}")
        sign = _SIGNS[self._next.value]
        self._at += 1
        return self._compare(column, kind, sign)

    def _compare(self, column: str, kind: Kind, sign: str) -> str:
        exact, literal = self._literal(column, kind)
        name = _name(column) if exact else f"CAST({_name(column)} AS DOUBLE)"
        return f"{name} {sign} {literal}"

    def _column(self) -> tuple[str, Kind]:
        token = self._next
        name = token.value
        if token.kind == "quoted":
            name = name[1:-1].replace(name[0] * 2, name[0])
        elif token.kind != "word" or name.lower() in _KEYWORDS:
            self._fail("the name of a column")
        if name not in self._columns:
            known = ", ".join(self._columns)
            raise MisuseError(f"--filter {self._text!r}: there is no column {name!r}; wanted one of {known}")
        self._at += 1
        return name, self._columns[name]

    def _literal(self, column: str, kind: Kind) -> tuple[bool, str]:
        """(whether it has the type of the column, the literal). Integers are compared with 1.5 as reals."""
        token = self._next
        self._at += 1
        if kind == "text" and token.kind in ("text", "quoted"):
            quote = token.value[0]
            return True, text_literal(token.value[1:-1].replace(quote * 2, quote))
        if kind == "boolean" and token.matches("true", "false"):
            return True, token.value.lower()
        if kind in ("integer", "real") and token.kind == "number":
            whole = re.fullmatch(r"[+-]?\d{1,19}", token.value)
            if kind == "integer" and whole and int(token.value) in _INT64:
                return True, str(int(token.value))
            return kind == "real", _real(float(token.value))
        self._at -= 1
        return self._fail(f"{WANTED[kind]}, as {column!r} is")

    def _fail(self, wanted: str) -> NoReturn:
        token = self._next
        got = "the end" if token.kind == "end" else repr(self._text[token.begin :])
        raise MisuseError(f"--filter {self._text!r}: got {got}, wanted {wanted}")


def _name(column: str) -> str:
    return "`" + column.replace("`", "``") + "`"


def text_literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _real(value: float) -> str:
    """A real literal, clamped to the range of float64."""
    largest = 1.7976931348623157e308
    return repr(min(max(value, -largest), largest))
