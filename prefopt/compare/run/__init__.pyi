from .comparison import compare as compare
from .tasks import ComparisonTask as ComparisonTask
from .tasks import Tasks as Tasks
