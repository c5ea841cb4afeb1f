"""Policy text cut into its policies, so that an error can say where it is, and bounded before Cedar sees it.

Cedar names neither line nor column, and its parser descends once per bracket: text that is nested deeply enough ends
the process. So the text is cut into tokens here first. A text that Cedar refuses is then refused at the first token
that cannot stand where it stands: the shortest beginning of the policy for which Cedar does not merely ask for more.

Bounds: a text of at most 256 KiB in 512 policies; a policy of at most 4,000 tokens, 24 brackets deep, with at most 96
operators, which is what else makes expressions deep.

References:
    Cedar policy language, reference, "Grammar specification for Cedar policy syntax".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from wardround.errors import ConfigError

__all__ = ["MAX_TEXT_BYTES", "Statement", "Token", "place", "statements"]

MAX_TEXT_BYTES = 256 * 1024
_MAX_STATEMENTS = 512
_MAX_TOKENS = 4000
_MAX_DEPTH = 24
_MAX_OPERATORS = 96
_TOKEN = re.compile(
    # As Cedar's own: where a string or a comment ends must be seen alike, or brackets could hide in one.
    r"(?P<blank>\s+|//[^\n\r]*)|"
    r'(?P<token>"(?:[^"\\]|\\[^\n])*"|[A-Za-z_][A-Za-z0-9_]*|[0-9]+|::|==|!=|<=|>=|&&|\|\||.)',
    re.DOTALL,
)
_OPEN, _CLOSE = "([{", ")]}"
_OPERATORS = frozenset({"&&", "||", "!", "-", "+", "*", ".", "if", "then", "else", "has", "like", "is"})


@dataclass(frozen=True, slots=True)
class Token:
    """A word or sign of a policy, and where it stands: from 0 in the text, from 1 in lines and columns."""

    text: str
    start: int
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy's text with its tokens; `number` counts from 0 as Cedar's ``policy0`` does."""

    number: int
    text: str
    tokens: tuple[Token, ...]


def statements(text: str, name: str) -> list[Statement]:
    """The policies of `text`, whose file is called `name`.

    Raises:
        ConfigError: Too large, nested too deeply, or it ends within a policy; with line and column.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise ConfigError(f"{name} is too large: policies may have {MAX_TEXT_BYTES:,} bytes")
    found: list[Statement] = []
    tokens: list[Token] = []
    depth = 0
    for token in _tokens(text):
        tokens.append(token)
        depth += (token.text in _OPEN) - (token.text in _CLOSE)
        if depth > _MAX_DEPTH:
            raise ConfigError(f"{place(name, token)}: more than {_MAX_DEPTH} brackets are open; write it in less depth")
        if len(tokens) > _MAX_TOKENS:
            raise ConfigError(f"{place(name, token)}: a policy may have {_MAX_TOKENS} words and signs; write several")
        if token.text == ";" and depth <= 0:
            found.append(_statement(text, tokens, len(found), name))
            tokens, depth = [], 0
    if tokens:
        # Cedar takes the last policy without its semicolon no better than we do; it says so, and where.
        found.append(_statement(text, tokens, len(found), name))
    if len(found) > _MAX_STATEMENTS:
        raise ConfigError(f"{name} has more than {_MAX_STATEMENTS} policies")
    return found


def place(name: str, token: Token) -> str:
    """Where a token stands, in words."""
    return f"{name}, line {token.line}, column {token.column}"


def _statement(text: str, tokens: list[Token], number: int, name: str) -> Statement:
    operators = [token for token in tokens if token.text in _OPERATORS]
    if len(operators) > _MAX_OPERATORS:
        token = operators[_MAX_OPERATORS]
        raise ConfigError(f"{place(name, token)}: a policy may have {_MAX_OPERATORS} operators; write several policies")
    return Statement(number, text[tokens[0].start : tokens[-1].start + len(tokens[-1].text)], tuple(tokens))


def _tokens(text: str) -> Iterator[Token]:
    line, begins = 1, 0
    for match in _TOKEN.finditer(text):
        if match["token"] is not None:
            yield Token(match["token"], match.start(), line, match.start() - begins + 1)
        if newlines := match[0].count("\n"):
            line, begins = line + newlines, match.start() + match[0].rindex("\n") + 1
