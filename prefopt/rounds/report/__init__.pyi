from .terminal import print_rounds as print_rounds
from .write import write_rounds_report as write_rounds_report
