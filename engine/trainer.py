"""One step of training and one of testing: net, loss, optimiser and precision, on one device or many."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from .distributed import World
from .graph import StepGraph, make_capturable
from .meter import Meter
from .optim import set_learning_rate
from .precision import Precision
from .scores import Scores


class NetAndLoss(nn.Module):
    """Images and targets to loss and logits: what is compiled, and what DDP wraps.

    Compiling inside of DDP leaves one graph; around it, DDP's hooks would break it into four or five.
    """

    def __init__(self, net: nn.Module, loss: nn.Module, precision: Precision, channels_last: bool) -> None:
        super().__init__()
        self.net, self.loss, self.precision = net, loss, precision
        # Convolutions are fastest where a pixel's channels lie together.
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        images = images.contiguous(memory_format=self.layout)
        with self.precision.autocast():
            logits = self.net(images)
            return self.loss(logits, target), logits


class Trainer:
    """Trains and tests a net, a batch at a time.

    Parameters
    ----------
    net, loss : nn.Module
        `loss(logits, target)` is a mean over the batch.
    optimizer : torch.optim.Optimizer
    world : World
    precision : Precision
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
        *,
        channels_last: bool = False,
        accumulate: int = 1,
        clip_grad: float = 0.0,
        ema: float = 0.0,
        compiled: bool = False,
        graphed: bool = False,
    ) -> None:
        self.net, self.loss, self.optimizer, self.world, self.precision = (
            net, loss, optimizer, world, precision,
        )  # fmt: skip
        self.meter = Meter(world)
        self.accumulate, self.clip_grad, self.compiled = accumulate, clip_grad, compiled
        self._parameters = [p for p in net.parameters() if p.requires_grad]
        self._frozen = [m for m in net.modules() if _is_frozen_norm(m)]
        inner = NetAndLoss(net, loss, precision, channels_last)
        # dynamic=False: else the smaller last batch makes a graph for all sizes, that then serves all batches
        self._forward = torch.compile(inner, dynamic=False) if compiled else inner
        if compiled:
            config = torch._dynamo.config
            # else Dynamo cuts the graph at each of DDP's buckets
            config.optimize_ddp = False
            # of 8 shapes, where --accumulate, --val-split and --ema together make 7 to 14
            setattr(
                config, "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit", 64
            )
        self._synchronised = world.wrap(self._forward)
        self._whole, self.graphed = None, graphed
        self._tests = {False: self._forward}  # by whether it is of the average
        self.averaged = None
        if ema:
            self.averaged = AveragedModel(net, use_buffers=True)
            self._average = get_ema_multi_avg_fn(ema)
            both = [[*m.parameters(), *m.buffers()] for m in (self.averaged.module, net)]
            self._floats = [[x for x in xs if x.is_floating_point()] for xs in both]
            self._counters = [[x for x in xs if not x.is_floating_point()] for xs in both]
            inner = NetAndLoss(self.averaged.module, loss, precision, channels_last)
            self._tests[True] = torch.compile(inner, dynamic=False) if compiled else inner
        if graphed:
            make_capturable(optimizer, world.device)
            # one for all graphs: what one returns is read before the next runs
            pool = torch.cuda.graph_pool_handle()
            self._whole = StepGraph(self._train_on, pool)
            self._tests = {which: StepGraph(test, pool) for which, test in self._tests.items()}

    def step(
        self, images: Tensor, labels: Tensor, target: Tensor, step: int, lr: float, whole_batch: int
    ) -> None:
        """Train on one batch.

        Parameters
        ----------
        images : Tensor, shape (B, 3, H, W)
            The part of the global batch that this process has.
        labels : Tensor of int64, shape (B,)
            For the accuracy.
        target : Tensor
            For the loss: the labels, or class probabilities of shape (B, C).
        step : int
            Counted from 1, for the record.
        lr : float
        whole_batch : int
            Images of the global batch.
        """
        world = self.world
        set_learning_rate(self.optimizer, lr)
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
            if self._whole is not None:
                loss, logits, norm = self._whole(some_images, some_target)
            elif part == parts:
                loss, logits, norm = self._train_on(some_images, some_target, share)
            else:
                with world.unsynchronised(self._synchronised):
                    loss, logits = self._backward(some_images, some_target, share)
                norm = None
            self.meter.update(loss, logits, some_labels, step, norm)
        if self.averaged is not None:
            self._update_average()

    def _backward(self, images: Tensor, target: Tensor, share: float) -> tuple[Tensor, Tensor]:
        loss, logits = self._synchronised(images, target)
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

    @torch.no_grad()
    def _update_average(self) -> None:
        # not by AveragedModel.update_parameters, which copies a counter to the GPU and waits for it
        if self.averaged.n_averaged == 0:
            torch._foreach_copy_(*self._floats)
        else:
            self._average(*self._floats, None)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)
        self.averaged.n_averaged += 1

    def _norm(self) -> Tensor | None:
        """The gradient's norm, clipped where that is wanted, for the watch on divergence."""
        scaler = self.precision.scaler
        norm = None
        if self.clip_grad:
            scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self._parameters, self.clip_grad)
        # float16's scaler steps over infinite gradients: that is no divergence
        if scaler.is_enabled():
            return None
        if norm is None:
            norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        return norm

    def train_mode(self) -> None:
        """Before the steps of an epoch."""
        self.net.train()
        for module in self._frozen:  # the statistics of layers that do not learn stay as they are
            module.eval()

    def test(self, images: Tensor, labels: Tensor, averaged: bool = False) -> tuple[Tensor, Tensor]:
        """Mean loss and logits (B, C) of a test batch; call it under ``torch.inference_mode()``."""
        loss, logits = self._tests[averaged](images, labels)
        # the next replay of a graph overwrites them
        return (loss.clone(), logits.clone()) if self.graphed else (loss, logits)

    def test_on(
        self,
        batches,
        scores: Scores,
        averaged: bool = False,
        most: int = 0,
        after_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """Add the net's answers to a loader's images to `scores`, or those of the average of its weights.

        Parameters
        ----------
        batches : sized iterable of (images, labels)
            Processes may have one more than others; they agree on how often `after_batch` is called.
        scores : Scores
        averaged : bool
        most : int
            Batches at most; 0: all.
        after_batch : callable
        """
        world = self.world
        length = max(world.gather(len(batches)))
        remaining = iter(batches)
        self.test_mode()
        with torch.inference_mode():
            for _ in tqdm(
                range(min(length, most) if most else length), desc="test", unit="batch", leave=False,
                disable=None if world.is_main else True,
            ):  # fmt: skip
                batch = next(remaining, None)
                if batch is not None:
                    loss, logits = self.test(*batch, averaged)
                    scores.update(loss, logits, batch[1])
                after_batch()

    def test_mode(self) -> None:
        """Before a test; processes then have the same running statistics."""
        self.net.eval()
        if self.averaged is not None:
            self.averaged.eval()


def _is_frozen_norm(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    has_statistics = getattr(module, "running_mean", None) is not None
    return has_statistics and bool(own) and not any(p.requires_grad for p in own)


def parts_of(whole_batch: int, world_size: int, accumulate: int) -> int:
    """Into how many parts every process cuts its share of the batch.

    The smallest share decides, since each part needs two images for batch normalisation. All processes do the
    same number of forward passes, so collectives within them (SyncBatchNorm) meet.
    """
    return max(1, min(accumulate, whole_batch // world_size // 2))


def linear_in_inverse(start: float, end: float) -> Callable[[float], float]:
    """k at the share t ∈ [0, 1] of a run: 1/k goes linearly from 1/`start` to 1/`end`."""
    return lambda t: 1 / ((1 - t) / start + t / end)
