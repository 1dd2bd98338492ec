"""A CUDA device that is not there, for tests of the CUDA path on machines without a GPU.

Tensors on it are fake (shape, type, strides, device; no numbers), CPU tensors are real. Each operation is recorded
with the line of this project that made it: its kernels, and whether the host would wait for the device. What a GPU
would refuse, tensors of two devices in one operation, raises here too.

It runs in a process of its own, where the library of `compile_stand_in` answers the few questions that torch's C++
asks a CUDA driver:  ``LD_PRELOAD=stand_in.so python tests/fakecuda.py '{"steps": [{"flags": "--net vit"}]}'``
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
import weakref
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# soname libcuda.so.1: torch takes it for the driver. The second pair are functions of torch's own libraries.
STAND_IN = """
static signed char devices;
static int properties[4096];
void pretend(int count, int major, int minor) { devices = count; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 0; return 0; }
signed char _ZN3c104cuda12device_countEv(void) { return devices; }
void *_ZN2at4cuda26getCurrentDevicePropertiesEv(void) { return properties; }
"""

# Kernels that an operation launches, where that is not one: read off ATen's sources, approximate.
KERNELS = {
    "convolution_backward": 3, "native_layer_norm_backward": 3, "native_batch_norm": 3,
    "native_batch_norm_backward": 3, "_batch_norm_with_update": 2, "batch_norm_backward": 2,
    "_scaled_dot_product_flash_attention_backward": 3, "_scaled_dot_product_efficient_attention_backward": 3,
    "_scaled_dot_product_cudnn_attention_backward": 3, "_index_put_impl_": 8, "index_put": 8, "index_put_": 8,
    "constant_pad_nd": 2, "cumsum": 1,
}  # fmt: skip
NO_KERNEL = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "_unsafe_view",
    "_reshape_alias", "lift_fresh", "record_stream", "set_", "is_pinned", "resize_", "_cudnn_init",
}  # fmt: skip
# The host must know their result, or its size, to continue.
DATA_DEPENDENT = {
    "nonzero", "masked_select", "unique_consecutive", "_unique2", "unique_dim", "equal", "is_nonzero", "bincount",
}  # fmt: skip
# Without a deterministic kernel on CUDA, by the documentation of torch.use_deterministic_algorithms; cumsum: of floats.
NOT_DETERMINISTIC = {
    "avg_pool3d_backward", "adaptive_avg_pool2d_backward", "_adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d_backward", "max_pool3d_with_indices_backward", "adaptive_max_pool2d_backward",
    "fractional_max_pool2d_backward", "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward",
    "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_trilinear3d_backward",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
    "replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward",
    "nll_loss2d_forward", "_ctc_loss_backward", "embedding_bag_backward", "grid_sampler_2d_backward",
    "grid_sampler_3d_backward", "cumsum", "cumsum_", "scatter_reduce", "put_", "histc", "kthvalue", "median",
}  # fmt: skip


class Event(NamedTuple):
    """An operation on the device."""

    op: str
    where: str  # file:line of this project, "" within the backward pass
    function: str  # that the line is in
    kernels: int
    waits: bool  # the host waits for the device
    varies: bool  # it has no deterministic kernel


def compile_stand_in(directory: Path) -> Path | None:
    """Build the library that plays the driver; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler or sys.platform != "linux":
        return None
    source, library = directory / "stand_in.c", directory / "stand_in.so"
    source.write_text(STAND_IN)
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source]
    subprocess.run(command, check=True, capture_output=True)
    return library


