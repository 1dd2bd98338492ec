"""Mixed precision where it pays, the choice of kernels, and whether to compile."""

import os

import torch

from common import UserError


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
        # Matrix products that stay in float32 use TF32; the device line says so.
        self.tf32 = on_gpu and has_bf16  # both came with capability 8.0
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        self.device = device
        self.mixed = amp != "off"
        self.half = torch.float16 if amp == "fp16" else torch.bfloat16
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.half, enabled=self.mixed)

    def __str__(self) -> str:
        half, full = (
            str(self.half).removeprefix("torch."),
            "float32 (TF32 products)" if self.tf32 else "float32",
        )
        return half if self.mixed else full


def _cpu_has_bf16() -> bool:
    """Whether oneDNN computes in bfloat16 on this processor."""
    try:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # torch without oneDNN
        return False


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
    torch.utils.deterministic.fill_uninitialized_memory = False  # the code reads none
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward pass adds in any order
    try:
        from torch._inductor import config
    except ImportError:
        return
    if hasattr(config, "deterministic"):
        config.deterministic = True


def choose_compile(wanted: str, pays: bool) -> bool:
    """Whether to compile; `wanted` is "on", "off", or "auto": where it `pays` and Triton is there.

    With "on", torch says at the first step what it lacks.
    """
    if wanted == "auto":
        from torch.utils._triton import has_triton

        return pays and has_triton()
    return wanted == "on"
