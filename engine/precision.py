"""Mixed precision where it pays, float32 elsewhere."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the host, had no room for a tensor; torch says so in several ways."""
    said = ("allocate memory", "Storage size calculation overflowed", "not enough memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        text in str(error) for text in said
    )


class Precision:
    """bfloat16 autocast on CUDA, or float16 with a gradient scaler on GPUs that lack bfloat16.

    Parameters
    ----------
    device : torch.device
    mixed : bool
        False: float32 throughout (with TF32 matrix products, which ``highest`` would forbid).

    Attributes
    ----------
    scaler : torch.amp.GradScaler
        Does nothing unless float16 is in use.
    """

    def __init__(self, device: torch.device, mixed: bool = True) -> None:
        torch.set_float32_matmul_precision("high")
        self.device = device
        self.mixed = mixed and device.type == "cuda"
        self.half = torch.float16 if self.mixed and not torch.cuda.is_bf16_supported() else torch.bfloat16
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.mixed and self.half == torch.float16)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.half, enabled=self.mixed)

    def __str__(self) -> str:
        return str(self.half if self.mixed else torch.float32).removeprefix("torch.")
