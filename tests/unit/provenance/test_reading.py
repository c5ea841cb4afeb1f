"""What a reviewer is shown: changes, what code reaches for, known weaknesses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from wardround.errors import PackageError
from wardround.provenance import advisory, archive, difference, inspection
from wardround.provenance import package as packages
from wardround.provenance.advisory import Weakness
from wardround.provenance.manifest import Pin


def sources(**files):
    return packages.opened(archive.write({f"{name}.py": body for name, body in files.items()}), {})


def test_a_diff_shows_what_was_added_changed_and_removed():
    old, new = sources(a=b"x = 1\ny = 2\n", gone=b"z\n"), sources(a=b"x = 1\ny = 3\n", fresh=b"import os\n")
    lines = difference.of_packages(old, new)
    assert {"-y = 2", "+y = 3", "-z", "+import os"} <= set(lines)
    assert "+x = 1" not in lines
    assert difference.of_packages(new, new) == []


def test_without_an_earlier_package_all_of_it_is_new():
    assert "+x = 1" in difference.of_packages(None, sources(a=b"x = 1\n"))


@given(body=st.binary(max_size=200))
def test_nothing_that_steers_a_terminal_is_shown(body):
    shown = "\n".join(difference.of_packages(None, sources(a=body)))
    assert all(" " <= sign <= "~" or sign == "\n" for sign in shown)


def test_writing_that_turns_its_direction_is_shown_as_what_it_is():
    lines = difference.of_packages(None, sources(a="if user != 'none\u202e \u2066# admin\u2069':\r\n".encode()))
    assert any("\\u202e" in line and "\\u2066" in line and "\\r" in line for line in lines)


def test_locks_are_compared_in_words():
    old = (Pin("a", "1", ("0" * 64,)), Pin("b", "1", ("0" * 64,)), Pin("c", "1", ("0" * 64,)))
    new = (Pin("a", "2", ("0" * 64,)), Pin("b", "1", ("1" * 64,)), Pin("d", "1", ("0" * 64,)))
    assert difference.of_pins(old, new) == [
        "lock: a 1 became 2",
        "lock: b 1 has other hashes",
        "lock: c 1 is gone",
        "lock: d 1 is new",
    ]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"import socket", "network"),
        (b"from urllib import request as r", "network"),
        (b"import subprocess as numpy", "processes"),
        (b"import ctypes", "native code"),
        (b"x = eval('1')", "running data as code"),
        (b"import torch\ntorch.load('m')", "files"),
        (b"open('/etc/passwd')", "files"),
        (b"().__class__.__bases__", "Python's own machinery"),
        (b"getattr(x, 'y')", "names made at run time"),
        (b"def f(:", "not Python"),
        ("раssword = 1".encode(), "characters"),
    ],
)
def test_what_code_reaches_for_is_listed(line, kind):
    assert kind in {found.kind for found in inspection.findings({"a.py": line})}


def test_a_plain_model_reaches_for_nothing_that_is_listed():
    body = b"from torch import nn\n\n\ndef make(width, outputs):\n    return nn.Linear(width, outputs)\n"
    assert inspection.findings({"net.py": body}) == []


EVENTS = [{"introduced": "0"}, {"fixed": "1.2"}, {"introduced": "2.0rc1"}, {"last_affected": "2.3"}]
AFFECTED = {
    "package": {"ecosystem": "PyPI", "name": "Some_Lib"},
    "versions": ["0.9-odd"],
    "ranges": [{"type": "ECOSYSTEM", "events": EVENTS}, {"type": "GIT", "events": [{"introduced": "abc"}]}],
}
ELSEWHERE = {"package": {"ecosystem": "npm", "name": "other"}, "versions": ["1"]}
RECORD = json.dumps({"id": "GHSA-x", "summary": "bad", "extra": 1, "affected": [AFFECTED, ELSEWHERE]}).encode()
VERSIONS = [
    "0.1",
    "1.1.9",
    "1.2",
    "1.2.post1",
    "1.2rc1",
    "1.9",
    "2.0rc1",
    "2.0",
    "2.3",
    "2.3.1",
    "2.4",
    "0.9-odd",
    "what",
]


@pytest.mark.parametrize(
    "version",
    ["0.1", "1.1.9", "1.2", "1.2.post1", "1.2rc1", "1.9", "2.0rc1", "2.0", "2.3", "2.3.1", "2.4", "0.9-odd", "what"],
)
def test_a_version_is_affected_exactly_in_the_record_s_ranges(version):
    found = advisory.affected([Pin("some-lib", version, ("0" * 64,))], [advisory.parse(RECORD)])
    try:
        inside = any(SpecifierSet(text, prereleases=True).contains(version) for text in ("<1.2", ">=2.0rc1,<=2.3"))
    except ValueError:
        inside = True
    # PEP 440 leaves pre-releases of a bound out of "<1.2"; the order of versions, which OSV goes by, does not.
    expected = inside or version in {"0.9-odd", "what", "1.2rc1"}
    assert found == ([Weakness("some-lib", version, "GHSA-x", "bad")] if expected else [])


def test_another_library_another_ecosystem_and_a_withdrawn_record_are_not_meant():
    record = advisory.parse(RECORD)
    assert advisory.affected([Pin("other", "1", ()), Pin("some", "1.0", ())], [record]) == []
    withdrawn = advisory.parse(RECORD.replace(b'"summary"', b'"withdrawn": "2026-02-01T00:00:00Z", "summary"'))
    assert advisory.affected([Pin("some-lib", "1.0", ())], [withdrawn]) == []


@given(data=st.binary(max_size=100))
def test_a_record_that_cannot_be_read_is_refused(data):
    with pytest.raises(PackageError):
        advisory.parse(b"[" + data)
