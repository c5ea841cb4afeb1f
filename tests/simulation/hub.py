"""A world's hub: the real services, on storage that outlives them."""

from tests.simulation import fakes
from tests.simulation.storage import FaultyBlobs, FaultyLog, Killed

from wardround.errors import UnavailableError, WardroundError
from wardround.protocol.run import Phase as RunPhase
from wardround.protocol.study import Phase
from wardround.services.coordinator import Coordinator
from wardround.services.rosters import Rosters
from wardround.services.studies import Studies

_FAULTS = ("conflict", "full", "unavailable", "answer lost", "killed", "killed after")


class Hub:
    """The services on storage that outlives them."""

    def __init__(self, world):
        self.world = world
        self.log = FaultyLog(self._draw, world.oracle.written)
        self.blobs = FaultyBlobs(self._draw, world.oracle.stored)
        self.coordinator = self.studies = None
        self._zombie = None
        self._work_at = self._settled_at = 0.0

    @property
    def is_up(self):
        """Whether anybody answers."""
        return self.coordinator is not None

    def now(self):
        """Fills `Clock`."""
        return self.world.now

    def start(self):
        """Boot from storage."""
        try:
            self._boot()
        except Killed:
            self.kill("while starting")
        except WardroundError:
            self.coordinator = None
            self.world.at(self.world.now + 1, self.start)

    def _boot(self):
        if self.is_up:
            return
        studies = Studies(
            self.log,
            self.blobs,
            self,
            key_of=lambda name: fakes.key_of(name).public_key(),
            coordinator=lambda: coordinator,
        )
        coordinator = Coordinator(
            self.log,
            self.blobs,
            self,
            plan_of=studies.plan_of,
            rosters=Rosters(self.log, fakes.roster(tuple(self.world.sites))),
            changed=lambda run: self._changed(studies, run),
        )
        self.coordinator, self.studies = coordinator, studies
        self.world.oracle.booted()
        self.world.tell("hub", "is up")
        self._wake(0.5)

    def revive(self):
        """Be up, whatever happened."""
        while not self.is_up:
            self.start()

    def kill(self, where):
        """Lose everything that is not in storage."""
        world = self.world
        if not self.is_up:
            return
        world.oracle.compare(self.coordinator)
        world.tell("hub", "is killed", where)
        if world.weather.zombie and world.now < world.weather.until and self._zombie is None:
            # A hub that was thought dead and is not: it acts on what it remembers.
            self._zombie = (self.coordinator, self.studies)
            for _ in range(6):
                world.at(world.now + world.rng.uniform(1, 60), self._haunt)
        self.coordinator = self.studies = None
        world.at(world.now + world.rng.uniform(0.5, min(world.weather.longest, 40)), self.start)

    def serve(self, sender, what, request):
        """Answer a request, or die of it."""
        if not self.is_up:
            raise UnavailableError("connection refused")
        try:
            answer = request(self)
        except Killed:
            self.kill(f"in {what}")
            raise UnavailableError("connection reset") from None
        except WardroundError as error:
            self.world.tell(sender, what, type(error).__name__, str(error)[:100])
            raise
        if answer is not None:
            self.world.tell(sender, what, answer)
        return answer

    def work(self):
        """What `wardround.hub.app` does whenever it is woken."""
        if not self.is_up:
            return
        due = None
        try:
            due = _work(self.coordinator, self.studies)
        except Killed:
            self.kill("at work")
        except WardroundError as error:
            self.world.tell("hub", "will try again", error)
        self._wake(5.0 if due is None else min(max(due - self.world.now, 0.01), 5.0))

    def is_settled(self):
        """Whether nothing is left to happen but the expiry of what nobody decided."""
        if not self.is_up or self.world.now < self._settled_at:
            return False
        self._settled_at = self.world.now + 4.0
        with self.world.fair_weather():
            if self.coordinator.active() or len(self.log.kept.streams("study:")) < len(self.world.open_studies):
                return False
            return all(self.studies.state(study).phase is not Phase.RUNNING for study in self.world.open_studies)

    def _changed(self, studies, run):
        studies.run_changed(run)
        if run.phase in {RunPhase.COMBINING, RunPhase.GATHERING}:
            self._wake(0.05)

    def _wake(self, wait):
        when = self.world.now + wait
        if self._work_at <= self.world.now or when < self._work_at:
            self._work_at = when
            self.world.at(when, self._work_if_due, when)

    def _work_if_due(self, when):
        if when == self._work_at:
            self._work_at = 0.0
            self.work()

    def _haunt(self):
        if self.world.now < self.world.weather.until and self._zombie is not None:
            self.world.tell("zombie", "works")
            try:
                _work(*self._zombie)
            except (Killed, WardroundError):
                self._zombie = None

    def _draw(self, what):
        world = self.world
        rate = world.weather.storage * (0.1 if what.endswith("read") else 1.0)
        if not self.is_up or not world.stormy(rate):
            return ""
        fault = "unavailable" if what.endswith("read") else world.rng.choice(_FAULTS)
        world.tell("hub", f"{what} fails", fault)
        return fault


def _work(coordinator, studies):
    turns = 0
    while waiting := coordinator.combining():
        turns += 1
        assert turns < 20, "the hub combines the same round again and again"
        for run in waiting:
            coordinator.combine(run)
    studies.tick()
    return coordinator.tick()
