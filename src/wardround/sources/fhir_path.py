"""The subset of FHIRPath that ViewDefinitions use, parsed: text in, a small syntax tree out.

Grammar and precedence are those of FHIRPath N1 (chapters 4, 6 and 10, appendix B); the subset is the one
of SQL on FHIR v2, "Supported FHIRPath Functionality". What a name means is not decided here but in
`wardround.sources.fhir_typing`. Loosest first:

    implies < or xor < and < = != < > >= < + - < * / < sign < . and []

An error names the place, counted from one, and shows the path, which is part of a public definition.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias

from wardround.errors import ConfigError
from wardround.sources.fhir_elements import Kind

__all__ = [
    "MAX_CHARACTERS",
    "MAX_DEPTH",
    "MAX_STEPS",
    "Call",
    "Constant",
    "Indexed",
    "Literal",
    "Member",
    "Operation",
    "Sign",
    "Syntax",
    "This",
    "parse",
    "refusal",
]

MAX_CHARACTERS: Final = 4096
MAX_DEPTH: Final = 24
MAX_STEPS: Final = 120
"""A path beyond these is refused: it was not written by a person."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A value written out; `kind` NOTHING is the empty collection ``{}``."""

    kind: Kind
    value: str | int | bool | Decimal | None
    at: int


@dataclass(frozen=True, slots=True)
class Constant:
    """``%name``: a constant of the view, or ``%rowIndex``."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class This:
    """``$this``."""

    at: int


@dataclass(frozen=True, slots=True)
class Member:
    """``source.name``; without a source, an element of the context or a type's name."""

    source: "Syntax | None"
    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Call:
    """``source.name(arguments)``."""

    source: "Syntax | None"
    name: str
    arguments: tuple["Syntax", ...]
    at: int


@dataclass(frozen=True, slots=True)
class Indexed:
    """``source[index]``."""

    source: "Syntax"
    index: "Syntax"
    at: int


@dataclass(frozen=True, slots=True)
class Operation:
    """``left operator right``."""

    operator: str
    left: "Syntax"
    right: "Syntax"
    at: int


@dataclass(frozen=True, slots=True)
class Sign:
    """``-operand``; a plus sign is dropped."""

    operand: "Syntax"
    at: int


Syntax: TypeAlias = Literal | Constant | This | Member | Call | Indexed | Operation | Sign

_LEVELS: Final = (("implies",), ("or", "xor"), ("and",), ("=", "!="), ("<", ">", "<=", ">="), ("+", "-"), ("*", "/"))
_NOT_HERE: Final = frozenset({"|", "&", "~", "!~", "div", "mod", "is", "as", "in", "contains"})
_WORDS: Final = frozenset({"and", "or", "xor", "implies", "div", "mod", "is", "as", "in", "contains"})
_ESCAPES: Final = {"r": "\r", "n": "\n", "t": "\t", "f": "\f"}
_DAY: Final = r"\d{4}(?:-\d{2}(?:-\d{2})?)?"
_CLOCK: Final = r"\d{2}(?::\d{2}(?::\d{2}(?:\.\d+)?)?)?"
_ZONE: Final = r"(?:Z|[+-]\d{2}:\d{2})?"
_TOKENS: Final = re.compile(
    r"(?P<blank>\s+|//[^\n]*|/\*.*?\*/)"
    rf"|(?P<dateTime>@{_DAY}T(?:{_CLOCK}{_ZONE})?)|(?P<date>@{_DAY})|(?P<time>@T{_CLOCK})"
    r"|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<string>'(?:[^'\\]|\\.)*')|(?P<delimited>`(?:[^`\\]|\\.)*`)"
    r"|(?P<constant>%(?:[A-Za-z_][A-Za-z0-9_]*|`(?:[^`\\]|\\.)*`|'(?:[^'\\]|\\.)*'))"
    r"|(?P<variable>\$[A-Za-z]+)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<symbol>!=|!~|<=|>=|[-+*/=<>.()\[\]{},|&~])",
    re.DOTALL | re.ASCII,
)
_ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Token:
    what: str
    text: str
    at: int


def parse(path: str) -> Syntax:
    """The syntax tree of `path`.

    Raises:
        ConfigError: The text is not FHIRPath, or goes beyond the subset or the bounds.
    """
    if len(path) > MAX_CHARACTERS:
        raise ConfigError(f"a FHIRPath expression has {len(path)} characters; at most {MAX_CHARACTERS} are read")
    parser = _Parser(path)
    tree = parser.expression(0)
    if parser.token.what != "end":
        raise refusal(path, parser.token.at, f"{parser.token.text!r} was not expected")
    if _depth(tree) > MAX_STEPS:
        raise refusal(path, 0, f"a chain of more than {MAX_STEPS} steps")
    return tree


def refusal(path: str, at: int, problem: str) -> ConfigError:
    """What is wrong with a path, and where."""
    return ConfigError(f"FHIRPath, character {at + 1} of {path!r}: {problem}")


