"""Loss and gradients against TRL 1.16 itself, in float32 on the same token ids.

TRL's trainers run on a tiny random Llama; ours is `forward` and `objective.loss` on a Batch of the same ids. Where TRL
departs from a paper, the paper is worked by hand in `test_formulas.py` and the difference is named here.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from prefopt.batch import Batch, Outputs
from prefopt.models.forward import forward
from prefopt.objectives.dpo import DPO
from prefopt.objectives.kto import KTO
from prefopt.training.metrics import MetricsAccumulator
from prefopt.utils.tensors import masked_mean, masked_sum
from tests.helpers.objectives import with_statistics

trl = pytest.importorskip("trl", reason="parity needs TRL, which the test extra installs")

VOCABULARY, PAIRS = 40, 5
TOLERANCE = 1e-5


def tiny_llama(seed: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=VOCABULARY, **shape, initializer_range=0.3, bos_token_id=0, eos_token_id=1, pad_token_id=2
    )
    return LlamaForCausalLM(config).eval()


def tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="3"))
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="0", eos_token="1", pad_token="2", unk_token="3")


def examples() -> list[dict[str, list[int]]]:
    g = torch.Generator().manual_seed(0)
    ids = lambda n: torch.randint(3, VOCABULARY, (n,), generator=g).tolist()  # noqa: E731
    lengths = torch.randint(1, 9, (PAIRS, 3), generator=g).tolist()
    return [{"prompt_ids": ids(p), "chosen_ids": ids(w), "rejected_ids": ids(r)} for p, w, r in lengths]


def batch_of(rows: list[tuple[list[int], list[list[int]]]]) -> Batch:
    """A Batch of prompts and their responses; an empty response is an absent one."""
    left = max(len(prompt) for prompt, _ in rows)
    right = max(len(response) for _, responses in rows for response in responses)
    prompt_ids = torch.tensor([[0] * (left - len(p)) + p for p, _ in rows])
    prompt_mask = torch.tensor([[False] * (left - len(p)) + [True] * len(p) for p, _ in rows])
    ids = torch.tensor([[r + [0] * (right - len(r)) for r in responses] for _, responses in rows])
    mask = torch.tensor([[[True] * len(r) + [False] * (right - len(r)) for r in responses] for _, responses in rows])
    return Batch(prompt_ids=prompt_ids, prompt_mask=prompt_mask, response_ids=ids, response_mask=mask, loss_mask=mask)


def ours(model: nn.Module, reference: nn.Module, objective: DPO, batch: Batch) -> Tensor:
    with torch.no_grad():
        batch = batch.with_columns(ref_logps=forward(reference, batch, frozenset({"logps"})).required("logps"))
    out: Outputs = forward(model, batch, objective.outputs)
    return objective.loss(out, with_statistics(objective, batch, out)).reduced(objective.sizes(batch))


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def deviation(got: Tensor, want: Tensor) -> float:
    return float((got - want).detach().abs().max() / want.detach().abs().max())


COMMON = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False, "disable_tqdm": True}


def trl_dpo(model: nn.Module, reference: nn.Module, folder: str, **knobs: object) -> tuple[object, dict[str, Tensor]]:
    from datasets import Dataset

    trainer = trl.DPOTrainer(
        model=model,
        ref_model=reference,
        args=trl.DPOConfig(output_dir=folder, **COMMON, **knobs),
        train_dataset=Dataset.from_list([{"prompt": "4 5", "chosen": " 6", "rejected": " 7"}]),  # unused, but required
        processing_class=tokenizer(),
    )
    return trainer, trainer.data_collator(examples())


def compare(objective: DPO, tmp_path: object, **knobs: object) -> tuple[float, float, dict[str, float]]:
    """Relative deviation of the loss, of the gradient, and TRL's metrics."""
    model, reference = tiny_llama(0), tiny_llama(1)
    theirs, their_reference = copy.deepcopy(model), copy.deepcopy(reference)
    trainer, inputs = trl_dpo(theirs, their_reference, str(tmp_path), **knobs)
    theirs.eval()
    want = trainer.compute_loss(theirs, inputs)
    batch = batch_of([(e["prompt_ids"], [e["chosen_ids"], e["rejected_ids"]]) for e in examples()])
    got = ours(model, reference, objective, batch)
    metrics = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    return deviation(got, want), deviation(gradient(got, model), gradient(want, theirs)), metrics


