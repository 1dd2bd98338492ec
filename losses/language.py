"""The losses as a ``compute_loss_func`` for the trainers of Hugging Face: next-word prediction."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import at_least_float32
from .registry import build_loss, loss_names, loss_parameters


class CausalLMLoss(nn.Module):
    """Loss of next-word predictions, for ``transformers.Trainer`` and TRL's ``SFTTrainer``.

        Trainer(model, args, train_dataset=texts, compute_loss_func=CausalLMLoss("root", k=5, m=5))

    The logits of token t meet label t + 1. The sum over all counted labels is divided by the trainer's
    ``num_items_in_batch``, the number of labels in all micro-batches of a step: 1 × 8, 2 × 4 and 8 × 1 texts
    then train alike, however uneven they are. (A mean over each micro-batch would weigh a short text's
    labels more.) Called without that number, as in evaluation, it is the mean over this batch's labels.

    TRL 1.16 takes it as ``SFTTrainer(…, compute_loss_func=CausalLMLoss())``, but warns that its version 2 will
    not, and meanwhile runs the model a second time a step for its metrics. An override does without both:

        class RootedTrainer(SFTTrainer):
            compute_loss = transformers.Trainer.compute_loss
        trainer = RootedTrainer(…)
        trainer.compute_loss_func = CausalLMLoss("root", k=5, m=5)

    With a `compute_loss` of your own, multiply by the number of processes: ``num_items_in_batch`` counts the labels
    of all of them, and their gradients are averaged. A ``label_smoothing_factor`` among the trainer's arguments does
    not reach a `compute_loss_func`: pass `label_smoothing` here.

    Parameters
    ----------
    loss : str
        A name of ``LOSSES``: "root", "rlo", "ce", "focal".
    k, m : float > 0
        Root and scale of "root" and "rlo". k = m = 5 is what the authors fine-tuned OPT with.
    ignore_index : int
        Labels that do not count: padding, prompts.
    **options
        Further arguments of the loss: `label_smoothing`, `weight`; `alpha`, `gamma` of "focal".

    Raises
    ------
    ValueError
        For an unknown loss, k or m for one that has none, or labels that are missing or do not fit.

    References
    ----------
    transformers issues 36331 and 39567, on gradient accumulation with a loss of one's own.
    """

    def __init__(
        self, loss: str = "root", k: float = 5.0, m: float = 5.0, *, ignore_index: int = -100, **options
    ) -> None:
        super().__init__()
        name = str(loss).lower()
        if name in loss_names() and "k" in loss_parameters(name):
            options |= {"k": k, "m": m}
        elif name in loss_names() and (k, m) != (5.0, 5.0):
            raise ValueError(f"loss {loss!r} has no k and m, got k={k!r}, m={m!r}")
        self.ignore_index = ignore_index
        self.total = build_loss(loss, ignore_index=ignore_index, reduction="sum", **options)
        self.mean = build_loss(loss, ignore_index=ignore_index, reduction="mean", **options)

    def forward(self, outputs, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Loss of a model's `outputs`: with ``logits`` (B, T, V), or a tuple that begins with them; `labels` (B, T)."""
        logits = getattr(outputs, "logits", None)
        if logits is None:
            logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        if labels is None:
            raise ValueError(
                "CausalLMLoss needs labels: the batch must have a key 'labels' (-100: not counted)"
            )
        if logits.dim() < 3:
            raise ValueError(
                "CausalLMLoss is for next words, with logits (batch, tokens, words), got "
                f"{tuple(logits.shape)}; for one class a sample pass a function that calls root_loss"
            )
        if labels.shape != logits.shape[:-1]:
            raise ValueError(
                "labels must have the shape of the logits without the vocabulary, "
                f"{tuple(logits.shape[:-1])}, got {tuple(labels.shape)}"
            )
        # The labels move, not the logits, which would be copied.
        following = F.pad(labels[..., 1:], (0, 1), value=self.ignore_index).flatten().to(logits.device)
        logits = at_least_float32(logits.flatten(0, -2))  # which torch's own cross entropy does not
        if num_items_in_batch is None:
            return self.mean(logits, following)
        total = self.total(logits, following)
        count = torch.as_tensor(num_items_in_batch, device=total.device)
        return total / count.clamp(min=1)  # a step without one label is 0, and moves nothing
