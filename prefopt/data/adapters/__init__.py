"""All known formats of raw rows; importing a family registers its adapters."""

from . import pairs as pairs
from . import sft as sft
from . import transcripts as transcripts
from .base import REGISTRY as REGISTRY
from .base import Adapter as Adapter
from .base import by_name as by_name
from .base import catalogue as catalogue
from .base import recognise as recognise
from .fields import Drop as Drop
