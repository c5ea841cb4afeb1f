"""A node's audit log with everything that writes into it, made of its folder, settings and vault."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from wardround.audit.entry import KeyChange
from wardround.auditing import Auditing, LogPlace
from wardround.codec import canonical
from wardround.config import NodeConfig
from wardround.crypto import certificate, signing
from wardround.node.authorizing import Authorizing
from wardround.node.witnessing import Witnessing
from wardround.people_folder import people_settings
from wardround.ports import HubClient, RecordSource, Vault
from wardround.protocol.plan import Plan, study_id
from wardround.services.budgets import Budgets
from wardround.services.hub_records import AccessRecords
from wardround.services.node_records import (
    BudgetRecords,
    Purpose,
    RecordedHub,
    RecordedSource,
    Refusals,
    purpose_of,
    record_decision,
    record_review,
)
from wardround.storage.anchor import BudgetAnchor
from wardround.system import SystemClock, private_folder
from wardround.transport.http import HttpHub
from wardround.transport.log_client import LogClient
from wardround.transport.renewing import Place

__all__ = ["Recording"]


@dataclass(frozen=True)
class Recording:
    """One node's. What it makes records before it acts."""

    folder: Path
    config: NodeConfig
    vault: Vault

    @cached_property
    def auditing(self) -> Auditing:
        """The log; written by this process once it serves."""
        state = private_folder(self.folder / self.config.state)
        return Auditing(LogPlace(self.config.name, self.folder, state), self.vault)

    @cached_property
    def authorizing(self) -> Authorizing:
        """The site's policies."""
        logins = people_settings(self.folder).provider != "none"
        on_decision = AccessRecords(self.auditing, SystemClock())
        return Authorizing(self.config.name, self.folder, logins=logins, on_decision=on_decision)

    @cached_property
    def budgets(self) -> Budgets:
        """The privacy budgets of the node's records."""
        anchor = BudgetAnchor(private_folder(self.folder / self.config.state))
        record = BudgetRecords(self.auditing, self.config.dataset)
        return Budgets(self.config.dataset, vault=self.vault, clock=SystemClock(), anchor=anchor, record=record)

    @cached_property
    def refusals(self) -> Refusals:
        """What the node would not do."""
        return Refusals(self.auditing, self.config.dataset)

    @property
    def review(self) -> partial[None]:
        """Records what a person says about study code."""
        return partial(record_review, self.auditing)

    @property
    def decision(self) -> partial[None]:
        """Records what a person decides about a study."""
        return partial(record_decision, self.auditing)

    def hub(self, hub: HubClient) -> RecordedHub:
        """The hub, to which nothing is sent that is not recorded."""
        return RecordedHub(hub, self.auditing, self.config.dataset)

    def source(self, records: RecordSource, plan: Plan, *, purpose: Purpose | None = None) -> RecordedSource:
        """The records for a study, of which nothing is read that is not recorded; `purpose` is the plan's, or this."""
        return RecordedSource(
            records,
            self.auditing,
            self.config.dataset,
            purpose=purpose or purpose_of(plan),
            study=study_id(plan),
            legal_basis=plan.legal_basis,
        )

    def rotated(self, place: Place) -> None:
        """Record that the key for connections is about to be replaced; the new one is in the hub's log."""
        if place.connection.exists():
            key = canonical.digest(signing.public_bytes(certificate.public_key(place.connection.read_bytes())))
            self.auditing.record(KeyChange("rotated", key, "connection", holder=self.config.name))

    def serve(self, hub: HttpHub) -> list[Witnessing]:
        """Write the log from now on; whoever watches the others' logs beside the node's runs."""
        self.auditing.serve()
        self.auditing.policy("site", self.authorizing.digest)
        seconds = self.config.witness_seconds
        watch = Witnessing(self.config.name, LogClient(hub.call), self.vault, self.auditing, seconds=seconds)
        return [watch] if seconds > 0 else []
