"""A site's FHIR R4 files as a source of events: newline-delimited JSON, plain or gzip, Bundles, one file or a folder.

    [[sources]]
    kind = "fhir"
    name = "warehouse"
    path = "exports/2027-03"

Files are read in the order of their names; of two exports with the same resources the later name counts. See
`wardround.sources.fhir_reader` for what becomes of the resources.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ClinicalError, ConfigError
from wardround.harmonization.events import Scope, SourceReport
from wardround.sources.fhir_lines import Limits
from wardround.sources.fhir_reader import FhirReading, ResourceReader
from wardround.sources.site import Site

__all__ = ["FhirFiles", "FhirFilesSettings", "open_source"]

_NAMES: Final = (".ndjson", ".ndjson.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz")
_MOST_FILES: Final = 100_000


class FhirFilesSettings(
    FhirReading, tag="fhir", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """A ``[[sources]]`` table of kind "fhir"; `path` is a file or a folder of files, from the mapping's folder."""

    path: Annotated[str, msgspec.Meta(min_length=1)]


def open_source(settings: FhirFilesSettings, site: Site, *, limits: Limits | None = None) -> "FhirFiles":
    """The source; files are opened when batches are read.

    Raises:
        ConfigError: Nothing is at the path, a view is wrong, or DuckDB is not installed.
    """
    path = site.path(settings.path)
    if not path.exists():
        raise ConfigError(f"source {settings.name!r}: there is nothing at {settings.path!r}")
    return FhirFiles(settings, site, path, limits)


class FhirFiles:
    """Resources in files, as `wardround.harmonization.events.EventSource`."""

    def __init__(self, settings: FhirFilesSettings, site: Site, path: Path, limits: Limits | None) -> None:
        self.name = settings.name
        self.report = SourceReport(settings.name)
        self._settings = settings
        self._site = site
        self._path = path
        self._limits = limits
        self._reader = ResourceReader(settings, site, self.report, limits=limits)

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """Every event in scope.

        Raises:
            ClinicalError: A file is damaged, too large or cannot be read.
        """
        self.report = SourceReport(self.name)
        self._reader = ResourceReader(self._settings, self._site, self.report, limits=self._limits)
        files = self._files()
        digest = hashlib.sha256()
        yield from self._reader.batches(self._streams(files, digest), scope)
        self.report.snapshot |= {"files": str(len(files)), "sha256": digest.hexdigest()}

    def links(self) -> Iterator[tuple[str, str]]:
        """Merged patients, and with an identifier system whose identifier is which."""
        return self._reader.links()

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:  # noqa: ARG002, the port's
        """None: this source keeps no arrays."""
        return iter(())

    def _files(self) -> list[Path]:
        if not self._path.is_dir():
            return [self._path]
        files = sorted(file for file in self._path.iterdir() if file.name.endswith(_NAMES) and file.is_file())
        if len(files) > _MOST_FILES:
            raise ClinicalError(f"source {self.name!r}: more than {_MOST_FILES} files")
        if not files:
            raise ClinicalError(f"source {self.name!r}: the folder has no {' or '.join(_NAMES[:2])} file")
        return files

    def _streams(self, files: list[Path], digest: Any) -> Iterator[IO[bytes]]:  # noqa: ANN401, hashlib has no public type
        for place, file in enumerate(files, 1):
            with ExitStack() as stack:
                try:
                    opened = stack.enter_context(file.open("rb"))
                except OSError as error:
                    what = f"file {place} of {len(files)} cannot be read ({type(error).__name__})"
                    raise ClinicalError(f"source {self.name!r}: {what}") from None
                yield _Digested(opened, digest)  # type: ignore[misc]  # it reads, and no more


class _Digested:
    def __init__(self, stream: IO[bytes], digest: Any) -> None:  # noqa: ANN401, as above
        self._stream = stream
        self._digest = digest

    def read(self, size: int = -1) -> bytes:
        found = self._stream.read(size)
        self._digest.update(found)
        return found