def _depth(tree: Syntax) -> int:
    deepest = 0
    waiting: list[tuple[Syntax | None, int]] = [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        match node:
            case Member(source):
                waiting.append((source, depth + 1))
            case Call(source, _, arguments):
                waiting += [(part, depth + 1) for part in (source, *arguments)]
            case Indexed(left, right) | Operation(_, left, right):
                waiting += [(left, depth + 1), (right, depth + 1)]
            case Sign(operand):
                waiting.append((operand, depth + 1))
            case _:
                pass
    return deepest


def _tokens(path: str) -> list[_Token]:
    found = []
    at = 0
    while at < len(path):
        match = _TOKENS.match(path, at)
        if match is None:
            raise refusal(path, at, f"{path[at]!r} begins nothing")
        what = match.lastgroup or ""
        if what != "blank":
            found.append(_Token(what, match.group(), at))
        at = match.end()
    return [*found, _Token("end", "the end", at)]


class _Parser:
    def __init__(self, path: str) -> None:
        self._path = path
        self._tokens = _tokens(path)
        self._next = 0
        self._depth = 0

    @property
    def token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self.token
        self._next += 1
        return token

    def _accept(self, *symbols: str) -> bool:
        if self.token.what == "symbol" and self.token.text in symbols:
            self._next += 1
            return True
        return False

    def _expect(self, symbol: str) -> None:
        if not self._accept(symbol):
            raise refusal(self._path, self.token.at, f"{symbol!r} was expected, not {self.token.text!r}")

    def expression(self, level: int) -> Syntax:
        if level == len(_LEVELS):
            return self._signed()
        if level == 0:
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise refusal(self._path, self.token.at, f"nested more than {MAX_DEPTH} deep")
        left = self.expression(level + 1)
        while self.token.what in {"symbol", "word"}:
            token = self.token
            if token.text in _NOT_HERE:
                raise refusal(self._path, token.at, f"the operator {token.text!r} is not in the subset of views")
            if token.text not in _LEVELS[level]:
                break
            self._next += 1
            left = Operation(token.text, left, self.expression(level + 1), token.at)
        if level == 0:
            self._depth -= 1
        return left

    def _signed(self) -> Syntax:
        signs = []
        while self.token.text in {"+", "-"} and self.token.what == "symbol":
            signs.append(self._take())
        term = self._path_term()
        for sign in reversed(signs):
            term = Sign(term, sign.at) if sign.text == "-" else term
        return term

    def _path_term(self) -> Syntax:
        term = self._term()
        while True:
            at = self.token.at
            if self._accept("."):
                term = self._invocation(term)
            elif self._accept("["):
                term = Indexed(term, self.expression(0), at)
                self._expect("]")
            else:
                return term

    def _term(self) -> Syntax:
        token = self.token
        match token.what:
            case "number" | "string" | "date" | "dateTime" | "time" | "constant":
                self._next += 1
                return self._literal(token)
            case "variable" if token.text == "$this":
                self._next += 1
                return This(token.at)
            case "word" if token.text in {"true", "false"}:
                self._next += 1
                return Literal(Kind.BOOLEAN, token.text == "true", token.at)
            case "word" | "delimited" if token.text not in _WORDS:
                return self._invocation(None)
        if self._accept("("):
            inner = self.expression(0)
            self._expect(")")
            return inner
        if self._accept("{"):
            self._expect("}")
            return Literal(Kind.NOTHING, None, token.at)
        raise refusal(self._path, token.at, f"a term was expected, not {token.text!r}")

    def _literal(self, token: _Token) -> Syntax:
        match token.what:
            case "number":
                whole = "." not in token.text
                value = int(token.text) if whole else Decimal(token.text)
                return Literal(Kind.INTEGER if whole else Kind.DECIMAL, value, token.at)
            case "string":
                return Literal(Kind.TEXT, self._unescaped(token), token.at)
            case "constant":
                name = token.text[1:]
                return Constant(self._unescaped(token, name) if name[0] in "'`" else name, token.at)
            case _:
                return Literal(Kind(token.what), token.text[1:].removeprefix("T").removesuffix("T"), token.at)

    def _invocation(self, source: Syntax | None) -> Syntax:
        token = self._take()
        if token.what not in {"word", "delimited"}:
            raise refusal(self._path, token.at, f"an element or a function was expected, not {token.text!r}")
        name = token.text if token.what == "word" else self._unescaped(token)
        if token.what != "word" or not self._accept("("):
            return Member(source, name, token.at)
        arguments: list[Syntax] = []
        if not self._accept(")"):
            arguments.append(self.expression(0))
            while self._accept(","):
                arguments.append(self.expression(0))
            self._expect(")")
        return Call(source, name, tuple(arguments), token.at)

    def _unescaped(self, token: _Token, quoted: str | None = None) -> str:
        # (4.1.2) String literals know these escapes and no other.
        text = (quoted or token.text)[1:-1]

        def plain(match: re.Match[str]) -> str:
            code, letter = match.groups()
            if code:
                if 0xD800 <= int(code, 16) <= 0xDFFF:
                    raise refusal(self._path, token.at, "half of a surrogate pair")
                return chr(int(code, 16))
            if letter not in "\\'\"`/rntf":
                raise refusal(self._path, token.at, f"no such escape: \\{letter}")
            return _ESCAPES.get(letter, letter)

        return _ESCAPE.sub(plain, text)
