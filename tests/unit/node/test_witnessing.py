"""Sites that watch one another's logs and the hub's: keys pinned, growth signed, forks refused and recorded once."""

import shutil

import msgspec
import pytest

from wardround.audit import checkpoint as checkpoints
from wardround.audit import witness_policy
from wardround.audit.entry import Deletion, PeerRefused
from wardround.audit.verification import POLICY, WITNESSED
from wardround.auditing import Auditing, LogPlace
from wardround.errors import NotFoundError, SignatureError, UnavailableError
from wardround.hub.log_post import LogPost
from wardround.node.witnessing import Witnessing
from wardround.protocol.log_messages import LogAnswer, LogLetter, LogMember
from wardround.services.accounting import read_entries
from wardround.services.log_members import LogMembers
from wardround.storage.memory import MemoryEventLog, MemoryVault
from wardround.system import SystemClock

SITES = ("arran", "bute", "coll")


class Post:
    """A site's way to the hub, without a network between them."""

    def __init__(self, name, hub):
        self.name, self.hub = name, hub

    def log_members(self):
        return self.hub.told if self.hub.told is not None else self.hub.post.members.all()

    def put_log_member(self, member):
        self.hub.post.members.put(self.name, member)

    def log_requests(self):
        return self.hub.post.requests(self.name)

    def ask_witness(self, letter):
        self.hub.post.ask(self.name, letter)

    def cosign(self, answer):
        self.hub.post.answer(self.name, answer)

    def log_answers(self):
        return self.hub.post.answers(self.name)


class Hub:
    """A hub's log and letter boxes; `told` stands in for its list of keys."""

    def __init__(self, folder):
        self.folder, self.events, self.told, self.gone = folder, MemoryEventLog(), None, frozenset()
        self.auditing = None
        self.open()

    def open(self):
        if self.auditing is not None:
            self.auditing.close()
        self.auditing = Auditing(LogPlace("hub", self.folder, self.folder / "state"), MemoryVault())
        self.auditing.serve()
        own = LogMember(site="hub", log=tuple(str(signer.key) for signer in self.auditing.signers()))
        members = LogMembers(self.events, self.auditing, own)
        self.post = LogPost(self.auditing.log, members, SystemClock(), lambda: self.gone)

    def witnessed(self):
        data = self.auditing.log.file(WITNESSED)
        return 0 if data is None else checkpoints.parse(data).checkpoint.size


class World:
    def __init__(self, folder):
        self.hub = Hub(folder / "hub")
        self.sites = {}
        for name in SITES:
            vault = MemoryVault()
            auditing = Auditing(LogPlace(name, folder / name, folder / name / "state"), vault)
            auditing.serve()
            watch = Witnessing(name, Post(name, self.hub), vault, auditing, seconds=60.0)
            self.sites[name] = (watch, auditing)

    def look(self, times=1):
        for _ in range(times):
            for watch, _ in self.sites.values():
                watch.once()

    def close(self):
        for _, auditing in self.sites.values():
            auditing.close()
        self.hub.auditing.close()

    def refusals(self, name):
        return [e.event for _, e in read_entries(self.sites[name][1].log) if isinstance(e.event, PeerRefused)]


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


def cosigners(log):
    policy = witness_policy.parse_policy(log.file(POLICY).decode())
    names = witness_policy.cosigners(checkpoints.parse(log.file(WITNESSED)), policy)
    assert witness_policy.is_quorum(names, policy)
    return [site for site in SITES if site in names]


def test_every_log_is_signed_by_all_others_after_a_few_looks(world):
    world.look(5)
    assert cosigners(world.hub.auditing.log) == ["arran", "bute", "coll"]
    assert {name: cosigners(auditing.log) for name, (_, auditing) in world.sites.items()} == {
        "arran": ["bute", "coll"],
        "bute": ["arran", "coll"],
        "coll": ["arran", "bute"],
    }


def test_looking_writes_nothing_into_any_log(world):
    world.look(4)
    sizes = [world.hub.auditing.log.size, *(auditing.log.size for _, auditing in world.sites.values())]
    world.look(4)
    assert [world.hub.auditing.log.size, *(auditing.log.size for _, auditing in world.sites.values())] == sizes


def test_what_was_written_since_is_signed_at_the_next_looks(world):
    world.look(4)
    world.hub.auditing.record(Deletion("a", 1))
    size = world.hub.auditing.log.size
    world.look(2)
    assert world.hub.witnessed() == size


