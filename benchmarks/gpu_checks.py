"""The checks of gpu_acceptance.py: each is a function whose docstring says what holds, and which shows its figures.

A check is given a `Setting`, adds dicts to its `rows` and sentences to its `failures`, and may raise `Skipped`.
"""

import contextlib
import io
import itertools
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import bench_train
import torch
from measure import register_random_images, seconds, wait

import train
from data import build_data
from engine.distributed import World
from engine.graph import WARM_UP
from engine.meter import PEEK_EVERY
from engine.saver import Progress
from losses import build_loss, loss_names
from models import list_models, net_facts

ROOT = Path(__file__).resolve().parent.parent
SIX = ["vit", "vit_small", "resnet18", "vgg19", "swin", "cait"]
# What must never wait: every family of nets, every loss, every cache, every kind of step
EVERY_STEP = [
    *(f"--net {net}" for net in [*SIX, "resnet50", "timm:convnext_atto"]),
    *(f"--net vit_tiny --loss {loss}" for loss in loss_names()),
    *(f"--net vit_tiny --cache {cache}" for cache in ("device", "ram")),
    *(f"--net resnet18 {flags}" for flags in ("--randaug", "--clip-grad 1", "--accumulate 2", "--ema 0.99")),
    *(f"--net resnet18 {flags}" for flags in ("--opt sgd", "--amp fp16", "--graph on")),
]
# Kernels that an eager step may launch, by tests/test_cuda_path.py's count and some 10 % on top
KERNELS = {"vit": 1250, "resnet18": 430}
# The aims at batch 512: times the published loop, and share of the matrix products' rate
TIMES_PUBLISHED, SHARE_OF_PEAK = {"resnet18": 5.0, "vit": 3.0}, {"vit": 0.4}
CHECKS = {}


class Skipped(Exception):
    """The check has nothing to look at here; why."""


class Setting(SimpleNamespace):
    """What all checks are given: `device`, and `small` on a CPU; they add to `rows` and `failures`."""

    def expect(self, right, what):
        """Note `what` as a failure unless it is `right`."""
        if not right:
            self.failures.append(what)

    @property
    def on_gpu(self):
        return self.device.type == "cuda"


def check(function):
    """Register a check: what its docstring says is on the page."""
    CHECKS[function.__name__] = function
    return function


def need(condition, why):
    if not condition:
        raise Skipped(why)


def job_of(s, flags, images=2048):
    """The job that train.py builds for these flags, on random images."""
    register_random_images(images, 32)
    args, typed = train.parse_args(["--dataset", "random", "--device", s.device.type, *flags.split()])
    args.lr = args.lr or net_facts(args.net, args.pretrained).lr
    with contextlib.redirect_stdout(io.StringIO()):
        job = train.build(args, typed, World(args.device), SimpleNamespace(requested=False))
    job.saver, job.progress = SimpleNamespace(due=lambda step: False), Progress()
    job.trainer.train_mode()
    return job


def steps_of(job, count):
    """Run `count` steps as train.py does; yields the number of each, done."""
    done, epoch = 0, 0
    while done < count:
        job.data.train.set_epoch(epoch)
        for images, labels in job.data.train:
            done += 1
            job.trainer.step(images, labels, labels, done, job.args.lr, len(labels))
            if done % PEEK_EVERY == 0:
                job.trainer.meter.peek()
            yield done
            if done == count:
                return
        epoch += 1


def losses_of(job, count):
    """The loss of each of the first `count` steps."""
    for _ in steps_of(job, count):
        pass
    return job.trainer.meter.state()["rows"][:, 0].tolist()


