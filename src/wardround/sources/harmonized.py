"""Events as a record source: everything that a site's mapping of events describes, harmonized for one contract."""

from collections.abc import Mapping
from pathlib import Path

from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.codec import canonical
from wardround.errors import ClinicalError
from wardround.harmonization.harmonize import Harmonized, harmonize
from wardround.ids import Digest
from wardround.sources import event_mapping
from wardround.sources.event_mapping import EventMapping

__all__ = ["HarmonizedSource"]


class HarmonizedSource:
    """A `wardround.ports.RecordSource` over the sources of a mapping of events; none is opened before it is read.

    Args:
        mapping: The mapping.
        folder: Where it lies.
        environ: Where its secrets may be.
    """

    def __init__(self, mapping: EventMapping, folder: Path, environ: Mapping[str, str]) -> None:
        self.mapping = mapping
        self._folder = folder
        self._site = event_mapping.site_data(mapping, folder, environ)

    @property
    def key(self) -> bytes:
        """The site's secret, from which pseudonyms and what is kept of cohorts follow."""
        return self._site.key

    @property
    def digest(self) -> Digest:
        """What says with which mapping a tensor was made."""
        return event_mapping.digest(self.mapping, self._folder)

    def load(self, contract: DataContract) -> StudyTable:
        """The study table; see `wardround.ports.RecordSource`."""
        return self.read(contract).table

    def read(self, contract: DataContract) -> Harmonized:
        """The study table, and what was found on the way.

        Raises:
            ClinicalError: The events do not fit the contract, or it has no cohort.
            UnavailableError: A source did not answer.
        """
        if contract.cohort is None:
            raise ClinicalError(
                "this site's mapping describes events, and the study's contract has no cohort: it asks for a table"
            )
        study = canonical.digest(canonical.encode(contract))
        return harmonize(contract, self._site, study, memory_mb=self.mapping.memory_mb)
