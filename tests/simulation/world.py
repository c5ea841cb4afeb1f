"""One federation in virtual time: a heap of (time, order, action), and everything follows from the seed.

The hub is the real `Coordinator` and `Studies` on storage that survives it; each site is the real
`Approvals` and `Participant` on a vault that survives the node. Between them is a network that loses,
repeats, delays and cuts; hub and nodes are killed at any step. Weathers: "storm" has all of it and
hostile sites, "rain" only losses and crashes too short to change who takes part, "calm" nothing.
"""

import heapq
import random
from contextlib import contextmanager, suppress

from tests.simulation import fakes
from tests.simulation.fakes import RESEARCHER, T0
from tests.simulation.hub import Hub
from tests.simulation.node import Node
from tests.simulation.oracle import Oracle
from tests.simulation.weather import draw_late, draw_plans, draw_secure_plans, draw_weather, made_private

from wardround.errors import CodecError, StorageFullError, UnavailableError, WardroundError
from wardround.ids import CommandId, SiteId
from wardround.protocol import plan as plans
from wardround.protocol.messages import Proposal
from wardround.protocol.study import Phase

NAMES = tuple(SiteId(name) for name in ("berlin", "cadiz", "delft", "espoo", "faro", "ghent"))
SLACK = 120.0
BUSY = 5_000
"""Actions after which a world must have ended; ordinary ones take a thousand."""


