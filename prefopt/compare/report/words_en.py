"""The report's texts in English: data only. The same keys and placeholders as words_zh.py."""

from __future__ import annotations

_METRICS = {
    "metric.gold": "gold reward",
    "metric.gold.about": "The known true reward of the synthetic task, which no method has seen.",
    "metric.score": "score",
    "metric.score.about": "The reward model's score of a response. What was trained on it may exploit its errors.",
    "metric.gain": "gain",
    "metric.gain.about": "Difference to the baseline in the deciding metric, within seed and prompt.",
    "metric.win_rate": "win rate",
    "metric.win_rate.about": "Share of prompts won against the baseline by the first judge, ties a half. 50% is even.",
    "metric.kl": "KL (k1)",
    "metric.kl.about": "Nats per response from the reference: the mean log-ratio (k1), unbiased. For best-of-n the "
    "bound log n − (n − 1)/n.",
    "metric.kl_k3": "KL (k3)",
    "metric.kl_k3.about": "The same KL by the k3 estimator, r − 1 − log r summed over tokens: unbiased, with lower "
    "variance. (k2, half the squared log-ratio, is biased and not shown.)",
    "metric.length": "length",
    "metric.length.about": "Tokens of a response.",
    "metric.unfinished": "truncated",
    "metric.unfinished.about": "Share of responses that were truncated at the length limit.",
    "metric.degenerate": "degenerate",
    "metric.degenerate.about": "Share of responses that are blank or repeat themselves.",
    "metric.distinct_2": "distinct-2",
    "metric.distinct_2.about": "Different pairs of neighbouring tokens as a share of all, over responses to different "
    "prompts: low means that every prompt gets the same response.",
    "metric.perplexity": "perplexity",
    "metric.perplexity.about": "Of the responses under the reference, per token: high means text that the reference "
    "would not write.",
    "metric.accuracy": "accuracy",
    "metric.accuracy.about": "Held-out pairs in which the implicit reward puts the chosen response first.",
    "metric.margin": "margin",
    "metric.margin.about": "Implicit reward (log-ratio to the reference) of the chosen response less the rejected one.",
    "metric.logps_chosen": "log p(chosen)",
    "metric.logps_chosen.about": "Log-likelihood of the chosen response, in nats.",
    "metric.choices": "choice accuracy",
    "metric.choices.about": "Multiple-choice accuracy over all files.",
}
_VERDICTS = {
    "verdict.beats": "beats",
    "verdict.loses to": "loses to",
    "verdict.undecided": "undecided",
    "verdict.these checkpoints differ": "these checkpoints differ",
    "verdict.these checkpoints are not told apart": "these checkpoints are not told apart",
    "matrix.beats": "beats",
    "matrix.loses to": "loses",
    "matrix.undecided": "undecided",
    "matrix.these checkpoints differ": "checkpoints differ",
    "matrix.these checkpoints are not told apart": "not told apart",
    "sentence.nothing": "No method has a {metric}: there is nothing to compare by.",
    "sentence.alone": "{leader} is the only method with a {metric}, {value}: there is nothing to compare it with.",
    "sentence.leads": "{leader} has the highest {metric}: {value}, {gain} over the baseline {baseline}.",
    "sentence.leads_alone": "{leader} has the highest {metric}: {value}.",
    "sentence.checkpoints_lead": "Of these checkpoints, those of {leader} have the highest {metric}: {value}, {gain} "
    "over the baseline {baseline}.",
    "sentence.baseline_leads": "No method has a higher {metric} than the baseline {baseline}, {value}.",
    "sentence.beats": "{leader} beats {others}.",
    "sentence.loses to": "{leader} loses to {others} where they are compared seed by seed.",
    "sentence.undecided": "Whether {leader} is better than {others} is undecided.",
    "sentence.these checkpoints differ": "The checkpoints of {leader} differ from those of {others}; with so few seeds "
    "this does not rank the methods.",
    "sentence.these checkpoints are not told apart": "The checkpoints of {leader} are not told apart from those of "
    "{others}.",
    "sentence.detectable": "Of two methods {detectable} apart, this design tells which is better in 80 of 100 "
    "repetitions.",
    "claim.METHODS": "The claim is about the methods: it should hold with other seeds, on prompts like these.",
    "claim.SEEDS": "The claim is about the methods with other seeds, on these very prompts: other prompts may differ.",
    "claim.CHECKPOINTS": "The claim is about these checkpoints only: train them again with other seeds and the order "
    "may change.",
    "claim.design": "Seeds: {seeds}; held-out prompts: {prompts}; held-out pairs: {pairs}. Intervals are at "
    "{level:.0%}; p-values are Holm-corrected over all pairs of methods.",
}
_WARNINGS = {
    "few_seeds": "Seeds: {seeds}. With fewer than {needed}, these checkpoints differ or do not, and no method is "
    "ranked. Add seeds before you choose a method by this report.",
    "few_prompts": "Test prompts: {prompts}. A true difference has to be about {detectable:.2f} before so few find it. "
    "Smaller ones may be there; add prompts to see them.",
    "one_prompt": "Test prompts: {prompts}. With so few, nothing can be said about others, and there are no intervals.",
    "judge_flips": "The judge {judge} changed its mind at {rate:.0%} of the prompts when the responses changed places. "
    "Both orders were asked and such prompts count as ties, which pulls its win rates towards 50%.",
    "judge_leans": "Where the judge {judge} contradicts itself, it takes the response shown first in {rate:.0%} of the "
    "cases: that is position bias. Trust only what it says in both orders.",
    "judge_failed": "The judge {judge} gave no usable verdict on {method} at {failed} of {asked} prompts; these are in "
    "none of its numbers. If the failures have a reason in common, its win rate is biased.",
    "overlap": "{dropped} of {of} test prompts also occur in the training data and were left out, for example: "
    "{example}",
    "unknown_method": "{name} is no method that is known here and was not run. {hint}",
    "cell_failed": "{method} with seed {seed} failed and is in no number: {reason}",
    "stage_failed": "The shared stage {stage} with seed {seed} failed, and with it every method that needs it: "
    "{reason}",
    "missing_seeds": "{method} has no result with seed {seeds}. It is compared on the seeds it has; if it failed "
    "because it is unstable, the rest flatters it.",
    "same_scorer": "What decides here, {scorer}, also trained or selected: it favours what was optimised against it. "
    "Decide by another judge.",
    "over_optimised": "{method} is over-optimised: from its best moment to the end of its training the gold reward "
    "fell by {gold_fall:.2f} while the score rose by {score_rise:.2f}. Stop earlier, or hold it closer to the "
    "reference.",
    "no_reward_model": "There is no reward model: no scores, and no method that needs one.",
    "weak_reward_model": "The reward model ranks {accuracy:.1%} [{low:.1%}, {high:.1%}] of the held-out pairs right, "
    "which may be chance: its scores say little, and so does what was selected by them.",
    "unequal_cost": "The methods did not cost the same: {dearest} took {ratio:.1f} times the FLOPs of {cheapest}. Look "
    "at the gain beside the cost.",
    "unfinished": "{share:.0%} of the responses of {method} were truncated at the length limit. They are scored as "
    "they stand; raise the limit or mind the length.",
    "degenerate": "{share:.1%} of the responses of {method} are blank or repeat themselves. Read some of them before "
    "you trust its averages.",
    "set_aside": "{prompts} prompts of the training data were set aside for validation during training: no method "
    "learns from them.",
    "unequal_trials": "Trials are unequal: {methods} got none, and the others chose among several settings. Compare "
    "their places with that in mind.",
    "mixed_versions": "Not all of this was made with the same versions: {packages}. What is cached keeps those it was "
    "made with; another folder begins anew.",
    "one_stage": "The SFT policy and the reward model are of one seed: all claims hold given these two, and other ones "
    "may change the order.",
    "budget_missed": "{method} took {flops:power} FLOPs on a budget of {budget:power}: it is not compared at equal "
    "cost.",
    "identical": "{first} and {second} gave the very same responses: a setting without an effect, or one model twice.",
}
_ENCODING = {
    "encoding.prompts_cut": "{of}: {rows} prompts were longer than their room and were cut.",
    "encoding.answers_cut": "{of}: {rows} answers were cut to max_length.",
    "encoding.eos_lost": "{of}: {rows} answers lost their stop token with their end: nothing in them teaches to end "
    "there.",
    "encoding.boundary_merges": "{of}: {rows} answers merge with the text before them when both are tokenised "
    "together: they are encoded as sampling gives them.",
    "encoding.template_mismatches": "{of}: {rows} answers are rendered otherwise by the chat template within the "
    "whole conversation.",
    "encoding.answers_dropped": "{of}: {rows} later answers were dropped, since the chat template rewrites an "
    "answer before them.",
    "encoding.tool_calls_unwritten": "{of}: {rows} rows were dropped, since the chat template does not write their "
    "tool calls.",
    "encoding.sampled_ids_unused": "{of}: {rows} responses were encoded from their text, since their sampled ids "
    "belong to another tokenizer, stop token or text.",
    "encoding.template_inputs_unread": "{of}: {rows} rows bring tools, thoughts or variables that the chat template "
    "does not use.",
    "encoding.special_tokens_kept": "{of}: {rows} rows spell a special token in a prompt or in text without one: it "
    "became a real one.",
    "encoding.special_tokens_split": "{of}: {rows} rows spell a special token in an answer or in a prompt without a "
    "template: it is ordinary text.",
}
"""What encoding did to rows that were trained on, see `data.row_encoder.COUNTS`."""
_HEADINGS = {
    "section.verdict": "Verdict",
    "section.warnings": "Read this first",
    "section.headline": "The methods",
    "section.headline.about": "Best first. Means over seeds and prompts, with their intervals below. The bar shows the "
    "interval of the deciding metric; the upright line is the baseline.",
    "section.matrix": "Who beats whom",
    "section.matrix.about": "Read along a row: what the method at its left does to the one above. The difference in "
    "{metric} with the interval of this pair alone, and p corrected for all {pairs} pairs.",
    "section.figures": "Figures",
    "section.judges": "Judges",
    "section.judges.about": "Every method against {baseline} on the same prompts.",
    "section.choices": "Multiple choice",
    "section.choices.about": "The option with the highest log-likelihood. p by McNemar's exact test against "
    "{baseline}, Holm-corrected over methods and files; about these checkpoints.",
    "section.samples": "Responses",
    "section.cost": "Cost",
    "section.cost.about": "Means over seeds. A shared stage is counted whole for every method that needs it: what the "
    "method alone would have cost.",
    "section.metrics": "All metrics",
    "section.settings": "Settings",
    "section.failures": "What failed",
    "section.notes": "All warnings",
    "section.provenance": "Provenance",
    "section.glossary": "What the numbers mean",
    "contents": "Contents",
    "columns": "What the columns mean",
    "to_top": "Skip to the verdict",
    "light_dark": "Light or dark",
    "enlarge": "Enlarge",
    "copy": "Copy",
    "copied": "Copied",
    "none": "None.",
    "choices.file": "{name}, {questions} questions",
    "list.comma": ", ",
    "list.and": " and ",
    "report.lead": "prefopt compare",
    "report.more": "{left} more in report.html",
    "failure.seed": "seed {seed}",
    "baseline": "baseline",
    "serious": "serious",
}
_TERMS = {
    "term.interval": "interval",
    "term.interval.about": "[low, high] at {level:.0%}. Over new seeds and prompts where the claim is about methods, "
    "over new prompts alone where it is about checkpoints.",
    "term.p": "p",
    "term.p.about": "The chance of a difference this large were there none, after Holm's correction for testing many.",
    "term.effect": "effect size",
    "term.effect.about": "The mean difference in units of its standard deviation over prompts (Cohen's d_z).",
    "term.detectable": "detectable",
    "term.detectable.about": "The smallest true difference that this design finds in 80 of 100 repetitions.",
}
_COLUMNS = {
    "column.method": "method",
    "column.method.about": "As the plan calls it.",
    "column.against": "row against column",
    "column.outcomes": "won · tied · lost",
    "column.outcomes.about": "Prompts of all seeds by outcome against the baseline: the bar's left part is won, "
    "its right part lost.",
    "column.rate": "win rate",
    "column.rate.about": "Wins and half the ties. 50% is even with the baseline.",
    "column.length_controlled": "at equal length",
    "column.length_controlled.about": "The win rate had both responses the same length, by a logistic regression as in "
    "AlpacaEval 2 (arXiv:2404.04475). It also takes away what longer answers are truly worth.",
    "column.p": "p",
    "column.p.about": "By a sign test over prompts, Holm-corrected over the methods; about these checkpoints.",
    "column.failures": "failed",
    "column.failures.about": "Prompts without a usable verdict; they are in no other number.",
    "column.flips": "flips",
    "column.flips.about": "Prompts at which the judge took the other side when the responses changed places.",
    "column.first_preferred": "first of flips",
    "column.first_preferred.about": "Of these, the share at which it took what stood first. 50% is no position bias.",
    "column.flops": "FLOPs",
    "column.flops.about": "Floating-point operations, the shared stages it needs among them.",
    "column.own": "own FLOPs",
    "column.own.about": "Without shared stages.",
    "column.total": "all FLOPs",
    "column.total.about": "With the whole of each shared stage.",
    "column.tokens": "tokens",
    "column.tokens.about": "Processed, for all purposes.",
    "column.seconds": "time",
    "column.seconds.about": "Wall clock of the cell alone.",
    "column.cpu_seconds": "CPU time",
    "column.cpu_seconds.about": "Of the cell alone, over all its threads.",
    "column.memory": "peak memory",
    "column.memory.about": "The largest over seeds.",
    "column.steps": "steps",
    "column.steps.about": "Of the optimizer.",
    "column.trials": "settings tried",
    "column.trials.about": "Settings tried on validation prompts, of which the best was taken.",
    "column.kind": "what it is",
    "column.kind.about": "The method's name in prefopt.",
    "column.settings": "settings",
    "column.settings.about": "Those the plan gave or a grid chose; the rest are defaults.",
    "column.seeds": "seeds",
    "column.seeds.about": "Those that finished.",
    "purpose.training": "training",
    "purpose.training.about": "FLOPs of the forward and backward passes that train.",
    "purpose.generation": "generation",
    "purpose.generation.about": "FLOPs of generating responses.",
    "purpose.scoring": "scoring",
    "purpose.scoring.about": "FLOPs of the reward model over responses.",
    "purpose.reference": "reference",
    "purpose.reference.about": "FLOPs of the reference policy.",
    "purpose.other": "other",
    "purpose.other.about": "FLOPs of other passes without a gradient, such as PPO's own log-probs and values.",
    "purpose.trials": "trials",
    "purpose.trials.about": "FLOPs of settings that were tried and not taken.",
    "shared.sft": "SFT (shared)",
    "shared.sft.about": "FLOPs of the SFT policy that every method starts from.",
    "shared.reward model": "reward model (shared)",
    "shared.reward model.about": "FLOPs of the reward model that several methods use.",
    "shared.reference": "reference (shared)",
    "shared.reference.about": "FLOPs of the reference's log-likelihoods, computed once for several methods.",
    "judge.gold": "the known reward",
    "judge.reward-model": "reward model",
    "judge.function": "function",
    "judge.endpoint": "language model, asked in both orders",
}
_FIGURES = {
    "figure.forest": "The methods at a glance",
    "figure.forest.about": "Every method's deciding metric with its interval, against the baseline.",
    "figure.matrix": "Who beats whom",
    "figure.matrix.about": "Differences of all pairs of methods, with the verdict of each.",
    "figure.frontier": "Reward against KL",
    "figure.frontier.about": "What a method gains for how far it moves from the reference; up and to the left is "
    "better. Hollow: another method has more reward for less KL. Thin lines: the way there, one for each seed.",
    "figure.curves": "Learning curves",
    "figure.curves.about": "Score and gold reward during training, over compute, with standard errors.",
    "figure.overoptimisation": "Over-optimisation",
    "figure.overoptimisation.about": "Score and gold reward over the KL to the reference (Gao et al., "
    "arXiv:2210.10760): where they part, a method has begun to exploit the reward model.",
    "figure.best_of": "The best of K responses",
    "figure.best_of.about": "Expected best and median score of K responses, and the gold reward of the one picked.",
    "figure.distributions": "Distributions",
    "figure.distributions.about": "How rewards and lengths are spread over single responses, all seeds together.",
    "figure.grades": "Accuracy by grade",
    "figure.grades.about": "Held-out pairs ranked right, by how much better the chosen response is.",
    "figure.lengths": "Length and reward",
    "figure.lengths.about": "Single responses: where reward rises with length, a gain may be bought with words.",
    "figure.cost": "Cost and gain",
    "figure.cost.about": "FLOPs by purpose, and the gain over the baseline for them.",
}
_SAMPLES = {
    "samples.needs_script": "The responses are shown by a script in this file; it is switched off here.",
    "samples.search": "Search prompts and responses",
    "samples.look_at": "Look at",
    "samples.outcome": "Outcome",
    "samples.any": "any",
    "samples.won": "won",
    "samples.tied": "tied",
    "samples.lost": "lost",
    "samples.ending": "Ending",
    "samples.finished": "terminated",
    "samples.unfinished": "truncated",
    "samples.sort": "Order",
    "samples.given": "as given",
    "samples.up": "{metric}, highest first",
    "samples.down": "{metric}, lowest first",
    "samples.gain_up": "{metric} over the baseline, highest first",
    "samples.gain_down": "{metric} over the baseline, lowest first",
    "samples.shown": "Shown",
    "samples.count": "{number} of {found} prompts",
    "samples.count_of": "{number} of {found} prompts found among {all}",
    "samples.nothing": "No prompt is left: take a filter away.",
    "samples.previous": "Previous",
    "samples.next": "Next",
    "samples.keys": "Arrow keys left and right turn the page.",
    "samples.empty": "(blank)",
    "samples.about": "One seed, the first response of every method to {count} prompts. Outcomes are against "
    "{baseline}, by the first judge.",
    "samples.prompt": "Prompt",
    "role.user": "user",
    "role.assistant": "assistant",
    "role.system": "system",
}
TEXTS = {**_METRICS, **_VERDICTS, **_WARNINGS, **_ENCODING, **_HEADINGS, **_TERMS, **_COLUMNS, **_FIGURES, **_SAMPLES}
