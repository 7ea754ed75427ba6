"""What is said of each sickness, in Chinese. The same keys and placeholders as words_en.py. Data only."""

from __future__ import annotations

KINDS = {
    "model": "模型",
    "policy": "策略",
    "critic": "评论家",
    "chosen": "优选",
    "rejected": "劣选",
    # the signs of training/ppo/collapse.py
    "kl": "KL 上升",
    "lost": "偏离参考模型",
    "length": "长度失控",
    "perplexity": "困惑度下降",
    "tail": "得分出现长尾",
    "alike": "回答雷同",
}

TEXTS = {
    # of_rows
    "same_pairs": (
        "{pairs:,.0f} 对中有 {same:,.0f} 对（{share:.0%}）的两条回答编码后完全相同",
        "从中学不到任何东西；若是在出现差异之前就被截断，请调大 max_length，否则请去掉这些对"
        "（用 `prefopt data check FILE --tokenizer M --max_length N` 可逐条列出）",
    ),
    "answers_cut": (
        "{responses:,.0f} 条回答中有 {cut:,.0f} 条（{share:.0%}）没有以终止词元结尾，max_length={max_length}",
        "被截掉的部分学不到，策略还会学会不停下来；请调大 max_length、调小 max_prompt_length，或去掉过长的行",
    ),
    "length_cue.longer": (
        "{pairs:,.0f} 对中有 {share:.0%} 的优选回答更长",
        "只数词元就能分出优劣，接近这一比例的准确率说明不了别的；请加入较短者更好的对，或只比较长度相近的对",
    ),
    "length_cue.shorter": (
        "{pairs:,.0f} 对中有 {share:.0%} 的优选回答更短",
        "只数词元就能分出优劣，接近这一比例的准确率说明不了别的；请加入较长者更好的对，或只比较长度相近的对",
    ),
    "format_cue": (
        "{pairs:,.0f} 对中有 {share:.0%} 只在{kind}回答里出现词元 {token!r}",
        "只要找到它就能分出优劣，接近这一比例的准确率说明不了别的；请从文本中去掉这一线索，或让两边都带上它",
    ),
    # of_learning
    "rate_zero": ("学习率为 0", "什么也学不到；请设置 learning_rate"),
    "rate_zero.warm_up": (
        "只有 {steps:,} 步，预热才刚开始，每一步的学习率都是 0",
        "什么也学不到；请设置 warmup_steps=0，或增加训练步数",
    ),
    "loss_enormous": (
        "损失达到 {loss:.4g}，是第一步（{first:.4g}）的 {times:.3g} 倍",
        "训练已经跑偏；请调低 learning_rate（先降到十分之一），并从原来的模型重新开始",
    ),
    "loss_flat": (
        "{steps:,} 步里损失始终在 {low:.6g} 与 {high:.6g} 之间",
        "什么也没有学到；请调大 learning_rate，并确认每对的两条回答不同",
    ),
    "loss_zero": (
        "损失降到 {loss:.2g}（开始时为 {first:.4g}）",
        "这些行已没有可学的东西；请检查是否有泄露答案的线索或重复的行，并减少训练轮数",
    ),
    "no_gradient": (
        "{steps:,} 步结束时梯度范数为 {norm:.2g}",
        "无论损失是多少，都已不再学习；可能是 learning_rate 过大毁坏了权重，或每对的两条回答相同：请调低后重新开始",
    ),
    "steps_skipped": (
        "{steps:,} 步中有 {skipped:,.0f} 步因梯度不是有限数而被跳过",
        "请查看日志中指出的行，调低 learning_rate，或改用 float32 或 bfloat16 训练",
    ),
    "training_stopped": (
        "训练中途停止（{error}）",
        "文件夹里的模型没有训练完；请调低 learning_rate 或修正相应的行，然后重新开始",
    ),
    "weights_broken": (
        "有 {count} 个训练的权重含有非有限数：{names}",
        "这个模型已经作废；请退回较早的检查点，并调低 learning_rate",
    ),
    "updates_lost": (
        "只有 {moved:.1%} 的权重与开始时不同：它们以 {dtype} 训练，{rate:g} 大小的一步会被舍入掉",
        "请以 float32 训练（按名称加载时用 dtype=float32，传入模型对象时用 float32_weights=True）；"
        "bf16=True 仍以 bfloat16 计算",
    ),
    "nothing_moved": (
        "{names}没有一个权重发生变化",
        "什么也没有学到；请确认其权重接收梯度，且学习安排给它留有训练步数",
    ),
    "overfitting.loss": (
        "留出行上的损失从 {lowest:.4g}（第 {step:,} 步）升到 {held_out:.4g}，而训练损失为 {trained:.4g}",
        "这些行被背了下来；请在那一步停下（load_best_model_at_end）、减少训练轮数，或增加数据",
    ),
    "overfitting.accuracy": (
        "训练行上的准确率为 {trained:.2f}，留出行上为 {held_out:.2f}",
        "这些行被背了下来；请减少训练轮数、调低 learning_rate，或增加数据",
    ),
    # of_policy
    "reference_mismatch": (
        "还没有学习时，策略与参考模型每条回答就相差 {nats:.3g} nat（损失 {loss:.4g}）",
        "参考模型不是训练起点的那个模型；请去掉 ref_model，或确认两者是同一精度的同一模型，除非本意如此",
    ),
    "both_falling": (
        "对中两边的概率都在下降：优选回答降了 {chosen:.3g} nat（占其对数概率 {first:.3g} 的 {share:.0%}），"
        "劣选回答降了 {rejected:.3g} nat",
        "概率流向了不在任何对里的内容；请调低 learning_rate、调大 beta、减少步数，"
        "或加上优选回答的似然（--loss_type sigmoid sft）",
    ),
    # of_reward_model
    "at_chance": (
        "奖励模型排对了 {accuracy:.1%} 的对，标准误 {error:.1%}（{pairs:,.0f} 对）",
        "与瞎猜相差无几；在用它做选择之前，请检查数据（`prefopt data check`）、调大 learning_rate 或延长训练",
    ),
    "constant_scores": (
        "所有得分都在 {low:.6g} 与 {high:.6g} 之间",
        "奖励模型对什么都说一样的话；若是 learning_rate 过大毁坏了权重，请调低，并确认打分头及其下的层都在训练",
    ),
    "scores_huge": (
        "得分从 {low:.4g} 到 {high:.4g}",
        "相差 20 分时胜负就已确定无疑；请调低 learning_rate，或设置 center_rewards_coefficient=0.01",
    ),
    # of_sampling
    "collapse": (
        "与最初相比，第 {first} 至 {last} 轮采样像是在钻奖励模型的空子：{signs}",
        "请调大 kl_coef、调低 learning_rate 或提早停止，并查看 rollouts.jsonl 中的样例；"
        "没有这些迹象的最后一轮是第 {last_good} 轮",
    ),
    "answers_vanish": (
        "回答从 {before:.3g} 个词元缩短到 {now:.3g} 个",
        "什么都不说得分最高；请查看 rollouts.jsonl 中的样例和打分器给空回答的分数，调大 kl_coef 或调低 learning_rate",
    ),
    "answers_endless": (
        "在 max_new_tokens={limit} 以内自行结束的回答占 {now:.0%}（最初为 {before:.0%}）",
        "策略没有学会停下来，或学会了不停；请设置 missing_eos_penalty、调大 max_new_tokens，"
        "或换用训练数据以终止词元结尾的策略作为起点",
    ),
    "kl_explodes": (
        "与参考模型的 KL 达到每条回答 {kl:.4g} nat，回答长 {length:.3g} 个词元（每词元 {per_token:.2g}）",
        "策略已经完全离开参考模型所知的范围；请调大 kl_coef、调低 learning_rate，并重新开始",
    ),
    "constant_scorer": (
        "打分器给每条回答的分数都是 {score:.4g}",
        "从中学不到任何东西；请拿一条好回答和一条坏回答亲手试一试",
    ),
    "critic_learns_nothing": (
        "在 {rollouts:,} 轮采样的后一半里，评论家最多只解释了回报方差的 {explained:.1%}",
        "优势因此几乎全是噪声；请调大 critic_learning_rate 或 critic_pretrain_steps，或让评论家从奖励模型开始",
    ),
    "policy_never_learns": (
        "全部 {rollouts:,} 轮采样都只训练了评论家，策略原封未动",
        "请调小 critic_pretrain_steps，或增加训练步数",
    ),
    "answers_unfinished": (
        "{responses:,.0f} 条采样回答中有 {share:.0%} 在 max_new_tokens={limit} 处被截断",
        "它们不能入选，学到的只是较短回答的共同之处；请调大 max_new_tokens",
    ),
    "few_prompts_left": (
        "采样了 {prompts:,} 个提示，只有 {rows:,} 行用于训练",
        "其余提示没有可选的回答；请调大 max_new_tokens 或 responses_per_prompt，或调低 score_threshold",
    ),
}
