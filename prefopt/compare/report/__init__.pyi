from .findings import Cost as Cost
from .findings import Findings as Findings
from .numbers import findings_of as findings_of
from .terminal import print_summary as print_summary
from .write import write_report as write_report
