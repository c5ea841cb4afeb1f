"""FHIR R4's types whose names begin with I to Z, and their elements.

Written by ``tests/unit/sources/fhir/make_elements.py``; how a line reads: `wardround.sources.fhir_elements`.
"""

__all__ = ["LINES"]

LINES = """\
Identifier<Element assigner:R period:P system:s type:C use:s value:s
ImagingStudy basedOn:R* description:s encounter:R endpoint:R* identifier:D* interpreter:R* location:R modality:G*
  note:Annotation* numberOfInstances:i numberOfSeries:i procedureCode:C* procedureReference:R reasonCode:C*
  reasonReference:R* referrer:R series:+* started:t status:s subject:R
ImagingStudySeries< bodySite:G description:s endpoint:R* instance:+* laterality:G modality:G number:i
  numberOfInstances:i performer:+* specimen:R* started:t uid:s
ImagingStudySeriesInstance< number:i sopClass:G title:s uid:s
ImagingStudySeriesPerformer< actor:R function:C
Immunization doseQuantity:Q education:+* encounter:R expirationDate:d fundingSource:C identifier:D* isSubpotent:b
  location:R lotNumber:s manufacturer:R note:Annotation* occurrence?DateTime,String patient:R performer:+*
  primarySource:b programEligibility:C* protocolApplied:+* reaction:+* reasonCode:C* reasonReference:R* recorded:t
  reportOrigin:C route:C site:C status:s statusReason:C subpotentReason:C* vaccineCode:C
ImmunizationEducation< documentType:s presentationDate:t publicationDate:t reference:s
ImmunizationEvaluation authority:R date:t description:s doseNumber?PositiveInt,String doseStatus:C doseStatusReason:C*
  identifier:D* immunizationEvent:R patient:R series:s seriesDoses?PositiveInt,String status:s targetDisease:C
ImmunizationPerformer< actor:R function:C
ImmunizationProtocolApplied< authority:R doseNumber?PositiveInt,String series:s seriesDoses?PositiveInt,String
  targetDisease:C*
ImmunizationReaction< date:t detail:R reported:b
ImmunizationRecommendation authority:R date:t identifier:D* patient:R recommendation:+*
ImmunizationRecommendationRecommendation< contraindicatedVaccineCode:C* dateCriterion:+* description:s
  doseNumber?PositiveInt,String forecastReason:C* forecastStatus:C series:s seriesDoses?PositiveInt,String
  supportingImmunization:R* supportingPatientInformation:R* targetDisease:C vaccineCode:C*
ImmunizationRecommendationRecommendationDateCriterion< code:C value:t
Invoice account:R cancelledReason:s date:t identifier:D* issuer:R lineItem:+* note:Annotation* participant:+*
  paymentTerms:s recipient:R status:s subject:R totalGross:Money totalNet:Money
  totalPriceComponent:InvoiceLineItemPriceComponent* type:C
InvoiceLineItem< chargeItem?CodeableConcept,Reference priceComponent:+* sequence:i
InvoiceLineItemPriceComponent< amount:Money code:C factor:n type:s
InvoiceParticipant< actor:R role:C
Library approvalDate:d author:ContactDetail* contact:ContactDetail* content:Attachment* copyright:s
  dataRequirement:DataRequirement* date:t description:s editor:ContactDetail* effectivePeriod:P
  endorser:ContactDetail* experimental:b identifier:D* jurisdiction:C* lastReviewDate:d name:s
  parameter:ParameterDefinition* publisher:s purpose:s relatedArtifact:RelatedArtifact* reviewer:ContactDetail*
  status:s subject?CodeableConcept,Reference subtitle:s title:s topic:C* type:C url:s usage:s useContext:UsageContext*
  version:s
Linkage active:b author:R item:+*
LinkageItem< resource:R type:s
List code:C date:t emptyReason:C encounter:R entry:+* identifier:D* mode:s note:Annotation* orderedBy:C source:R
  status:s subject:R title:s
ListEntry< date:t deleted:b flag:C item:R
Location address:Address alias:s* availabilityExceptions:s description:s endpoint:R* hoursOfOperation:+* identifier:D*
  managingOrganization:R mode:s name:s operationalStatus:G partOf:R physicalType:C position:+ status:s
  telecom:ContactPoint* type:C*
LocationHoursOfOperation< allDay:b closingTime:T daysOfWeek:s* openingTime:T
LocationPosition< altitude:n latitude:n longitude:n
MarketingStatus< country:C dateRange:P jurisdiction:C restoreDate:t status:C
Measure approvalDate:d author:ContactDetail* clinicalRecommendationStatement:s compositeScoring:C
  contact:ContactDetail* copyright:s date:t definition:s* description:s disclaimer:s editor:ContactDetail*
  effectivePeriod:P endorser:ContactDetail* experimental:b group:+* guidance:s identifier:D* improvementNotation:C
  jurisdiction:C* lastReviewDate:d library:s* name:s publisher:s purpose:s rateAggregation:s rationale:s
  relatedArtifact:RelatedArtifact* reviewer:ContactDetail* riskAdjustment:s scoring:C status:s
  subject?CodeableConcept,Reference subtitle:s supplementalData:+* title:s topic:C* type:C* url:s usage:s
  useContext:UsageContext* version:s
MeasureGroup< code:C description:s population:+* stratifier:+*
MeasureGroupPopulation< code:C criteria:Expression description:s
MeasureGroupStratifier< code:C component:+* criteria:Expression description:s
MeasureGroupStratifierComponent< code:C criteria:Expression description:s
MeasureReport date:t evaluatedResource:R* group:+* identifier:D* improvementNotation:C measure:s period:P reporter:R
  status:s subject:R type:s
MeasureReportGroup< code:C measureScore:Q population:+* stratifier:+*
MeasureReportGroupPopulation< code:C count:i subjectResults:R
MeasureReportGroupStratifier< code:C* stratum:+*
MeasureReportGroupStratifierStratum< component:+* measureScore:Q population:+* value:C
MeasureReportGroupStratifierStratumComponent< code:C value:C
MeasureReportGroupStratifierStratumPopulation< code:C count:i subjectResults:R
MeasureSupplementalData< code:C criteria:Expression description:s usage:C*
Media basedOn:R* bodySite:C content:Attachment created?DateTime,Period device:R deviceName:s duration:n encounter:R
  frames:i height:i identifier:D* issued:I modality:C note:Annotation* operator:R partOf:R* reasonCode:C* status:s
  subject:R type:C view:C width:i
Medication amount:Ratio batch:+ code:C form:C identifier:D* ingredient:+* manufacturer:R status:s
MedicationAdministration category:C context:R device:R* dosage:+ effective?DateTime,Period eventHistory:R*
  identifier:D* instantiates:s* medication?CodeableConcept,Reference note:Annotation* partOf:R* performer:+*
  reasonCode:C* reasonReference:R* request:R status:s statusReason:C* subject:R supportingInformation:R*
MedicationAdministrationDosage< dose:Q method:C rate?Quantity,Ratio route:C site:C text:s
MedicationAdministrationPerformer< actor:R function:C
MedicationBatch< expirationDate:t lotNumber:s
MedicationDispense authorizingPrescription:R* category:C context:R daysSupply:Q destination:R detectedIssue:R*
  dosageInstruction:Dosage* eventHistory:R* identifier:D* location:R medication?CodeableConcept,Reference
  note:Annotation* partOf:R* performer:+* quantity:Q receiver:R* status:s statusReason?CodeableConcept,Reference
  subject:R substitution:+ supportingInformation:R* type:C whenHandedOver:t whenPrepared:t
MedicationDispensePerformer< actor:R function:C
MedicationDispenseSubstitution< reason:C* responsibleParty:R* type:C wasSubstituted:b
MedicationIngredient< isActive:b item?CodeableConcept,Reference strength:Ratio
MedicationRequest authoredOn:t basedOn:R* category:C* courseOfTherapyType:C detectedIssue:R* dispenseRequest:+
  doNotPerform:b dosageInstruction:Dosage* encounter:R eventHistory:R* groupIdentifier:D identifier:D*
  instantiatesCanonical:s* instantiatesUri:s* insurance:R* intent:s medication?CodeableConcept,Reference
  note:Annotation* performer:R performerType:C priorPrescription:R priority:s reasonCode:C* reasonReference:R*
  recorder:R reported?Boolean,Reference requester:R status:s statusReason:C subject:R substitution:+
  supportingInformation:R*
MedicationRequestDispenseRequest< dispenseInterval:Duration expectedSupplyDuration:Duration initialFill:+
  numberOfRepeatsAllowed:i performer:R quantity:Q validityPeriod:P
MedicationRequestDispenseRequestInitialFill< duration:Duration quantity:Q
MedicationRequestSubstitution< allowed?Boolean,CodeableConcept reason:C
MedicationStatement basedOn:R* category:C context:R dateAsserted:t derivedFrom:R* dosage:Dosage*
  effective?DateTime,Period identifier:D* informationSource:R medication?CodeableConcept,Reference note:Annotation*
  partOf:R* reasonCode:C* reasonReference:R* status:s statusReason:C* subject:R
MessageHeader author:R definition:s destination:+* enterer:R event?Coding,Uri focus:R* reason:C response:+
  responsible:R sender:R source:+
MessageHeaderDestination< endpoint:s name:s receiver:R target:R
MessageHeaderResponse< code:s details:R identifier:s
MessageHeaderSource< contact:ContactPoint endpoint:s name:s software:s version:s
Meta<Element lastUpdated:I profile:s* security:G* source:s tag:G* versionId:s
MolecularSequence coordinateSystem:i device:R identifier:D* observedSeq:s patient:R performer:R pointer:R* quality:+*
  quantity:Q readCoverage:i referenceSeq:+ repository:+* specimen:R structureVariant:+* type:s variant:+*
MolecularSequenceQuality< end:i fScore:n gtFP:n method:C precision:n queryFP:n queryTP:n recall:n roc:+ score:Q
  standardSequence:C start:i truthFN:n truthTP:n type:s
MolecularSequenceQualityRoc< fMeasure:n* numFN:i* numFP:i* numTP:i* precision:n* score:i* sensitivity:n*
MolecularSequenceReferenceSeq< chromosome:C genomeBuild:s orientation:s referenceSeqId:C referenceSeqPointer:R
  referenceSeqString:s strand:s windowEnd:i windowStart:i
MolecularSequenceRepository< datasetId:s name:s readsetId:s type:s url:s variantsetId:s
MolecularSequenceStructureVariant< exact:b inner:+ length:i outer:+ variantType:C
MolecularSequenceStructureVariantInner< end:i start:i
MolecularSequenceStructureVariantOuter< end:i start:i
MolecularSequenceVariant< cigar:s end:i observedAllele:s referenceAllele:s start:i variantPointer:R
Money<Element currency:s value:n
NamingSystem contact:ContactDetail* date:t description:s jurisdiction:C* kind:s name:s publisher:s responsible:s
  status:s type:C uniqueId:+* usage:s useContext:UsageContext*
NamingSystemUniqueId< comment:s period:P preferred:b type:s value:s
Narrative<Element div:s status:s
NutritionOrder allergyIntolerance:R* dateTime:t encounter:R enteralFormula:+ excludeFoodModifier:C*
  foodPreferenceModifier:C* identifier:D* instantiates:s* instantiatesCanonical:s* instantiatesUri:s* intent:s
  note:Annotation* oralDiet:+ orderer:R patient:R status:s supplement:+*
NutritionOrderEnteralFormula< additiveProductName:s additiveType:C administration:+* administrationInstruction:s
  baseFormulaProductName:s baseFormulaType:C caloricDensity:Q maxVolumeToDeliver:Q routeofAdministration:C
NutritionOrderEnteralFormulaAdministration< quantity:Q rate?Quantity,Ratio schedule:Timing
NutritionOrderOralDiet< fluidConsistencyType:C* instruction:s nutrient:+* schedule:Timing* texture:+* type:C*
NutritionOrderOralDietNutrient< amount:Q modifier:C
NutritionOrderOralDietTexture< foodType:C modifier:C
NutritionOrderSupplement< instruction:s productName:s quantity:Q schedule:Timing* type:C
Observation basedOn:R* bodySite:C category:C* code:C component:+* dataAbsentReason:C derivedFrom:R* device:R
  effective?DateTime,Instant,Period,Timing encounter:R focus:R* hasMember:R* identifier:D* interpretation:C* issued:I
  method:C note:Annotation* partOf:R* performer:R* referenceRange:+* specimen:R status:s subject:R
  value?Boolean,CodeableConcept,DateTime,Integer,Period,Quantity,Range,Ratio,SampledData,String,Time
ObservationComponent< code:C dataAbsentReason:C interpretation:C* referenceRange:ObservationReferenceRange*
  value?Boolean,CodeableConcept,DateTime,Integer,Period,Quantity,Range,Ratio,SampledData,String,Time
ObservationReferenceRange< age:Range appliesTo:C* high:Q low:Q text:s type:C
OperationOutcome issue:+*
OperationOutcomeIssue< code:s details:C diagnostics:s expression:s* location:s* severity:s
Organization active:b address:Address* alias:s* contact:+* endpoint:R* identifier:D* name:s partOf:R
  telecom:ContactPoint* type:C*
OrganizationAffiliation active:b code:C* endpoint:R* healthcareService:R* identifier:D* location:R* network:R*
  organization:R participatingOrganization:R period:P specialty:C* telecom:ContactPoint*
OrganizationContact< address:Address name:HumanName purpose:C telecom:ContactPoint*
ParameterDefinition<Element documentation:s max:s min:i name:s profile:s type:s use:s
Patient active:b address:Address* birthDate:d communication:+* contact:+* deceased?Boolean,DateTime gender:s
  generalPractitioner:R* identifier:D* link:+* managingOrganization:R maritalStatus:C multipleBirth?Boolean,Integer
  name:HumanName* photo:Attachment* telecom:ContactPoint*
PatientCommunication< language:C preferred:b
PatientContact< address:Address gender:s name:HumanName organization:R period:P relationship:C* telecom:ContactPoint*
PatientLink< other:R type:s
PaymentNotice amount:Money created:t identifier:D* payee:R payment:R paymentDate:d paymentStatus:C provider:R
  recipient:R request:R response:R status:s
PaymentReconciliation created:t detail:+* disposition:s formCode:C identifier:D* outcome:s paymentAmount:Money
  paymentDate:d paymentIdentifier:D paymentIssuer:R period:P processNote:+* request:R requestor:R status:s
PaymentReconciliationDetail< amount:Money date:d identifier:D payee:R predecessor:D request:R response:R responsible:R
  submitter:R type:C
PaymentReconciliationProcessNote< text:s type:s
Period<Element end:t start:t
Person active:b address:Address* birthDate:d gender:s identifier:D* link:+* managingOrganization:R name:HumanName*
  photo:Attachment telecom:ContactPoint*
PersonLink< assurance:s target:R
PlanDefinition action:+* approvalDate:d author:ContactDetail* contact:ContactDetail* copyright:s date:t description:s
  editor:ContactDetail* effectivePeriod:P endorser:ContactDetail* experimental:b goal:+* identifier:D* jurisdiction:C*
  lastReviewDate:d library:s* name:s publisher:s purpose:s relatedArtifact:RelatedArtifact* reviewer:ContactDetail*
  status:s subject?CodeableConcept,Reference subtitle:s title:s topic:C* type:C url:s usage:s useContext:UsageContext*
  version:s
PlanDefinitionAction< action:PlanDefinitionAction* cardinalityBehavior:s code:C* condition:+* definition?Canonical,Uri
  description:s documentation:RelatedArtifact* dynamicValue:+* goalId:s* groupingBehavior:s input:DataRequirement*
  output:DataRequirement* participant:+* precheckBehavior:s prefix:s priority:s reason:C* relatedAction:+*
  requiredBehavior:s selectionBehavior:s subject?CodeableConcept,Reference textEquivalent:s
  timing?Age,DateTime,Duration,Period,Range,Timing title:s transform:s trigger:TriggerDefinition* type:C
PlanDefinitionActionCondition< expression:Expression kind:s
PlanDefinitionActionDynamicValue< expression:Expression path:s
PlanDefinitionActionParticipant< role:C type:s
PlanDefinitionActionRelatedAction< actionId:s offset?Duration,Range relationship:s
PlanDefinitionGoal< addresses:C* category:C description:C documentation:RelatedArtifact* priority:C start:C target:+*
PlanDefinitionGoalTarget< detail?CodeableConcept,Quantity,Range due:Duration measure:C
Population< age?CodeableConcept,Range gender:C physiologicalCondition:C race:C
Practitioner active:b address:Address* birthDate:d communication:C* gender:s identifier:D* name:HumanName*
  photo:Attachment* qualification:+* telecom:ContactPoint*
PractitionerQualification< code:C identifier:D* issuer:R period:P
PractitionerRole active:b availabilityExceptions:s availableTime:+* code:C* endpoint:R* healthcareService:R*
  identifier:D* location:R* notAvailable:+* organization:R period:P practitioner:R specialty:C* telecom:ContactPoint*
PractitionerRoleAvailableTime< allDay:b availableEndTime:T availableStartTime:T daysOfWeek:s*
PractitionerRoleNotAvailable< description:s during:P
Procedure asserter:R basedOn:R* bodySite:C* category:C code:C complication:C* complicationDetail:R* encounter:R
  focalDevice:+* followUp:C* identifier:D* instantiatesCanonical:s* instantiatesUri:s* location:R note:Annotation*
  outcome:C partOf:R* performed?Age,DateTime,Period,Range,String performer:+* reasonCode:C* reasonReference:R*
  recorder:R report:R* status:s statusReason:C subject:R usedCode:C* usedReference:R*
ProcedureFocalDevice< action:C manipulated:R
ProcedurePerformer< actor:R function:C onBehalfOf:R
ProdCharacteristic< color:s* depth:Q externalDiameter:Q height:Q image:Attachment* imprint:s* nominalVolume:Q
  scoring:C shape:s weight:Q width:Q
ProductShelfLife< identifier:D period:Q specialPrecautionsForStorage:C* type:C
Provenance activity:C agent:+* entity:+* location:R occurred?DateTime,Period policy:s* reason:C* recorded:I
  signature:Signature* target:R*
ProvenanceAgent< onBehalfOf:R role:C* type:C who:R
ProvenanceEntity< agent:ProvenanceAgent* role:s what:R
Quantity<Element code:s comparator:s system:s unit:s value:n
Questionnaire approvalDate:d code:G* contact:ContactDetail* copyright:s date:t derivedFrom:s* description:s
  effectivePeriod:P experimental:b identifier:D* item:+* jurisdiction:C* lastReviewDate:d name:s publisher:s purpose:s
  status:s subjectType:s* title:s url:s useContext:UsageContext* version:s
QuestionnaireItem< answerOption:+* answerValueSet:s code:G* definition:s enableBehavior:s enableWhen:+* initial:+*
  item:QuestionnaireItem* linkId:s maxLength:i prefix:s readOnly:b repeats:b required:b text:s type:s
QuestionnaireItemAnswerOption< initialSelected:b value?Coding,Date,Integer,Reference,String,Time
QuestionnaireItemEnableWhen< answer?Boolean,Coding,Date,DateTime,Decimal,Integer,Quantity,Reference,String,Time
  operator:s question:s
QuestionnaireItemInitial<
  value?Attachment,Boolean,Coding,Date,DateTime,Decimal,Integer,Quantity,Reference,String,Time,Uri
QuestionnaireResponse author:R authored:t basedOn:R* encounter:R identifier:D item:+* partOf:R* questionnaire:s
  source:R status:s subject:R
QuestionnaireResponseItem< answer:+* definition:s item:QuestionnaireResponseItem* linkId:s text:s
QuestionnaireResponseItemAnswer< item:QuestionnaireResponseItem*
  value?Attachment,Boolean,Coding,Date,DateTime,Decimal,Integer,Quantity,Reference,String,Time,Uri
Range<Element high:Q low:Q
Ratio<Element denominator:Q numerator:Q
Reference<Element display:s identifier:D reference:s type:s
RelatedArtifact<Element citation:s display:s document:Attachment label:s resource:s type:s url:s
RelatedPerson active:b address:Address* birthDate:d communication:+* gender:s identifier:D* name:HumanName* patient:R
  period:P photo:Attachment* relationship:C* telecom:ContactPoint*
RelatedPersonCommunication< language:C preferred:b
RequestGroup action:+* author:R authoredOn:t basedOn:R* code:C encounter:R groupIdentifier:D identifier:D*
  instantiatesCanonical:s* instantiatesUri:s* intent:s note:Annotation* priority:s reasonCode:C* reasonReference:R*
  replaces:R* status:s subject:R
RequestGroupAction< action:RequestGroupAction* cardinalityBehavior:s code:C* condition:+* description:s
  documentation:RelatedArtifact* groupingBehavior:s participant:R* precheckBehavior:s prefix:s priority:s
  relatedAction:+* requiredBehavior:s resource:R selectionBehavior:s textEquivalent:s
  timing?Age,DateTime,Duration,Period,Range,Timing title:s type:C
RequestGroupActionCondition< expression:Expression kind:s
RequestGroupActionRelatedAction< actionId:s offset?Duration,Range relationship:s
ResearchStudy arm:+* category:C* condition:C* contact:ContactDetail* description:s enrollment:R* focus:C*
  identifier:D* keyword:C* location:C* note:Annotation* objective:+* partOf:R* period:P phase:C primaryPurposeType:C
  principalInvestigator:R protocol:R* reasonStopped:C relatedArtifact:RelatedArtifact* site:R* sponsor:R status:s
  title:s
ResearchStudyArm< description:s name:s type:C
ResearchStudyObjective< name:s type:C
ResearchSubject actualArm:s assignedArm:s consent:R identifier:D* individual:R period:P status:s study:R
Resource<FHIRAbstractResource id:s implicitRules:s language:s meta:Meta
RiskAssessment basedOn:R basis:R* code:C condition:R encounter:R identifier:D* method:C mitigation:s note:Annotation*
  occurrence?DateTime,Period parent:R performer:R prediction:+* reasonCode:C* reasonReference:R* status:s subject:R
RiskAssessmentPrediction< outcome:C probability?Decimal,Range qualitativeRisk:C rationale:s relativeRisk:n
  when?Period,Range
SampledData<Element data:s dimensions:i factor:n lowerLimit:n origin:Q period:n upperLimit:n
Schedule active:b actor:R* comment:s identifier:D* planningHorizon:P serviceCategory:C* serviceType:C* specialty:C*
ServiceRequest asNeeded?Boolean,CodeableConcept authoredOn:t basedOn:R* bodySite:C* category:C* code:C doNotPerform:b
  encounter:R identifier:D* instantiatesCanonical:s* instantiatesUri:s* insurance:R* intent:s locationCode:C*
  locationReference:R* note:Annotation* occurrence?DateTime,Period,Timing orderDetail:C* patientInstruction:s
  performer:R* performerType:C priority:s quantity?Quantity,Range,Ratio reasonCode:C* reasonReference:R*
  relevantHistory:R* replaces:R* requester:R requisition:D specimen:R* status:s subject:R supportingInfo:R*
Signature<Element data:s onBehalfOf:R sigFormat:s targetFormat:s type:G* when:I who:R
Slot appointmentType:C comment:s end:I identifier:D* overbooked:b schedule:R serviceCategory:C* serviceType:C*
  specialty:C* start:I status:s
Specimen accessionIdentifier:D collection:+ condition:C* container:+* identifier:D* note:Annotation* parent:R*
  processing:+* receivedTime:t request:R* status:s subject:R type:C
SpecimenCollection< bodySite:C collected?DateTime,Period collector:R duration:Duration
  fastingStatus?CodeableConcept,Duration method:C quantity:Q
SpecimenContainer< additive?CodeableConcept,Reference capacity:Q description:s identifier:D* specimenQuantity:Q type:C
SpecimenProcessing< additive:R* description:s procedure:C time?DateTime,Period
Subscription channel:+ contact:ContactPoint* criteria:s end:I error:s reason:s status:s
SubscriptionChannel< endpoint:s header:s* payload:s type:s
Substance category:C* code:C description:s identifier:D* ingredient:+* instance:+* status:s
SubstanceIngredient< quantity:Ratio substance?CodeableConcept,Reference
SubstanceInstance< expiry:t identifier:D quantity:Q
SupplyDelivery basedOn:R* destination:R identifier:D* occurrence?DateTime,Period,Timing partOf:R* patient:R
  receiver:R* status:s suppliedItem:+ supplier:R type:C
SupplyDeliverySuppliedItem< item?CodeableConcept,Reference quantity:Q
SupplyRequest authoredOn:t category:C deliverFrom:R deliverTo:R identifier:D* item?CodeableConcept,Reference
  occurrence?DateTime,Period,Timing parameter:+* priority:s quantity:Q reasonCode:C* reasonReference:R* requester:R
  status:s supplier:R*
SupplyRequestParameter< code:C value?Boolean,CodeableConcept,Quantity,Range
Task authoredOn:t basedOn:R* businessStatus:C code:C description:s encounter:R executionPeriod:P focus:R for:R
  groupIdentifier:D identifier:D* input:+* instantiatesCanonical:s instantiatesUri:s insurance:R* intent:s
  lastModified:t location:R note:Annotation* output:+* owner:R partOf:R* performerType:C* priority:s reasonCode:C
  reasonReference:R relevantHistory:R* requester:R restriction:+ status:s statusReason:C
TaskInput< type:C value?*
TaskOutput< type:C value?*
TaskRestriction< period:P recipient:R* repetitions:i
Timing< code:C event:t* repeat:+
TimingRepeat<Element bounds?Duration,Period,Range count:i countMax:i dayOfWeek:s* duration:n durationMax:n
  durationUnit:s frequency:i frequencyMax:i offset:i period:n periodMax:n periodUnit:s timeOfDay:T* when:s*
TriggerDefinition<Element condition:Expression data:DataRequirement* name:s timing?Date,DateTime,Reference,Timing
  type:s
UsageContext<Element code:G value?CodeableConcept,Quantity,Range,Reference
ValueSet compose:+ contact:ContactDetail* copyright:s date:t description:s expansion:+ experimental:b identifier:D*
  immutable:b jurisdiction:C* name:s publisher:s purpose:s status:s title:s url:s useContext:UsageContext* version:s
ValueSetCompose< exclude:ValueSetComposeInclude* inactive:b include:+* lockedDate:d
ValueSetComposeInclude< concept:+* filter:+* system:s valueSet:s* version:s
ValueSetComposeIncludeConcept< code:s designation:+* display:s
ValueSetComposeIncludeConceptDesignation< language:s use:G value:s
ValueSetComposeIncludeFilter< op:s property:s value:s
ValueSetExpansion< contains:+* identifier:s offset:i parameter:+* timestamp:t total:i
ValueSetExpansionContains< abstract:b code:s contains:ValueSetExpansionContains*
  designation:ValueSetComposeIncludeConceptDesignation* display:s inactive:b system:s version:s
ValueSetExpansionParameter< name:s value?Boolean,Code,DateTime,Decimal,Integer,String,Uri
VisionPrescription created:t dateWritten:t encounter:R identifier:D* lensSpecification:+* patient:R prescriber:R
  status:s
VisionPrescriptionLensSpecification< add:n axis:i backCurve:n brand:s color:s cylinder:n diameter:n duration:Q eye:s
  note:Annotation* power:n prism:+* product:C sphere:n
VisionPrescriptionLensSpecificationPrism< amount:n base:s
"""
