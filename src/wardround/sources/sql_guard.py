"""Which SQL a mapping may hold: one SELECT that only reads, and, where the site says so, only what it lists.

1. `check_query` admits one SELECT: no second statement, no INTO, no locks, no writing inside a WITH, no function of
   the deny list. The list exists because some functions act outside the transaction: they read the server's files,
   reach other databases, run SQL given as text, stop other sessions, or switch a setting back. It cannot know the
   functions that a site has written itself; the database's own rights have to.
2. `check_allowed` admits only tables and columns of a list, wherever in the query they stand. It is stricter than a
   database: whatever could mean a column that is not listed is refused, so stars, USING, table functions, and names
   that say neither their table nor anything listed.
3. `check_calls` admits only functions that sqlglot knows, for databases whose own dangers nobody has listed here.

What runs for events is written anew from the tree that was checked (`parsed`), without its comments, so that no
comment or escape can mean one thing to the check and another to the database.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

import sqlglot
import sqlglot.errors
from sqlglot import exp
from sqlglot.optimizer.scope import Scope, traverse_scope

from wardround.errors import UnsafeQueryError

__all__ = ["DENIED", "Allowed", "check_allowed", "check_calls", "check_query", "folded", "parsed"]

Allowed = Mapping[str, Sequence[str]]
"""Columns by table; a table of another schema as ``schema.table``."""

DENIED = re.compile(
    # PostgreSQL: server files and processes, other servers, large objects, settings, sequences, SQL as text.
    r"pg_.*|lo_.*|dblink.*|postgres_fdw_.*|http.*|set_config|current_setting|setval|nextval|txid_current"
    r"|.*_to_xml.*|crosstab.*|connectby|ts_stat|ts_rewrite"
    # SQLite: code, files, pragmas, and blobs as large as one likes.
    r"|load_extension|readfile|writefile|edit|fts3_tokenizer|pragma_.*|zeroblob|randomblob"
)
_ESCAPED_NAME = re.compile(r'u&"', re.IGNORECASE)
_OPENINGS = {"SELECT", "WITH", "("}
_WRITING = (
    exp.Command,
    exp.Copy,
    exp.Create,
    exp.Delete,
    exp.Drop,
    exp.Insert,
    exp.Into,
    exp.Lock,
    exp.Merge,
    exp.Update,
)


def check_query(query: str, dialect: str) -> None:
    """Admit a single SELECT in sqlglot's `dialect`, such as "sqlite" or "postgres".

    Raises:
        UnsafeQueryError: Says which rule it breaks; the query itself is not quoted.
    """
    if offence := _offence(query, dialect):
        raise UnsafeQueryError(f"the mapping's query {offence}: it must be one SELECT that only reads")


def parsed(query: str, dialect: str) -> exp.Query:
    """The tree of a query that `check_query` admits, without its comments.

    Raises:
        UnsafeQueryError: As `check_query`.
    """
    check_query(query, dialect)
    tree = sqlglot.parse_one(query, read=dialect)
    if not isinstance(tree, exp.Query):
        raise UnsafeQueryError("the mapping's query is not a SELECT")
    for node in tree.walk():
        node.comments = None
    return tree


def folded(name: str, dialect: str) -> str:
    """A name as the database compares it, where it was written as the database stores it."""
    identifier = exp.to_identifier(name, quoted=True)
    return str(sqlglot.Dialect.get_or_raise(dialect).normalize_identifier(identifier).name)


def check_calls(tree: exp.Query) -> None:
    """Admit only functions that are known to compute and nothing else.

    Raises:
        UnsafeQueryError: Names the function.
    """
    for node in tree.walk():
        if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc | exp.CombinedAggFunc):
            raise UnsafeQueryError(f"the mapping's query calls {node.name.lower()!r}, which is no function known here")
        if isinstance(node, exp.Table) and not isinstance(node.this, exp.Identifier):
            raise UnsafeQueryError("the mapping's query reads from a function: it must read tables")
        if isinstance(node, exp.Table) and re.search(r"[./\\:*]", node.name):
            raise UnsafeQueryError("the mapping's query reads from a file: it must read tables")


def check_allowed(tree: exp.Query, dialect: str, allowed: Allowed) -> None:
    """Admit only the tables and columns that a site lists.

    Raises:
        UnsafeQueryError: Names the table or the column, or what hides which column is meant.
    """
    listed = {
        ".".join(folded(part, dialect) for part in table.split(".")): {folded(column, dialect) for column in columns}
        for table, columns in allowed.items()
    }
    tree = tree.copy()
    for identifier in tree.find_all(exp.Identifier):
        sqlglot.Dialect.get_or_raise(dialect).normalize_identifier(identifier)
    if hidden := _hidden(tree):
        raise UnsafeQueryError(f"the mapping's query holds {hidden}, and with a list of columns it must name them")
    seen: set[int] = set()
    try:
        for scope in traverse_scope(tree):
            seen.update(_checked(scope, listed))
    except sqlglot.errors.SqlglotError:
        raise UnsafeQueryError("the mapping's query is not understood well enough to check its columns") from None
    if any(id(node) not in seen for node in tree.find_all(exp.Table, exp.Column)):
        raise UnsafeQueryError("the mapping's query names a table or column where it cannot be checked")


def _hidden(tree: exp.Query) -> str:
    for node in tree.walk():
        if isinstance(node, exp.Star) and not isinstance(node.parent, exp.Count):
            return "a star"
        if isinstance(node, exp.Join) and (node.args.get("using") or node.method):
            return "USING or NATURAL"
        if isinstance(node, exp.Table) and not isinstance(node.this, exp.Identifier):
            return "a function in FROM"
        if isinstance(node, exp.Table) and (alias := node.args.get("alias")) and alias.columns:
            return "a table whose columns are renamed"
        if isinstance(node, exp.Dot | exp.Columns | exp.Pivot | exp.UDTF) and not isinstance(
            node, exp.Values | exp.Subquery
        ):
            return type(node).__name__.upper()
    return ""


def _checked(scope: Scope, listed: Mapping[str, set[str]]) -> Iterator[int]:
    bases = {name: source for name, source in scope.sources.items() if isinstance(source, exp.Table)}
    for table in bases.values():
        if _named(table) not in listed:
            raise UnsafeQueryError(f"the mapping's query reads table {_named(table)!r}, which its list does not allow")
    here = set().union(*(listed[_named(table)] for table in bases.values()))
    yield from (id(node) for node in scope.find_all(exp.Table))
    for column in scope.find_all(exp.Column):
        if not (
            _by_table(column, scope, listed) if column.table else _by_name(column, scope, here, any_base=bool(bases))
        ):
            raise UnsafeQueryError(
                f"the mapping's query uses {column.name!r}, which is not in its list of columns, "
                "or does not say which table's it is"
            )
        yield id(column)


def _by_table(column: exp.Column, scope: Scope, listed: Mapping[str, set[str]]) -> bool:
    around: Scope | None = scope
    while around is not None:
        if column.table in around.sources:
            source = around.sources[column.table]
            if column.args.get("db") or column.args.get("catalog"):
                return False
            return column.name in (listed[_named(source)] if isinstance(source, exp.Table) else _outputs(source))
        around = around.parent
    return False


def _by_name(column: exp.Column, scope: Scope, here: set[str], *, any_base: bool) -> bool:
    # Where tables stand, a name that they might have although it is not listed would be theirs.
    if column.name in here:
        return True
    made = [source for source in scope.sources.values() if isinstance(source, Scope)]
    return not any_base and any(column.name in _outputs(source) for source in made)


def _outputs(source: Scope) -> set[str]:
    made = source.expression
    holder = made.parent if isinstance(made.parent, exp.CTE | exp.Subquery) else made
    alias = holder.args.get("alias")
    renamed = [column.name for column in alias.columns] if alias is not None else []
    return set(renamed or (made.named_selects if isinstance(made, exp.Query) else []))


def _named(table: exp.Table) -> str:
    return ".".join(part.name for part in table.parts)


def _offence(query: str, dialect: str) -> str:
    try:
        tokens = sqlglot.tokenize(query, read=dialect)
        # Anything else would reach the log of sqlglot, which quotes what it cannot parse.
        opening = tokens[0].text.upper() if tokens else ""
        statements = sqlglot.parse(query, read=dialect) if opening in _OPENINGS else []
    except (sqlglot.errors.SqlglotError, RecursionError):
        return "does not parse"
    if not statements:
        return "does not begin with SELECT or WITH"
    if len(statements) > 1 and not all(isinstance(extra, exp.Semicolon) for extra in statements[1:]):
        return f"holds {len(statements)} statements"
    return _forbidden_syntax(statements[0]) or _forbidden_call(query, [token.text for token in tokens])


def _forbidden_syntax(statement: object) -> str:
    if not isinstance(statement, exp.Query):
        return "is not a SELECT"
    for node in statement.walk():
        if isinstance(node, _WRITING):
            return f"holds {type(node).__name__.upper()}"
        if isinstance(node, exp.CTE) and not isinstance(node.this, (exp.Query, exp.Values)):
            return "has a WITH that is not a SELECT"
    return ""


def _forbidden_call(query: str, words: Sequence[str]) -> str:
    # Read from the tokens, not from the tree: a call is a name before a parenthesis, whatever the parser makes of it.
    if _ESCAPED_NAME.search(query):
        return "spells a name with Unicode escapes"
    for word, following in itertools.pairwise(words):
        if following == "(" and DENIED.fullmatch(word.lower()):
            return f"calls {word.lower()}, which is on the deny list"
    return ""
