# TRL 0.12; runs
import sys

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, ModelConfig, ScriptArguments, TrlParser, get_kbit_device_map, get_peft_config

if __name__ == "__main__":
    sys.argv = ["x", "--model_name_or_path", "model", "--dataset_name", "pairs.jsonl", "--output_dir", "out"]
    sys.argv += ["--max_steps", "2", "--use_peft"]
    script_args, training_args, model_args = TrlParser(
        (ScriptArguments, DPOConfig, ModelConfig)
    ).parse_args_and_config()
    model = AutoModelForCausalLM.from_pretrained(model_args.model_name_or_path, device_map=get_kbit_device_map())
    trainer = DPOTrainer(
        model,
        None,
        args=training_args,
        train_dataset=load_dataset("json", data_files=script_args.dataset_name)["train"],
        processing_class=AutoTokenizer.from_pretrained(model_args.model_name_or_path),
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
    trainer.save_model(training_args.output_dir)
