"""FHIR R4's types whose names begin with A to H, and their elements.

Written by ``tests/unit/sources/fhir/make_elements.py``; how a line reads: `wardround.sources.fhir_elements`.
"""

__all__ = ["LINES"]

LINES = """\
Account coverage:+* description:s guarantor:+* identifier:D* name:s owner:R partOf:R servicePeriod:P status:s
  subject:R* type:C
AccountCoverage< coverage:R priority:i
AccountGuarantor< onHold:b party:R period:P
ActivityDefinition approvalDate:d author:ContactDetail* bodySite:C* code:C contact:ContactDetail* copyright:s date:t
  description:s doNotPerform:b dosage:Dosage* dynamicValue:+* editor:ContactDetail* effectivePeriod:P
  endorser:ContactDetail* experimental:b identifier:D* intent:s jurisdiction:C* kind:s lastReviewDate:d library:s*
  location:R name:s observationRequirement:R* observationResultRequirement:R* participant:+* priority:s
  product?CodeableConcept,Reference profile:s publisher:s purpose:s quantity:Q relatedArtifact:RelatedArtifact*
  reviewer:ContactDetail* specimenRequirement:R* status:s subject?CodeableConcept,Reference subtitle:s
  timing?Age,DateTime,Duration,Period,Range,Timing title:s topic:C* transform:s url:s usage:s useContext:UsageContext*
  version:s
ActivityDefinitionDynamicValue< expression:Expression path:s
ActivityDefinitionParticipant< role:C type:s
Address<Element city:s country:s district:s line:s* period:P postalCode:s state:s text:s type:s use:s
AdverseEvent actuality:s category:C* contributor:R* date:t detected:t encounter:R event:C identifier:D location:R
  outcome:C recordedDate:t recorder:R referenceDocument:R* resultingCondition:R* seriousness:C severity:C study:R*
  subject:R subjectMedicalHistory:R* suspectEntity:+*
AdverseEventSuspectEntity< causality:+* instance:R
AdverseEventSuspectEntityCausality< assessment:C author:R method:C productRelatedness:s
Age<Quantity
AllergyIntolerance asserter:R category:s* clinicalStatus:C code:C criticality:s encounter:R identifier:D*
  lastOccurrence:t note:Annotation* onset?Age,DateTime,Period,Range,String patient:R reaction:+* recordedDate:t
  recorder:R type:s verificationStatus:C
AllergyIntoleranceReaction< description:s exposureRoute:C manifestation:C* note:Annotation* onset:t severity:s
  substance:C
Annotation<Element author?Reference,String text:s time:t
Appointment appointmentType:C basedOn:R* cancelationReason:C comment:s created:t description:s end:I identifier:D*
  minutesDuration:i participant:+* patientInstruction:s priority:i reasonCode:C* reasonReference:R* requestedPeriod:P*
  serviceCategory:C* serviceType:C* slot:R* specialty:C* start:I status:s supportingInformation:R*
AppointmentParticipant< actor:R period:P required:s status:s type:C*
AppointmentResponse actor:R appointment:R comment:s end:I identifier:D* participantStatus:s participantType:C* start:I
Attachment<Element contentType:s creation:t data:s hash:s language:s size:i title:s url:s
AuditEvent action:s agent:+* entity:+* outcome:s outcomeDesc:s period:P purposeOfEvent:C* recorded:I source:+
  subtype:G* type:G
AuditEventAgent< altId:s location:R media:G name:s network:+ policy:s* purposeOfUse:C* requestor:b role:C* type:C
  who:R
AuditEventAgentNetwork< address:s type:s
AuditEventEntity< description:s detail:+* lifecycle:G name:s query:s role:G securityLabel:G* type:G what:R
AuditEventEntityDetail< type:s value?Base64Binary,String
AuditEventSource< observer:R site:s type:G*
BackboneElement<Element modifierExtension:X*
Basic author:R code:C created:d identifier:D* subject:R
Binary<Resource contentType:s data:s securityContext:R
BodyStructure active:b description:s identifier:D* image:Attachment* location:C locationQualifier:C* morphology:C
  patient:R
Bundle<Resource entry:+* identifier:D link:+* signature:Signature timestamp:I total:i type:s
BundleEntry< fullUrl:s link:BundleLink* request:+ resource:Resource response:+ search:+
BundleEntryRequest< ifMatch:s ifModifiedSince:I ifNoneExist:s ifNoneMatch:s method:s url:s
BundleEntryResponse< etag:s lastModified:I location:s outcome:Resource status:s
BundleEntrySearch< mode:s score:n
BundleLink< relation:s url:s
CarePlan activity:+* addresses:R* author:R basedOn:R* careTeam:R* category:C* contributor:R* created:t description:s
  encounter:R goal:R* identifier:D* instantiatesCanonical:s* instantiatesUri:s* intent:s note:Annotation* partOf:R*
  period:P replaces:R* status:s subject:R supportingInfo:R* title:s
CarePlanActivity< detail:+ outcomeCodeableConcept:C* outcomeReference:R* progress:Annotation* reference:R
CarePlanActivityDetail< code:C dailyAmount:Q description:s doNotPerform:b goal:R* instantiatesCanonical:s*
  instantiatesUri:s* kind:s location:R performer:R* product?CodeableConcept,Reference quantity:Q reasonCode:C*
  reasonReference:R* scheduled?Period,String,Timing status:s statusReason:C
CareTeam category:C* encounter:R identifier:D* managingOrganization:R* name:s note:Annotation* participant:+* period:P
  reasonCode:C* reasonReference:R* status:s subject:R telecom:ContactPoint*
CareTeamParticipant< member:R onBehalfOf:R period:P role:C*
ChargeItem account:R* bodysite:C* code:C context:R costCenter:R definitionCanonical:s* definitionUri:s* enteredDate:t
  enterer:R factorOverride:n identifier:D* note:Annotation* occurrence?DateTime,Period,Timing overrideReason:s
  partOf:R* performer:+* performingOrganization:R priceOverride:Money product?CodeableConcept,Reference quantity:Q
  reason:C* requestingOrganization:R service:R* status:s subject:R supportingInformation:R*
ChargeItemPerformer< actor:R function:C
Claim accident:+ billablePeriod:P careTeam:+* created:t diagnosis:+* enterer:R facility:R fundsReserve:C identifier:D*
  insurance:+* insurer:R item:+* originalPrescription:R patient:R payee:+ prescription:R priority:C procedure:+*
  provider:R referral:R related:+* status:s subType:C supportingInfo:+* total:Money type:C use:s
ClaimAccident< date:d location?Address,Reference type:C
ClaimCareTeam< provider:R qualification:C responsible:b role:C sequence:i
ClaimDiagnosis< diagnosis?CodeableConcept,Reference onAdmission:C packageCode:C sequence:i type:C*
ClaimInsurance< businessArrangement:s claimResponse:R coverage:R focal:b identifier:D preAuthRef:s* sequence:i
ClaimItem< bodySite:C careTeamSequence:i* category:C detail:+* diagnosisSequence:i* encounter:R* factor:n
  informationSequence:i* location?Address,CodeableConcept,Reference modifier:C* net:Money procedureSequence:i*
  productOrService:C programCode:C* quantity:Q revenue:C sequence:i serviced?Date,Period subSite:C* udi:R*
  unitPrice:Money
ClaimItemDetail< category:C factor:n modifier:C* net:Money productOrService:C programCode:C* quantity:Q revenue:C
  sequence:i subDetail:+* udi:R* unitPrice:Money
ClaimItemDetailSubDetail< category:C factor:n modifier:C* net:Money productOrService:C programCode:C* quantity:Q
  revenue:C sequence:i udi:R* unitPrice:Money
ClaimPayee< party:R type:C
ClaimProcedure< date:t procedure?CodeableConcept,Reference sequence:i type:C* udi:R*
ClaimRelated< claim:R reference:D relationship:C
ClaimResponse addItem:+* adjudication:ClaimResponseItemAdjudication* communicationRequest:R* created:t disposition:s
  error:+* form:Attachment formCode:C fundsReserve:C identifier:D* insurance:+* insurer:R item:+* outcome:s patient:R
  payeeType:C payment:+ preAuthPeriod:P preAuthRef:s processNote:+* request:R requestor:R status:s subType:C total:+*
  type:C use:s
ClaimResponseAddItem< adjudication:ClaimResponseItemAdjudication* bodySite:C detail:+* detailSequence:i* factor:n
  itemSequence:i* location?Address,CodeableConcept,Reference modifier:C* net:Money noteNumber:i* productOrService:C
  programCode:C* provider:R* quantity:Q serviced?Date,Period subSite:C* subdetailSequence:i* unitPrice:Money
ClaimResponseAddItemDetail< adjudication:ClaimResponseItemAdjudication* factor:n modifier:C* net:Money noteNumber:i*
  productOrService:C quantity:Q subDetail:+* unitPrice:Money
ClaimResponseAddItemDetailSubDetail< adjudication:ClaimResponseItemAdjudication* factor:n modifier:C* net:Money
  noteNumber:i* productOrService:C quantity:Q unitPrice:Money
ClaimResponseError< code:C detailSequence:i itemSequence:i subDetailSequence:i
ClaimResponseInsurance< businessArrangement:s claimResponse:R coverage:R focal:b sequence:i
ClaimResponseItem< adjudication:+* detail:+* itemSequence:i noteNumber:i*
ClaimResponseItemAdjudication< amount:Money category:C reason:C value:n
ClaimResponseItemDetail< adjudication:ClaimResponseItemAdjudication* detailSequence:i noteNumber:i* subDetail:+*
ClaimResponseItemDetailSubDetail< adjudication:ClaimResponseItemAdjudication* noteNumber:i* subDetailSequence:i
ClaimResponsePayment< adjustment:Money adjustmentReason:C amount:Money date:d identifier:D type:C
ClaimResponseProcessNote< language:C number:i text:s type:s
ClaimResponseTotal< amount:Money category:C
ClaimSupportingInfo< category:C code:C reason:C sequence:i timing?Date,Period
  value?Attachment,Boolean,Quantity,Reference,String
ClinicalImpression assessor:R code:C date:t description:s effective?DateTime,Period encounter:R finding:+*
  identifier:D* investigation:+* note:Annotation* previous:R problem:R* prognosisCodeableConcept:C*
  prognosisReference:R* protocol:s* status:s statusReason:C subject:R summary:s supportingInfo:R*
ClinicalImpressionFinding< basis:s itemCodeableConcept:C itemReference:R
ClinicalImpressionInvestigation< code:C item:R*
CodeSystem caseSensitive:b compositional:b concept:+* contact:ContactDetail* content:s copyright:s count:i date:t
  description:s experimental:b filter:+* hierarchyMeaning:s identifier:D* jurisdiction:C* name:s property:+*
  publisher:s purpose:s status:s supplements:s title:s url:s useContext:UsageContext* valueSet:s version:s
  versionNeeded:b
CodeSystemConcept< code:s concept:CodeSystemConcept* definition:s designation:+* display:s property:+*
CodeSystemConceptDesignation< language:s use:G value:s
CodeSystemConceptProperty< code:s value?Boolean,Code,Coding,DateTime,Decimal,Integer,String
CodeSystemFilter< code:s description:s operator:s* value:s
CodeSystemProperty< code:s description:s type:s uri:s
CodeableConcept<Element coding:G* text:s
Coding<Element code:s display:s system:s userSelected:b version:s
Communication about:R* basedOn:R* category:C* encounter:R identifier:D* inResponseTo:R* instantiatesCanonical:s*
  instantiatesUri:s* medium:C* note:Annotation* partOf:R* payload:+* priority:s reasonCode:C* reasonReference:R*
  received:t recipient:R* sender:R sent:t status:s statusReason:C subject:R topic:C
CommunicationPayload< content?Attachment,Reference,String
CommunicationRequest about:R* authoredOn:t basedOn:R* category:C* doNotPerform:b encounter:R groupIdentifier:D
  identifier:D* medium:C* note:Annotation* occurrence?DateTime,Period payload:+* priority:s reasonCode:C*
  reasonReference:R* recipient:R* replaces:R* requester:R sender:R status:s statusReason:C subject:R
CommunicationRequestPayload< content?Attachment,Reference,String
Composition attester:+* author:R* category:C* confidentiality:s custodian:R date:t encounter:R event:+* identifier:D
  relatesTo:+* section:+* status:s subject:R title:s type:C
CompositionAttester< mode:s party:R time:t
CompositionEvent< code:C* detail:R* period:P
CompositionRelatesTo< code:s target?Identifier,Reference
CompositionSection< author:R* code:C emptyReason:C entry:R* focus:R mode:s orderedBy:C section:CompositionSection*
  text:Narrative title:s
ConceptMap contact:ContactDetail* copyright:s date:t description:s experimental:b group:+* identifier:D
  jurisdiction:C* name:s publisher:s purpose:s source?Canonical,Uri status:s target?Canonical,Uri title:s url:s
  useContext:UsageContext* version:s
ConceptMapGroup< element:+* source:s sourceVersion:s target:s targetVersion:s unmapped:+
ConceptMapGroupElement< code:s display:s target:+*
ConceptMapGroupElementTarget< code:s comment:s dependsOn:+* display:s equivalence:s
  product:ConceptMapGroupElementTargetDependsOn*
ConceptMapGroupElementTargetDependsOn< display:s property:s system:s value:s
ConceptMapGroupUnmapped< code:s display:s mode:s url:s
Condition abatement?Age,DateTime,Period,Range,String asserter:R bodySite:C* category:C* clinicalStatus:C code:C
  encounter:R evidence:+* identifier:D* note:Annotation* onset?Age,DateTime,Period,Range,String recordedDate:t
  recorder:R severity:C stage:+* subject:R verificationStatus:C
ConditionEvidence< code:C* detail:R*
ConditionStage< assessment:R* summary:C type:C
Consent category:C* dateTime:t identifier:D* organization:R* patient:R performer:R* policy:+* policyRule:C provision:+
  scope:C source?Attachment,Reference status:s verification:+*
ConsentPolicy< authority:s uri:s
ConsentProvision< action:C* actor:+* class:G* code:C* data:+* dataPeriod:P period:P provision:ConsentProvision*
  purpose:G* securityLabel:G* type:s
ConsentProvisionActor< reference:R role:C
ConsentProvisionData< meaning:s reference:R
ConsentVerification< verificationDate:t verified:b verifiedWith:R
ContactDetail<Element name:s telecom:ContactPoint*
ContactPoint<Element period:P rank:i system:s use:s value:s
Contributor<Element contact:ContactDetail* name:s type:s
Count<Quantity
Coverage beneficiary:R class:+* contract:R* costToBeneficiary:+* dependent:s identifier:D* network:s order:i payor:R*
  period:P policyHolder:R relationship:C status:s subrogation:b subscriber:R subscriberId:s type:C
CoverageClass< name:s type:C value:s
CoverageCostToBeneficiary< exception:+* type:C value?Money,Quantity
CoverageCostToBeneficiaryException< period:P type:C
CoverageEligibilityRequest created:t enterer:R facility:R identifier:D* insurance:+* insurer:R item:+* patient:R
  priority:C provider:R purpose:s* serviced?Date,Period status:s supportingInfo:+*
CoverageEligibilityRequestInsurance< businessArrangement:s coverage:R focal:b
CoverageEligibilityRequestItem< category:C detail:R* diagnosis:+* facility:R modifier:C* productOrService:C provider:R
  quantity:Q supportingInfoSequence:i* unitPrice:Money
CoverageEligibilityRequestItemDiagnosis< diagnosis?CodeableConcept,Reference
CoverageEligibilityRequestSupportingInfo< appliesToAll:b information:R sequence:i
CoverageEligibilityResponse created:t disposition:s error:+* form:C identifier:D* insurance:+* insurer:R outcome:s
  patient:R preAuthRef:s purpose:s* request:R requestor:R serviced?Date,Period status:s
CoverageEligibilityResponseError< code:C
CoverageEligibilityResponseInsurance< benefitPeriod:P coverage:R inforce:b item:+*
CoverageEligibilityResponseInsuranceItem< authorizationRequired:b authorizationSupporting:C* authorizationUrl:s
  benefit:+* category:C description:s excluded:b modifier:C* name:s network:C productOrService:C provider:R term:C
  unit:C
CoverageEligibilityResponseInsuranceItemBenefit< allowed?Money,String,UnsignedInt type:C used?Money,String,UnsignedInt
DataRequirement<Element codeFilter:+* dateFilter:+* limit:i mustSupport:s* profile:s* sort:+*
  subject?CodeableConcept,Reference type:s
DataRequirementCodeFilter<Element code:G* path:s searchParam:s valueSet:s
DataRequirementDateFilter<Element path:s searchParam:s value?DateTime,Duration,Period
DataRequirementSort<Element direction:s path:s
DetectedIssue author:R code:C detail:s evidence:+* identified?DateTime,Period identifier:D* implicated:R*
  mitigation:+* patient:R reference:s severity:s status:s
DetectedIssueEvidence< code:C* detail:R*
DetectedIssueMitigation< action:C author:R date:t
Device contact:ContactPoint* definition:R deviceName:+* distinctIdentifier:s expirationDate:t identifier:D* location:R
  lotNumber:s manufactureDate:t manufacturer:s modelNumber:s note:Annotation* owner:R parent:R partNumber:s patient:R
  property:+* safety:C* serialNumber:s specialization:+* status:s statusReason:C* type:C udiCarrier:+* url:s
  version:+*
DeviceDefinition capability:+* contact:ContactPoint* deviceName:+* identifier:D* languageCode:C*
  manufacturer?Reference,String material:+* modelNumber:s note:Annotation* onlineInformation:s owner:R parentDevice:R
  physicalCharacteristics:ProdCharacteristic property:+* quantity:Q safety:C* shelfLifeStorage:ProductShelfLife*
  specialization:+* type:C udiDeviceIdentifier:+* url:s version:s*
DeviceDefinitionCapability< description:C* type:C
DeviceDefinitionDeviceName< name:s type:s
DeviceDefinitionMaterial< allergenicIndicator:b alternate:b substance:C
DeviceDefinitionProperty< type:C valueCode:C* valueQuantity:Q*
DeviceDefinitionSpecialization< systemType:s version:s
DeviceDefinitionUdiDeviceIdentifier< deviceIdentifier:s issuer:s jurisdiction:s
DeviceDeviceName< name:s type:s
DeviceMetric calibration:+* category:s color:s identifier:D* measurementPeriod:Timing operationalStatus:s parent:R
  source:R type:C unit:C
DeviceMetricCalibration< state:s time:I type:s
DeviceProperty< type:C valueCode:C* valueQuantity:Q*
DeviceRequest authoredOn:t basedOn:R* code?CodeableConcept,Reference encounter:R groupIdentifier:D identifier:D*
  instantiatesCanonical:s* instantiatesUri:s* insurance:R* intent:s note:Annotation* occurrence?DateTime,Period,Timing
  parameter:+* performer:R performerType:C priorRequest:R* priority:s reasonCode:C* reasonReference:R*
  relevantHistory:R* requester:R status:s subject:R supportingInfo:R*
DeviceRequestParameter< code:C value?Boolean,CodeableConcept,Quantity,Range
DeviceSpecialization< systemType:C version:s
DeviceUdiCarrier< carrierAIDC:s carrierHRF:s deviceIdentifier:s entryType:s issuer:s jurisdiction:s
DeviceUseStatement basedOn:R* bodySite:C derivedFrom:R* device:R identifier:D* note:Annotation* reasonCode:C*
  reasonReference:R* recordedOn:t source:R status:s subject:R timing?DateTime,Period,Timing
DeviceVersion< component:D type:C value:s
DiagnosticReport basedOn:R* category:C* code:C conclusion:s conclusionCode:C* effective?DateTime,Period encounter:R
  identifier:D* imagingStudy:R* issued:I media:+* performer:R* presentedForm:Attachment* result:R*
  resultsInterpreter:R* specimen:R* status:s subject:R
DiagnosticReportMedia< comment:s link:R
Distance<Quantity
DocumentManifest author:R* content:R* created:t description:s identifier:D* masterIdentifier:D recipient:R* related:+*
  source:s status:s subject:R type:C
DocumentManifestRelated< identifier:D ref:R
DocumentReference authenticator:R author:R* category:C* content:+* context:+ custodian:R date:I description:s
  docStatus:s identifier:D* masterIdentifier:D relatesTo:+* securityLabel:C* status:s subject:R type:C
DocumentReferenceContent< attachment:Attachment format:G
DocumentReferenceContext< encounter:R* event:C* facilityType:C period:P practiceSetting:C related:R*
  sourcePatientInfo:R
DocumentReferenceRelatesTo< code:s target:R
DomainResource<Resource contained:Resource* extension:X* modifierExtension:X* text:Narrative
Dosage< additionalInstruction:C* asNeeded?Boolean,CodeableConcept doseAndRate:+* maxDosePerAdministration:Q
  maxDosePerLifetime:Q maxDosePerPeriod:Ratio method:C patientInstruction:s route:C sequence:i site:C text:s
  timing:Timing
DosageDoseAndRate<Element dose?Quantity,Range rate?Quantity,Range,Ratio type:C
Duration<Quantity
Element<- extension:X* id:s
Encounter account:R* appointment:R* basedOn:R* class:G classHistory:+* diagnosis:+* episodeOfCare:R* hospitalization:+
  identifier:D* length:Duration location:+* partOf:R participant:+* period:P priority:C reasonCode:C*
  reasonReference:R* serviceProvider:R serviceType:C status:s statusHistory:+* subject:R type:C*
EncounterClassHistory< class:G period:P
EncounterDiagnosis< condition:R rank:i use:C
EncounterHospitalization< admitSource:C destination:R dietPreference:C* dischargeDisposition:C origin:R
  preAdmissionIdentifier:D reAdmission:C specialArrangement:C* specialCourtesy:C*
EncounterLocation< location:R period:P physicalType:C status:s
EncounterParticipant< individual:R period:P type:C*
EncounterStatusHistory< period:P status:s
Endpoint address:s connectionType:G contact:ContactPoint* header:s* identifier:D* managingOrganization:R name:s
  payloadMimeType:s* payloadType:C* period:P status:s
EnrollmentRequest candidate:R coverage:R created:t identifier:D* insurer:R provider:R status:s
EnrollmentResponse created:t disposition:s identifier:D* organization:R outcome:s request:R requestProvider:R status:s
EpisodeOfCare account:R* careManager:R diagnosis:+* identifier:D* managingOrganization:R patient:R period:P
  referralRequest:R* status:s statusHistory:+* team:R* type:C*
EpisodeOfCareDiagnosis< condition:R rank:i role:C
EpisodeOfCareStatusHistory< period:P status:s
ExplanationOfBenefit accident:+ addItem:+* adjudication:ExplanationOfBenefitItemAdjudication* benefitBalance:+*
  benefitPeriod:P billablePeriod:P careTeam:+* claim:R claimResponse:R created:t diagnosis:+* disposition:s enterer:R
  facility:R form:Attachment formCode:C fundsReserve:C fundsReserveRequested:C identifier:D* insurance:+* insurer:R
  item:+* originalPrescription:R outcome:s patient:R payee:+ payment:+ preAuthRef:s* preAuthRefPeriod:P* precedence:i
  prescription:R priority:C procedure:+* processNote:+* provider:R referral:R related:+* status:s subType:C
  supportingInfo:+* total:+* type:C use:s
ExplanationOfBenefitAccident< date:d location?Address,Reference type:C
ExplanationOfBenefitAddItem< adjudication:ExplanationOfBenefitItemAdjudication* bodySite:C detail:+* detailSequence:i*
  factor:n itemSequence:i* location?Address,CodeableConcept,Reference modifier:C* net:Money noteNumber:i*
  productOrService:C programCode:C* provider:R* quantity:Q serviced?Date,Period subDetailSequence:i* subSite:C*
  unitPrice:Money
ExplanationOfBenefitAddItemDetail< adjudication:ExplanationOfBenefitItemAdjudication* factor:n modifier:C* net:Money
  noteNumber:i* productOrService:C quantity:Q subDetail:+* unitPrice:Money
ExplanationOfBenefitAddItemDetailSubDetail< adjudication:ExplanationOfBenefitItemAdjudication* factor:n modifier:C*
  net:Money noteNumber:i* productOrService:C quantity:Q unitPrice:Money
ExplanationOfBenefitBenefitBalance< category:C description:s excluded:b financial:+* name:s network:C term:C unit:C
ExplanationOfBenefitBenefitBalanceFinancial< allowed?Money,String,UnsignedInt type:C used?Money,UnsignedInt
ExplanationOfBenefitCareTeam< provider:R qualification:C responsible:b role:C sequence:i
ExplanationOfBenefitDiagnosis< diagnosis?CodeableConcept,Reference onAdmission:C packageCode:C sequence:i type:C*
ExplanationOfBenefitInsurance< coverage:R focal:b preAuthRef:s*
ExplanationOfBenefitItem< adjudication:+* bodySite:C careTeamSequence:i* category:C detail:+* diagnosisSequence:i*
  encounter:R* factor:n informationSequence:i* location?Address,CodeableConcept,Reference modifier:C* net:Money
  noteNumber:i* procedureSequence:i* productOrService:C programCode:C* quantity:Q revenue:C sequence:i
  serviced?Date,Period subSite:C* udi:R* unitPrice:Money
ExplanationOfBenefitItemAdjudication< amount:Money category:C reason:C value:n
ExplanationOfBenefitItemDetail< adjudication:ExplanationOfBenefitItemAdjudication* category:C factor:n modifier:C*
  net:Money noteNumber:i* productOrService:C programCode:C* quantity:Q revenue:C sequence:i subDetail:+* udi:R*
  unitPrice:Money
ExplanationOfBenefitItemDetailSubDetail< adjudication:ExplanationOfBenefitItemAdjudication* category:C factor:n
  modifier:C* net:Money noteNumber:i* productOrService:C programCode:C* quantity:Q revenue:C sequence:i udi:R*
  unitPrice:Money
ExplanationOfBenefitPayee< party:R type:C
ExplanationOfBenefitPayment< adjustment:Money adjustmentReason:C amount:Money date:d identifier:D type:C
ExplanationOfBenefitProcedure< date:t procedure?CodeableConcept,Reference sequence:i type:C* udi:R*
ExplanationOfBenefitProcessNote< language:C number:i text:s type:s
ExplanationOfBenefitRelated< claim:R reference:D relationship:C
ExplanationOfBenefitSupportingInfo< category:C code:C reason:G sequence:i timing?Date,Period
  value?Attachment,Boolean,Quantity,Reference,String
ExplanationOfBenefitTotal< amount:Money category:C
Expression<Element description:s expression:s language:s name:s reference:s
Extension<Element url:s value?*
FHIRAbstractResource<-
FamilyMemberHistory age?Age,Range,String born?Date,Period,String condition:+* dataAbsentReason:C date:t
  deceased?Age,Boolean,Date,Range,String estimatedAge:b identifier:D* instantiatesCanonical:s* instantiatesUri:s*
  name:s note:Annotation* patient:R reasonCode:C* reasonReference:R* relationship:C sex:C status:s
FamilyMemberHistoryCondition< code:C contributedToDeath:b note:Annotation* onset?Age,Period,Range,String outcome:C
Flag author:R category:C* code:C encounter:R identifier:D* period:P status:s subject:R
Goal achievementStatus:C addresses:R* category:C* description:C expressedBy:R identifier:D* lifecycleStatus:s
  note:Annotation* outcomeCode:C* outcomeReference:R* priority:C start?CodeableConcept,Date statusDate:d
  statusReason:s subject:R target:+*
GoalTarget< detail?Boolean,CodeableConcept,Integer,Quantity,Range,Ratio,String due?Date,Duration measure:C
Group active:b actual:b characteristic:+* code:C identifier:D* managingEntity:R member:+* name:s quantity:i type:s
GroupCharacteristic< code:C exclude:b period:P value?Boolean,CodeableConcept,Quantity,Range,Reference
GroupMember< entity:R inactive:b period:P
GuidanceResponse dataRequirement:DataRequirement* encounter:R evaluationMessage:R* identifier:D*
  module?Canonical,CodeableConcept,Uri note:Annotation* occurrenceDateTime:t outputParameters:R performer:R
  reasonCode:C* reasonReference:R* requestIdentifier:D result:R status:s subject:R
HealthcareService active:b appointmentRequired:b availabilityExceptions:s availableTime:+* category:C*
  characteristic:C* comment:s communication:C* coverageArea:R* eligibility:+* endpoint:R* extraDetails:s identifier:D*
  location:R* name:s notAvailable:+* photo:Attachment program:C* providedBy:R referralMethod:C*
  serviceProvisionCode:C* specialty:C* telecom:ContactPoint* type:C*
HealthcareServiceAvailableTime< allDay:b availableEndTime:T availableStartTime:T daysOfWeek:s*
HealthcareServiceEligibility< code:C comment:s
HealthcareServiceNotAvailable< description:s during:P
HumanName<Element family:s given:s* period:P prefix:s* suffix:s* text:s use:s
"""
