"""Genotypes of VCF files as events: how many copies of an allele a patient carries.

One event for each patient and alternative allele: system ``variant``, code ``ASSEMBLY:chromosome:position:ref:alt``,
number 0, 1 or 2 (a fraction where imputed dosages are read). Reference calls count as 0; a genotype that is not called,
or called in part, is no event. Who carries one chromosome (a man's X outside its ends) has 0 or 1.

A code is spelled in one way whatever the file's: the chromosome without "chr" (M as MT), alleles in capitals and as
short as they get when what they share at their ends is cut away. Moving an indel to its leftmost place would need the
reference sequence and is not done: normalize files once with ``bcftools norm`` where indels matter.

Exact codes are looked up by position where the file has a tabix index; otherwise the file is read through.

References:
    The Variant Call Format (VCF) Version 4.3 Specification, samtools/hts-specs.
    Tan, Abecasis, Kang. Unified representation of genetic variants. Bioinformatics 31 (2015) 2202-2204.
"""

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from wardround.errors import ClinicalError, ConfigError, UnavailableError
from wardround.harmonization import events
from wardround.harmonization.events import Scope, SourceReport
from wardround.sources.document_folder import NameTemplate, plain_bytes
from wardround.sources.site import Site

__all__ = ["VariantSettings", "VariantSource", "allele_code", "open_source"]

SYSTEM: Final = "variant"
_BATCH_ROWS: Final = 50_000
_HEADER_BYTES: Final = 64 * 2**20
_TABLE_BYTES: Final = 64 * 2**20
_MOST_SAMPLES: Final = 1_000_000
_MOST_REGIONS: Final = 20_000
_LONGEST_ALLELE: Final = 1_000
_BGZF_END: Final = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BASES: Final = re.compile(r"[ACGTN]+")
_ASSEMBLY: Final = re.compile(r"[A-Za-z0-9_.-]{1,32}")

_Floats = npt.NDArray[np.float64]


