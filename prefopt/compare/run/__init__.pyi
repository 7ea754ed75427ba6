from .comparison import compare as compare
from .progress import Progress as Progress
from .schedule import Schedule as Schedule
from .schedule import Status as Status
from .tasks import Task as Task
from .tasks import Tasks as Tasks