# The same knobs mean the same, but where TRL departs from a paper: its `sigmoid` ignores `label_smoothing` (ours is
# then cDPO), its `bco_pair` has no reward shift (ours has; TRL's is `bco_pair_trl`). `use_weighting` with `sft`
# crashes in TRL; ours weighs the pair losses only.
SAME = {
    "sigmoid": {"beta": 0.3},
    "sigmoid_norm": {"loss_type": "sigmoid_norm", "beta": 2.0},
    "hinge": {"loss_type": "hinge"},
    "ipo": {"loss_type": "ipo"},
    "exo_pair": {"loss_type": "exo_pair", "label_smoothing": 1e-3},
    "nca_pair": {"loss_type": "nca_pair"},
    "robust": {"loss_type": "robust", "label_smoothing": 0.1},
    "sppo_hard": {"loss_type": "sppo_hard"},
    "aot": {"loss_type": "aot"},
    "aot, smoothed": {"loss_type": "aot", "label_smoothing": 0.2},
    "aot, ld": {"loss_type": "aot", "ld_alpha": 0.4},
    "aot_unpaired": {"loss_type": "aot_unpaired"},
    "aot_unpaired, smoothed": {"loss_type": "aot_unpaired", "label_smoothing": 0.2},
    "apo_zero": {"loss_type": "apo_zero"},
    "apo_down": {"loss_type": "apo_down"},
    "discopop": {"loss_type": "discopop", "beta": 0.05},
    "discopop, tau": {"loss_type": "discopop", "discopop_tau": 0.5},
    "sft": {"loss_type": "sft"},
    "rpo": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    "three": {"loss_type": ["apo_zero", "sft", "ipo"], "loss_weights": [0.7, 0.2, 0.1]},
    "default weights": {"loss_type": ["hinge", "robust"]},
    "ld": {"ld_alpha": 0.3},
    "ld 0": {"ld_alpha": 0.0},
    "ld, ipo": {"ld_alpha": 0.3, "loss_type": "ipo"},
    "wpo": {"use_weighting": True},
    "wpo, ipo": {"use_weighting": True, "loss_type": "ipo"},
    "forward_kl": {"f_divergence_type": "forward_kl"},
    "js_divergence": {"f_divergence_type": "js_divergence", "beta": 1.0},
    "alpha_divergence": {"f_divergence_type": "alpha_divergence"},
    "alpha_divergence .8": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.8},
    "js, ipo": {"f_divergence_type": "js_divergence", "loss_type": "ipo"},
    "forward_kl, sigmoid_norm": {"f_divergence_type": "forward_kl", "loss_type": "sigmoid_norm"},
    "alpha, sft": {"f_divergence_type": "alpha_divergence", "loss_type": ["hinge", "sft"]},
}


@pytest.mark.parametrize("knobs", SAME.values(), ids=SAME.keys())
def test_loss_and_gradient_are_trl_s(knobs: dict, tmp_path, record_property):
    loss, grad, _ = compare(DPO(**knobs), tmp_path, **knobs)
    record_property("deviation", f"loss {loss:.1e} gradient {grad:.1e}")
    assert loss < TOLERANCE and grad < TOLERANCE


@pytest.mark.parametrize(
    "mixture", [{}, {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}]
)
def test_bco_as_trl_computes_it(mixture: dict, tmp_path, record_property):
    theirs = {"loss_type": ["bco_pair"], **mixture}
    names = [f"{name}_trl" if name == "bco_pair" else name for name in theirs["loss_type"]]
    loss, grad, _ = compare(DPO(**{**theirs, "loss_type": names}), tmp_path, **theirs)
    record_property("deviation", f"loss {loss:.1e} gradient {grad:.1e}")
    assert loss < TOLERANCE and grad < TOLERANCE


def test_where_trl_departs_from_the_paper(tmp_path):
    """Named differences, so that the day TRL changes is noticed: the gradients differ by far more than rounding."""
    assert compare(DPO(), tmp_path, label_smoothing=0.2)[1] < TOLERANCE
    for knobs in (
        {"label_smoothing": 0.2},  # cDPO
        {"loss_type": "bco_pair", "beta": 1.0},  # the reward shift
    ):
        assert compare(DPO(**knobs), tmp_path, **knobs)[1] > 10 * TOLERANCE, knobs


