from .beams import beam_search as beam_search
from .prompts import EncodedPrompts as EncodedPrompts
from .prompts import encode_prompts as encode_prompts
from .sampling import sample as sample
from .stopping import Sample as Sample
from .vllm import VLLM as VLLM
