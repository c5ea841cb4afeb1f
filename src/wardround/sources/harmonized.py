"""Events as a record source: everything that a site's mapping of events describes, harmonized for one contract."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.codec import canonical
from wardround.errors import ClinicalError
from wardround.harmonization import confirmations, embedded
from wardround.harmonization.events import EventSource
from wardround.harmonization.harmonize import Execute, Harmonized, harmonize
from wardround.harmonization.lineage import Confirmation
from wardround.sources import event_mapping
from wardround.sources.event_mapping import EventMapping
from wardround.sources.site import Site

__all__ = ["HarmonizedSource"]


class HarmonizedSource:
    """A `wardround.ports.RecordSource` over the sources of a mapping of events; none is opened before it is read.

    Args:
        mapping: The mapping.
        folder: Where it lies.
        environ: Where its secrets may be.

    Attributes:
        mapping: The mapping; `digest` says with which one, and which confirmed codes, a tensor was made.
        confirmed: Who said what each local code means.
    """

    def __init__(self, mapping: EventMapping, folder: Path, environ: Mapping[str, str]) -> None:
        self.mapping = mapping
        self._folder = folder
        self._environ = environ
        # Before what they say is used, so that a lineage never names what was not.
        self.digest = event_mapping.digest(mapping, folder)
        self.confirmed = _confirmed(folder)
        self._site = event_mapping.site_data(mapping, folder, environ)

    @property
    def sources(self) -> Sequence[EventSource]:
        """The site's sources."""
        return self._site.sources

    @property
    def codes(self) -> Path:
        """The file of confirmed codes."""
        return self._folder / event_mapping.CODES_FILE

    @property
    def key(self) -> bytes:
        """The site's secret, from which pseudonyms and what is kept of cohorts follow."""
        return self._site.key

    def load(self, contract: DataContract) -> StudyTable:
        """The study table; see `wardround.ports.RecordSource`."""
        return self.read(contract).table()

    def read(self, contract: DataContract, *, restricted: bool = True) -> Harmonized:
        """What the study gets of this site, and what was found on the way.

        Args:
            contract: The study's.
            restricted: Whether the sources are asked for what is wanted only; without it, unmapped codes are seen.

        Raises:
            ClinicalError: The events do not fit the contract, or it has no cohort.
            UnavailableError: A source did not answer.
        """
        if contract.cohort is None:
            raise ClinicalError(
                "this site's mapping describes events, and the study's contract has no cohort: it asks for a table"
            )
        # Columns may be added to a study: who is held out stays so.
        study = canonical.digest(canonical.encode([contract.cohort, contract.holdout_seed]))
        return harmonize(
            contract,
            self._site,
            study,
            execute=self._executor(contract),
            restricted=restricted,
            memory_mb=self.mapping.memory_mb,
        )

    def _executor(self, contract: DataContract) -> Execute:
        if self.mapping.executor == "embedded":
            return embedded.harvest
        if self.mapping.executor == "partitioned":
            from wardround.sources.partitioned import Partitioned

            return Partitioned(self.mapping, self._folder, contract)
        from wardround.sources import pushdown

        return pushdown.executor(self.mapping, Site(self._folder, self.mapping.timezone or None, self._environ))


def _confirmed(folder: Path) -> tuple[Confirmation, ...]:
    entries = confirmations.read(folder / event_mapping.CODES_FILE).codes
    return tuple(
        Confirmation(local=local, concept=entry.to, by=entry.confirmed_by, at=str(entry.at or ""))
        for local, entry in sorted(entries.items())
        if entry.is_confirmed and entry.to
    )
