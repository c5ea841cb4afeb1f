import io
import struct
import sys
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import CodecError, DigestMismatchError
from wardround.protocol.plan import BlobRef
from wardround.provenance import archive
from wardround.training import package

names = st.from_regex(r"study_[a-z]{1,5}(/[a-z_]{1,5}){0,2}\.py", fullmatch=True)


@pytest.fixture
def imports():
    before, finders = set(sys.modules), list(sys.meta_path)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        del sys.modules[name]


@given(sources=st.dictionaries(names, st.binary(max_size=50), min_size=1, max_size=5))
def test_a_package_is_a_function_of_its_sources_and_gives_them_back(sources):
    made = package.make(sources)
    assert package.make(dict(reversed(sources.items()))) == made
    assert package.read(made, package.ref(made)) == sources


def test_a_folder_is_packed_without_what_is_not_python(tmp_path):
    (tmp_path / "layers").mkdir()
    (tmp_path / "model.py").write_text("x = 1\n")
    (tmp_path / "layers" / "attention.py").write_text("y = 2\n")
    (tmp_path / "notes.txt").write_text("no")
    assert package.from_folder(tmp_path) == package.make({"layers/attention.py": b"y = 2\n", "model.py": b"x = 1\n"})


def test_bytes_with_another_digest_are_refused():
    made, other = package.make({"model.py": b"x = 1"}), package.make({"model.py": b"x = 2"})
    for call in (package.check_digest, package.read):
        with pytest.raises(DigestMismatchError):
            call(other, package.ref(made))
        with pytest.raises(DigestMismatchError):
            call(made, BlobRef(package.ref(made).digest, len(made) + 1))


@pytest.mark.parametrize(
    "path",
    [
        "../up.py",
        "/root.py",
        "a.txt",
        "a/../b.py",
        "a b.py",
        "json.py",
        "torch/nn.py",
        "wardround.py",
        "a\\b.py",
        ".py",
    ],
)
def test_a_name_that_cannot_be_imported_safely_is_refused(path):
    with pytest.raises(CodecError):
        package.make({path: b""})
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(path, b"")
    with pytest.raises(CodecError):
        package.read(target.getvalue(), package.ref(target.getvalue()))


def bomb(claimed):
    """A small zip that unpacks to 64 MiB, whose headers claim another size."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.py", b"#" * (64 << 20))
    data = target.getvalue()
    return data.replace(struct.pack("<L", 64 << 20), struct.pack("<L", claimed)) if claimed else data


@pytest.mark.parametrize("claimed", [0, 10])
def test_a_zip_bomb_is_refused_whatever_it_claims(claimed):
    import tracemalloc

    data = bomb(claimed)
    assert len(data) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            package.read(data, package.ref(data))
        assert tracemalloc.get_traced_memory()[1] < 4 * archive.MAX_BYTES
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_bytes_that_are_no_zip_are_refused(data):
    with pytest.raises(CodecError):
        package.read(data, package.ref(data))


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_an_altered_zip_is_refused_or_reads_within_bounds(place, value):
    data = bytearray(package.make({"model.py": b"x = 1\n" * 20, "layers/deep.py": b"y = 2\n"}))
    data[place % len(data)] = value
    try:
        sources = package.read(bytes(data), package.ref(bytes(data)))
    except CodecError:
        return
    assert sum(map(len, sources.values())) <= archive.MAX_BYTES


def test_too_many_files_are_refused():
    with pytest.raises(CodecError, match="files"):
        package.make({f"m{number}.py": b"" for number in range(archive.MAX_FILES + 1)})


@pytest.mark.usefixtures("imports")
def test_sources_import_one_another_from_memory():
    sources = {
        "study_model.py": b"from study_layers import deep\nfrom study_layers.flat import WIDE\n"
        b"def make(width, outputs):\n    return (width, outputs, deep.DEEP, WIDE)\n",
        "study_layers/deep.py": b"DEEP = 'deep'\n",
        "study_layers/flat.py": b"from . import deep\nWIDE = deep.DEEP + __name__\n",
    }
    factory = package.load(sources, "study_model:make")
    assert factory(3, 1) == (3, 1, "deep", "deepstudy_layers.flat")
    assert factory.__code__.co_filename == package.PLACE + "study_model.py"


@pytest.mark.usefixtures("imports")
def test_a_package_gives_way_to_the_next():
    make = b"from study_part import VALUE\ndef make(width, outputs):\n    return VALUE\n"
    first = package.load({"study_a.py": make, "study_part.py": b"VALUE = 1\n"}, "study_a:make")
    second = package.load({"study_a.py": make, "study_part.py": b"VALUE = 2\n"}, "study_a:make")
    assert (first(1, 1), second(1, 1)) == (1, 2)
    assert sum(type(finder).__name__ == "_Sources" for finder in sys.meta_path) == 1


@pytest.mark.usefixtures("imports")
@pytest.mark.parametrize("factory", ["study_a:missing", "study_b:make", "json:dumps", "study_a:VALUE"])
def test_a_factory_comes_from_the_package_or_not_at_all(factory):
    with pytest.raises(CodecError):
        package.load({"study_a.py": b"VALUE = 1\n"}, factory)


def test_a_package_cannot_stand_in_for_a_loaded_module():
    with pytest.raises(CodecError, match="pytest"):
        package.load({"pytest.py": b"def make(w, o): ..."}, "pytest:make")
