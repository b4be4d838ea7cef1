"""Filter language for metadata, translated to Lance SQL.

    width > 640 and (label = 'cat' or label like 'dog%') and not note is null
    "taken on" between '2024-01-01' and '2024-12-31'      quote column names that are not plain words
    label in ('cat', 'dog')                               = != < <= > >=, in like between is null, and or not

User text never reaches the database: column names are looked up and literals are written anew, so SQL
injection is not possible. A comparison with a missing value is neither true nor false, as in SQL.

`not` moves into the comparisons by De Morgan's laws, which hold with missing values too; brackets inside
brackets of the same kind are joined. So the SQL has no NOT (…): Lance reads one as a call of a function, then
again as an operator, which from 24 nested ones on takes twice the time for each further one.
Why not Lance's own parser or sqlglot: `benchmarks/LOG.md`, 2026-11-30.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from dinodeploy.errors import MisuseError
from dinodeploy.store.formats.arrow import utf8

Kind = Literal["text", "integer", "real", "boolean"]
WANTED: dict[Kind, str] = {
    "text": "a text in quotes",
    "integer": "a number",
    "real": "a number",
    "boolean": "true or false",
}

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
    |(?P<text>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`)
    |(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|!=|<>|==|[=<>(),])|(?P<end>\Z))""",
    re.VERBOSE,
)
_SIGNS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_KEYWORDS = ("and", "or", "not", "in", "like", "between", "is", "null", "true", "false")
_INT64 = range(-(2**63), 2**63)
_DEEPEST = 50  # nested brackets and nots
_DEEPEST_SQL = 16  # levels of AND inside OR inside AND; Lance's parser ends at 22
_LONGEST = 1 << 16  # characters of a filter
_LONGEST_WORD = 4096  # characters of a pattern of `like`, or of a word to search for
_MOST_COMPARISONS = 1000
_MOST_VALUES = 10_000  # in the lists of `in`
_AHEAD = 50  # tokens
_HINT = "wanted something like: width > 640 and label = 'cat'"


def filter_sql(text: str, columns: Mapping[str, Kind]) -> str:
    """The filter `text` as Lance SQL, in a few milliseconds for any text.

    Raises MisuseError, one line that shows where it becomes invalid or which limit it exceeds.
    """
    if len(text) > _LONGEST:
        raise MisuseError(f"--filter has {len(text):,} characters; wanted at most {_LONGEST:,}")
    return _sql(_Parser(text, columns).parse())


def contains_sql(word: str, columns: Sequence[str]) -> str:
    """Lance SQL for: a text column contains `word`, ignoring case. Raises MisuseError for an empty word."""
    if not word:
        raise MisuseError("--text-filter is empty; wanted a word to search for")
    if len(word) > _LONGEST_WORD:
        raise MisuseError(f"--text-filter has {len(word):,} characters; wanted at most {_LONGEST_WORD:,}")
    return " OR ".join(f"contains(lower({_name(name)}), lower({text_literal(word)}))" for name in columns)


@dataclass(frozen=True)
class _Group:
    """Conditions joined by AND or OR. depth: 1 if none of them is a group."""

    word: str
    parts: tuple[_Condition, ...]
    depth: int


_Condition = str | _Group  # a string is one comparison in SQL


def _join(word: str, parts: Sequence[_Condition]) -> _Condition:
    """`parts` joined by `word`; groups of the same word become part of this one."""
    if len(parts) == 1:
        return parts[0]
    flat: list[_Condition] = []
    for part in parts:
        flat += part.parts if isinstance(part, _Group) and part.word == word else [part]
    deepest = max(part.depth if isinstance(part, _Group) else 0 for part in flat)
    return _Group(word, tuple(flat), deepest + 1)


def _sql(condition: _Condition) -> str:
    if isinstance(condition, str):
        return condition
    return f"({f' {condition.word} '.join(map(_sql, condition.parts))})"


@dataclass(frozen=True)
class _Token:
    kind: str
    value: str
    begin: int

    def matches(self, *words: str) -> bool:
        value = self.value.lower() if self.kind == "word" else self.value
        return self.kind in ("word", "sign") and value in words


