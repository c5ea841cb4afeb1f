"""Dosages are those that a reader of the plain text counts; codes are spelled in one way; broken files are refused."""

import gzip
import math
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ClinicalError, ConfigError, UnavailableError
from wardround.harmonization.events import EVENT, Scope
from wardround.sources import variants
from wardround.sources.site import Site
from wardround.sources.variants import VariantSettings, allele_code

pytest.importorskip("cyvcf2")
ROOT = Path(__file__).parents[4]
REAL = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data")) / "genomics_vcf"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the genotypes are not at WARDROUND_DATA")
HEAD = """##fileformat=VCFv4.3
##contig=<ID=chr1,length=1000000>
##contig=<ID=chrX,length=1000000>
##contig=<ID=chrM,length=16000>
##FILTER=<ID=LowQual,Description="low">
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
##FORMAT=<ID=DS,Number=A,Type=Float,Description="Dosage">
"""
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t"


def vcf(*lines, samples=("a", "b", "c")):
    body = "".join("\t".join(line.split()) + "\n" for line in lines)
    return HEAD + COLUMNS + "\t".join(samples) + "\n" + body


def opened(folder, file, **settings):
    settings = {"assembly": "GRCh38", **settings}
    return variants.open_source(VariantSettings(name="genes", file=str(file), **settings), Site(Path(folder)))


