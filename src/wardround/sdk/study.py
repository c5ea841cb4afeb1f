"""Declare a study: from what the researcher wants to a checked plan with its initial model.

Making a plan needs torch, because the initial parameters and the manifest come from the model itself;
hub and other sites need only the bytes.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wardround.analysis import Analysis
from wardround.clinical import contract as data_contract
from wardround.clinical.appraisal import Appraisal
from wardround.clinical.contract import DataContract
from wardround.clinical.summaries import Summary
from wardround.codec import canonical, tensors
from wardround.errors import CodecError, StudyFileError
from wardround.ids import SiteId, StudyId
from wardround.protocol import plan as plans
from wardround.protocol.attested import Enclaves
from wardround.protocol.plan import (
    Aggregation,
    BlobRef,
    BuiltinModel,
    CodePackage,
    Limits,
    Normalization,
    Plan,
    Privacy,
    Screening,
    SecureAggregation,
    Training,
)

__all__ = ["Study", "contract_of", "declare", "from_toml"]


@dataclass(frozen=True, slots=True)
class Study:
    """A plan, and the blobs that it names: the initial model and, for own code, the package."""

    plan: Plan
    initial: bytes
    package: bytes | None = None

    @property
    def id(self) -> StudyId:
        """The digest that names the study everywhere."""
        return plans.study_id(self.plan)


class _StudyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A study file: the plan's fields, without what follows from them."""

    title: str
    purpose: str
    legal_basis: str
    participants: tuple[SiteId, ...]
    min_participants: int
    expires: int
    data: DataContract
    model: BuiltinModel
    training: Training
    limits: Limits = Limits()
    aggregation: Aggregation = Aggregation()
    screening: Screening | None = None
    secure: SecureAggregation | None = None
    summaries: tuple[Summary, ...] = ()
    analyses: tuple[Analysis, ...] = ()
    appraisal: Appraisal | None = None
    privacy: Privacy | None = None
    audits: int = 0
    enclaves: Enclaves | None = None
    seed: int = 0


def declare(
    *,
    title: str,
    purpose: str,
    legal_basis: str,
    researcher: str,
    participants: Sequence[str],
    min_participants: int,
    data: DataContract,
    model: BuiltinModel | Path,
    training: Training,
    expires: int,
    factory: str = "",
    normalization: Normalization = "as-is",
    limits: Limits | None = None,
    aggregation: Aggregation | None = None,
    screening: Screening | None = None,
    secure: SecureAggregation | None = None,
    summaries: Sequence[Summary] = (),
    analyses: Sequence[Analysis] = (),
    appraisal: Appraisal | None = None,
    privacy: Privacy | None = None,
    audits: int = 0,
    enclaves: Enclaves | None = None,
    seed: int = 0,
) -> Study:
    """Declare a study.

    Args:
        title: A line for people.
        purpose: Why; shown to every approver.
        legal_basis: On what grounds; shown to every approver.
        researcher: The name under which the researcher is enrolled.
        participants: Sites that are asked.
        min_participants: The least number of sites, and of updates in any aggregate.
        data: Columns and label.
        model: A built-in model, or a folder of Python files of your own.
        training: Rounds and local work.
        expires: When the plan ends, in seconds since 1970-01-01 UTC.
        factory: For own code, ``module:function``; called with (width, outputs), gives an nn.Module.
        normalization: For own code: what takes the place of batch normalization, if anything.
        limits: Caps and patience.
        aggregation: How the updates become one, and how many hostile sites that must withstand; the mean without it.
        screening: Which updates are set aside first. Without it, only those that are no numbers or of a wrong shape.
        secure: Secure aggregation: the hub sees sums only. Without it, each site's update.
        summaries: Counts, moments and histograms over all sites; only under secure aggregation.
        appraisal: Calibration, decision curve, intervals and subgroups of the last model; subgroups only under secure
            aggregation.
        analyses: Regressions and survival curves from sums over all sites; only under secure aggregation.
        privacy: Differential privacy: what is noised, and how much. Without it nothing is.
        audits: How many sites must have audited the model and passed before it is released; one that fails stops it.
        enclaves: Which builds the hub and the nodes must prove to run, and which keys are released to them.
        seed: From which initial parameters and all shuffling follow.

    Raises:
        CodecError: The plan could not be followed; says which field.
    """
    chosen, package, initial, manifest = _model(model, factory, normalization, data, seed)
    made = Plan(
        title=title,
        purpose=purpose,
        legal_basis=legal_basis,
        researcher=SiteId(researcher),
        participants=tuple(sorted(SiteId(name) for name in participants)),
        min_participants=min_participants,
        data=data,
        model=chosen,
        manifest=manifest,
        initial=BlobRef(canonical.digest(initial), len(initial)),
        training=training,
        limits=limits or Limits(),
        aggregation=aggregation or Aggregation(),
        screening=screening,
        secure=secure,
        summaries=tuple(summaries),
        analyses=tuple(analyses),
        appraisal=appraisal,
        privacy=privacy,
        audits=audits,
        enclaves=enclaves,
        expires=expires,
        seed=seed,
    )
    try:
        # Structs do not look at what they are made of: here whole numbers become floats, and other types are refused.
        plan = msgspec.convert(msgspec.to_builtins(made), Plan)
    except msgspec.ValidationError as error:
        raise CodecError(f"the plan has a value of the wrong type: {error}") from None
    plans.check(plan)
    return Study(plan, initial, package)


