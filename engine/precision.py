"""Mixed precision where it pays, deterministic kernels, and whether torch.compile works here."""

import os
from collections.abc import Callable
from contextlib import nullcontext

import torch

from common import UserError, one_line


def _cpu_has_bf16() -> bool:
    """Whether oneDNN computes in bfloat16 on this processor."""
    try:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # torch without oneDNN
        return False


class Precision:
    """bfloat16 or float16 autocast, the latter with a gradient scaler; or float32.

    Parameters
    ----------
    device : torch.device
    amp : {"auto", "bf16", "fp16", "off"}
        ``auto`` is bf16 on CUDA GPUs that compute in it (capability 8.0), fp16 on older ones, float32
        elsewhere. Emulated bf16 does not count: it is slower than float32.

    Attributes
    ----------
    scaler : torch.amp.GradScaler
        Does nothing unless float16 is in use.

    Raises
    ------
    UserError
        The device does not compute in what is asked for.
    """

    def __init__(self, device: torch.device, amp: str = "auto") -> None:
        # TF32 matrix products where the rest is float32
        torch.set_float32_matmul_precision("high")
        on_gpu = device.type == "cuda"
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_has_bf16()
        if amp == "auto":
            amp = ("bf16" if has_bf16 else "fp16") if on_gpu else "off"
        if amp != "off" and device.type == "mps":
            raise UserError(f"--amp {amp} works on CUDA and the CPU: leave it out here")
        if amp == "bf16" and not has_bf16:
            this, instead = ("GPU", "use --amp fp16") if on_gpu else ("CPU", "leave it out here")
            raise UserError(f"--amp bf16: this {this} does not compute in bfloat16; {instead}")
        if amp == "fp16" and not on_gpu:
            raise UserError("--amp fp16 needs CUDA: use --amp bf16 or off here")
        self.device = device
        self.mixed = amp != "off"
        self.half = torch.float16 if amp == "fp16" else torch.bfloat16
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.half, enabled=self.mixed)

    def __str__(self) -> str:
        return str(self.half if self.mixed else torch.float32).removeprefix("torch.")


def choose_kernels(device: torch.device, deterministic: bool) -> None:
    """The same kernels in every run of a seed, or the fastest ones.

    Raises
    ------
    UserError
        If ``CUBLAS_WORKSPACE_CONFIG`` contradicts `deterministic`.
    """
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic
    if not deterministic:
        return
    workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if workspace not in (":4096:8", ":16:8"):
        raise UserError(
            f"--deterministic needs CUBLAS_WORKSPACE_CONFIG=:4096:8 or :16:8, got {workspace!r}: unset it"
        )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # we read none
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward pass adds in any order
    try:
        from torch._inductor import config
    except ImportError:
        return
    if hasattr(config, "deterministic"):
        config.deterministic = True


def why_not_compile(device: torch.device) -> str:
    """Why ``torch.compile`` does not work here, in a few words; empty if it does.

    It compiles something small that no cache has: what a compiler made once says nothing of today's.
    """
    number = int.from_bytes(os.urandom(4), "little")
    try:
        from torch._inductor import config
        from torch._inductor.utils import fresh_inductor_cache

        # Triton's cache also has what its C compiler made for other kernels. In this process, since helpers would
        # keep to that directory when it is gone.
        fresh = fresh_inductor_cache() if device.type == "cuda" else nullcontext()
        with fresh, config.patch(compile_threads=1):
            return _why_not(lambda x: x * number + 1, device)
    except Exception as error:  # torch without its compiler
        return one_line(error, 160)


def _why_not(function: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> str:
    try:
        with torch.no_grad():
            torch.compile(function, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # no compiler, no Triton, a GPU too old, …: each has an error of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # torch 2.6 begins with which backend raised what follows
        lines = [line for line in lines if not line.startswith("backend=")]
        return (lines[0] if lines else type(error).__name__)[:160]
    finally:
        torch._dynamo.reset()
    return ""


def choose_compile(wanted: str, device: torch.device, pays: bool) -> tuple[bool, list[str]]:
    """Whether to compile, and notes; `wanted` is "on", "off", or "auto": where it `pays` and works.

    Raises
    ------
    UserError
        If it is on, and does not work here.
    """
    if wanted == "off" or (wanted == "auto" and not pays):
        return False, []
    why_not = why_not_compile(device)
    if why_not and wanted == "on":
        raise UserError(f"--compile on: torch.compile does not work here ({why_not})")
    return not why_not, [f"not compiled, torch.compile does not work here ({why_not})"] if why_not else []
