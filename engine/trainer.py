"""One step of training and the answers to test images: net, loss, optimiser and precision, on one device or many."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .graph import StepGraph, make_capturable
from .meter import Meter
from .optim import set_learning_rate
from .precision import Precision
from .world import World


class Trainer:
    """Trains and tests a net, a batch at a time.

    Parameters
    ----------
    net, loss : nn.Module
        `loss(logits, target)` is a mean over the batch.
    optimizer : torch.optim.Optimizer
    world : World
    precision : Precision
    rate : callable
        The learning rate of a step, counted from 0.
    k_of : callable, optional
        The k of the loss in a step; `loss.anneal` takes it.
    mix : callable, optional
        ``mix(images, labels, step)`` returns mixed images and class probabilities; see ``engine.mixing``.
    channels_last : bool
        The memory layout that the net wants.
    accumulate : int
        Run each batch in this many parts, where it has the images.
    clip_grad : float
        Largest Euclidean norm of the gradient; 0: no limit.
    ema : float
        Decay of a moving average of the weights and buffers, `averaged`; 0: none.
    compiled : bool
        ``torch.compile`` net and loss, one graph a shape.
    graphed : bool
        Record a step and a test of a batch as CUDA graphs and replay them (see
        :func:`engine.graph.why_not_graph`).
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        world: World,
        precision: Precision,
        rate: Callable[[int], float],
        *,
        k_of: Callable[[int], float] | None = None,
        mix: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] | None = None,
        channels_last: bool = False,
        accumulate: int = 1,
        clip_grad: float = 0.0,
        ema: float = 0.0,
        compiled: bool = False,
        graphed: bool = False,
    ) -> None:
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.world, self.precision = world, precision
        self.rate, self.k_of, self.mix = rate, k_of, mix
        self.accumulate, self.clip_grad = accumulate, clip_grad
        self.compiled, self.graphed = compiled, graphed
        self.meter = Meter(world)
        self._learning = [p for p in net.parameters() if p.requires_grad]
        self._frozen = [module for module in net.modules() if _is_frozen_norm(module)]
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._forward = world.wrap(self._compile(_NetAndLoss(net, loss, precision, self._layout)))
        self._whole_step = None
        self._answers = {False: self._compile(_Answers(net, precision, self._layout))}  # by "of the average?"
        self.averaged = None
        if ema:
            self.averaged = AveragedModel(net, use_buffers=True)
            self._answers[True] = self._compile(_Answers(self.averaged.module, precision, self._layout))
            self._average = get_ema_multi_avg_fn(ema)
            both = [[*m.parameters(), *m.buffers()] for m in (self.averaged.module, net)]
            self._floats = [[x for x in xs if x.is_floating_point()] for xs in both]
            self._counters = [[x for x in xs if not x.is_floating_point()] for xs in both]
        if graphed:
            make_capturable(optimizer, world.device)
            # One pool for all graphs: what one returns is read before the next runs.
            pool = torch.cuda.graph_pool_handle()
            self._whole_step = StepGraph(self._train_on, pool)
            self._answers = {which: StepGraph(answer, pool) for which, answer in self._answers.items()}

    def _compile(self, module: nn.Module) -> nn.Module:
        if not self.compiled:
            return module
        config = torch._dynamo.config
        config.optimize_ddp = False  # or Dynamo cuts the graph at each of DDP's buckets
        # Eight shapes are torch's limit; --accumulate, --val-split and --ema together make 7 to 14.
        limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
        setattr(config, limit, 64)
        # dynamic=False, or the smaller last batch makes a graph for all sizes that then serves all batches.
        return torch.compile(module, dynamic=False)

    def train_mode(self, step: int) -> None:
        """Before the steps of an epoch, the first of which is `step`."""
        self.net.train()
        for module in self._frozen:  # the statistics of layers that do not learn stay as they are
            module.eval()
        self._set_rate_and_k(step)

    def step(self, images: Tensor, labels: Tensor, step: int, whole_batch: int) -> None:
        """Train on one batch.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            The part of the global batch that this process has.
        labels : Tensor of int64, shape (B,)
        step : int
            Counted from 0. Learning rate, k and mixing are functions of it.
        whole_batch : int
            Images of the global batch.
        """
        world = self.world
        self._set_rate_and_k(step)
        images, target = self.mix(images, labels, step) if self.mix else (images, labels)
        parts = parts_of(whole_batch, world.size, self.accumulate)
        cut = zip(*(x.tensor_split(parts) for x in (images, labels, target)), strict=True)
        weight = getattr(self.loss, "weight", None)
        weighted = weight is not None and not target.is_floating_point() and parts * world.size > 1

        def size(target):
            """What the loss's mean divides by."""
            return weight[target].sum() if weighted else len(target)

        whole = world.sum(size(target)) if weighted else whole_batch
        for part, (some_images, some_labels, some_target) in enumerate(cut, 1):
            # DDP averages over processes, however uneven their shares: make it the whole batch's mean.
            share = size(some_target) * world.size / whole
            if self._whole_step is not None:
                loss, logits, norm = self._whole_step(some_images, some_target)
            elif part == parts:
                loss, logits, norm = self._train_on(some_images, some_target, share)
            else:
                with world.unsynchronised(self._forward):
                    loss, logits = self._backward(some_images, some_target, share)
                norm = None
            self.meter.update(loss, logits, some_labels, step + 1, norm)
        if self.averaged is not None:
            self._update_average()

    def _set_rate_and_k(self, step: int) -> None:
        set_learning_rate(self.optimizer, self.rate(step))
        if self.k_of:
            self.loss.anneal(self.k_of(step))

    def _backward(self, images: Tensor, target: Tensor, share: float) -> tuple[Tensor, Tensor]:
        loss, logits = self._forward(images, target)
        self.precision.scaler.scale(loss * share).backward()
        return loss, logits

    def _train_on(
        self, images: Tensor, target: Tensor, share: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The last or only part of a batch, and the optimiser's step: loss, logits and the gradient's norm."""
        loss, logits = self._backward(images, target, share)
        norm = self._norm()
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        self.optimizer.zero_grad()
        return loss.detach(), logits.detach(), norm

    def _norm(self) -> Tensor | None:
        """The gradient's norm, clipped where that is wanted, for the watch on divergence."""
        scaler = self.precision.scaler
        norm = None
        if self.clip_grad:
            scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self._learning, self.clip_grad)
        # float16's scaler steps over infinite gradients: that is no divergence
        if scaler.is_enabled():
            return None
        if norm is None:
            norm = nn.utils.get_total_norm([p.grad for p in self._learning if p.grad is not None])
        return norm

    @torch.no_grad()
    def _update_average(self) -> None:
        # AveragedModel.update_parameters copies a counter to the GPU and waits for it; this does not.
        if self.averaged.n_averaged == 0:
            torch._foreach_copy_(*self._floats)
        else:
            self._average(*self._floats, None)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)
        self.averaged.n_averaged += 1

    def share_statistics(self) -> None:
        """Before a test: give all processes the running statistics of rank 0, which training steps do not read."""
        self.world.share(self.net.buffers())
        if self.averaged is not None:
            self.world.share(self.averaged.module.buffers())

    def test_mode(self) -> None:
        """Before a test."""
        self.net.eval()
        if self.averaged is not None:
            self.averaged.eval()

    @torch.inference_mode()
    def answer(self, images: Tensor, averaged: bool = False) -> Tensor:
        """The net's float32 logits (B, C) of a test batch, or those of the average of its weights."""
        (logits,) = self._answers[averaged](images)
        return logits.to(torch.float32, copy=self.graphed)  # the next replay of a graph overwrites them


