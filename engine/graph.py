"""A whole training step, or the test of a batch, as one CUDA graph: one launch instead of hundreds.

Steps of small nets and batches take as long as the host needs to launch their kernels, at 5 to 8 µs each. A graph
is recorded once and replayed: forward, loss, backward and optimiser, on the same memory each time.
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from common import UserError, is_out_of_memory, one_line

from .precision import Precision

WARM_UP = 3  # steps before recording: they make the optimiser's state, cuDNN's choices and compiled code


def why_not_graph(precision: Precision, processes: int, accumulate: int, clip_grad: float) -> str:
    """Why a step cannot be one graph here, in a few words; empty if it can."""
    if precision.device.type != "cuda":
        return "only CUDA has graphs, this is " + precision.device.type
    if processes > 1:
        return "it is for one process"
    if accumulate > 1:
        return "a batch in parts (--accumulate) is not one graph"
    if clip_grad and precision.scaler.is_enabled():
        return "--clip-grad with float16 is not recorded; use --amp bf16 or off"
    return ""


def choose_graph(wanted: str, why_not: str, recordable: bool) -> bool:
    """Whether a step is a graph; `wanted` is "on", "off", or "auto": where it is known to be `recordable`.

    A net or an optimiser that waits for the GPU inside would not survive the recording.

    Raises
    ------
    UserError
        If it is on, and cannot be.
    """
    if wanted == "on" and why_not:
        raise UserError(f"--graph on: {why_not}; leave it out here")
    return wanted == "on" or (wanted == "auto" and recordable and not why_not)


def has_room() -> bool:
    """Whether the GPU has room for a graph beside an eager step of a smaller batch: each takes what steps took."""
    stays, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    free, _ = torch.cuda.mem_get_info()
    return stays + 2 * (peak - stays) <= free + torch.cuda.memory_reserved()


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let the optimiser's step be recorded: its learning rate becomes a tensor that steps to come read."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = True


class StepGraph:
    """`step`, recorded and replayed for the shapes that come first; others run as they are.

    Parameters
    ----------
    step : callable
        ``step(*inputs)`` with tensors on the GPU returns a tuple of tensors, or None among them. It must read
        nothing else that changes from step to step but tensors that change in place, and never wait for the GPU.
    pool : opaque, optional
        Memory of ``torch.cuda.graph_pool_handle()``, which graphs that never run at the same time may share.

    Notes
    -----
    What a replay returns is overwritten by the next one, of this graph or of one with the same `pool`. The first
    ``WARM_UP`` steps of a shape are real steps, run on a stream of their own as `torch.cuda.graph` wants it. If the
    GPU then has no room for a graph and a smaller batch beside it, nothing is recorded, and it says so.
    """

    def __init__(self, step: Callable[..., tuple], pool: object = None) -> None:
        self._step, self._pool = step, pool
        self._stream: torch.cuda.Stream | None = None
        self._seen: Counter = Counter()
        self._shapes: tuple | None = None
        self._inputs: list[Tensor] = []
        self._outputs: tuple = ()
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> tuple:
        shapes = tuple((x.shape, x.dtype, x.stride()) for x in inputs)
        if self._shapes is None and self._seen[shapes] == WARM_UP:
            self._shapes = shapes
            if has_room():
                self._record(inputs)
            else:
                tqdm.write("note    without a graph a step: the GPU's memory has no room for one")
        if self._graph is None or shapes != self._shapes:
            self._seen[shapes] += 1
            return self._aside(inputs) if self._shapes is None else self._step(*inputs)
        for held, new in zip(self._inputs, inputs, strict=True):
            held.copy_(new)
        self._graph.replay()
        return self._outputs

    def _aside(self, inputs: tuple[Tensor, ...]) -> tuple:
        # always the same one: memory that one stream has used is not given to another
        self._stream = self._stream or torch.cuda.Stream()
        here, aside = torch.cuda.current_stream(), self._stream
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            outputs = self._step(*inputs)
        here.wait_stream(aside)
        for x in outputs:
            if x is not None:
                x.record_stream(here)
        return outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [x.clone(memory_format=torch.preserve_format) for x in inputs]
        self._graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: what loaders' threads ask of CUDA meanwhile is none of this
            with torch.cuda.graph(self._graph, self._pool, capture_error_mode="thread_local"):
                self._outputs = self._step(*self._inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # CUDA and torch's random numbers are between two states now: nothing can continue from here
            why = one_line(error, 160)
            raise UserError(
                f"this step cannot be recorded as a CUDA graph ({why}): use --graph off"
            ) from error