def read(folder, file, *, scope=None, **settings):
    source = opened(folder, file, **settings)
    batches = list(source.batches(scope or Scope()))
    assert all(batch.schema == EVENT for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert source.report.events == len(rows)
    assert [row["row"] for row in rows] == list(range(len(rows)))
    return rows, source.report


def found(tmp_path, *lines, samples=("a", "b", "c"), **settings):
    (tmp_path / "x.vcf").write_text(vcf(*lines, samples=samples), encoding="utf-8")
    rows, report = read(tmp_path, "x.vcf", **settings)
    assert {(row["system"], row["time_us"], row["unit"]) for row in rows} <= {("variant", None, "1")}
    return {(row["code"].partition(":")[2], row["patient"]): row["number"] for row in rows}, report


def independent(path, wanted_filters=None):
    """Dosages by (chromosome, position, ref, alt, sample) from the text alone."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    counted = {}
    samples = []
    for line in text.splitlines():
        cells = line.split("\t")
        if line.startswith("#CHROM"):
            samples = cells[9:]
        if line.startswith("#") or (wanted_filters and cells[6] not in wanted_filters):
            continue
        place = cells[8].split(":").index("GT") if len(cells) > 8 and "GT" in cells[8].split(":") else None
        for number, alt in enumerate(cells[4].split(","), 1):
            if place is None or not set(cells[3] + alt) <= set("ACGTN"):
                continue
            for sample, cell in zip(samples, cells[9:], strict=True):
                alleles = cell.split(":")[place].replace("|", "/").split("/")
                if "." not in alleles:
                    key = (cells[0], int(cells[1]), cells[3], alt, sample)
                    counted[key] = float(alleles.count(str(number)))
    return counted


def coded(counted, assembly):
    return Counter((allele_code(assembly, *key[:4]), key[4], dosage) for key, dosage in counted.items())


@real
@pytest.mark.parametrize(
    "name",
    [
        "regressionLinear.vcf",
        "regressionLogistic.vcf",
        "regressionLogisticEpacts.vcf",
        "cyvcf2_test-hemi.vcf",
        "cyvcf2_test.mnp.vcf",
        "cyvcf2_test.snpeff.vcf",
        "cyvcf2_test.vcf.gz",
        "hail_sample_1kg.vcf.gz",
    ],
)
def test_dosages_are_those_of_an_independent_reader(name):
    rows, _ = read(REAL, name, assembly="GRCh37", filters=())
    expected = coded(independent(REAL / name), "GRCh37")
    assert Counter((row["code"], row["patient"], row["number"]) for row in rows) == expected
    assert expected


@real
def test_records_that_filters_reject_are_counted():
    rows, report = read(REAL, "hail_sample_1kg.vcf.gz")
    assert len(rows) == len(independent(REAL / "hail_sample_1kg.vcf.gz", {"PASS", "."}))
    assert report.refused["record that its filters reject"] > 0


@real
def test_a_file_of_sites_alone_gives_no_event():
    rows, report = read(REAL, "gnomad_sites_chr1_sample.vcf.gz", filters=())
    assert rows == []
    assert report.refused["record without genotypes"] > 0


@real
def test_by_index_and_through_the_whole_file_the_events_are_the_same(tmp_path):
    everything, report = read(REAL, "cyvcf2_test.vcf.gz", filters=())
    assert report.snapshot["read"] == "through"
    codes = sorted({row["code"] for row in everything})[::5]
    scope = Scope(codes={"variant": frozenset([*codes, "GRCh38:1:5:A:C", "GRCh38:nowhere:5:A:C"])})
    rows, report = read(REAL, "cyvcf2_test.vcf.gz", filters=(), scope=scope)
    assert report.snapshot["read"] == "by index"
    assert report.read < 60
    shutil.copy(REAL / "cyvcf2_test.vcf.gz", tmp_path / "x.vcf.gz")
    scanned, report = read(tmp_path, "x.vcf.gz", filters=(), scope=scope)
    assert report.snapshot["read"] == "through"
    key = ("code", "patient", "number")
    assert sorted([row[k] for k in key] for row in rows) == sorted([row[k] for k in key] for row in scanned)
    assert {row["code"] for row in rows} == set(codes)


def test_genotypes_become_dosages_for_each_allele(tmp_path):
    dosages, report = found(
        tmp_path,
        "chr1 10 . A C . PASS . GT 0/0 0|1 1/1",
        "chr1 20 . A C,G . . . GT 1/2 2/2 0/1",
        "chr1 30 . A C . PASS . GT ./. ./1 1/.",
        "chrX 40 . A C . PASS . GT 1 0 0/1",
        "chrX 50 . A C . PASS . GT . 1 0",
        "chrM 60 . a c . PASS . GT 1 0 1",
    )
    assert dosages == {
        ("1:10:A:C", "a"): 0, ("1:10:A:C", "b"): 1, ("1:10:A:C", "c"): 2,
        ("1:20:A:C", "a"): 1, ("1:20:A:C", "b"): 0, ("1:20:A:C", "c"): 1,
        ("1:20:A:G", "a"): 1, ("1:20:A:G", "b"): 2, ("1:20:A:G", "c"): 0,
        ("X:40:A:C", "a"): 1, ("X:40:A:C", "b"): 0, ("X:40:A:C", "c"): 1,
        ("X:50:A:C", "b"): 1, ("X:50:A:C", "c"): 0,
        ("MT:60:A:C", "a"): 1, ("MT:60:A:C", "b"): 0, ("MT:60:A:C", "c"): 1,
    }  # fmt: skip
    assert report.refused == {}
    assert report.noted == {"genotype not called": 4, "genotype of one chromosome": 7}


def test_what_is_no_sequence_has_no_code(tmp_path):
    dosages, report = found(
        tmp_path,
        "chr1 10 . A <DEL>,C,* . PASS . GT 0/2 1/3 2/2",
        "chr1 20 . A A]chr2:5] . PASS . GT 0/1 0/0 1/1",
        "chr1 30 . A . . PASS . GT 0/0 0/0 0/0",
    )
    assert {code for code, _ in dosages} == {"1:10:A:C"}
    assert [dosages["1:10:A:C", sample] for sample in "abc"] == [1, 0, 2]
    assert report.refused == {"allele that is no sequence": 3}


def test_filters_are_those_of_the_mapping(tmp_path):
    lines = ["chr1 10 . A C . PASS . GT 0/1 0/1 0/1", "chr1 20 . A C . LowQual . GT 0/1 0/1 0/1"]
    assert len(found(tmp_path, *lines)[0]) == 3
    assert len(found(tmp_path, *lines, filters=("PASS", "LowQual"))[0]) == 6
    assert len(found(tmp_path, *lines, filters=())[0]) == 6


def test_imputed_dosages_are_read_where_the_mapping_says_so(tmp_path):
    lines = (
        "chr1 10 . A C . PASS . GT:DS 0/1:0.9 0/0:. 1/1:2.5",
        "chr1 20 . A C,G . PASS . GT:DS 0/1:0.5,1.25 0/0:0,0 1/1:2,0",
        "chr1 30 . A C . PASS . GT 0/1 0/0 1/1",
    )
    dosages, report = found(tmp_path, *lines, dosage="DS")
    assert dosages["1:10:A:C", "a"] == pytest.approx(0.9, abs=1e-6)
    assert ("1:10:A:C", "b") not in dosages
    assert ("1:10:A:C", "c") not in dosages
    assert dosages["1:20:A:G", "a"] == 1.25
    assert len(dosages) == 7
    assert report.refused == {"record without dosages": 1}
    assert report.noted == {"dosage missing or outside 0 to 2": 2}


def test_a_template_or_a_table_says_whose_a_sample_is(tmp_path):
    line = "chr1 10 . A C . PASS . GT 0/0 0/1 1/1"
    dosages, report = found(tmp_path, line, samples=("f::p1", "f::p2", "p3"), sample="{family}::{patient}")
    assert {patient for _, patient in dosages} == {"p1", "p2"}
    assert report.refused == {"sample without a patient": 1}
    (tmp_path / "s.csv").write_text("sample,patient\na,p9\nc,p9\n", encoding="utf-8")
    dosages, report = found(tmp_path, line, samples_file="s.csv")
    assert {patient for _, patient in dosages} == {"p9"}
    assert report.noted == {"patient with several samples": 1}
    for wrong, error in [
        ("sample,who\na,b\n", ClinicalError),
        ("sample,patient\na,1\na,2\n", ClinicalError),
        ("", UnavailableError),
    ]:
        (tmp_path / "s.csv").write_text(wrong, encoding="utf-8")
        with pytest.raises(error):
            found(tmp_path, line, samples_file="s.csv")


@pytest.mark.parametrize(
    ("allele", "expected"),
    [
        (("chr1", 10, "A", "C"), "GRCh38:1:10:A:C"),
        (("1", 10, "CAA", "CA"), "GRCh38:1:10:CA:C"),
        (("1", 10, "CAA", "C"), "GRCh38:1:10:CAA:C"),
        (("1", 10, "ACG", "ATG"), "GRCh38:1:11:C:T"),
        (("1", 10, "GGA", "GGC"), "GRCh38:1:12:A:C"),
        (("chrM", 10, "a", "g"), "GRCh38:MT:10:A:G"),
        (("X", 10, "A", "A"), None),
        (("X", 10, "A", "<DEL>"), None),
        (("X", 10, "A", "*"), None),
        (("X", 10, "A", ""), None),
        (("X", 10, "A", "C" * 1000), None),
    ],
)
def test_an_allele_has_one_code(allele, expected):
    assert allele_code("GRCh38", *allele) == expected


@given(st.text("ACGT", min_size=1, max_size=6), st.text("ACGT", min_size=1, max_size=6), st.text("ACGT", max_size=4))
def test_bases_that_both_alleles_share_change_no_code(ref, alt, around):
    code = allele_code("b", "1", 100, ref, alt)
    assert allele_code("b", "1", 100, ref + around, alt + around) == code
    if code is not None:
        _, _, place, short, other = code.split(":")
        before, after = int(place) - 100, len(ref) - (int(place) - 100) - len(short)
        assert ref == ref[:before] + short + ref[len(ref) - after :]
        assert alt == ref[:before] + other + ref[len(ref) - after :]
        assert min(len(short), len(other)) == 1 or (short[0] != other[0] and short[-1] != other[-1])


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", ClinicalError),
        (b"##fileformat=VCFv4.3\n", ClinicalError),
        (b"not a VCF\n", ClinicalError),
        (b"##" + b"x" * 3_000, ClinicalError),
        ((HEAD + COLUMNS + "a\ta\n").encode(), ClinicalError),
        ((HEAD + COLUMNS + "\t".join(f"s{n}" for n in range(400)) + "\n").encode(), ClinicalError),
        (b"\x1f\x8b\x08\0\0\0\0\0", ClinicalError),
        (gzip.compress(vcf("chr1 10 . A C . PASS . GT 0/1 0/1 0/1").encode())[:-30], ClinicalError),
        (b"\x1f\x8b" + b"junk" * 50, ClinicalError),
        (vcf("chr1 10 . A C . PASS . GT 0/1 0/1").encode(), ClinicalError),
        (vcf("chr1 ten . A C . PASS . GT 0/1 0/1 0/1").encode(), ClinicalError),
    ],
    ids=["empty", "cut", "text", "endless", "twice", "wide", "gzip", "gzip cut", "gzip junk", "short row", "position"],
)
def test_a_broken_file_is_an_error_that_quotes_nothing(tmp_path, monkeypatch, capfd, content, error):
    monkeypatch.setattr(variants, "_HEADER_BYTES", 2_000)
    (tmp_path / "x.vcf").write_bytes(content)
    with pytest.raises(error) as caught:
        read(tmp_path, "x.vcf")
    assert "0/1" not in str(caught.value)
    assert "chr1" not in capfd.readouterr().err


@real
def test_a_compressed_file_that_was_cut_between_its_blocks_is_broken(tmp_path):
    whole = (REAL / "cyvcf2_test.vcf.gz").read_bytes()
    (tmp_path / "x.vcf.gz").write_bytes(whole[:-28])
    with pytest.raises(ClinicalError, match="ends badly"):
        read(tmp_path, "x.vcf.gz")


@pytest.mark.parametrize("lost", [1, 8, 200, 5_000])
def test_a_gzip_file_that_was_cut_is_broken(tmp_path, lost):
    lines = [f"chr1 {n} . A C . PASS . GT 0/1 0/{n * n % 2} 0/1" for n in range(1, 20_000)]
    (tmp_path / "x.vcf.gz").write_bytes(gzip.compress(vcf(*lines).encode())[:-lost])
    with pytest.raises(ClinicalError, match="broken"):
        read(tmp_path, "x.vcf.gz")


def test_a_bomb_in_the_header_is_read_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "_HEADER_BYTES", 1_000_000)
    (tmp_path / "x.vcf.gz").write_bytes(gzip.compress(b"##" + b"x" * 50_000_000))
    with pytest.raises(ClinicalError, match="no VCF header within"):
        read(tmp_path, "x.vcf.gz")


def test_a_missing_file_may_come_back_and_a_wrong_setting_may_not(tmp_path):
    with pytest.raises(UnavailableError):
        read(tmp_path, "gone.vcf")
    for wrong in ({"assembly": "a:b"}, {"assembly": ""}, {"sample": "{who}"}):
        with pytest.raises(ConfigError):
            opened(tmp_path, "x.vcf", **wrong)


def test_scope_leaves_out_what_nobody_asks_for(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "_BATCH_ROWS", 2)
    (tmp_path / "x.vcf").write_text(
        vcf("chr1 10 . A C . PASS . GT 0/1 0/1 0/1", "chrX 20 . A C . PASS . GT 1 1 1"), encoding="utf-8"
    )
    rows, _ = read(tmp_path, "x.vcf", scope=Scope(codes={"variant": frozenset({"GRCh38:X:*"})}))
    assert {row["code"] for row in rows} == {"GRCh38:X:20:A:C"}
    assert read(tmp_path, "x.vcf", scope=Scope(codes={"loinc": frozenset({"1"})}))[0] == []
    assert len(read(tmp_path, "x.vcf")[0]) == 6
    assert not any(math.isnan(row["number"]) for row in rows)