@check
def waits(s):
    """Steps 3 to 20 of every net, loss and cache never wait for the GPU (set_sync_debug_mode)."""
    need(s.on_gpu, "a CPU never waits for itself")
    for flags in EVERY_STEP:
        job, waited = job_of(s, f"{flags} --bs 32", 32 * 21), ""
        try:
            for step in steps_of(job, 20):
                if step == (WARM_UP + 1 if "--graph" in flags else 2):
                    torch.cuda.set_sync_debug_mode("error")
        except RuntimeError as error:
            waited = str(error).split("\n")[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        s.rows.append({"flags": flags, "waited": waited or "never"})
        s.expect(not waited, f"{flags}: {waited}")


@check
def losses(s):
    """Values and gradients from float16, bfloat16 and float32 logits up to 200 apart, eager and compiled: finite,
    and those of float64 on the CPU, to the share of a sample's largest that is shown."""
    tolerance = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
    target = torch.arange(64) % 10
    for name in ("ce", "focal", "root", "rlo"):
        exact = build_loss(name, reduction="none").double()
        for compiled in (False,) if s.small else (False, True):
            ours = build_loss(name, reduction="none").to(s.device)
            ours = torch.compile(ours, dynamic=False) if compiled else ours
            for (dtype, allowed), spread in itertools.product(tolerance.items(), (1.0, 30.0, 100.0)):
                noise = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
                here = (spread * noise).to(dtype).to(s.device).requires_grad_()
                there = here.detach().cpu().double().requires_grad_()
                with torch.autocast(s.device.type, dtype, enabled=dtype != torch.float32):
                    value = ours(here, target.to(s.device))
                wanted = exact(there, target)
                for loss in (value, wanted):
                    loss.sum().backward()
                pairs = ((value.detach(), wanted.detach(), 0.1 * spread), (here.grad, there.grad, 1e-2))
                case, worst = f"{name}, {str(dtype)[6:]}{', compiled' * compiled}, ± {spread:g}", 0.0
                for got, want, floor in pairs:
                    got = got.cpu().double().view(64, -1)
                    s.expect(got.isfinite().all().item(), f"{case}: not finite")
                    off = (got - want.view(64, -1)).abs().amax(1) / (want.abs().view(64, -1).amax(1) + floor)
                    worst = max(worst, off.max().item())
                # rlo is linear where its derivative would leave the type: there float64 is another function
                cut = name == "rlo" and dtype == torch.float16 and spread > 1
                s.rows.append({"case": case, "off by": "linear there" if cut else worst})
                s.expect(cut or worst <= allowed, f"{case}: {worst:.2g} off, {allowed:g} allowed")


@check
def batches(s):
    """Batches are the CPU's: pixels to 1e-5, with RandAugment to a grey level; labels exactly."""
    register_random_images(300, 32)
    for options in ({}, {"cache": "ram"}, {"randaug": True}, {"channels_last": True}, {"augment": False}):
        plain, here = (
            list(build_data("random", ".", 32, 128, device, **options).train) for device in ("cpu", s.device)
        )
        off = max((a - b.cpu()).abs().max().item() for (a, _), (b, _) in zip(plain, here, strict=True))
        allowed = 1.01 / 255 / 0.25 if options.get("randaug") else 1e-5
        shown = " ".join(f"{k}={v}" for k, v in options.items()) or "as they come"
        s.rows.append({"batches": shown, "largest difference": off})
        s.expect(off <= allowed, f"{options}: {off:g} off")
        equal = all(torch.equal(a, b.cpu()) for (_, a), (_, b) in zip(plain, here, strict=True))
        s.expect(equal, f"{options}: other labels")


@check
def nets(s):
    """Every net learns three steps, and its loss is a number."""
    names = ["vgg11", "resnet20", "vit_tiny", "swin_tiny"] if s.small else [n for n in list_models()]
    for net in names:
        job = job_of(s, f"--net {net} --bs 4", 12)
        of_steps = losses_of(job, 3)
        s.rows.append({"net": net, "losses": " ".join(f"{x:.4f}" for x in of_steps)})
        s.expect(all(map(math.isfinite, of_steps)), f"{net}: {of_steps}")
        del job


@check
def compiled(s):
    """The losses of five compiled (and graphed) steps are the eager ones, in float32 without dropout."""
    for net in ["vgg11"] if s.small else ["resnet18", "vgg11", "swin_tiny"]:
        flags = f"--net {net} --bs 16 --noamp --lr 0.001"
        eager = losses_of(job_of(s, flags, 80), 5)
        for how in ("--compile on", "--graph on")[: 2 if s.on_gpu else 1]:
            got = losses_of(job_of(s, f"{flags} {how}", 80), 5)
            off = max(abs(a - b) / abs(b) for a, b in zip(got, eager, strict=True))
            s.rows.append({"net": net, "how": how, "largest relative difference": off})
            s.expect(off < 1e-2, f"{net} {how}: {off:.2g} off")


def train_py(where, *flags, **options):
    """Start train.py in `where`."""
    command = [sys.executable, str(ROOT / "train.py"), *map(str, flags)]
    return subprocess.Popen(
        command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def end_of(process, code=0):
    said = process.communicate(timeout=600)[0]
    if process.returncode != code:
        raise RuntimeError(f"exit code {process.returncode}, not {code}: {said[-500:]}")
    return said


def same_state(one, other):
    """Whether the last.pt of two runs hold the same numbers: net, optimiser, scaler."""
    a, b = (torch.load(run / "last.pt", map_location="cpu", weights_only=True) for run in (one, other))

    def equal(x, y):
        if isinstance(x, torch.Tensor):
            return torch.equal(x, y)
        if isinstance(x, dict):
            return x.keys() == y.keys() and all(equal(x[k], y[k]) for k in x)
        return x == y

    return all(equal(a[name], b[name]) for name in ("model", "optimizer", "scaler"))


@check
def resume(s):
    """Stopped by SIGTERM or kill -9 and continued, a --deterministic run ends bit for bit as an unbroken one."""
    many = ["--epochs", 2, "--bs", 240] if s.small else ["--epochs", 20, "--bs", 64]
    flags = ["--dataset", "digits", "--net", "resnet20", "--device", s.device.type, "--deterministic"]
    flags += [*many, "--save-every", 4]
    with tempfile.TemporaryDirectory() as where:
        runs = Path(where) / "runs"
        for name in ("unbroken", "again"):
            end_of(train_py(where, *flags, "--run-name", name))
        s.expect(same_state(runs / "unbroken", runs / "again"), "two unbroken runs differ")
        for name, how in (("terminated", signal.SIGTERM), ("killed", signal.SIGKILL)):
            process = train_py(where, *flags, "--run-name", name)
            while process.poll() is None and not (runs / name / "last.pt").exists():
                time.sleep(0.005)
            process.send_signal(how)
            end_of(process, 143 if how == signal.SIGTERM else -9)
            said = end_of(train_py(where, "--resume", f"runs/{name}"))
            from_step = next(line for line in said.splitlines() if line.startswith("run "))
            same = same_state(runs / "unbroken", runs / name)
            s.rows.append({"stopped by": how.name, "continued": from_step.split(", ")[-1], "same": same})
            s.expect(same, f"{how.name}: the run ends with other numbers")


@check
def scaler(s):
    """The float16 scaler goes through a resume: the run ends as an unbroken one, bit for bit."""
    need(s.on_gpu, "float16 with a scaler is for CUDA")
    flags = ["--dataset", "digits", "--net", "resnet20", "--amp", "fp16", "--deterministic", "--epochs", 4]
    with tempfile.TemporaryDirectory() as where:
        end_of(train_py(where, *flags, "--run-name", "unbroken"))
        process = train_py(where, *flags, "--run-name", "stopped", "--save-every", 2)
        while process.poll() is None and not (Path(where) / "runs/stopped/last.pt").exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        end_of(process, 143)
        end_of(train_py(where, "--resume", "runs/stopped"))
        same = same_state(Path(where) / "runs/unbroken", Path(where) / "runs/stopped")
        s.rows.append({"same": same})
        s.expect(same, "the run ends with other numbers")


@check
def speed(s):
    """Images a second, eager, compiled (at the largest batch) and graphed, beside the published-style loop."""
    steps, sizes = (2, [8]) if s.small else (30, [64, 128, 512])
    for net in ["resnet20"] if s.small else SIX:
        for bs in sizes:
            register_random_images(bs * steps, 32)
            args = bench_train.parse_args(["--device", s.device.type, "--bs", str(bs), "--steps", str(steps)])
            data = build_data(
                "random", "", 32, bs, s.device, channels_last=net_facts(net).channels_last
            ).train
            times = {}
            modes = [("eager", {}), ("compiled", {"compile": "on"}), ("graphed", {"graph": "on"})]
            for how, options in modes if s.on_gpu else modes[:1]:
                if how == "compiled" and bs < sizes[-1]:
                    continue
                trainer = bench_train.our_trainer(SimpleNamespace(**vars(args) | options), net, s.device)
                batch = next(iter(data))
                bench_train.our_epoch(trainer, [batch] * 6)
                if how == "eager":
                    flops = bench_train.count_flops(trainer, batch)
                times[how] = min(seconds(bench_train.our_epoch, s.device, trainer, data) for _ in range(2))
                precision = trainer.precision
                del trainer
            multiply, of_one = bench_train.matmul_rate(
                s.device, precision.half if precision.mixed else torch.float32
            )
            peak = of_one / min(seconds(multiply, s.device) for _ in range(5))
            if bs == sizes[-1]:
                baseline = bench_train.Baseline(args, net, 1e-3, s.device)
                baseline.epoch([batch] * 2)
                times["published"] = baseline.turn()
                del baseline
            best = min(spent for how, spent in times.items() if how != "published")
            row = {"net": net, "bs": bs, **{how: bs * steps / spent for how, spent in times.items()}}
            row |= {"share of matmul": flops * steps / best / peak, "matmul TFLOP/s": peak / 1e12}
            if "published" in times:
                row["times published"] = times["published"] / best
            s.rows.append(row)
            if s.on_gpu and bs == 512:
                wanted = TIMES_PUBLISHED.get(net, 0)
                s.expect(
                    row["times published"] >= wanted,
                    f"{net}: {row['times published']:.1f} × the published loop",
                )
                share = row["share of matmul"]
                s.expect(
                    share >= SHARE_OF_PEAK.get(net, 0), f"{net}: {share:.0%} of the matrix products' rate"
                )


@check
def profile(s):
    """Kernels of a step, against their budget; the GPU's idle share, and what a launch costs the host."""
    need(s.on_gpu, "it counts a GPU's kernels")
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    for net, budget in KERNELS.items():
        job, count = job_of(s, f"--net {net} --bs 64", 64 * 40), 10
        steps = steps_of(job, 10 + count)
        for _ in zip(range(10), steps, strict=False):
            pass
        wait(s.device)
        with profiler(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            for _ in zip(range(count - 1), steps, strict=False):
                pass
            wait(s.device)
        on_gpu = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        kernels = [e for e in on_gpu if not e.name.startswith(("Memcpy", "Memset", "ProfilerStep"))]
        span = max(e.time_range.end for e in kernels) - min(e.time_range.start for e in kernels)
        launches = [e.cpu_time_total for e in seen.events() if "LaunchKernel" in e.name]
        row = {
            "net": net, "kernels a step": len(kernels) / (count - 1), "budget": budget,
            "idle share": 1 - sum(e.time_range.elapsed_us() for e in kernels) / span,
            "µs a launch": statistics.median(launches) if launches else math.nan,
        }  # fmt: skip
        s.rows.append(row)
        s.expect(row["kernels a step"] <= budget, f"{net}: {row['kernels a step']:.0f} kernels of {budget}")


@check
def gap(s):
    """Between the epochs of 50,000 images: from the last step to the first batch of the next."""
    job = job_of(s, "--net vgg11 --bs 512", 2000 if s.small else 50_000)

    def first_batch(epoch):
        job.data.train.set_epoch(epoch)
        next(iter(job.data.train))

    first_batch(0)
    spent = [seconds(first_batch, s.device, epoch) for epoch in range(1, 4)]
    s.rows.append({"images": job.data.train.num_samples, "seconds": statistics.median(spent)})
    s.expect(statistics.median(spent) < 0.5, f"{statistics.median(spent):.2f} s between two epochs")


@check
def memory(s):
    """A batch that does not fit ends in one line and exit code 2."""
    need(s.on_gpu, "a host that runs out of memory may end anything")
    flags = ["--dataset", "digits", "--net", "vit_large", "--size", 512, "--patch", 4, "--bs", 1024]
    with tempfile.TemporaryDirectory() as where:
        said = end_of(train_py(where, *flags, "--device", "cuda", "--max-steps", 1), code=2)
    last = said.strip().splitlines()[-1]
    s.rows.append({"said": last[:100]})
    s.expect("out of memory" in last and "Traceback" not in said, f"it says: {said[-200:]}")


@check
def processes(s):
    """Two processes learn as one does, with batch norm over both where there are two GPUs."""
    need(not s.on_gpu or torch.cuda.device_count() > 1, "there is one GPU")
    flags = ["--dataset", "digits", "--net", "resnet20", "--device", s.device.type, "--noamp", "--noaug"]
    flags += ["--epochs", 1 if s.small else 3, "--bs", 240]
    with tempfile.TemporaryDirectory() as where:
        end_of(train_py(where, *flags, "--run-name", "one"))
        who = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29731"}
        flags += ["--sync-bn"] if s.on_gpu else []
        two = [
            train_py(where, *flags, "--run-name", "two", env=os.environ | who | {"RANK": r, "LOCAL_RANK": r})
            for r in ("0", "1")
        ]
        for process in two:
            end_of(process)
        ends = [
            torch.load(Path(where) / "runs" / name / "last.pt", weights_only=True)["progress"]["rows"][-1]
            for name in ("one", "two")
        ]
    for name in ("train_loss", "train_acc"):
        one, both = (row[name] for row in ends)
        s.rows.append({"": name, "one process": one, "two": both})
        s.expect(abs(one - both) <= 0.1 * abs(one), f"{name}: {one:.4f} in one process, {both:.4f} in two")
