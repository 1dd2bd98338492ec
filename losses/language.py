"""The losses as a ``compute_loss_func`` for the trainers of Hugging Face: next-word prediction."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import at_least_float32, check_real
from .focal import focal_from_ce
from .registry import LOSSES, build_loss, loss_parameters
from .rooted import rlo_from_ce, root_from_ce

OF_CE: dict[str, Callable[..., Tensor]] = {
    "root": root_from_ce,
    "rlo": rlo_from_ce,
    "focal": focal_from_ce,
    "ce": at_least_float32,
}
# Outputs of models whose label t belongs to logits t: encoder-decoders, masked language models, taggers.
ALIGNED = ("Seq2Seq", "MaskedLM", "TokenClassifier")


class CausalLMLoss(nn.Module):
    """Loss of next-word predictions, for ``transformers.Trainer`` and TRL's ``SFTTrainer``.

        Trainer(model, args, train_dataset=texts, compute_loss_func=CausalLMLoss("root", k=5, m=5))

    The logits of token t meet label t + 1. The sum over all counted labels is divided by the trainer's
    ``num_items_in_batch``, the number of labels in all micro-batches of a step: 1 × 8, 2 × 4 and 8 × 1 texts
    then train alike, however uneven they are. Without that number, as in evaluation, it is the mean over this
    batch's labels. With a `compute_loss` of your own, multiply by the number of processes: the number counts the
    labels of all of them, and their gradients are averaged. docs/language-models.md has fused heads, which hold
    no logits, and TRL.

    The plain cross entropy of the last batch, a mean over its labels, is kept as ``last_ce``: a rooted loss is
    smaller by orders of magnitude, and its exponential is no perplexity.

    >>> loss = CausalLMLoss("root", k=1, m=1)
    >>> loss((torch.zeros(1, 3, 10),), torch.tensor([[1, 2, 3]])), loss.last_ce
    (tensor(0.9000), tensor(2.3026))

    Parameters
    ----------
    loss : str
        A name of ``LOSSES``: "root", "rlo", "ce", "focal".
    k, m : float > 0
        Root and scale of "root" and "rlo". k = m = 5 is what the authors fine-tuned OPT with.
    ignore_index : int
        −100 and nothing else: trainers count the labels that are not −100.
    label_smoothing : float in [0, 1]
        A trainer's own ``label_smoothing_factor`` does not reach a `compute_loss_func`.
    weight : Tensor, shape (V,), optional
        A factor for each word.
    alpha, gamma : float, optional
        Of "focal".
    shift : bool
        False takes label t for logits t, as encoder-decoders, masked language models and taggers have it.
    level : {"token", "sequence"}
        "sequence" applies φ to the mean cross entropy of each text, times its number of labels: a whole text is
        trusted or not. A row is a text, unless ``forward`` is given `position_ids`. "ce" is the same on both levels.
    router_aux_loss_coef : float ≥ 0, optional
        The factor of a mixture of experts' ``aux_loss``: pass ``model.config.router_aux_loss_coef``.

    Raises
    ------
    ValueError
        For an unknown loss, an option that it does not have or that is out of range; in ``forward`` for outputs
        without logits, labels that are missing or do not fit, and outputs whose labels are not to be shifted.

    References
    ----------
    transformers issues 36331 and 39567, on gradient accumulation with a loss of one's own.
    """

    def __init__(
        self,
        loss: str = "root",
        k: float = 5.0,
        m: float = 5.0,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        weight: Tensor | None = None,
        alpha: float | None = None,
        gamma: float | None = None,
        shift: bool = True,
        level: str = "token",
        router_aux_loss_coef: float | None = None,
    ) -> None:
        super().__init__()
        if ignore_index != -100:
            raise ValueError(
                f"ignore_index must be -100, which trainers count by, got {ignore_index}: "
                "labels.masked_fill(labels == ignore_index, -100)"
            )
        name = str(loss).lower()
        numbers = loss_parameters(name) if name in LOSSES else {}
        given = {key: value for key, value in {"alpha": alpha, "gamma": gamma}.items() if value is not None}
        if "k" in numbers:
            given |= {"k": k, "m": m}
        elif name in LOSSES and (k, m) != (5.0, 5.0):
            raise ValueError(f"loss {loss!r} has no k and m, got k={k!r}, m={m!r}")
        if name in LOSSES and not given.keys() <= numbers.keys():
            raise ValueError(f"loss {loss!r} has no {' and '.join(given.keys() - numbers.keys())}")
        self.total = build_loss(
            loss, weight=weight, label_smoothing=label_smoothing, reduction="sum", **given
        )
        is_plain = weight is None and not label_smoothing
        self.numbers = tuple(numbers)
        self.of_ce: Callable[..., Tensor] | None = OF_CE.get(name) if is_plain else None
        if level not in ("token", "sequence"):
            raise ValueError(f"level must be token or sequence, got {level!r}")
        if level == "sequence" and self.of_ce is None:
            raise ValueError(f"level='sequence' takes {', '.join(OF_CE)}, without weight and label_smoothing")
        if router_aux_loss_coef is not None:
            check_real("router_aux_loss_coef", router_aux_loss_coef, 0)
        self.shift, self.level, self.router_aux_loss_coef = shift, level, router_aux_loss_coef
        self.last_ce: Tensor | None = None

    def anneal(self, k: float) -> None:
        """Move k, and m with it so that m/k stays, from a ``TrainerCallback.on_step_begin``."""
        loss: Any = self.total
        if not hasattr(loss, "anneal"):
            raise ValueError("only root and rlo have a k to anneal")
        loss.anneal(k)

    def forward(
        self,
        outputs,
        labels: Tensor | None,
        num_items_in_batch: Tensor | int | None = None,
        *,
        shift_labels: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Loss of a model's `outputs`: with ``logits`` (B, T, V), or a tuple that begins with them; `labels` (B, T).

        `shift_labels` (B, T) are labels that were shifted before, as sequence parallelism does: they are used as
        they are. `position_ids` (B, T) begin at 0 in each of the texts that are packed in a row.
        """
        logits = _logits(outputs)
        targets = self._targets(outputs, labels, shift_labels, logits)
        counted = targets != -100
        flat = at_least_float32(logits.flatten(0, -2))  # torch's own cross entropy stays in half
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.of_ce is not None):
            ell = F.cross_entropy(flat, targets.flatten(), reduction="none")
        here = counted.sum()
        self.last_ce = (ell.detach() / here).sum()
        if self.of_ce is None:
            total = self.total(flat, targets.flatten())
        else:
            phi = functools.partial(self.of_ce, **{name: getattr(self.total, name) for name in self.numbers})
            total = (
                phi(ell) if self.level == "token" else self._by_text(phi, ell, counted, position_ids)
            ).sum()
        # A step without one label is 0, and moves nothing.
        count = (
            here if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=total.device)
        )
        count = count.clamp(min=1)
        aux_loss = getattr(outputs, "aux_loss", None)
        if aux_loss is None:
            return total / count
        if self.router_aux_loss_coef is None:
            warnings.warn(
                "the outputs have an aux_loss, which balances experts and is left out: pass "
                "router_aux_loss_coef=model.config.router_aux_loss_coef, or 0",
                stacklevel=2,
            )
            self.router_aux_loss_coef = 0.0  # warn once
        # Micro-batches and processes share it by their labels.
        return (total + self.router_aux_loss_coef * here * aux_loss.to(total.device)) / count

    def _targets(self, outputs, labels, shift_labels, logits: Tensor) -> Tensor:
        """The label of each of the logits (B, T)."""
        given = labels if shift_labels is None else shift_labels
        if given is None:
            raise ValueError(
                "CausalLMLoss needs labels: the batch must have a key 'labels' (-100: not counted)"
            )
        if given.shape != logits.shape[:-1]:
            raise ValueError(
                "labels must have the shape of the logits without the vocabulary, "
                f"{tuple(logits.shape[:-1])}, got {tuple(given.shape)}"
            )
        kind = type(outputs).__name__
        if self.shift and shift_labels is None:
            if kind.startswith(ALIGNED):
                raise ValueError(
                    f"labels of {kind} belong to the logits as they are: CausalLMLoss(shift=False)"
                )
            given = F.pad(given[..., 1:], (0, 1), value=-100)  # the labels move, not the logits
        return given.to(logits.device)

    def _by_text(self, phi, ell: Tensor, counted: Tensor, position_ids: Tensor | None) -> Tensor:
        """n φ(mean ℓ) of each text, n its number of labels."""
        rows, length = counted.shape[0], counted[0].numel()
        if position_ids is None:
            if rows == 1:
                raise ValueError(
                    "level='sequence' cannot tell whether one row holds one text or several that are packed: "
                    "call it with position_ids, which begin at 0 in each text"
                )
            text = torch.arange(rows, device=ell.device).repeat_interleave(length)
        else:
            begins = (position_ids.to(ell.device).expand(rows, -1) == 0).clone()
            begins[:, 0] = True
            if self.shift:  # a prediction belongs to the text of the word that is predicted
                begins = torch.cat([begins[:, :1], begins[:, 2:], begins.new_zeros(rows, 1)], 1)[:, :length]
            text = begins.flatten().cumsum(0) - 1
        zeros = ell.new_zeros(len(ell))  # there are no more texts than words
        n = zeros.index_add(0, text, counted.flatten().to(ell.dtype))
        return n * phi(zeros.index_add(0, text, ell) / n.clamp(min=1))


def _logits(outputs) -> Tensor:
    logits = getattr(outputs, "logits", None)
    if logits is None and not hasattr(outputs, "logits"):
        first = outputs[0] if isinstance(outputs, tuple) and outputs else None
        logits = outputs.get("logits") if isinstance(outputs, dict) else first
    if not isinstance(logits, Tensor) or logits.dim() == 0:
        raise ValueError(
            "the outputs have no logits: a fused head keeps none. Turn it off, or take its losses by token, "
            "as root_from_ce(-outputs.log_probs, k, m): docs/language-models.md"
        )
    if logits.dim() < 3:
        raise ValueError(
            "CausalLMLoss is for next words, with logits (batch, tokens, words), got "
            f"{tuple(logits.shape)}; for one class a sample pass a function that calls root_loss"
        )
    return logits
