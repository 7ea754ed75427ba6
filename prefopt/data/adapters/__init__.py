"""The formats of raw rows that are known, and how to add one: see `base.py`. Importing this registers ours."""

from . import pairs as pairs
from . import sft as sft
from . import transcripts as transcripts
from .base import REGISTRY as REGISTRY
from .base import Adapter as Adapter
from .base import by_name as by_name
from .base import catalogue as catalogue
from .base import recognise as recognise
from .base import register as register
from .fields import Drop as Drop
from .outside import from_outside as from_outside