def scenarios(library: Path, cwd: Path, timeout: float = 600, **arguments: object) -> list:
    """Run some of `SCENARIOS`, by name and with their argument, in a process of their own; what each returned."""
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(arguments)],
        cwd=cwd, env=os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "gpu")]

    import torch
    from torch._subclasses import fake_tensor
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils import _foreach_utils
    from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
    from torch.utils._pytree import tree_leaves, tree_map

    import models
    import train
    from benchmarks.measure import Training, register_random_images
    from common import UserError, one_line
    from engine.graph import WARM_UP
    from engine.meter import NEVER
    from engine.precision import Precision
    from engine.trainer import Trainer

    class FakeCuda(TorchDispatchMode):
        """Records what is done on the device, in `events`."""

        def __init__(self) -> None:
            super().__init__()
            self.fake = FakeTensorMode(allow_non_fake_inputs=True)
            self.events: list[Event] = []
            self.pinned = weakref.WeakValueDictionary()
            self.recording = False  # a CUDA graph, within which nothing may wait
            self.warns = False  # as after torch.cuda.set_sync_debug_mode("warn")

        def note(self, op: str, kernels: int = 0, waits: bool = False, varies: bool = False) -> None:
            assert not (self.recording and waits), f"{op} waits while a graph is recorded"
            if self.warns and waits:
                warnings.warn(f"called a synchronizing CUDA operation: {op}", stacklevel=3)
            frame = sys._getframe(2)
            while frame and not _is_ours(frame.f_code.co_filename):
                frame = frame.f_back
            where = f"{os.path.relpath(frame.f_code.co_filename, ROOT)}:{frame.f_lineno}" if frame else ""
            function = frame.f_code.co_name if frame else ""
            self.events.append(Event(op, where, function, kernels, waits, varies))

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs, name = dict(kwargs or {}), func._schema.name.split("::")[1]
            leaves = tree_leaves((args, kwargs))
            tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
            fakes = [x for x in tensors if isinstance(x, FakeTensor)]
            real = [x for x in tensors if not isinstance(x, FakeTensor)]
            on_device = any(isinstance(x, torch.device) and x.type == "cuda" for x in leaves)
            if name == "device" or not (fakes or on_device):
                return self.on_host(func, name, args, kwargs)
            composite = torch._C._dispatch_has_kernel_for_dispatch_key(
                func.name(), "CompositeImplicitAutograd"
            )
            if func._can_decompose() and composite:
                with self:  # inference mode hands composite operations over whole
                    out = func.decompose(*args, **kwargs)
                if out is not NotImplemented:
                    return out

            if name == "_local_scalar_dense":
                self.note("item", waits=True)
                return stand_in_numbers(torch.empty((), dtype=fakes[0].dtype)).item()
            masks = (torch.bool, torch.uint8)
            of_mask = name == "index" and any(
                isinstance(i, torch.Tensor) and i.dtype in masks for i in args[1]
            )
            if name in DATA_DEPENDENT or of_mask:
                self.note(name, waits=True)
            non_blocking = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            if name == "copy_" and not isinstance(args[0], FakeTensor):
                self.note("copy to host", waits=not (non_blocking and id(args[0]) in self.pinned))
                return stand_in_numbers(args[0])
            to = kwargs.get("device")
            if name == "_to_copy" and fakes and to is not None and to.type == "cpu":
                self.note("copy to host", waits=not non_blocking)
                dtype = kwargs.get("dtype") or fakes[0].dtype
                return stand_in_numbers(torch.empty(fakes[0].shape, dtype=dtype))
            upload = (name == "_to_copy" and not fakes) or (name == "copy_" and real)
            if upload:
                self.note("copy to device", waits=not non_blocking)
            if name == "_to_copy" and not fakes:
                layout = kwargs.get("memory_format") or torch.preserve_format
                source = real[0] if layout == torch.preserve_format else real[0].to(memory_format=layout)
                shape, dtype = (source.shape, source.stride()), kwargs.get("dtype") or source.dtype
                with self.fake:
                    return torch.empty_strided(*shape, dtype=dtype, device="cuda:0")
            if name.startswith("_fused_"):  # optimisers: some have no meta kernel, and all work in place
                assert not real, "the optimiser was given tensors of two devices"
                self.note(name, _kernels(func, args))
                return None
            with self.fake:
                out = func(*args, **kwargs)
            if not upload:
                varies = name in NOT_DETERMINISTIC and ("cumsum" not in name or args[0].is_floating_point())
                self.note(name, _kernels(func, args), varies=varies)
            return out

        def on_host(self, func, name, args, kwargs):
            pins = name in ("pin_memory", "_pin_memory")
            if not pins and not kwargs.get("pin_memory"):
                return func(*args, **kwargs)
            out = args[0].clone() if pins else func(*args, **kwargs | {"pin_memory": False})
            self.pinned[id(out)] = out
            return out

    def stand_in_numbers(x):
        """What the host reads from the device: the meter's sums (float64) say that no step diverged."""
        return x.fill_(NEVER if x.dtype == torch.float64 else True if x.dtype == torch.bool else 0)

    def _is_ours(path: str) -> bool:
        return path.startswith(str(ROOT)) and ".venv" not in path and path != os.path.realpath(__file__)

    def _kernels(func, args) -> int:
        name, returns = func._schema.name.split("::")[1], func._schema.returns
        view = returns and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if name in NO_KERNEL or view:
            return 0
        if name.startswith(("_fused_", "_foreach_")):  # chunks of 65,536 numbers, 320 of them a launch
            chunks = sum(math.ceil(t.numel() / 65536) for t in args[0])
            tensors = 36 if name.startswith("_fused_") else 110
            return max(1, math.ceil(chunks / 320), math.ceil(len(args[0]) / tensors)) * (
                1 + (name == "_foreach_norm")
            )
        return KERNELS.get(name, 1)

    class _Stream:
        def __init__(self, device=None, **_):
            self.device = device

        def wait_stream(self, other):
            pass

    class _Event:
        def __init__(self, **_):
            pass

        def record(self, *_):
            pass

        def query(self):
            return True

    class _Graph:
        def replay(self):
            pass

    @contextlib.contextmanager
    def fake_cuda(capability: tuple[int, int] = (9, 0)):
        """The device, of this compute capability; gives the `FakeCuda` that records."""
        torch._C._ensureCUDADeviceGuardSet()
        ctypes.CDLL(os.environ["LD_PRELOAD"]).pretend(100, *capability)
        FakeTensorMode.avoid_device_init = property(lambda self: True)
        fake_tensor.init_gpu_context = lambda device: None
        if FakeTensor not in _foreach_utils._foreach_supported_types:
            _foreach_utils._foreach_supported_types.append(FakeTensor)
        mode = FakeCuda()
        about = type("Properties", (), {"major": capability[0], "minor": capability[1], "name": "fake"})
        answers = {
            "is_available": True, "device_count": 1, "set_device": None, "current_device": 0, "_lazy_init": None,
            "mem_get_info": (70 << 30, 80 << 30), "max_memory_allocated": 0, "memory_reserved": 0,
            "memory_allocated": 0, "get_device_capability": capability,
            "get_device_name": "fake", "get_rng_state": None, "set_rng_state": None, "current_stream": _Stream(),
            "stream": contextlib.nullcontext(), "get_device_properties": about, "synchronize": None,
            "reset_peak_memory_stats": None, "empty_cache": None,
        }  # fmt: skip
        for name, answer in answers.items():
            setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
        torch.cuda.graph_pool_handle = lambda: (0, 1)
        torch.cuda.is_current_stream_capturing = lambda: mode.recording
        torch.cuda.get_rng_state = lambda *_: torch.zeros(16, dtype=torch.uint8)
        torch.cuda.Stream, torch.cuda.Event, torch.cuda.CUDAGraph = _Stream, _Event, _Graph

        @contextlib.contextmanager
        def record(graph, pool=None, **_):
            mode.recording = True
            yield
            mode.recording = False

        torch.cuda.graph = record
        torch.cuda.set_sync_debug_mode = lambda how: setattr(mode, "warns", how == "warn")
        torch.Tensor.record_stream = lambda self, stream: None
        torch.version.hip = None
        # torch.tensor(…, device="cuda") is a host tensor and a copy that waits, as in truth
        torch._C._set_only_lift_cpu_tensors(True)
        with mode:
            yield mode

    def steps(cases: list[dict]) -> list[dict]:
        """For each {"flags", "images"}: kernels a step and a test, and where an epoch and a test wait.

        "waits" and "test_waits": of a short epoch (or test) and of a longer one. "meter": kernels of a step that keep
        its record. "norms": how often a step takes the gradient's norm.
        """
        rows = []
        for case in cases:
            # its meta kernel has no odd heads
            torch.backends.cuda.enable_cudnn_sdp("cait" not in case["flags"])
            register_random_images(case.get("images", 64), 32)
            with fake_cuda() as mode:
                flags = "--dataset random --device cuda --graph off --workers 0 " + case["flags"]
                training = Training(flags.split())

                def seen(run, *args, mode=mode, **options):
                    mode.events.clear()
                    run(*args, **options)
                    return list(mode.events)

                training.epoch(steps=1)  # makes the optimiser's state
                batch, count = next(iter(training.data.test)), len(training.data.train)
                if training.trainer.graphed:  # records its graphs
                    for _ in range(WARM_UP):
                        training.epoch()
                    training.test(batches=[batch] * (WARM_UP + 1))
                short, epoch = (seen(training.epoch, 1, steps=steps) for steps in (1, 0))
                one_test, tests = (seen(training.test, batches=[batch] * n) for n in (1, 3))
            metered = [e for e in epoch if (e.where[:15], e.function) == ("engine/meter.py", "update")]
            lines = Counter()  # kernels of a step: of an epoch's steps but the first
            for events, sign in ((epoch, 1), (short, -1)):
                for e in events:
                    lines[e.where] += sign * e.kernels / (count - 1)
            rows.append({
                "kernels": lines.total(), "by_line": dict(lines.most_common(40)),
                "meter": sum(e.kernels for e in metered) / len(training.trainer.meter.sizes),
                "norms": sum(e.op == "_foreach_norm" for e in epoch) / count,
                "of_test": (sum(e.kernels for e in tests) - sum(e.kernels for e in one_test)) / 2,
                "varies": sorted({f"{e.where} {e.op}" for e in epoch if e.varies}),
                "waits": [waits(short), waits(epoch)], "test_waits": [waits(one_test), waits(tests)],
            })  # fmt: skip
        return rows

    def waits(events):
        return dict(Counter(f"{e.where} {e.op}" for e in events if e.waits))

    def runs(commands: list[dict]) -> list[dict]:
        """`train.main` with each of these flags: its exit code and what it said; it leaves its directories.

        "signal_at": SIGTERM comes in the step of this number, counted from 0.
        """
        torch.save = on_host(torch.save)
        models.save_safetensors = on_host(models.save_safetensors)
        step, done = Trainer.step, []
        for command in commands:
            signal_at = command.get("signal_at")

            def signalled(self, *batch, at=signal_at):
                step(self, *batch)
                if batch[2] == at:
                    os.kill(os.getpid(), signal.SIGTERM)

            Trainer.step = signalled
            said = io.StringIO()
            with fake_cuda(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                try:
                    code = train.main(["--device", "cuda", *command["flags"].split()]) or 0
                except SystemExit as end:
                    code = end.code
            done.append({"code": code, "said": said.getvalue()})
        return done

    def on_host(save):
        """`save` with numbers in the place of fake tensors."""

        def saves_numbers(*arguments):
            with _disable_current_modes():
                numbers = tree_map(
                    lambda x: torch.ones(x.shape, dtype=x.dtype) if isinstance(x, FakeTensor) else x,
                    arguments,
                )
                return save(*numbers)

        return saves_numbers

    def precisions(cases: list) -> list[str]:
        """What `Precision` makes of each [capability, --amp], or what it refuses."""
        chosen = []
        for capability, amp in cases:
            with fake_cuda(tuple(capability)):
                torch.cuda.is_bf16_supported.__globals__["_check_bf16_tensor_supported"].cache_clear()
                try:
                    precision = Precision(torch.device("cuda", 0), amp)
                    chosen.append(f"{precision}{' with a scaler' * precision.scaler.is_enabled()}")
                except UserError as error:
                    chosen.append(str(error))
        return chosen

    def checks(cases: list[dict]) -> list[str]:
        """Calls "function" of "module" in tests/gpu with "arguments"; its error, or "".

        "spoiled": every step, or every "answer" to a test batch, reads a number from the device.
        """
        torch.compile = lambda function, **_: function  # there is nothing to compile for
        said = []
        for case in cases:
            name = case.get("spoiled", "step")
            method = getattr(Trainer, name)

            def spoiled(self, *batch, method=method):
                out = method(self, *batch)
                self.meter.rows.sum().item()
                return out

            setattr(Trainer, name, spoiled if "spoiled" in case else method)
            with fake_cuda():
                try:
                    getattr(importlib.import_module(case["module"]), case["function"])(*case["arguments"])
                    said.append("")
                except Exception as error:
                    said.append(f"{type(error).__name__}: {one_line(error, 2000)}")
            setattr(Trainer, name, method)
        return said

    SCENARIOS = {"steps": steps, "runs": runs, "precisions": precisions, "checks": checks}
    print(json.dumps([SCENARIOS[name](argument) for name, argument in json.loads(sys.argv[1]).items()]))
