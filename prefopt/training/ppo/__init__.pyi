from .collapse import Alarm as Alarm
from .collapse import alarm_of as alarm_of
from .log import Record as Record
from .log import RolloutLog as RolloutLog
from .plot import plot_rollouts as plot_rollouts
