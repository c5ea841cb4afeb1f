"""What a mapping's SQL may touch: the site's list, whatever the trick."""

import pytest

from wardround.errors import UnsafeQueryError
from wardround.sources import sql_guard

ALLOWED = {
    "labevents": ["subject_id", "itemid", "charttime", "valuenum"],
    "d_items": ["itemid", "label"],
    "other.t": ["a"],
}
DIALECTS = ["sqlite", "postgres", "duckdb", "tsql", "bigquery"]


def check(query, dialect):
    sql_guard.check_allowed(sql_guard.parsed(query, dialect), dialect, ALLOWED)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "query",
    [
        "SELECT subject_id, itemid FROM labevents",
        "SELECT l.subject_id, d.label FROM labevents l JOIN d_items d ON d.itemid = l.itemid WHERE l.valuenum > 5",
        "WITH x AS (SELECT subject_id s, count(*) n FROM labevents GROUP BY subject_id) SELECT s, n FROM x",
        "SELECT a FROM other.t",
        "SELECT s FROM (SELECT subject_id AS s FROM labevents) q WHERE s > 1",
        "SELECT subject_id FROM labevents l WHERE EXISTS (SELECT 1 FROM d_items d WHERE d.itemid = l.itemid)",
        "SELECT subject_id FROM labevents UNION ALL SELECT itemid FROM d_items",
        "SELECT x.a FROM (VALUES (1), (2)) AS x(a)",
        "SELECT CASE WHEN itemid = 1 THEN 'a' END AS c, row_number() OVER (ORDER BY charttime) AS rn FROM labevents",
    ],
)
def test_what_the_list_names_is_admitted(query, dialect):
    check(query, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM labevents",
        "SELECT l.* FROM labevents l",
        "SELECT COUNT(labevents.*) FROM labevents",
        "SELECT secret FROM labevents",
        "SELECT subject_id FROM secret",
        "SELECT subject_id FROM public.labevents",
        "SELECT a FROM t",
        "SELECT subject_id FROM labevents UNION SELECT name FROM secret",
        "SELECT subject_id /* , */ FROM labevents --\n UNION SELECT name FROM secret",
        "SELECT subject_id FROM labevents WHERE (SELECT max(x) FROM secret) > 1",
        "SELECT subject_id FROM labevents ORDER BY secret",
        "SELECT subject_id AS secret FROM labevents GROUP BY secret",
        "SELECT subject_id AS secret FROM labevents WHERE secret = 1",
        "SELECT subject_id AS secret FROM labevents ORDER BY secret",
        "SELECT count(secret) FROM labevents",
        "SELECT array_agg(subject_id ORDER BY secret) FROM labevents",
        "SELECT sum(valuenum) OVER (PARTITION BY secret) FROM labevents",
        "SELECT subject_id FROM labevents WINDOW w AS (ORDER BY secret)",
        "SELECT DISTINCT ON (secret) subject_id FROM labevents",
        "SELECT subject_id FROM labevents GROUP BY GROUPING SETS ((secret))",
        "SELECT subject_id FROM labevents l JOIN d_items d ON l.secret = d.itemid",
        "SELECT subject_id FROM labevents NATURAL JOIN d_items",
        "SELECT subject_id FROM labevents JOIN d_items USING (secret)",
        "SELECT l FROM labevents l",
        "SELECT labevents FROM labevents",
        "SELECT (l).secret FROM labevents l",
        "SELECT CAST(l AS text) FROM labevents l",
        "SELECT row_to_json(l) FROM labevents l",
        "SELECT d FROM (SELECT subject_id FROM labevents) d",
        "SELECT q.label FROM (SELECT labevents FROM labevents) q",
        "SELECT t.subject_id FROM labevents AS t(subject_id)",
        "SELECT (SELECT secret FROM labevents LIMIT 1) FROM (SELECT 1 AS secret) d",
        "SELECT (SELECT secret FROM (SELECT 1 AS a) d) FROM labevents",
        "WITH secret AS (SELECT subject_id AS x FROM labevents) SELECT x FROM public.secret",
        "WITH a AS (SELECT x FROM b), b AS (SELECT 1 AS x) SELECT x FROM a",
        "SELECT subject_id FROM labevents, LATERAL (SELECT secret FROM d_items) z",
        "SELECT g FROM generate_series(1, 2) g",
        "SELECT u FROM unnest(ARRAY[1]) u",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT (TABLE secret)",
        "SELECT secret FROM labevents, (SELECT 1 AS secret) d",
        "SELECT ctid FROM labevents",
        "SELECT rowid FROM labevents",
        "SELECT public.labevents.secret FROM labevents",
        "SELECT subject_id FROM labevents FETCH FIRST (SELECT max(secret) FROM d_items) ROWS ONLY",
    ],
)
def test_what_it_does_not_name_is_refused_wherever_it_stands(query, dialect):
    with pytest.raises(UnsafeQueryError):
        check(query, dialect)


def test_a_pattern_of_columns_is_a_star():
    with pytest.raises(UnsafeQueryError):
        check("SELECT COLUMNS('s.*') FROM labevents", "duckdb")


def test_names_are_compared_as_the_database_compares_them():
    check("SELECT SUBJECT_ID FROM LABEVENTS", "postgres")
    check('SELECT "SUBJECT_ID" FROM labevents', "sqlite")
    with pytest.raises(UnsafeQueryError):
        check('SELECT "SUBJECT_ID" FROM labevents', "postgres")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT load_file('/etc/passwd')",
        "SELECT getenv('HOME')",
        "SELECT SYSTEM$WAIT(9)",
        "SELECT utl_http.request('http://a') FROM labevents",
        "SELECT itemid FROM read_text('/etc/passwd')",
        "SELECT itemid FROM '/etc/passwd'",
        'SELECT itemid FROM "data.csv"',
    ],
)
def test_where_no_list_of_dangers_exists_only_known_functions_and_tables_are_admitted(query):
    with pytest.raises(UnsafeQueryError):
        sql_guard.check_calls(sql_guard.parsed(query, "duckdb"))


def test_a_comment_does_not_reach_the_database():
    written = sql_guard.parsed("SELECT itemid /*! , secret */ FROM labevents -- '", "mysql").sql(dialect="mysql")
    assert "secret" not in written
    assert "/*" not in written


def test_a_refusal_names_the_table_and_not_the_query():
    with pytest.raises(UnsafeQueryError, match="'secret'") as caught:
        check("SELECT name FROM secret WHERE name = 'Xanthippe-4711'", "postgres")
    assert "Xanthippe" not in str(caught.value)