class VariantSettings(
    msgspec.Struct, tag="vcf", tag_field="kind", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """Which file, of which assembly, and whose its samples are.

    Attributes:
        name: The source's name.
        file: A VCF, plain or compressed, from the mapping's folder.
        assembly: Of its coordinates, as the contract's codes spell it: "GRCh38".
        sample: Template of a sample's name that gives its patient, ``{family}::{patient}``.
        samples_file: Instead: a CSV file with the columns sample and patient; samples that are not in it are left out.
        filters: What FILTER may say besides "." for a record to count; empty: anything.
        dosage: From called genotypes, or from the field DS of an imputation.
    """

    name: str
    file: str
    assembly: str
    sample: str = "{patient}"
    samples_file: str = ""
    filters: tuple[str, ...] = ("PASS",)
    dosage: Literal["genotype", "DS"] = "genotype"


def open_source(settings: VariantSettings, site: Site) -> "VariantSource":
    """The file as a source; nothing is read yet.

    Raises:
        ConfigError: The assembly's name or the template of samples is wrong.
    """
    if not _ASSEMBLY.fullmatch(settings.assembly):
        raise ConfigError(f"source {settings.name!r}: the assembly is a name such as GRCh38")
    return VariantSource(settings, site, NameTemplate(settings.sample))


def allele_code(assembly: str, chromosome: str, position: int, ref: str, alt: str) -> str | None:
    """The code of an allele as short as it gets; None for what is no sequence (``*``, ``<DEL>``, a breakend)."""
    ref, alt = ref.upper(), alt.upper()
    if not (_BASES.fullmatch(ref) and _BASES.fullmatch(alt)) or ref == alt or len(ref) + len(alt) > _LONGEST_ALLELE:
        return None
    # Both keep at least one base; the ends that they share go first, then the beginnings.
    tail = _shared(ref[:0:-1], alt[:0:-1])
    ref, alt = ref[: len(ref) - tail], alt[: len(alt) - tail]
    head = _shared(ref[:-1], alt[:-1])
    return f"{assembly}:{_chromosome(chromosome)}:{position + head}:{ref[head:]}:{alt[head:]}"


class VariantSource:
    """Fills `wardround.harmonization.events.EventSource` from one VCF file."""

    def __init__(self, settings: VariantSettings, site: Site, template: NameTemplate) -> None:
        self.name = settings.name
        self.report = SourceReport(settings.name)
        self._settings = settings
        self._site = site
        self._template = template

    def batches(self, scope: Scope) -> Iterator[pa.RecordBatch]:
        """See `EventSource`."""
        self.report = SourceReport(self.name)
        path = self._site.path(self._settings.file)
        samples = self._checked(path)
        if scope.codes is not None and not scope.codes.get(SYSTEM):
            return
        patients, columns = self._patients(samples)
        rows = _Rows(self.report, pa.array(patients, pa.string()))
        for code, dosages in self._dosages(path, scope, columns):
            rows.add(code, dosages)
            yield from rows.full()
        yield from rows.rest()

    def links(self) -> Iterable[tuple[str, str]]:
        """None."""
        return ()

    def arrays(self, names: Iterable[str]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:  # noqa: ARG002, the port's
        """None: a dosage is a number."""
        return iter(())

    def _checked(self, path: Path) -> list[str]:
        # The header is looked at before the C library is, which would take in one of any size.
        try:
            with path.open("rb") as file:
                self.report.snapshot["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                return self._header(_lines(file))
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise ClinicalError(f"the VCF file of source {self.name!r} is broken: its compression ends badly") from None
        except OSError as error:
            raise UnavailableError(
                f"the VCF file of source {self.name!r} cannot be read ({type(error).__name__})"
            ) from None

    def _header(self, lines: IO[bytes]) -> list[str]:
        left = _HEADER_BYTES
        while left > 0:
            line = lines.readline(left)
            left -= len(line)
            if line.startswith(b"##"):
                continue
            if not line.startswith(b"#CHROM\tPOS\tID\tREF\tALT\t") or not line.endswith(b"\n"):
                break
            samples = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")[9:]
            if len(samples) > _MOST_SAMPLES or len(set(samples)) != len(samples):
                raise ClinicalError(f"the VCF file of source {self.name!r} has too many samples, or one name twice")
            return samples
        raise ClinicalError(f"the file of source {self.name!r} has no VCF header within {_HEADER_BYTES} bytes")

    def _patients(self, samples: list[str]) -> tuple[list[str], npt.NDArray[np.intp]]:
        known = self._table()
        found: list[tuple[int, str]] = []
        for place, sample in enumerate(samples):
            patient = self._template.read(sample).get("patient") if known is None else known.get(sample)
            if patient:
                found.append((place, patient))
        self.report.refuse("sample without a patient", len(samples) - len(found))
        if len({patient for _, patient in found}) != len(found):
            self.report.note("patient with several samples")
        return [patient for _, patient in found], np.array([place for place, _ in found], dtype=np.intp)

    def _table(self) -> dict[str, str] | None:
        if not self._settings.samples_file:
            return None
        content = plain_bytes(self._site.path(self._settings.samples_file), _TABLE_BYTES)
        if isinstance(content, str):
            raise UnavailableError(f"the samples_file of source {self.name!r} cannot be read: {content}")
        self.report.snapshot["samples_sha256"] = hashlib.sha256(content).hexdigest()
        try:
            lines = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
            pairs = [(line["sample"], line["patient"]) for line in lines]
        except (KeyError, csv.Error, UnicodeDecodeError):
            raise ClinicalError(f"the samples_file of source {self.name!r} needs columns sample and patient") from None
        if len({sample for sample, _ in pairs}) != len(pairs):
            raise ClinicalError(f"the samples_file of source {self.name!r} has a sample twice")
        return dict(pairs)

    def _dosages(self, path: Path, scope: Scope, columns: npt.NDArray[np.intp]) -> Iterator[tuple[str, _Floats]]:
        for record in self._records(path, scope):
            if not self._passes(record):
                continue
            wanted = [
                (number, code)
                for number, alt in enumerate(record.ALT, 1)
                if (code := self._code(record, alt)) is not None and scope.wants(SYSTEM, code)
            ]
            if not wanted:
                continue
            read = self._imputed if self._settings.dosage == "DS" else self._called
            for number, code in wanted:
                found = read(record, number)
                if found is not None:
                    yield code, found[columns]

    def _records(self, path: Path, scope: Scope) -> Iterator[Any]:
        try:
            import cyvcf2
            from cyvcf2.cyvcf2 import set_htslib_log_level
        except ImportError:
            raise ConfigError("VCF files need the package cyvcf2: install wardround[genomics]") from None
        # What the C library says to standard error may quote a record.
        set_htslib_log_level(0)
        try:
            file = cyvcf2.VCF(str(path), gts012=False, strict_gt=True)
            regions = self._regions(path, scope, file)
            self.report.snapshot["read"] = "through" if regions is None else "by index"
            seen: set[tuple[str, int, str, str]] = set()
            for record in file if regions is None else (found for region in regions for found in file(region)):
                if regions is not None:
                    same = (record.CHROM, record.POS, record.REF, ",".join(record.ALT))
                    if same in seen:
                        continue
                    seen.add(same)
                self.report.read += 1
                yield record
        except Exception as error:  # noqa: BLE001, cyvcf2 raises bare ones, whose messages may quote a record
            raise ClinicalError(
                f"the VCF file of source {self.name!r} is broken after {self.report.read} records: "
                f"{type(error).__name__}"
            ) from None

    def _regions(self, path: Path, scope: Scope, file: Any) -> list[str] | None:  # noqa: ANN401, cyvcf2 has no types
        """Where to look by index, in the file's own spelling; None: everywhere."""
        codes = scope.codes and scope.codes.get(SYSTEM)
        indexed = Path(f"{path}.tbi").is_file() or Path(f"{path}.csi").is_file()
        if not codes or not indexed or len(codes) > _MOST_REGIONS:
            return None
        if any(code.count(":") != 4 or code.endswith("*") for code in codes):
            return None
        places = {tuple(code.split(":")[1:3]) for code in codes}
        spelled = {_chromosome(name): name for name in file.seqnames}
        if len(spelled) != len(file.seqnames):
            return None
        found = [(spelled[name], int(at)) for name, at in places if name in spelled and at.isdigit()]
        return [f"{name}:{at}-{at}" for name, at in sorted(found)]

    def _passes(self, record: Any) -> bool:  # noqa: ANN401, cyvcf2 has no types
        accepted = self._settings.filters
        # cyvcf2 gives None for PASS and for "." alike.
        if not accepted or record.FILTER is None or set(record.FILTER.split(";")) <= set(accepted):
            return True
        self.report.refuse("record that its filters reject")
        return False

    def _code(self, record: Any, alt: str) -> str | None:  # noqa: ANN401, cyvcf2 has no types
        code = allele_code(self._settings.assembly, record.CHROM, record.POS, record.REF, alt)
        if code is None:
            self.report.refuse("allele that is no sequence")
        return code

    def _called(self, record: Any, allele: int) -> _Floats | None:  # noqa: ANN401, cyvcf2 has no types
        try:
            # Alleles by number in as many columns as there are chromosomes; -1 not called, -2 no such chromosome.
            alleles = record.genotype.array()[:, :-1]
        except Exception:  # noqa: BLE001, cyvcf2 raises a bare Exception where a record has no GT
            self.report.refuse("record without genotypes")
            return None
        called = ~(alleles == -1).any(axis=1) & (alleles >= 0).any(axis=1)
        self.report.note("genotype not called", int((~called).sum()))
        self.report.note("genotype of one chromosome", int((called & ((alleles >= 0).sum(axis=1) == 1)).sum()))
        return np.where(called, (alleles == allele).sum(axis=1), np.nan)

    def _imputed(self, record: Any, allele: int) -> _Floats | None:  # noqa: ANN401, cyvcf2 has no types
        stated = record.format("DS")
        if stated is None or stated.dtype.kind != "f" or stated.ndim != 2 or stated.shape[1] != len(record.ALT):
            self.report.refuse("record without dosages")
            return None
        dosages = stated[:, allele - 1].astype(np.float64)
        good = (dosages >= 0) & (dosages <= 2)
        self.report.note("dosage missing or outside 0 to 2", int((~good).sum()))
        return np.where(good, dosages, np.nan)


def _lines(file: IO[bytes]) -> IO[bytes]:
    start = file.read(18)
    file.seek(max(0, file.seek(0, io.SEEK_END) - len(_BGZF_END)))
    end = file.read()
    file.seek(0)
    if start[:2] != b"\x1f\x8b":
        return file
    if start[12:14] == b"BC" and end != _BGZF_END:
        # The C library reads a file that was cut between two blocks as if it were whole.
        raise EOFError
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file))


class _Rows:
    """Gathers the dosages of all patients, allele by allele, into batches."""

    def __init__(self, report: SourceReport, patients: pa.Array) -> None:
        self._report = report
        self._patients = patients
        self._parts: list[tuple[pa.Array, pa.Array, _Floats]] = []
        self._held = 0
        self._row = 0

    def add(self, code: str, dosages: _Floats) -> None:
        """One allele's dosages, NaN where there is none."""
        (present,) = np.nonzero(~np.isnan(dosages))
        if len(present):
            self._parts.append(
                (self._patients.take(pa.array(present)), pa.repeat(code, len(present)), dosages[present])
            )
            self._held += len(present)

    def full(self) -> Iterator[pa.RecordBatch]:
        """The batch, if it is time for one."""
        if self._held >= _BATCH_ROWS:
            yield from self.rest()

    def rest(self) -> Iterator[pa.RecordBatch]:
        """What has been added since the last batch."""
        if not self._held:
            return
        patients, codes, dosages = zip(*self._parts, strict=True)
        count, first = self._held, self._row
        self._parts, self._held, self._row = [], 0, first + count
        self._report.events += count
        yield events.batch(
            {
                "patient": pa.concat_arrays(patients),
                "system": pa.repeat(SYSTEM, count),
                "code": pa.concat_arrays(codes),
                "number": pa.array(np.concatenate(dosages)),
                "unit": pa.repeat("1", count),
                "row": pa.array(np.arange(first, first + count)),
            },
            source=self._report.source,
        )


def _shared(left: str, right: str) -> int:
    return next(
        (place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one != other),
        min(len(left), len(right)),
    )


def _chromosome(name: str) -> str:
    short = name[3:] if name[:3].lower() == "chr" else name
    return "MT" if short in {"M", "MT"} else short
