from .collapse import Suspicion as Suspicion
from .collapse import suspicion as suspicion
from .log import Record as Record
from .log import Trace as Trace
from .plot import draw_trace as draw_trace