def test_metrics_are_trl_s(tmp_path):
    _, _, theirs = compare(DPO(), tmp_path)
    model, reference = tiny_llama(0), tiny_llama(1)
    batch = batch_of([(e["prompt_ids"], [e["chosen_ids"], e["rejected_ids"]]) for e in examples()])
    with torch.no_grad():
        batch = batch.with_columns(ref_logps=forward(reference, batch, frozenset({"logps"})).required("logps"))
    metrics = DPO().loss(forward(model, batch, frozenset({"logps"})), batch).metrics
    for name, metric in metrics.items():
        assert float(metric.total / metric.count) == pytest.approx(theirs[name], rel=TOLERANCE), name


def sums_and_means() -> tuple[Batch, Outputs]:
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(6) < torch.randint(1, 7, (PAIRS, 2, 1), generator=g)
    logps = (-3 * torch.rand(PAIRS, 2, 6, generator=g)).masked_fill(~mask, 0.0).requires_grad_()
    return Batch(response_mask=mask, loss_mask=mask), Outputs(logps=logps)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss_type", ["simpo", "sigmoid"])
def test_cpo_and_simpo_are_trl_s(loss_type: str, smoothing: float):
    """CPOTrainer's loss without its likelihood term, which there as here is a mean over the chosen tokens."""
    from trl.experimental.cpo import CPOTrainer

    batch, out = sums_and_means()
    name = "cpo" if loss_type == "sigmoid" else "simpo"
    objective = DPO(loss_type=name, beta=1.5, simpo_gamma=0.6, label_smoothing=smoothing)
    stub = SimpleNamespace(
        alpha=0.0, beta=1.5, simpo_gamma=0.6, label_smoothing=smoothing, loss_type=loss_type,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    sums = masked_sum(out.logps, batch.loss_mask)
    values = sums if name == "cpo" else sums / batch.lengths
    want, chosen, rejected = CPOTrainer.cpo_loss(stub, *values.unbind(1))
    got = objective.loss(out, batch)
    assert_same(got.terms[name].total / PAIRS, want.mean(), out)
    torch.testing.assert_close(got.rewards, torch.stack([chosen, rejected], 1))


def test_orpo_s_odds_ratio_is_trl_s():
    """ORPOTrainer's odds-ratio part; its likelihood includes the prompt's tokens, ours the response's only."""
    from trl.experimental.orpo import ORPOTrainer

    batch, out = sums_and_means()
    stub = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    want, *_ = ORPOTrainer.odds_ratio_loss(stub, *masked_mean(out.logps, batch.loss_mask).unbind(1))
    assert_same(DPO(loss_type="orpo", beta=0.3).loss(out, batch).terms["orpo"].total / PAIRS, -want.mean(), out)


def assert_same(got: Tensor, want: Tensor, out: Outputs) -> None:
    assert deviation(got, want) < TOLERANCE
    gradients = [torch.autograd.grad(x, out.logps, retain_graph=True)[0] for x in (got, want)]
    assert deviation(*gradients) < TOLERANCE


def unpaired_examples() -> list[tuple[list[int], list[int], bool, list[int]]]:
    """Prompt, response, label and mismatched response: that of the row before, as TRL rotates them in a batch."""
    rows = [
        (e["prompt_ids"], e[f"{side}_ids"], side == "chosen") for e in examples() for side in ("chosen", "rejected")
    ]
    rows = rows[1:]  # so that the labels are of unequal number
    return [(*row, rows[i - 1][1]) for i, row in enumerate(rows)]


def trl_kto(model: nn.Module, reference: nn.Module, folder: str, **knobs: object) -> tuple[object, dict[str, Tensor]]:
    from datasets import Dataset

    trainer = trl.KTOTrainer(
        model=model,
        ref_model=reference,
        args=trl.KTOConfig(output_dir=folder, **COMMON, **knobs),
        train_dataset=Dataset.from_list(
            [{"prompt": "4", "completion": " 5", "label": label} for label in (True, False)]
        ),  # unused, but required
        processing_class=tokenizer(),
    )
    inputs = trainer.data_collator([
        {"prompt_ids": prompt, "completion_ids": response, "KL_completion_ids": other, "label": label}
        for prompt, response, label, other in unpaired_examples()
    ])  # fmt: skip
    return trainer, inputs


KTO_KNOBS = {"beta": 0.2, "desirable_weight": 1.5, "undesirable_weight": 0.5}


def test_kto_is_trl_s(tmp_path, record_property):
    """Each of TRL's unpaired examples is a row with one response, and its KL completion that row's mismatched one."""
    model, reference = tiny_llama(1), tiny_llama(0)  # this way around z > 0
    theirs, their_reference = copy.deepcopy(model), copy.deepcopy(reference)
    trainer, inputs = trl_kto(theirs, their_reference, str(tmp_path), **KTO_KNOBS)
    theirs.eval()
    want = trainer.compute_loss(theirs, inputs)
    batch = batch_of([
        (prompt, [response, [], other] if label else [[], response, other])
        for prompt, response, label, other in unpaired_examples()
    ])  # fmt: skip
    got = ours(model, reference, DPO(loss_type="kto", **KTO_KNOBS), batch)
    loss, grad = deviation(got, want), deviation(gradient(got, model), gradient(want, theirs))
    record_property("deviation", f"loss {loss:.1e} gradient {grad:.1e}")
    assert loss < TOLERANCE and grad < TOLERANCE
    assert trainer._metrics["eval"]["kl"][-1] > 0


@pytest.mark.parametrize("seeds", [(1, 0), (0, 1)], ids=["z above 0", "z at 0"])
@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_unpaired_losses_and_metrics_are_trl_s(loss_type: str, seeds: tuple[int, int], tmp_path, record_property):
    """Loss, gradient, and each metric that TRL's KTOTrainer logs of its one batch, in float32 as its kernel has it."""
    model, reference = map(tiny_llama, seeds)
    theirs, their_reference = copy.deepcopy(model), copy.deepcopy(reference)
    trainer, inputs = trl_kto(theirs, their_reference, str(tmp_path), loss_type=loss_type, **KTO_KNOBS)
    theirs.eval()
    want = trainer.compute_loss(theirs, inputs)
    objective = KTO(loss_type=loss_type, **KTO_KNOBS)
    rows = unpaired_examples()
    batch = batch_of([(prompt, [response, other][: 1 + objective.cross_batch]) for prompt, response, _, other in rows])
    batch = batch.with_columns(label=torch.tensor([label for _, _, label, _ in rows]))
    got = ours(model, reference, objective, batch)
    loss, grad = deviation(got, want), deviation(gradient(got, model), gradient(want, theirs))
    record_property("deviation", f"loss {loss:.1e} gradient {grad:.1e}")
    assert loss < 1e-6 and grad < 1e-6
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    assert (logged["kl"] > 0) == (loss_type == "kto" and seeds == (1, 0))
    with torch.no_grad():
        batch = batch.with_columns(ref_logps=forward(reference, batch, frozenset({"logps"})).required("logps"))
        out = forward(model, batch, objective.outputs)
        accumulator = MetricsAccumulator()
        accumulator.add(objective.loss(out, with_statistics(objective, batch, out)).metrics)
    found = accumulator.read()
    assert (found.pop("count/chosen"), found.pop("count/rejected")) == (4, 5)
    not_ours = {"entropy", "num_tokens", "logits/chosen", "logits/rejected"} | ({"kl"} - found.keys())
    if "kl" in found:  # of differences of log-probs of responses, about 70 each, whose last digit in float32 is 8e-6
        assert found.pop("kl") == pytest.approx(logged.pop("kl"), abs=8e-6)
    assert found == pytest.approx({k: v for k, v in logged.items() if k not in not_ours}, rel=1e-6, abs=1e-6)


def test_trl_s_kto_depends_on_the_micro_batch_and_ours_does_not(tmp_path):
    """TRL takes z and the mean over a micro-batch: two halves of the batch, averaged, are not the whole."""
    model, reference = tiny_llama(1), tiny_llama(0)
    theirs = copy.deepcopy(model)
    trainer, inputs = trl_kto(theirs, copy.deepcopy(reference), str(tmp_path), **KTO_KNOBS)
    theirs.eval()
    whole = trainer.compute_loss(theirs, inputs)
    halves = [trainer.compute_loss(theirs, {k: v[part] for k, v in inputs.items()}) for part in (slice(4), slice(4, 9))]
    assert deviation(sum(halves) / 2, whole) > 1e-3
    objective, rows = KTO(**KTO_KNOBS), unpaired_examples()
    batch = batch_of([(prompt, [response, other]) for prompt, response, _, other in rows])
    batch = batch.with_columns(label=torch.tensor([label for _, _, label, _ in rows]))
    with torch.no_grad():
        batch = batch.with_columns(ref_logps=forward(reference, batch, frozenset({"logps"})).required("logps"))
        out = forward(model, batch, objective.outputs)
        batch, sizes = with_statistics(objective, batch, out), objective.sizes(batch)
        parts = [
            objective.loss(Outputs(logps=out.required("logps")[part]), batch.rows(part)).reduced(sizes)
            for part in (slice(4), slice(4, 9))
        ]
    assert deviation(sum(parts), whole) < TOLERANCE