class _NetAndLoss(nn.Module):
    """Images and targets to loss and logits: what is compiled, and what DDP wraps.

    Compiling inside of DDP leaves one graph; around it, DDP's hooks would break it into four or five.
    """

    def __init__(
        self, net: nn.Module, loss: nn.Module, precision: Precision, layout: torch.memory_format
    ) -> None:
        super().__init__()
        self.net, self.loss, self.precision, self.layout = net, loss, precision, layout

    def forward(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        images = images.contiguous(memory_format=self.layout)
        with self.precision.autocast():
            logits = self.net(images)
            return self.loss(logits, target), logits


class _Answers(nn.Module):
    """Images to logits, in a tuple as a graph wants it."""

    def __init__(self, net: nn.Module, precision: Precision, layout: torch.memory_format) -> None:
        super().__init__()
        self.net, self.precision, self.layout = net, precision, layout

    def forward(self, images: Tensor) -> tuple[Tensor]:
        with self.precision.autocast():
            return (self.net(images.contiguous(memory_format=self.layout)),)


def _is_frozen_norm(module: nn.Module) -> bool:
    parameters = list(module.parameters(recurse=False))
    has_statistics = getattr(module, "running_mean", None) is not None
    return has_statistics and bool(parameters) and not any(p.requires_grad for p in parameters)


def parts_of(whole_batch: int, world_size: int, accumulate: int) -> int:
    """Into how many parts every process cuts its share of the batch.

    The smallest share decides, since each part needs two images for batch normalisation. All processes do the
    same number of forward passes, so collectives within them (SyncBatchNorm) meet.
    """
    return max(1, min(accumulate, whole_batch // world_size // 2))


def linear_in_inverse(start: float, end: float, steps: int) -> Callable[[int], float]:
    """The k of a step: 1/k goes linearly from 1/`start` in the first to 1/`end` in the last of `steps`."""

    def k_of(step: int) -> float:
        t = step / max(1, steps - 1)
        return 1 / ((1 - t) / start + t / end)

    return k_of
