from .beams import beam_search as beam_search
from .sampling import sample as sample
from .stopping import Sample as Sample
from .vllm import VLLM as VLLM