def test_a_hub_that_goes_on_from_an_older_copy_is_refused_by_every_witness_and_recorded_once(world):
    world.look(4)
    folder = world.hub.folder
    world.hub.auditing.close()
    for name in ("state", "anchor"):
        shutil.copytree(folder / name, folder / f"{name}-older")
    world.hub.open()
    world.hub.auditing.record(Deletion("a", 1))
    world.look(3)
    world.hub.auditing.close()
    for name in ("state", "anchor"):
        shutil.rmtree(folder / name)
        (folder / f"{name}-older").rename(folder / name)
    world.hub.open()
    seen = world.hub.witnessed()
    world.look(4)
    for name in SITES:
        (refused,) = world.refusals(name)
        assert (refused.peer, refused.code) == ("hub", "crypto/audit")
    assert world.hub.witnessed() == seen


def test_a_hub_cannot_put_other_keys_under_a_name_that_is_known(world, tmp_path):
    world.look(3)
    other = Auditing(LogPlace("bute", tmp_path / "forged", tmp_path / "forged" / "state"), MemoryVault())
    keys = [tuple(str(one.key) for one in made) for made in (other.signers(), other.witness_signers())]
    forged = LogMember(site="bute", number=2, log=keys[0], witness=keys[1], signature=b"x" * 64)
    true = world.hub.post.members.all()
    world.hub.told = [forged if one.site == "bute" else one for one in true]
    watch, auditing = world.sites["arran"]
    watch.once()
    watch.once()
    (refused,) = world.refusals("arran")
    assert (refused.peer, refused.code) == ("bute", SignatureError.code)
    policy = auditing.log.file(POLICY).decode()
    bute = next(one for one in true if one.site == "bute")
    assert all(key in policy for key in bute.witness)
    assert not any(key in policy for key in forged.witness)


def test_a_change_under_the_key_before_is_followed(world):
    world.look(3)
    from wardround.protocol import log_messages

    bute = next(one for one in world.hub.post.members.all() if one.site == "bute")
    after = msgspec.structs.replace(bute, number=2, witness=())
    signer = world.sites["bute"][1].signers()[0]
    after = msgspec.structs.replace(after, signature=signer.sign_raw(log_messages.change_bytes(after)))
    world.hub.post.members.put("bute", after)
    world.look(2)
    assert world.refusals("arran") == []
    assert "witness bute" not in world.sites["arran"][1].log.file(POLICY).decode()


def test_a_site_whose_keys_the_hub_has_otherwise_says_so_and_hands_in_none(world, monkeypatch):
    world.look(2)
    said = []
    monkeypatch.setattr("wardround.node.witnessing._log.error", lambda words, **_: said.append(words))
    true = world.hub.post.members.all()
    world.hub.told = [msgspec.structs.replace(one, witness=()) if one.site == "arran" else one for one in true]
    world.sites["arran"][0].once()
    assert len(said) == 1
    assert world.hub.post.members.all() == true


def test_a_revoked_site_counts_as_no_witness_of_the_hub(world):
    world.look(4)
    world.hub.gone = frozenset({"coll"})
    world.hub.auditing.record(Deletion("a", 1))
    world.look(3)
    assert cosigners(world.hub.auditing.log) == ["arran", "bute"]


def test_letters_go_to_witnesses_only_and_answers_to_those_who_asked(world):
    world.look(2)
    with pytest.raises(NotFoundError):
        world.hub.post.ask("arran", LogLetter("nobody", b"x"))
    with pytest.raises(NotFoundError):
        world.hub.post.answer("arran", LogAnswer("coll", "stale", b"0\n"))


def test_letters_that_are_nonsense_stop_nobody(world):
    world.look(2)
    world.hub.post.ask("coll", LogLetter("arran", b"\xff" * 100))
    world.hub.post.ask("bute", LogLetter("arran", b"old 0\n\nnonsense"))
    world.look(4)
    assert cosigners(world.hub.auditing.log) == ["arran", "bute", "coll"]
    assert world.refusals("arran") == []


def test_a_hub_that_does_not_answer_is_asked_again_later(world, monkeypatch):
    watch, _ = world.sites["arran"]
    monkeypatch.setattr(Post, "log_members", lambda _: (_ for _ in ()).throw(UnavailableError("down")))
    with pytest.raises(UnavailableError):
        watch.once()
