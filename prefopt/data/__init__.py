"""Data: raw rows -> text records -> token ids -> batches. Importing this loads neither torch nor transformers."""

from .encode import decode_response as decode_response
from .encode import encode_dataset as encode_dataset
from .encode import encode_prompt as encode_prompt
from .encode import with_mismatched as with_mismatched
from .encoder import Encoding as Encoding
from .load import load as load
from .load import load_preferences as load_preferences
from .load import load_prompts as load_prompts
from .load import load_sft as load_sft
from .records import Candidates as Candidates
from .records import DataError as DataError
from .records import Turn as Turn
from .report import LoadReport as LoadReport
from .template import stop_token_ids as stop_token_ids
