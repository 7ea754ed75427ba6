"""What is said of each sickness, in English: what is wrong, with its numbers, and what to do. Data only."""

from __future__ import annotations

KINDS = {"model": "model", "policy": "policy", "critic": "critic", "chosen": "chosen", "rejected": "rejected"}

TEXTS = {
    # of_rows
    "same_pairs": (
        "{same:,.0f} of {pairs:,.0f} pairs ({share:.0%}) have two responses that are the same ids",
        "nothing is learnt from them; raise max_length if they are cut before they differ, or leave them out "
        "(`prefopt data check FILE --tokenizer M --max_length N` names them)",
    ),
    "answers_cut": (
        "{cut:,.0f} of {responses:,.0f} responses ({share:.0%}) do not end with a stop token, at "
        "max_length={max_length}",
        "what is cut off is not learnt, and a policy learns not to stop; raise max_length, lower max_prompt_length, or "
        "leave long rows out",
    ),
    "length_cue.longer": (
        "the chosen response is the longer one in {share:.0%} of {pairs:,.0f} pairs",
        "counting tokens is enough to tell them, and an accuracy near that says nothing else; add pairs whose better "
        "response is the shorter one, or compare on pairs of like length",
    ),
    "length_cue.shorter": (
        "the chosen response is the shorter one in {share:.0%} of {pairs:,.0f} pairs",
        "counting tokens is enough to tell them, and an accuracy near that says nothing else; add pairs whose better "
        "response is the longer one, or compare on pairs of like length",
    ),
    "format_cue": (
        "the token {token!r} stands in the {kind} response alone in {share:.0%} of {pairs:,.0f} pairs",
        "looking for it is enough to tell them, and an accuracy near that says nothing else; take the cue away from "
        "the texts, or give it to both sides",
    ),
    # of_learning
    "rate_zero": ("the learning rate is 0", "nothing is learnt; set learning_rate"),
    "rate_zero.warm_up": (
        "the learning rate is 0 in each step, as there are only {steps:,}, with which a warm-up begins",
        "nothing is learnt; set warmup_steps=0, or train for more steps",
    ),
    "loss_enormous": (
        "the loss came to {loss:.4g}, {times:.3g} times what it was at the first step ({first:.4g})",
        "training has gone astray; lower learning_rate, ten times at first, and start anew from the model as it was",
    ),
    "loss_flat": (
        "in {steps:,} steps the loss stayed between {low:.6g} and {high:.6g}",
        "nothing is learnt; raise learning_rate, and see that the responses of a pair differ",
    ),
    "loss_zero": (
        "the loss came to {loss:.2g} (it began at {first:.4g})",
        "there is nothing left to learn in these rows; look for a cue that gives the answer away or for repeated rows, "
        "and train for fewer epochs",
    ),
    "no_gradient": (
        "the gradient has the norm {norm:.2g} at the end of {steps:,} steps",
        "nothing is learnt any more, whatever the loss says; the weights may be ruined by too high a learning_rate, "
        "or the responses of each pair be the same: lower it and start anew",
    ),
    "steps_skipped": (
        "{skipped:,.0f} of {steps:,} steps were skipped, as their gradient was NaN or infinite",
        "look at the rows that the log names, lower learning_rate, or train in float32 or bfloat16",
    ),
    "training_stopped": (
        "training stopped ({error})",
        "what is in the folder is not trained to its end; lower learning_rate or mend the rows, and start anew",
    ),
    "weights_broken": (
        "{count} of the trained weights hold numbers that are not finite: {names}",
        "this model is lost; go back to an earlier checkpoint, with a lower learning_rate",
    ),
    "updates_lost": (
        "only {moved:.1%} of the weights are others than at the start: they train in {dtype}, in which a step of "
        "{rate:g} is rounded away",
        "train in float32 (dtype=float32 by name, float32_weights=True for a model object); bf16=True computes in "
        "bfloat16 all the same",
    ),
    "nothing_moved": (
        "not one weight of the {names} has moved",
        "nothing was learnt; see that its weights take gradients, and that the schedule leaves it steps to learn in",
    ),
    "overfitting.loss": (
        "the loss on held-out rows rose from {lowest:.4g} (step {step:,}) to {held_out:.4g}, while that of training "
        "came to {trained:.4g}",
        "the rows are learnt by heart; stop there (load_best_model_at_end), train for fewer epochs, or get more rows",
    ),
    "overfitting.accuracy": (
        "accuracy is {trained:.2f} on training rows and {held_out:.2f} on held-out ones",
        "the rows are learnt by heart; train for fewer epochs, lower learning_rate, or get more rows",
    ),
    # of_policy
    "reference_mismatch": (
        "before anything was learnt the policy was {nats:.3g} nats a response away from its reference (loss "
        "{loss:.4g})",
        "the reference is not the model that training starts from; leave ref_model out, or see that both are the same "
        "model in the same precision, unless this is what was meant",
    ),
    "both_falling": (
        "both sides of the pairs became less likely: the chosen responses lost {chosen:.3g} nats ({share:.0%} of "
        "their log-prob, {first:.3g}), the rejected {rejected:.3g}",
        "probability goes to what is in no pair; lower learning_rate, raise beta, train for fewer steps, or add the "
        "likelihood of the chosen response (--loss_type sigmoid sft)",
    ),
    # of_reward_model
    "at_chance": (
        "the reward model ranks {accuracy:.1%} of pairs right, with a standard error of {error:.1%} ({pairs:,.0f} "
        "pairs)",
        "that is little more than chance; look at the pairs (`prefopt data check`), raise learning_rate, or train "
        "for longer before anything is selected by it",
    ),
    "constant_scores": (
        "all scores lie between {low:.6g} and {high:.6g}",
        "the reward model says the same of everything; lower learning_rate if it has ruined the weights, and see that "
        "the head and what lies under it train",
    ),
    "scores_huge": (
        "scores went from {low:.4g} to {high:.4g}",
        "of scores 20 apart one is certain to win; lower learning_rate, or set center_rewards_coefficient=0.01",
    ),
    # of_sampling
    "collapse": (
        "rollouts {first} to {last} look like reward hacking, compared with the first ones: {words}",
        "raise kl_coef, lower learning_rate or stop earlier, and look at the samples in rollouts.jsonl; the last "
        "rollout without these signs was {last_good}",
    ),
    "answers_vanish": (
        "responses shrank from {before:.3g} tokens to {now:.3g}",
        "the policy earns most by saying nothing; look at the samples in rollouts.jsonl and at what the scorer gives "
        "an empty response, raise kl_coef or lower learning_rate",
    ),
    "answers_endless": (
        "{now:.0%} of the responses end by themselves within max_new_tokens={limit} ({before:.0%} at first)",
        "the policy has not learnt to stop, or has learnt not to; set missing_eos_penalty, raise max_new_tokens, or "
        "start from a policy whose training rows end with its stop token",
    ),
    "kl_explodes": (
        "the KL to the reference came to {kl:.4g} nats for a response of {length:.3g} tokens ({per_token:.2g} a token)",
        "the policy has left everything that the reference knows; raise kl_coef, lower learning_rate and start anew",
    ),
    "constant_scorer": (
        "the scorer gives every response the same score, {score:.4g}",
        "nothing can be learnt from it; try it by hand on a good and a bad response",
    ),
    "critic_learns_nothing": (
        "in the second half of {rollouts:,} rollouts the critic explained at best {explained:.1%} of the variance of "
        "returns",
        "advantages are then mostly noise; raise critic_learning_rate or critic_pretrain_steps, or start the critic "
        "from the reward model",
    ),
    "policy_never_learns": (
        "in all {rollouts:,} rollouts the critic learnt alone, and the policy is what it was",
        "lower critic_pretrain_steps, or train for more steps",
    ),
    "answers_unfinished": (
        "{share:.0%} of {responses:,.0f} sampled responses were cut off at max_new_tokens={limit}",
        "they cannot be selected, and what is learnt is what the short ones have in common; raise max_new_tokens",
    ),
    "few_prompts_left": (
        "{rows:,} rows are trained on, of {prompts:,} prompts that were sampled for",
        "the others had no response to select; raise max_new_tokens or responses_per_prompt, or lower score_threshold",
    ),
}