class _Parser:
    """Recursive descent: `_any` parses a chain of ors, `_all` of ands, `_one` a comparison or a bracket.

    Each returns the condition, or its negation if `negated`.
    """

    def __init__(self, text: str, columns: Mapping[str, Kind]) -> None:
        self._text, self._columns = text, columns
        self._tokens: list[_Token] = []  # read so far
        self._at = self._end = self._depth = self._comparisons = self._values = 0

    def parse(self) -> _Condition:
        condition = self._any(False)
        if self._next.kind != "end":
            self._fail("'and', 'or' or the end")
        return condition

    @property
    def _next(self) -> _Token:
        while len(self._tokens) <= self._at:
            self._tokens.append(self._read())
        return self._tokens[self._at]

    def _read(self) -> _Token:
        match = _TOKEN.match(self._text, self._end)
        if match is None:
            rest = self._text[self._end :].lstrip()
            raise MisuseError(f"--filter {self._text!r}: {rest!r} is not valid; {_HINT}")
        self._end = match.end()
        kind = str(match.lastgroup)
        return _Token(kind, match[kind], match.start(kind))

    def _look_ahead(self) -> None:
        """Before another error: raise one for text nearby that is no part of the language."""
        for _ in range(_AHEAD):
            if self._tokens[-1].kind == "end":
                return
            self._tokens.append(self._read())

    def _take(self, *words: str) -> bool:
        """Consume the next token if it is one of `words`."""
        found = self._next.matches(*words)
        self._at += found
        return found

    def _expect(self, word: str) -> None:
        """Consume the next token, which must be `word`."""
        if not self._take(word):
            self._fail(repr(word))

    def _any(self, negated: bool) -> _Condition:
        parts = [self._all(negated)]
        while self._take("or"):
            parts.append(self._all(negated))
        return self._joined("AND" if negated else "OR", parts)

    def _all(self, negated: bool) -> _Condition:
        parts = [self._one(negated)]
        while self._take("and"):
            parts.append(self._one(negated))
        return self._joined("OR" if negated else "AND", parts)

    def _one(self, negated: bool) -> _Condition:
        outside = self._depth
        while self._take("not"):
            negated = not negated
            self._deeper()
        if self._take("("):
            self._deeper()
            condition = self._any(negated)
            self._expect(")")
        else:
            condition = self._comparison(negated)
        self._depth = outside
        return condition

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise MisuseError(f"--filter: more than {_DEEPEST} nested brackets; wanted a flatter condition")

    def _joined(self, word: str, parts: list[_Condition]) -> _Condition:
        condition = _join(word, parts)
        if isinstance(condition, _Group) and condition.depth > _DEEPEST_SQL:
            raise MisuseError(
                f"--filter: more than {_DEEPEST_SQL} levels of `and` inside `or`; wanted a flatter condition"
            )
        return condition

    def _comparison(self, negated: bool) -> _Condition:
        self._count(1)
        column, kind = self._column()
        if self._take("is"):
            if self._take("not"):
                negated = not negated
            self._expect("null")
            return f"{_name(column)} IS {'NOT ' if negated else ''}NULL"
        has_not = self._take("not")
        negated = negated != has_not
        if self._take("in"):
            return self._list(column, kind, negated)
        if self._take("between"):
            low = self._compare(column, kind, ">=", negated)
            self._expect("and")
            high = self._compare(column, kind, "<=", negated)
            return self._joined("OR" if negated else "AND", [low, high])
        if kind == "text" and self._take("like"):
            _, pattern = self._literal(column, kind)
            if len(pattern) > _LONGEST_WORD:
                raise MisuseError(
                    f"--filter: a pattern of {len(pattern):,} characters; wanted at most {_LONGEST_WORD:,}"
                )
            return f"{_name(column)} {'NOT ' if negated else ''}LIKE {pattern}"
        if has_not or self._next.value not in _SIGNS:
            signs = "" if has_not else f"{', '.join(_SIGNS)}, "
            self._fail(f"{signs}in, between{', like' if kind == 'text' else ''}")
        sign = _SIGNS[self._next.value]
        self._at += 1
        return self._compare(column, kind, sign, negated)

    def _list(self, column: str, kind: Kind, negated: bool) -> _Condition:
        """`in (…)`; values of another type than the column are compared one by one."""
        self._expect("(")
        values: list[str] = []
        parts: list[_Condition] = []
        while not values or self._take(","):
            begin = self._at
            exact, literal = self._literal(column, kind)
            values.append(literal)
            if not exact:
                self._at = begin
                parts.append(self._compare(column, kind, "=", negated))
                values[-1] = ""
        self._values += len(values)
        if self._values > _MOST_VALUES:
            raise MisuseError(f"--filter: more than {_MOST_VALUES:,} values in lists; wanted fewer")
        if not self._take(")"):
            self._fail("',' or ')'")
        self._count(len(parts))
        if plain := [value for value in values if value]:
            parts.append(f"{_name(column)} {'NOT ' if negated else ''}IN ({', '.join(plain)})")
        return self._joined("AND" if negated else "OR", parts)

    def _count(self, comparisons: int) -> None:
        self._comparisons += comparisons
        if self._comparisons > _MOST_COMPARISONS:
            raise MisuseError(
                f"--filter: more than {_MOST_COMPARISONS:,} comparisons; put the values of a column in one "
                "list: label in ('cat', 'dog')"
            )

    def _compare(self, column: str, kind: Kind, sign: str, negated: bool) -> str:
        exact, literal = self._literal(column, kind)
        name = _name(column) if exact else f"CAST({_name(column)} AS DOUBLE)"
        return f"{name} {_OPPOSITE[sign] if negated else sign} {literal}"

    def _column(self) -> tuple[str, Kind]:
        token = self._next
        name = token.value
        if token.kind == "quoted":
            name = name[1:-1].replace(name[0] * 2, name[0])
        elif token.kind != "word" or name.lower() in _KEYWORDS:
            self._fail("the name of a column")
        if name not in self._columns:
            self._look_ahead()
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
        self._look_ahead()
        got = "the end" if token.kind == "end" else repr(self._text[token.begin :])
        raise MisuseError(f"--filter {self._text!r}: got {got}, wanted {wanted}")


def _name(column: str) -> str:
    return "`" + column.replace("`", "``") + "`"


def text_literal(value: str) -> str:
    """A text in SQL; as in the table, what is not valid Unicode is escaped."""
    return "'" + utf8([value])[0].replace("'", "''") + "'"


def _real(value: float) -> str:
    """A real literal, clamped to the range of float64."""
    largest = 1.7976931348623157e308
    return repr(min(max(value, -largest), largest))
