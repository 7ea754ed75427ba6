from .plan import RoundsPlan as RoundsPlan
from .plan import read_rounds_plan as read_rounds_plan
from .plan import rounds_plan_from as rounds_plan_from
from .results import RoundsResults as RoundsResults
from .results import results_of as results_of
from .run import RoundsRun as RoundsRun
from .run import run_rounds as run_rounds
from .run import status_of as status_of
