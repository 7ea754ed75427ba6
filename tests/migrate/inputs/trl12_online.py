# TRL 0.12; to do 3, 5
from transformers import AutoModelForCausalLM
from trl import NashMDConfig, OnlineDPOTrainer

trainer = OnlineDPOTrainer(AutoModelForCausalLM.from_pretrained("model"), args=NashMDConfig("out"))
