"""DuckDB in volatile memory, and nowhere else: no file is read or written, none can be.

The database has a cap on memory and no temporary directory, so it fails rather than spills; file systems,
attached databases, extensions and Python variables are shut off, and the configuration is locked, so that no
statement opens them again. Data come in as Arrow tables that the caller registers, and go out the same way.

Order matters: the temporary directory cannot be changed once external access is off.
"""

import importlib
from typing import Any, Final

from wardround.errors import ConfigError

__all__ = ["MEMORY_LIMIT_BYTES", "duckdb", "open_memory_database"]

MEMORY_LIMIT_BYTES: Final = 192 * 1024 * 1024

_SETTINGS: Final = (
    "SET temp_directory = ''",
    "SET max_temp_directory_size = '0B'",
    "SET preserve_insertion_order = true",
    "SET python_enable_replacements = false",
    "SET python_scan_all_frames = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_OPENING: Final = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
}


def duckdb() -> Any:  # noqa: ANN401, a module that is not a dependency of the core
    """The module duckdb, loaded when first wanted.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module("duckdb")
    except ImportError:
        raise ConfigError("reading events needs DuckDB: pip install 'wardround[node]'") from None


def open_memory_database(*, memory_limit_bytes: int = MEMORY_LIMIT_BYTES, threads: int = 1) -> Any:  # noqa: ANN401, as above
    """A connection to a database of its own, in memory, shut off from everything else.

    Raises:
        ConfigError: DuckDB is not installed.
    """
    opening = {**_OPENING, "memory_limit": f"{memory_limit_bytes}B", "threads": str(threads)}
    connection = duckdb().connect(":memory:", config=opening)
    for setting in _SETTINGS:
        connection.execute(setting)
    return connection
