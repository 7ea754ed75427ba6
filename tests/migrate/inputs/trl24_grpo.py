# TRL 0.24; to do 4, 4
from trl import GRPOConfig, GRPOTrainer

trainer = GRPOTrainer("model", reward_funcs=len, args=GRPOConfig("out"), train_dataset=[])
