from .progress import Progress as Progress
from .schedule import Schedule as Schedule
from .schedule import Status as Status
from .task import Task as Task
from .task import Waiting as Waiting
from .task import in_order as in_order
