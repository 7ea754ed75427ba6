"""More shapes of published rows, made up, with the pages that document their columns; those that are refused, too."""

from typing import Any

from tests.helpers.shapes import (
    BAD,
    BETTER,
    GIT,
    GOOD,
    HUB,
    LISTED,
    MULTI,
    PAIR,
    SYSTEM,
    WORSE,
    ZH,
    Q,
    Shape,
    bot,
    gpt,
    human,
    user,
)

CHINESE = {"prompt": [user(ZH)], "chosen": GOOD, "rejected": BAD}
SAID = {"prompt": [user(Q)], "response": BETTER}
CHOSEN, REJECTED = [user(Q), bot(BETTER)], [user(Q), bot(WORSE)]
SIDES = {"chosen": CHOSEN, "rejected": REJECTED}
SCORES = {"score_chosen": 5.0, "score_rejected": 2.0}
LATER = {"prompt": MULTI[:1], "response": "Hi.", "later_turns": [user(Q), bot(BETTER)]}
TEXT = {"role": "text", "content": ZH}


def in_parts(turns: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


MORE: list[Shape] = [  # as `shapes.READ`
    (
        "trl",
        HUB + "allenai/llama-3.1-tulu-3-8b-preference-mixture",
        "preferences",
        {"id": "1", "prompt": Q, **SIDES, "chosen_rating": 5.0, "rejected_rating": 2, "chosen_model": "m"},
        {**PAIR, **SCORES},
    ),
    (
        "trl",
        HUB + "argilla/ultrafeedback-binarized-preferences-cleaned",
        "preferences",
        {"prompt": Q, **SIDES, "chosen-rating": 5.0, "rejected-rating": 2.0, "chosen-model": "m", "source": "x"},
        {**PAIR, **SCORES},
    ),
    (
        "trl",
        HUB + "argilla/dpo-mix-7k",
        "preferences",
        {"dataset": "x", **SIDES, "chosen_rating": 5.0, "rejected_rating": 2.0},
        {**PAIR, **SCORES},
    ),
    ("trl", HUB + "Skywork/Skywork-Reward-Preference-80K-v0.2", "preferences", {**SIDES, "source": "x"}, PAIR),
    (
        "trl",
        HUB + "hendrydong/preference_700K",
        "preferences",
        {**SIDES, "chosen_score": 5.0, "rejected_score": 2.0},
        {**PAIR, **SCORES},
    ),
    ("trl", HUB + "mlabonne/orpo-dpo-mix-40k", "preferences", {**SIDES, "prompt": Q, "question": Q}, PAIR),
    (
        "trl",
        HUB + "argilla/distilabel-capybara-dpo-7k-binarized",
        "preferences",
        {
            "conversation": [{"input": "Hello", "output": "Hi."}, {"input": Q, "output": BETTER}],
            "prompt": "",
            "chosen": [*MULTI, bot(BETTER)],
            "rejected": [*MULTI, bot(WORSE)],
            "new_generations": [WORSE],
            "rating_chosen": 5,
            "rating_rejected": 2,
        },
        {**PAIR, "prompt": MULTI, **SCORES},
    ),
    (
        "trl",
        HUB + "BAAI/Infinity-Preference",
        "preferences",
        {"id": 1, "prompt": ZH, "chosen": [user(ZH), bot(GOOD)], "rejected": [user(ZH), bot(BAD)]},
        CHINESE,
    ),
    (
        "trl",
        HUB + "Magpie-Align/Magpie-Pro-DPO-100K-v0.1",
        "preferences",
        {"uuid": "1", "instruction": Q, **SIDES, "gen_input_configs": {"temperature": 1}},
        PAIR,
    ),
    (
        "trl",
        HUB + "snorkelai/Snorkel-Mistral-PairRM-DPO-Dataset",
        "preferences",
        {"prompt_id": "1", "prompt": Q, **SIDES, "all_generated_responses": [BETTER, WORSE], "all_rm_scores": [1, 0]},
        PAIR,
    ),
    (
        "trl",
        HUB + "liyucheng/zhihu_rlhf_3k",
        "preferences",
        {"prompt": ZH, "chosen": GOOD, "rejected": BAD},
        {**CHINESE, "prompt": [TEXT]},
    ),
    (
        "trl",
        HUB + "beyond/rlhf-reward-single-round-trans_chinese",
        "preferences",
        {"prompt": ZH, "chosen": GOOD, "rejected": BAD},
        {**CHINESE, "prompt": [TEXT]},
    ),
    (
        "rm-static",
        HUB + "yitingxie/rlhf-reward-datasets",
        "preferences",
        {"prompt": f"\n\nHuman: {Q}\n\nAssistant:", "chosen": f" {BETTER}", "rejected": f" {WORSE}"},
        PAIR,
    ),
    (
        "query-chosen-rejected",
        HUB + "Vezora/Code-Preference-Pairs",
        "preferences",
        {"input": Q, "chosen": BETTER, "rejected": WORSE, "ID": 3},
        PAIR,
    ),
    (
        "response-chosen",
        HUB + "shibing624/DPO-En-Zh-20k-Preference",
        "preferences",
        {"system": "", "history": [], "question": ZH, "response_chosen": GOOD, "response_rejected": BAD},
        CHINESE,
    ),
    (
        "ultrafeedback",
        HUB + "opencsg/UltraFeedback-chinese",
        "preferences",
        {
            "instruction": ZH,
            "models": ["a", "b"],
            "completions": [
                {"response": BAD, "overall_score": 2, "model": "a"},
                {"response": GOOD, "overall_score": 8, "model": "b"},
            ],
        },
        {"prompt": [user(ZH)], "responses": [GOOD, BAD], "scores": [8.0, 2.0]},
    ),
    (
        "arena",
        HUB + "lmarena-ai/arena-human-preference-140k",
        "preferences",
        {
            "winner": "model_b",
            "conversation_a": in_parts([user(Q), bot(WORSE)]),
            "conversation_b": in_parts([user(Q), bot(BETTER)]),
            "full_conversation": [{"user": user(Q), "model_side_a": bot(WORSE), "model_side_b": bot(BETTER)}],
        },
        PAIR,
    ),
    (
        "summarize",
        HUB + "openai/summarize_from_feedback",
        "preferences",
        {
            "info": {"id": "1", "post": "A long post.", "title": "Fruit", "subreddit": "food", "article": None},
            "summaries": [{"text": f" {WORSE}", "policy": "a"}, {"text": f" {BETTER}", "policy": "b"}],
            "choice": 1,
        },
        {
            "prompt": [
                {"role": "text", "content": "SUBREDDIT: r/food\n\nTITLE: Fruit\n\nPOST: A long post.\n\nTL;DR:"}
            ],
            "chosen": f" {BETTER}",
            "rejected": f" {WORSE}",
        },
    ),
    (
        "helpsteer3",
        HUB + "nvidia/HelpSteer3",
        "preferences",
        {"domain": "general", "language": "x", "context": MULTI, "response1": WORSE, "response2": BETTER}
        | {"overall_preference": 3, "individual_preference": [{"score": 3, "reasoning": "x"}]},
        {**PAIR, "prompt": MULTI},
    ),
    (
        "candidates",
        HUB + "llm-blender/mix-instruct",
        "preferences",
        {
            "instruction": "Name",
            "input": "a fruit",
            "candidates": [
                {"text": BETTER, "model": "m", "scores": {"bleu": 1.0}},
                {"text": WORSE, "model": "n", "scores": {"bleu": 0.0}},
            ],
        },
        {**LISTED, "prompt": [user("Name\na fruit")]},
    ),
    ("conversations", HUB + "allenai/tulu-3-sft-mixture", "sft", {"id": "1", "messages": CHOSEN, "source": "x"}, SAID),
    (
        "conversations",
        HUB + "HuggingFaceH4/no_robots",
        "sft",
        {"prompt": "Hello", "prompt_id": "1", "messages": [SYSTEM, *MULTI, bot(BETTER)], "category": "x"},
        {**LATER, "prompt": [SYSTEM, *MULTI[:1]]},
    ),
    (
        "conversations",
        HUB + "LDJnr/Capybara",
        "sft",
        {"source": "x", "conversation": [{"input": "Hello", "output": "Hi."}, {"input": Q, "output": BETTER}]},
        LATER,
    ),
    (
        "conversations",
        HUB + "teknium/OpenHermes-2.5",
        "sft",
        {"conversations": [human(Q), gpt(BETTER)], "system_prompt": None, "skip_prompt_formatting": False, "views": 1},
        SAID,
    ),
    (
        "conversations",
        HUB + "lmsys/lmsys-chat-1m",
        "sft",
        {"conversation_id": "1", "model": "m", "conversation": CHOSEN, "turn": 1, "redacted": False},
        SAID,
    ),
    (
        "conversations",
        HUB + "allenai/WildChat-1M",
        "sft",
        {"conversation": [{**turn, "toxic": False, "turn_identifier": 1} for turn in CHOSEN], "turn": 1},
        SAID,
    ),
    (
        "conversations",
        HUB + "AI-MO/NuminaMath-CoT",
        "sft",
        {"source": "x", "problem": Q, "solution": BETTER, "messages": CHOSEN},
        SAID,
    ),
    (
        "conversations",
        HUB + "BelleGroup/train_3.5M_CN",
        "sft",
        {"id": "1", "conversations": [human(ZH), {"from": "assistant", "value": GOOD}]},
        {"prompt": [user(ZH)], "response": GOOD},
    ),
    (
        "conversations",
        HUB + "Team-ACE/ToolACE",
        "sft",
        {
            "system": "Be brief.",
            "conversations": [
                {"from": "user", "value": Q},
                {"from": "assistant", "value": "[look()]"},
                {"from": "tool", "value": "[1]"},
                {"from": "assistant", "value": BETTER},
            ],
        },
        {
            "prompt": [SYSTEM, user(Q)],
            "response": "[look()]",
            "later_turns": [{"role": "tool", "content": "[1]"}, bot(BETTER)],
        },
    ),
    (
        "alpaca",
        HUB + "Magpie-Align/Magpie-Pro-300K-Filtered",
        "sft",
        {"uuid": "1", "instruction": Q, "response": BETTER, "conversations": [human(Q), gpt(BETTER)], "model": "m"},
        SAID,
    ),
    (
        "alpaca",
        HUB + "tatsu-lab/alpaca",
        "sft",
        {"instruction": "Name", "input": "a fruit", "output": BETTER, "text": f"### Instruction:\nName\n{BETTER}"},
        {**SAID, "prompt": [user("Name\na fruit")]},
    ),
    (
        "alpaca",
        HUB + "BelleGroup/multiturn_chat_0.8M",
        "sft",
        {"instruction": f"Human:你好\nAssistant:你好！\nHuman:{ZH}\nAssistant:", "input": "", "output": GOOD},
        {"prompt": [user("你好"), bot("你好！"), user(ZH)], "response": GOOD},
    ),
    (
        "alpaca",
        HUB + "Congliu/Chinese-DeepSeek-R1-Distill-data-110k-SFT",
        "sft",
        {"instruction": ZH, "input": "", "output": f"<think>想</think>{GOOD}", "repo_name": "x", "score": 9},
        {"prompt": [user(ZH)], "response": f"<think>想</think>{GOOD}"},
    ),
    (
        "query-response",
        HUB + "Open-Orca/OpenOrca",
        "sft",
        {"id": "1", "system_prompt": "Be brief.", "question": Q, "response": BETTER},
        {**SAID, "prompt": [SYSTEM, user(Q)]},
    ),
    ("query-response", HUB + "openai/gsm8k", "sft", {"question": Q, "answer": BETTER}, SAID),
    (
        "zhihu-kol",
        HUB + "wangrui6/Zhihu-KOL",
        "sft",
        {"INSTRUCTION": ZH, "RESPONSE": GOOD, "SOURCE": "Zhihu", "METADATA": '{"upvotes": 3}'},
        {"prompt": [user(ZH)], "response": GOOD},
    ),
    (
        "prompt-response",
        HUB + "trl-lib/tldr",
        "sft",
        {"prompt": f"POST: {Q}\n\nTL;DR:", "completion": " Fruit."},
        {"prompt": [{"role": "text", "content": f"POST: {Q}\n\nTL;DR:"}], "response": " Fruit."},
    ),
    (
        "text",
        HUB + "timdettmers/openassistant-guanaco",
        "sft",
        {"text": f"### Human: {Q}### Assistant: {BETTER}"},
        {"prompt": [{"role": "text", "content": ""}], "response": f"### Human: {Q}### Assistant: {BETTER}"},
    ),
    ("queries", GIT + "tatsu-lab/stanford_alpaca", "prompts", {"instruction": ZH, "input": ""}, {"prompt": [user(ZH)]}),
]

REFUSED_TOO: list[tuple[str, str, dict[str, Any], str]] = [  # as `test_shapes.REFUSED`
    (
        HUB + "argilla/distilabel-intel-orca-dpo-pairs",
        "preferences",
        {"input": Q, "chosen": BETTER, "rejected": WORSE, "labelling_prompt": [user("Judge it.")]},
        "column 'labelling_prompt' tells",
    ),
    (
        HUB + "trl-lib/prm800k",
        "preferences",
        {"prompt": Q, "completions": ["a", "b"], "labels": [True, False]},
        "labels",
    ),
    (
        HUB + "lmsys/chatbot_arena_conversations, both bad",
        "preferences",
        {"conversation_a": CHOSEN, "conversation_b": REJECTED, "winner": "tie (bothbad)"},
        "tie: neither answer",
    ),
    (
        HUB + "nvidia/Daring-Anteater",
        "sft",
        {"conversations": [human(Q), {**gpt(BETTER), "label": "quality:4"}], "mask": "User"},
        "'label': is 'quality:4'",
    ),
    (
        HUB + "openbmb/RLAIF-V-Dataset",
        "preferences",
        {"question": Q, "chosen": BETTER, "rejected": WORSE, "image": {"bytes": b"x", "path": "a.jpg"}},
        "column 'image' tells",
    ),
    (
        HUB + "liuhaotian/LLaVA-Instruct-150K",
        "sft",
        {"id": "1", "image": "a.jpg", "conversations": [human("<image>\n" + Q), gpt(BETTER)]},
        "column 'image' tells",
    ),
    (HUB + "OpenAssistant/oasst2", "sft", {"text": Q, "role": "prompter", "parent_id": None}, "column 'role' tells"),
    (
        HUB + "llm-blender/Unified-Feedback",
        "preferences",
        {"conv_A": CHOSEN, "conv_B": REJECTED, "conv_A_rating": 2.0, "conv_B_rating": 1.0},
        "conv_A .list., conv_B .list., conv_A_rating",
    ),
    (
        HUB + "Anthropic/model-written-evals",
        "preferences",
        {"question": Q, "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"},
        "answer_matching_behavior",
    ),
    (HUB + "YeungNLP/firefly-train-1.1M", "sft", {"kind": "x", "input": ZH, "target": GOOD}, "target"),
    (HUB + "CohereForAI/aya_dataset", "sft", {"inputs": Q, "targets": BETTER, "language": "eng"}, "targets"),
    (
        HUB + "openai/summarize_from_feedback, of no text",
        "preferences",
        {"info": {"id": "1"}, "summaries": [{"text": BETTER}, {"text": WORSE}], "choice": 0},
        "'info': has neither a post nor an article",
    ),
    (
        HUB + "openai/summarize_from_feedback, of no choice",
        "preferences",
        {"info": {"post": "A long post."}, "summaries": [{"text": BETTER}, {"text": WORSE}], "choice": 2},
        "'summaries' and 'choice': expected two",
    ),
]