class World:
    """Runs one seed to its end; `history` says what happened."""

    def __init__(self, seed, *, kind="storm"):
        draw = random.Random(f"world {seed}")
        self.is_late = kind.startswith("late ")
        kind = kind.removeprefix("late ")
        self.is_secure = kind.startswith("secure ")
        kind = kind.removeprefix("secure ")
        self.seed, self.kind = seed, kind
        self.now, self._order, self._heap = T0, 0, []
        self.history = []
        self.sites = sorted(draw.sample(NAMES, draw.randint(3, 6)))
        self.plans = (draw_secure_plans if self.is_secure else draw_plans)(kind, draw, self.sites)
        if self.is_late:
            self.plans = [draw_late(kind, draw, plan) for plan in self.plans]
        if seed % 3 == 0:
            self.plans = [made_private(plan) for plan in self.plans]
        self.studies = [plans.study_id(plan) for plan in self.plans]
        self.rng = random.Random(f"weather {seed} {kind}")
        self.weather = draw_weather(kind, self.rng, self.sites, len(self.plans))
        if self.is_secure:
            self.weather.hostile = frozenset()
        self.oracle = Oracle(self)
        self.hub = Hub(self)
        self.nodes = {site: Node(self, site) for site in self.sites}
        self.cut = {}
        self.open_studies = list(self.studies)
        self.pending = 0
        self._deliveries = []

    def tell(self, who, what, *words):
        """Add a line to the history."""
        self.history.append((self.now, who, what, words))

    def at(self, time, action, *args):
        """Do something later."""
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, action, args))

    def stormy(self, probability):
        """Whether a fault of this probability happens now."""
        return probability > 0 and self.now < self.weather.until and self.rng.random() < probability

    @contextmanager
    def fair_weather(self):
        """No fault happens in here: for those who only look."""
        until, self.weather.until = self.weather.until, T0
        yield
        self.weather.until = until

    def play(self):
        """Run to the end; the oracle has the last word.

        Raises:
            AssertionError: A promise was broken.
        """
        self._arrange()
        end = max(plan.expires for plan in self.plans) + SLACK
        while self._heap and self.now < end and not self._is_settled():
            self.now, _, action, args = heapq.heappop(self._heap)
            action(*args)
            assert self._order < BUSY, "so much happens that nothing does"
        self._conclude(end)
        self.oracle.check()
        return self

    def _arrange(self):
        self.hub.start()
        for plan, study in zip(self.plans, self.studies, strict=True):
            self.at(T0 + self.rng.uniform(0, 3), self._propose, plan, study)
        for site, node in self.nodes.items():
            node.start()
            for index, study in enumerate(self.studies):
                if site not in self.plans[index].participants:
                    continue
                verdict = self.weather.verdicts.get((site, index), "approve")
                late = self.rng.random() < 0.1 and self.kind == "storm"
                if verdict != "never":
                    when = T0 + self.rng.uniform(3, 60 if late else 10)
                    self._person(when, node, study, verdict)
                if (site, index) in self.weather.withdrawals:
                    self._person(self.weather.withdrawals[site, index], node, study, "withdraw")
            if site in self.weather.gone:
                self.at(self.weather.gone[site], node.vanish)
        if self.weather.researcher:
            what, when = self.weather.researcher
            self.pending += 1
            self.at(when, self._act, what, self.studies[0])
        self._storms()

    def _storms(self):
        weather, rng = self.weather, self.rng

        def instant():
            return rng.uniform(T0, weather.until)

        for _ in range(weather.hub_kills):
            self.at(instant(), self.hub.kill, "from outside")
        for _ in range(weather.node_kills):
            self.at(instant(), self.nodes[rng.choice(self.sites)].kill)
        for _ in range(weather.partitions):
            start = instant()
            self.at(start, self._partition, rng.choice(self.sites), start + rng.uniform(1, weather.longest))

    def _partition(self, site, until):
        self.tell(site, "is cut off", f"{until - self.now:.0f} s")
        self.cut[site] = max(until, self.cut.get(site, 0))

    def _person(self, when, node, study, verdict):
        self.pending += 1
        self.at(when, node.decide, study, verdict)

    def _propose(self, plan, study):
        signed = plans.sign(plan, fakes.key_of(RESEARCHER))

        def propose(hub):
            hub.blobs.put(fakes.initial_model(plan.seed))
            return hub.studies.propose(RESEARCHER, Proposal(CommandId("p"), signed))

        try:
            self.call(RESEARCHER, "propose", propose)
        except CodecError:
            self.open_studies.remove(study)  # It expired before the hub had it.
        except WardroundError:
            self.at(self.now + 2, self._propose, plan, study)

    def _act(self, what, study):
        if what == "start":
            self.oracle.started.add(study)

        def act(hub):
            if what == "start":
                return hub.studies.start(RESEARCHER, study)
            return hub.studies.finish(RESEARCHER, study, Phase.WITHDRAWN, "second thoughts")

        try:
            self.call(RESEARCHER, what, act)
            if what == "withdraw":
                self.oracle.withdrawn.add(study)
        except (UnavailableError, StorageFullError):
            if what == "withdraw":
                self.oracle.withdrawn.add(study)
            if self.rng.random() < 0.7:  # else the researcher gives up: the hub must cope alone
                self.at(self.now + 3, self._act, what, study)
                return
        except WardroundError as error:
            self.tell(RESEARCHER, "was told", error)
        self.pending -= 1

    def call(self, sender, what, request, *, repeat=True):
        """One request over the network: its answer, or `UnavailableError` whatever became of it."""
        weather = self.weather
        if self.cut.get(sender, 0) > self.now:
            raise UnavailableError("no route to the hub")
        if self.stormy(weather.loss):
            self.tell(sender, what, "request lost")
            raise UnavailableError("request lost")
        if self.stormy(weather.delay) and repeat:
            self.tell(sender, what, "request delayed, sender gave up")
            self._later(sender, what, request)
            raise UnavailableError("no answer in time")
        answer = self.hub.serve(sender, what, request)
        if self.stormy(weather.repeat) and repeat:
            self._later(sender, what, request)
        if self.stormy(weather.loss):
            self.tell(sender, what, "answer lost")
            raise UnavailableError("answer lost")
        return answer

    def _later(self, sender, what, request):
        delay = self.rng.choice([0.1, 2.0, 10.0, 60.0, 600.0]) * self.rng.random()
        if self.kind == "storm" or delay < 10:
            self.at(self.now + delay, self._deliver, sender, what, request)
            self._deliveries.append((sender, what, request))

    def _deliver(self, sender, what, request):
        with suppress(WardroundError):
            self.hub.serve(sender, f"{what} (again or late)", request)

    def _is_settled(self):
        return not self.pending and self.hub.is_settled()

    def _conclude(self, end):
        """Everything repeated once more, then past every expiry, then a fresh hub that must know it all."""
        self.weather.until = self.now
        self.hub.revive()
        for delivery in self._deliveries[-20:]:
            self._deliver(*delivery)
        self.hub.work()
        self.now = max(self.now, end)
        self.hub.work()
        self.hub.kill("at the end")
        self.hub.revive()
        self.tell("world", "ends")
