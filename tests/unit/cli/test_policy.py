"""`wardround policy` tests, explains and shows what is in force, and exits 1 where something differs."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from wardround.authorization import shipped
from wardround.cli.policy import policy
from wardround.errors import ConfigError

CASES = """
[[case]]
name = "a steward approves"
principal = { person = "eva", roles = ["steward"], site = "arran", issuer = "i" }
action = "approve"
resource = { kind = "Study", name = "stroke", participants = ["arran"], researcher = "ada" }
context = { site = "arran", logins = true, person = true, mfa = true, auth_age = 60 }
expect = "allow"
policy = "steward-decides"

[[case]]
name = "no marketing"
principal = { machine = "hub", kind = "hub" }
action = "train"
resource = { kind = "Run", name = "stroke.1", participants = ["arran"] }
context = { site = "arran", purpose = "marketing" }
expect = "deny"
policy = "no-marketing"

[[case]]
name = "nobody approves without saying who they are"
action = "log_in"
resource = { kind = "Site", name = "arran" }
expect = "allow"
"""
OWN = (
    '@id("no-marketing") @says("Not for marketing.") forbid (principal, action in Action::"work", resource)'
    ' when { context has purpose && context.purpose == "marketing" };\n'
)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "cases.toml").write_text(CASES, encoding="utf-8")
    (tmp_path / "policy.cedar").write_text(OWN, encoding="utf-8")
    return tmp_path


def run(*arguments, catch=True):
    return CliRunner().invoke(policy, [str(one) for one in arguments], catch_exceptions=catch)


def on_cases(files, *more):
    return run("test", files / "cases.toml", "--policy", files / "policy.cedar", *more)


def test_cases_that_hold_exit_0(files):
    done = on_cases(files)
    assert done.exit_code == 0, done.output
    assert "3 of 3 cases as expected" in done.output
    answer = json.loads(on_cases(files, "--json").output)
    assert answer["holds"]
    assert [row["found"] for row in answer["cases"]] == ["allow", "deny", "allow"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('expect = "deny"', 'expect = "allow"', "expected allow by no-marketing"),
        ('policy = "steward-decides"', 'policy = "site-it-keeps-the-node"', "expected allow by site-it"),
        ('policy = "no-marketing"', 'policy = "never-uninvited"', "UNTESTED no-marketing"),
        ('purpose = "marketing"', 'colour = "red"', "colour"),
        ('roles = ["steward"]', 'roles = ["king"]', "king"),
    ],
)
def test_a_case_that_differs_exits_1_and_is_told(files, old, new, told):
    assert old in CASES
    (files / "cases.toml").write_text(CASES.replace(old, new), encoding="utf-8")
    done = on_cases(files)
    assert done.exit_code == 1
    assert told in done.output


def test_a_policy_that_no_case_is_decided_by_exits_1(files):
    with (files / "policy.cedar").open("a", encoding="utf-8") as file:
        file.write('@id("forgotten") @says("Forgotten.") forbid (principal, action == Action::"mask", resource);')
    done = on_cases(files)
    assert done.exit_code == 1
    assert "UNTESTED forgotten" in done.output
    assert on_cases(files, "--all").output.count("UNTESTED") > 5


def test_a_denial_for_a_mistake_in_the_case_shows_nothing(files):
    (files / "cases.toml").write_text(CASES.replace('action = "train"', 'action = "trian"'), encoding="utf-8")
    assert on_cases(files).exit_code == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[case]", "cannot be read"),
        ("", "cannot be read"),
        ("case = []", "1 to 10,000 cases"),
        (CASES.replace("expect", "expcet"), "cannot be read"),
        (CASES.replace('expect = "deny"', 'expect = "maybe"'), "cannot be read"),
        (CASES.replace("mfa = true", "mfa = 1.5"), "cannot be read"),
        (CASES.replace('{ machine = "hub"', '{ person = "eva", machine = "hub"'), "a person and a machine"),
    ],
)
def test_a_file_of_cases_that_is_none_is_refused(files, text, words):
    (files / "cases.toml").write_text(text, encoding="utf-8")
    done = on_cases(files)
    assert isinstance(done.exception, ConfigError)
    assert words in str(done.exception)


def test_an_own_policy_that_is_broken_is_refused_with_its_place(files):
    (files / "policy.cedar").write_text("permit (", encoding="utf-8")
    assert "policy.cedar, line 1, column" in str(on_cases(files).exception)


ASKED = ("--principal", "hub:hub", "--action", "train", "--resource", "Run:stroke.1", "--participant", "arran")


def test_explaining_what_is_allowed_exits_0(files):
    done = run("explain", *ASKED, "--context", "site=arran", "--policy", files / "policy.cedar")
    assert done.exit_code == 0, done.output
    assert "permitted by hub-asks-for-work" in done.output


def test_explaining_what_is_denied_exits_1_and_says_why(files):
    own = ("--policy", files / "policy.cedar")
    done = run("explain", *ASKED, "--context", "site=arran", "--context", "purpose=marketing", *own)
    assert done.exit_code == 1
    assert "forbidden by no-marketing: Not for marketing." in done.output
    answer = json.loads(run("explain", *ASKED, "--json").output)
    assert answer["decision"]["allowed"] is False
    assert [one["id"] for one in answer["forbade"]] == ["never-uninvited"]


def test_people_and_anyone_are_explained():
    person = ("--principal", "person:eva@arran", "--role", "steward", "--issuer", "i", "--resource", "Study:stroke")
    facts = ("--context", "site=arran", "--context", "logins=true", "--context", "person=true")
    done = run("explain", *person, "--action", "approve", *facts)
    assert done.exit_code == 1
    assert "newer login" in done.output
    fresh = ("--context", "mfa=true", "--context", "auth_age=60")
    assert run("explain", *person, "--action", "approve", *facts, *fresh).exit_code == 0
    anyone = ("--principal", "anyone", "--action", "read_health", "--resource", "Hub:hub", "--at", "hub")
    assert run("explain", *anyone).exit_code == 0


@pytest.mark.parametrize("wrong", [("--principal", "eva"), ("--principal", "hub:hub", "--context", "mfa")])
def test_what_cannot_be_understood_is_a_usage_error(wrong):
    assert run("explain", *wrong, "--action", "train", "--resource", "Run:x").exit_code == 2


def test_showing_names_every_policy_and_the_digest(files):
    done = run("show", "--at", "hub")
    assert shipped.hub().digest in done.output
    assert "node-takes-its-tasks" in done.output
    answer = json.loads(run("show", "--policy", files / "policy.cedar", "--json").output)
    assert answer["digest"] == shipped.site(OWN).digest
    assert answer["policies"][-1]["id"] == "no-marketing"
    assert answer["policies"][-1]["origin"] == "policy.cedar"


def test_what_the_guide_shows_is_so(tmp_path):
    guide = (Path(__file__).parents[3] / "docs/how-to/write-a-policy.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    own, cases = tmp_path / "policy.cedar", tmp_path / "cases.toml"
    own.write_text(next(block for block in blocks if block.startswith("@id")), encoding="utf-8")
    cases.write_text(next(block for block in blocks if block.startswith("[[case]]")), encoding="utf-8")
    done = run("test", cases, "--policy", own)
    assert "2 of 2 cases as expected" in done.output
    assert done.output.count("UNTESTED") == 3
    asked = ("--principal", "hub:hub", "--action", "train", "--resource", "Run:ads.1", "--participant", "north")
    told = run("explain", "--policy", own, *asked, "--context", "site=north", "--context", "purpose=marketing")
    assert told.output in guide
    own.write_text(own.read_text(encoding="utf-8").replace("context.purpose", "context.purpos"), encoding="utf-8")
    assert str(run("show", "--policy", own).exception) in guide
