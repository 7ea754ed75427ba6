"""The formats of raw rows that are known, and how to add one: see `base.py`. Importing this registers ours."""

# The particular before the general: in this order formats are tried.
from . import transcripts as transcripts  # isort: skip
from . import pairs as pairs  # isort: skip
from . import formats as formats  # isort: skip
from . import sft as sft  # isort: skip
from .base import REGISTRY as REGISTRY
from .base import Adapter as Adapter
from .base import by_name as by_name
from .base import catalogue as catalogue
from .base import recognise as recognise
from .base import register as register
from .fields import Drop as Drop
from .outside import from_outside as from_outside