class _OnlyData(msgspec.Struct, frozen=True):
    data: DataContract


def contract_of(text: str) -> DataContract:
    """The data contract of a study file, whatever the rest of it says.

    Raises:
        StudyFileError: Not TOML, or its contract is wrong.
    """
    try:
        contract = msgspec.toml.decode(text, type=_OnlyData).data
        data_contract.check(contract)
    except (msgspec.MsgspecError, CodecError) as error:
        raise StudyFileError(f"the study file is wrong: {error}; see docs/reference/study-file.md") from None
    return contract


def from_toml(text: str, researcher: str) -> Study:
    """Declare a study with a built-in model from a study file.

    Raises:
        StudyFileError: Not TOML, an unknown field, a value of the wrong type, or a plan that could not be followed.
    """
    try:
        values = tomllib.loads(text)
        if isinstance(values.get("model"), dict):
            values["model"].setdefault("type", "builtin")
        file = msgspec.convert(values, _StudyFile)
    except tomllib.TOMLDecodeError as error:
        raise StudyFileError(f"the study file is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise StudyFileError(f"the study file is wrong: {error}; see docs/reference/study-file.md") from None
    fields = {name: getattr(file, name) for name in file.__struct_fields__}
    try:
        return declare(researcher=researcher, **fields)
    except CodecError as error:
        raise StudyFileError(f"the study file cannot be followed: {error}") from None


def _model(
    model: BuiltinModel | Path, factory: str, normalization: Normalization, data: DataContract, seed: int
) -> tuple[BuiltinModel | CodePackage, bytes | None, bytes, tensors.Manifest]:
    import torch

    from wardround.training import models
    from wardround.training import package as packages

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, BuiltinModel):
            chosen: BuiltinModel | CodePackage = model
            package = None
            module = models.build(model, data)
        else:
            package = packages.from_folder(model) if model.is_dir() else model.read_bytes()
            chosen = CodePackage(package=packages.ref(package), factory=factory, normalization=normalization)
            factory_of = packages.load(packages.read(package, chosen.package), factory)
            module = models.normalized(factory_of(data_contract.width(data), models.outputs(data)), normalization)
    manifest = models.manifest_of(module)
    arrays = {name: models.array_of(tensor) for name, tensor in models.arrays(module).items()}
    return chosen, package, tensors.pack(arrays, manifest), manifest
