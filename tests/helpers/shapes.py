"""Rows in the shapes that people publish and keep, made up; with whose columns they have and what they mean."""

from typing import Any

HUB = "https://huggingface.co/datasets/"
GIT = "https://github.com/"

Q, BETTER, WORSE = "Name a fruit", "An apple.", "An axe."
ZH, GOOD, BAD = "说一种水果", "苹果。", "斧头。"


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def bot(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def gpt(content: str) -> dict[str, str]:
    return {"from": "gpt", "value": content}


def human(content: str) -> dict[str, str]:
    return {"from": "human", "value": content}


SYSTEM = {"role": "system", "content": "Be brief."}
MULTI = [user("Hello"), bot("Hi."), user(Q)]
PAIR = {"prompt": [user(Q)], "chosen": BETTER, "rejected": WORSE}
LISTED = {"prompt": [user(Q)], "responses": [BETTER, WORSE]}
ANSWERED = {"prompt": [user(Q)], "response": BETTER}

Shape = tuple[str, str, str, dict[str, Any], dict[str, Any]]

READ: list[Shape] = [  # name, source, purpose, a row, what it means
    (
        "cvalues",
        HUB,
        "preferences",
        {"prompt": ZH, "pos_resp": GOOD, "neg_resp": BAD},
        {"chosen": GOOD, "rejected": BAD},
    ),
    (
        "openai-preference",
        "https://platform.openai.com/docs/guides/direct-preference-optimization",
        "preferences",
        {"input": {"messages": MULTI}, "preferred_output": [bot(BETTER)], "non_preferred_output": [bot(WORSE)]},
        {**PAIR, "prompt": MULTI},
    ),
    (
        "llamafactory-v1",
        GIT + "hiyouga/LLaMA-Factory",
        "preferences",
        {
            "chosen_messages": [{**user(Q), "loss_weight": 0.0}, {**bot(BETTER), "loss_weight": 1.0}],
            "rejected_messages": [{**user(Q), "loss_weight": 0.0}, {**bot(WORSE), "loss_weight": 1.0}],
        },
        PAIR,
    ),
    (
        "ms-swift-messages",
        GIT + "modelscope/ms-swift",
        "preferences",
        {"messages": [*MULTI, bot(BETTER)], "rejected_messages": [*MULTI, bot(WORSE)]},
        {**PAIR, "prompt": MULTI},
    ),
    (
        "ms-swift-conversation",
        GIT + "modelscope/ms-swift",
        "preferences",
        {"messages": [SYSTEM, user(Q), bot(BETTER)], "rejected_response": WORSE},
        {**PAIR, "prompt": [SYSTEM, user(Q)]},
    ),
    (
        "ms-swift",
        GIT + "modelscope/ms-swift",
        "preferences",
        {
            "system": "Be brief.",
            "query": Q,
            "response": BETTER,
            "rejected_response": WORSE,
            "history": [["Hello", "Hi."]],
        },
        {**PAIR, "prompt": [SYSTEM, *MULTI]},
    ),
    (
        "stack-exchange-paired",
        HUB + "lvwerra/stack-exchange-paired",
        "preferences",
        {"qid": 4, "question": Q, "date": "2011/01/05", "metadata": ["x"], "response_j": BETTER, "response_k": WORSE},
        PAIR,
    ),
    (
        "response-chosen",
        GIT + "shibing624/MedicalGPT",
        "preferences",
        {
            "system": "",
            "history": [["Hello", "Hi."]],
            "question": Q,
            "response_chosen": BETTER,
            "response_rejected": WORSE,
        },
        {**PAIR, "prompt": MULTI},
    ),
    (
        "chosen-response",
        HUB + "argilla",
        "preferences",
        {"instruction": Q, "chosen_response": BETTER, "rejected_response": WORSE},
        PAIR,
    ),
    (
        "pku-saferlhf",
        HUB + "PKU-Alignment/PKU-SafeRLHF",
        "preferences",
        {"prompt": Q, "response_0": WORSE, "response_1": BETTER, "better_response_id": 1, "safer_response_id": 0},
        {"chosen": BETTER, "rejected": WORSE},
    ),
    (
        "shp",
        HUB + "stanfordnlp/SHP",
        "preferences",
        {"history": Q, "human_ref_A": WORSE, "human_ref_B": BETTER, "labels": 0, "score_A": 2, "score_B": 9},
        PAIR,
    ),
    (
        "webgpt",
        HUB + "openai/webgpt_comparisons",
        "preferences",
        {
            "question": {"dataset": "eli5", "id": "1", "full_text": Q},
            "answer_0": WORSE,
            "score_0": -0.5,
            "answer_1": BETTER,
            "score_1": 0.5,
        },
        PAIR,
    ),
    (
        "arena",
        HUB + "lmsys/chatbot_arena_conversations",
        "preferences",
        {
            "conversation_a": [user(Q), bot(WORSE)],
            "conversation_b": [user(Q), bot(BETTER)],
            "winner": "model_b",
            "turn": 1,
        },
        PAIR,
    ),
    (  # both conversations have two exchanges, and the first was judged
        "arena",
        HUB + "lmsys/mt_bench_human_judgments",
        "preferences",
        {
            "conversation_a": [user(Q), bot(BETTER), user("Why?"), bot("So.")],
            "conversation_b": [user(Q), bot(WORSE), user("Why?"), bot("No.")],
            "winner": "model_a",
            "turn": 1,
        },
        PAIR,
    ),
    (
        "lmsys-55k",
        HUB + "lmsys/lmsys-arena-human-preference-55k",
        "preferences",
        {
            "prompt": f'["{Q}"]',
            "response_a": f'["{BETTER}"]',
            "response_b": f'["{WORSE}"]',
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        },
        PAIR,
    ),
    (
        "helpsteer2",
        HUB + "nvidia/HelpSteer2",
        "preferences",
        {"prompt": Q, "response_1": BETTER, "response_2": WORSE, "preference_strength": -2},
        {"chosen": BETTER, "rejected": WORSE},
    ),
    (
        "helpsteer3",
        HUB + "nvidia/HelpSteer3",
        "preferences",
        {"context": MULTI, "response1": WORSE, "response2": BETTER, "overall_preference": 3},
        {**PAIR, "prompt": MULTI},
    ),
    (
        "align-anything",
        HUB + "PKU-Alignment/align-anything",
        "preferences",
        {"question": Q, "response_1": WORSE, "response_2": BETTER, "overall_response": 2},
        PAIR,
    ),
    (
        "alpaca-farm",
        HUB + "tatsu-lab/alpaca_farm",
        "preferences",
        {"instruction": "Name", "input": "a fruit", "output_1": WORSE, "output_2": BETTER, "preference": 2},
        {**PAIR, "prompt": [user("Name\na fruit")]},
    ),
    (
        "two-answers",
        HUB,
        "preferences",
        {"prompt": ZH, "response_a": BAD, "response_b": GOOD, "winner": "B"},
        {"chosen": GOOD, "rejected": BAD},
    ),
    (
        "chosen-role",
        GIT + "wjmZZZ/LLM-zero2hero",
        "preferences",
        {
            "conversations": [
                human("Hello"),
                gpt("Hi."),
                human(Q),
                {"from": "chosen_gpt", "value": BETTER},
                {"from": "rejected_gpt", "value": WORSE},
            ]
        },
        {**PAIR, "prompt": MULTI},
    ),
    (
        "nectar",
        HUB + "berkeley-nest/Nectar",
        "preferences",
        {
            "prompt": f"\n\nHuman: {Q}\n\nAssistant: ",
            "answers": [{"answer": WORSE, "rank": 2.0, "model": "x"}, {"answer": BETTER, "rank": 1.0, "model": "y"}],
            "turns": 1,
        },
        {**LISTED, "scores": [-1.0, -2.0]},
    ),
    (
        "ultrafeedback",
        HUB + "openbmb/UltraFeedback",
        "preferences",
        {
            "instruction": Q,
            "models": ["a", "b"],
            "completions": [
                {"model": "a", "response": WORSE, "overall_score": "2"},
                {"model": "b", "response": BETTER, "overall_score": "8.5"},
            ],
        },
        {**LISTED, "scores": [8.5, 2.0]},
    ),
    (  # turns, and ranks that begin at 0
        "ultrafeedback",
        GIT + "NVIDIA-NeMo/RL",
        "preferences",
        {
            "context": MULTI,
            "completions": [{"rank": 1, "completion": [bot(WORSE)]}, {"rank": 0, "completion": [bot(BETTER)]}],
        },
        {**LISTED, "prompt": MULTI, "scores": [0.0, -1.0]},
    ),
    (
        "gpt4-comparisons",
        GIT + "Instruction-Tuning-with-GPT-4/GPT-4-LLM",
        "preferences",
        {
            "user_input": Q,
            "responses_and_scores": [
                {"response": WORSE, "source": "opt", "score": 3.0},
                {"response": BETTER, "source": "gpt4", "score": 9.0},
            ],
        },
        {**LISTED, "scores": [9.0, 3.0]},
    ),
    (
        "candidates",
        HUB,
        "preferences",
        {"question": Q, "candidates": [WORSE, BETTER], "ranks": [2, 1]},
        {**LISTED, "scores": [-1.0, -2.0]},
    ),
    (
        "outputs",
        HUB,
        "preferences",
        {"prompt": Q, "outputs": [{"text": WORSE, "reward": 0}, {"text": BETTER, "reward": 1}]},
        {**LISTED, "scores": [1.0, 0.0]},
    ),
    (
        "rrhf",
        GIT + "RLHFlow/Online-RLHF",
        "preferences",
        {"prompt": Q, "responses": [WORSE, BETTER], "rewards": [-2.0, 3.0]},
        {**LISTED, "scores": [3.0, -2.0]},
    ),
    (
        "llamafactory",
        GIT + "shibing624/MedicalGPT",
        "preferences",
        {"conversations": [human(ZH)], "chosen": GOOD, "rejected": BAD},
        {"prompt": [user(ZH)], "chosen": GOOD, "rejected": BAD},
    ),
    (
        "query-chosen-rejected",
        HUB + "Intel/orca_dpo_pairs",
        "preferences",
        {"system": "Be brief.", "question": Q, "chosen": BETTER, "rejected": WORSE},
        {**PAIR, "prompt": [SYSTEM, user(Q)]},
    ),
    (
        "trl",
        HUB + "jondurbin/truthy-dpo-v0.1",
        "preferences",
        {"system": "Be brief.", "prompt": Q, "chosen": BETTER, "rejected": WORSE},
        {**PAIR, "prompt": [SYSTEM, user(Q)]},
    ),
    (
        "trl",
        HUB + "HuggingFaceH4/ultrafeedback_binarized",
        "preferences",
        {
            "prompt": Q,
            "prompt_id": "x",
            "messages": [user(Q), bot(BETTER)],
            "chosen": [user(Q), bot(BETTER)],
            "rejected": [user(Q), bot(WORSE)],
            "score_chosen": 8.0,
            "score_rejected": 6.5,
        },
        {**PAIR, "score_chosen": 8.0, "score_rejected": 6.5},
    ),
    (
        "trl",
        HUB + "allenai/reward-bench",
        "preferences",
        {"prompt": Q, "chosen": BETTER, "rejected": WORSE, "subset": "x", "chosen_model": "y"},
        {"chosen": BETTER, "rejected": WORSE},
    ),
    (
        "trl",
        GIT + "hpcaitech/ColossalAI",
        "preferences",
        {
            "context": [{"from": "human", "content": Q}],
            "chosen": [{"from": "assistant", "content": BETTER}],
            "rejected": [{"from": "assistant", "content": WORSE}],
        },
        PAIR,
    ),
    (
        "trl",
        HUB + "openbmb/UltraInteract_pair",
        "preferences",
        {"trajectory": [human("Hello"), gpt("Hi."), human(Q)], "chosen": BETTER, "rejected": WORSE},
        {**PAIR, "prompt": MULTI},
    ),
    (
        "trl",
        HUB + "mlabonne/chatml_dpo_pairs",
        "preferences",
        {
            "prompt": "<|im_start|>system\nBe brief.<|im_end|>\n"
            f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n",
            "chosen": BETTER + "<|im_end|>\n",
            "rejected": WORSE + "<|im_end|>",
        },
        {**PAIR, "prompt": [SYSTEM, user(Q)]},
    ),
    (
        "rm-static-zh",
        HUB + "liswei/rm-static-m2m100-zh",
        "preferences",
        {"prompt": "\n\n人類：說一種水果\n\n助手：", "chosen": " 蘋果。", "rejected": " 斧頭。"},
        {"prompt": [user("說一種水果")], "chosen": "蘋果。", "rejected": "斧頭。"},
    ),
    (
        "rm-static",
        GIT + "deepspeedai/DeepSpeedExamples",
        "preferences",
        {"prompt": f"Human: {Q} Assistant:", "chosen": f" {BETTER}", "rejected": f" {WORSE}"},
        PAIR,
    ),
    (  # the prompt once more at the beginning of both answers
        "rm-static",
        GIT + "OpenRLHF/OpenRLHF",
        "preferences",
        {
            "prompt": f"\n\nHuman: {Q}\n\nAssistant:",
            "chosen": f"\n\nHuman: {Q}\n\nAssistant: {BETTER}",
            "rejected": f"\n\nHuman: {Q}\n\nAssistant: {WORSE}",
        },
        PAIR,
    ),
    (
        "labelled",
        HUB + "trl-lib/kto-mix-14k",
        "unpaired",
        {"prompt": [user(Q)], "completion": [bot(WORSE)], "label": False},
        {"prompt": [user(Q)], "response": WORSE, "label": False},
    ),
    (
        "labelled",
        GIT + "hiyouga/LLaMA-Factory",
        "unpaired",
        {"conversations": [human(Q), gpt(BETTER)], "kto_tag": "true"},
        {**ANSWERED, "label": True},
    ),
    (
        "labelled",
        HUB + "PKU-Alignment/BeaverTails",
        "unpaired",
        {"prompt": Q, "response": WORSE, "category": {"violence": True}, "is_safe": 0},
        {"response": WORSE, "label": False},
    ),
    (
        "conversations",
        HUB + "YeungNLP/moss-003-sft-data",
        "sft",
        {"conversation_id": 1, "conversation": [{"human": ZH, "assistant": GOOD}]},
        {"prompt": [user(ZH)], "response": GOOD},
    ),
    (
        "conversations",
        "https://platform.openai.com/docs/guides/supervised-fine-tuning",
        "sft",
        {"messages": [user("Hello"), {**bot("Hi."), "weight": 0}, user(Q), {**bot(BETTER), "weight": 1}]},
        {"prompt": MULTI, "response": BETTER},
    ),
    (
        "conversations",
        HUB + "hiyouga/glaive-function-calling-v2-sharegpt",
        "sft",
        {
            "conversations": [human("Time?"), {"from": "function_call", "value": '{"name": "clock"}'}],
            "tools": "[]",
        },
        {"prompt": [user("Time?")], "response": '{"name": "clock"}'},
    ),
    (
        "alpaca",
        HUB + "databricks/databricks-dolly-15k",
        "sft",
        {"instruction": "Name", "context": "a fruit", "response": BETTER, "category": "qa"},
        {**ANSWERED, "prompt": [user("Name\na fruit")]},
    ),
    ("query-response", HUB + "meta-math/MetaMathQA", "sft", {"query": Q, "response": BETTER, "type": "x"}, ANSWERED),
    (
        "query-response",
        HUB + "BelleGroup/train_2M_CN",
        "sft",
        {"input": ZH, "output": GOOD},
        {"prompt": [user(ZH)], "response": GOOD},
    ),
    (
        "alpaca",
        HUB + "m-a-p/COIG-CQIA",
        "sft",
        {"instruction": ZH, "input": "", "output": GOOD, "human_verified": True, "copyright": "x"},
        {"prompt": [user(ZH)], "response": GOOD},
    ),
    (
        "messages-prompts",
        GIT + "modelscope/ms-swift",
        "prompts",
        {"messages": [SYSTEM, *MULTI]},
        {"prompt": [SYSTEM, *MULTI]},
    ),
    (
        "red-team",
        HUB + "Anthropic/hh-rlhf",
        "prompts",
        {"transcript": f"\n\nHuman: {Q}\n\nAssistant: {WORSE}", "rating": 0.0},
        {"prompt": [user(Q)]},
    ),
    (
        "prompts",
        GIT + "volcengine/verl",
        "prompts",
        {"data_source": "x", "prompt": [user(Q)], "reward_model": {"style": "rule", "ground_truth": "4"}},
        {"prompt": [user(Q)]},
    ),
    (
        "prompts",
        GIT + "OpenRLHF/OpenRLHF",
        "prompts",
        {"context_messages": None, "prompt": [user(Q)], "label": None},
        {"prompt": [user(Q)]},
    ),
]
