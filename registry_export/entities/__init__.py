"""The values that flow through an export: frozen records without behaviour of their own.

They carry plain data (strings, numbers, tuples, mappings), so that every one of them can be written
to JSON and read back by `msgspec` with its types checked. Arrays never travel inside them.
"""

from registry_export.entities.contents import Contents as Contents
from registry_export.entities.contents import Contrast as Contrast
from registry_export.entities.contents import ModuleContents as ModuleContents
from registry_export.entities.contents import TensorContents as TensorContents
from registry_export.entities.contents import TensorContrast as TensorContrast
from registry_export.entities.models import Description as Description
from registry_export.entities.models import Dimension as Dimension
from registry_export.entities.models import Interface as Interface
from registry_export.entities.models import ModelVersionRef as ModelVersionRef
from registry_export.entities.models import OptionValue as OptionValue
from registry_export.entities.models import Outline as Outline
from registry_export.entities.models import RuntimeNeed as RuntimeNeed
from registry_export.entities.models import Snippet as Snippet
from registry_export.entities.models import Target as Target
from registry_export.entities.models import TensorSpec as TensorSpec
from registry_export.entities.reports import Approval as Approval
from registry_export.entities.reports import Attempt as Attempt
from registry_export.entities.reports import ComparedWith as ComparedWith
from registry_export.entities.reports import EarlierExport as EarlierExport
from registry_export.entities.reports import ErrorRecord as ErrorRecord
from registry_export.entities.reports import ExportReport as ExportReport
from registry_export.entities.reports import FileRecord as FileRecord
from registry_export.entities.reports import SourceRecord as SourceRecord
from registry_export.entities.reports import TargetResult as TargetResult
from registry_export.entities.verdicts import VERDICTS as VERDICTS
from registry_export.entities.verdicts import Distribution as Distribution
from registry_export.entities.verdicts import Divergence as Divergence
from registry_export.entities.verdicts import Hop as Hop
from registry_export.entities.verdicts import Latency as Latency
from registry_export.entities.verdicts import Metrics as Metrics
from registry_export.entities.verdicts import NoiseFloor as NoiseFloor
from registry_export.entities.verdicts import Rung as Rung
from registry_export.entities.verdicts import Status as Status
from registry_export.entities.verdicts import Tolerance as Tolerance
from registry_export.entities.verdicts import Verification as Verification
from registry_export.entities.verdicts import WorstElement as WorstElement
from registry_export.entities.verdicts import worst as worst
