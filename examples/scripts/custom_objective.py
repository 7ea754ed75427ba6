"""A method of your own: a value that turns log-probs into a loss. Here, SimPO with a margin that grows with length.

    python custom_objective.py --tiny

On the command line, in a plan and in Python it is named as custom_objective:longer-simpo.
"""

from dataclasses import dataclass

import torch.nn.functional as F

from prefopt import Batch, Loss, Metric, Objective, Outputs, PreferenceConfig, PreferenceTrainer, Term, masked_mean


@dataclass(frozen=True, kw_only=True)
class LongerSimPO(Objective):
    """SimPO whose margin is gamma times the share of the tokens that the chosen response has."""

    beta: float = 2.0
    gamma: float = 1.0
    responses = 2

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Sums over pairs with their unit; the trainer divides by the whole step's."""
        mean = masked_mean(out.logps, batch.loss_mask)  # [G, 2], chosen first
        lengths = batch.loss_mask.sum(-1).float()
        margins = self.gamma * lengths[:, 0] / lengths.sum(-1).clamp(min=1)
        differences = self.beta * (mean[:, 0] - mean[:, 1])
        pairs = batch.present.all(-1)
        losses = -F.logsigmoid(differences - margins)[pairs]
        right = (differences[pairs] > 0).float()
        return Loss({"simpo": Term(losses.sum(), "prompts")}, {"accuracy": Metric(right.sum(), pairs.sum())})


NAMES = {"longer-simpo": LongerSimPO()}

if __name__ == "__main__":
    from common import options

    args = options(__doc__, "custom-objective", data="Anthropic/hh-rlhf")
    config = PreferenceConfig(args.output_dir, **args.short)
    trainer = PreferenceTrainer(args.model, LongerSimPO(gamma=0.5), config, train_dataset=args.data)
    trainer.train()
    trainer.save_model()
    print(trainer.summary())
