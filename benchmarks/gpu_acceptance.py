#!/usr/bin/env python
"""Does the CUDA path keep its promises on this GPU, and how fast is it? One command, a page of results.

python benchmarks/gpu_acceptance.py                          all checks, some 10 minutes on an H100
python benchmarks/gpu_acceptance.py --only waits resume      some of them
python benchmarks/gpu_acceptance.py --device cpu             what a CPU can check of it, small

Exits with 1 if a check fails; the others run all the same. Each is a process of its own, for an error of CUDA's stays
with its process; those that measure nothing run side by side, as cores and memory allow. It leaves gpu_acceptance.json
and gpu_acceptance.md (GPU, driver, versions, every figure; a section for docs/results.md) in --out, written anew when
a figure is known. Nothing is downloaded.
"""

import faulthandler
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

import gpu_checks
import gpu_runs
import gpu_speed
import torch
from gpu_setting import ALONE, CHECKS, Setting, Skipped
from measure import machine, prepare

from common import Parser, cores, fail, number, one_line, write_atomically
from engine.precision import Precision

PROG = "gpu_acceptance.py"
MODULES = (gpu_checks, gpu_runs, gpu_speed)  # their checks register themselves
LONGEST = 1800  # seconds that a check may take; then the program ends, and says where it was


def about(device):
    """GPU, driver and versions."""
    facts = machine(device)
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        facts += f", {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}"
        facts += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            facts += (
                f", driver {subprocess.run(query, capture_output=True, text=True).stdout.split(chr(10))[0]}"
            )
    return f"{facts}, {Precision(device)}"


def cell(value):
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def table(rows):
    """Rows (dicts) as a Markdown table; columns of numbers are on the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    right = [all(type(row.get(n, 0)) in (int, float) for row in rows) for n in names]
    rules = ["---:" if r else "---" for r in right]
    lines = [names, rules, *([cell(row.get(n, "")) for n in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def without_nan(x):
    """The same, as JSON has it."""
    if isinstance(x, dict):
        return {name: without_nan(value) for name, value in x.items()}
    if isinstance(x, list):
        return [without_nan(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def write(results, where, spent, out):
    """The JSON, and the page: a section for docs/results.md, with those below it that it has there."""
    command = " ".join(["python", "benchmarks/gpu_acceptance.py", *sys.argv[1:]])
    page = [f"### On {where.split(',')[0]}\n\n`{command}`, {spent:.0f} s: {where}.\n"]
    page.append(
        table([
            {
                "check": r["check"], "seconds": r["seconds"], "what it says": r["what"],
                "result": r["result"] + (f": {r['why']}" if r["why"] else ""),
            }
            for r in results
        ])
    )  # fmt: skip
    for r in results:
        page += [f"\n**{r['check']}**\n"] if r["rows"] or r["failures"] else []
        page += [table(r["rows"])] if r["rows"] else []
        page += ["\n" + "\n".join(f"- **{failure}**" for failure in r["failures"])] if r["failures"] else []
    content = {"command": command, "machine": where, "seconds": spent, "checks": without_nan(results)}
    text = {"json": json.dumps(content, indent=1, allow_nan=False), "md": "\n".join(page)}
    for name in text:
        write_atomically(
            out / f"gpu_acceptance.{name}", lambda file, name=name: file.write(f"{text[name]}\n".encode())
        )


def run(name, device, full=False, done=lambda outcome: None):
    """One check, in this process: its outcome, whatever happens; `done` is given what is known after each case."""
    began = time.perf_counter()

    def so_far(result="not ended", why=""):
        spent = round(time.perf_counter() - began, 1)
        return outcome(name, result, spent, why, s.failures, s.rows)

    s = Setting(
        check=name, device=device, small=device.type == "cpu", full=full, rows=[], failures=[],
        done=lambda: done(so_far()),
    )  # fmt: skip
    why = ""
    s.done()
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    try:
        CHECKS[name](s)
        s.free()
    except Skipped as reason:
        why = str(reason)
    except (Exception, SystemExit) as error:  # train.py ends so what it refuses
        traceback.print_exc()
        s.failures.append(f"{type(error).__name__}: {one_line(error, 300)}")
    finally:
        faulthandler.cancel_dump_traceback_later()
    return so_far("failed" if s.failures else "skipped" if why else "passed", why)


def in_own_process(name, args, note, threads):
    """The same in a process of its own; `note` is given what is known of it every second. If it dies, it has failed.

    Its threads on the CPU, and those of the processes it starts, are as many as are given; 0: torch's own number.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--only", name, "--out", folder, *["--full"] * args.full]
        command += ["--device", args.device, "--threads", str(threads)]
        environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        result, code = outcome(name, "not ended"), None
        while code is None:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(1)
            with suppress(FileNotFoundError):  # it has not yet begun
                (known,) = json.loads((Path(folder) / "gpu_acceptance.json").read_text())["checks"]
                if known != result:
                    result = known
                    note(result)
    if result["result"] == "not ended":
        result["failures"].append(f"its process ended with exit code {code}")
    return result


def side_by_side(device):
    """How many checks at once: two cores each, and 12 GiB of the GPU's memory."""
    room = torch.cuda.get_device_properties(device).total_memory >> 30 if device.type == "cuda" else 12
    return max(1, min(cores() // 2, room // 12))


def outcome(name, result, spent=0.0, why="", failures=(), rows=()):
    return {
        "check": name, "result": result, "seconds": spent, "why": why,
        "what": " ".join(CHECKS[name].__doc__.split()), "failures": list(failures), "rows": list(rows),
    }  # fmt: skip


def main(argv=None):
    p = Parser(PROG, __doc__)
    p.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="what to check")
    p.add_argument("--threads", type=number(int, 0), default=0, metavar="N", help="of torch on the CPU")
    p.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="(default: all)")
    p.add_argument("--full", action="store_true", help="measure compiled steps at every batch size")
    p.add_argument("--out", default=".", metavar="DIR", help="where the two files go")
    args = p.parse_args(argv)
    device, out = prepare(args, PROG), Path(args.out)
    device = torch.device(device.type, 0) if device.type == "cuda" else device
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out {out}: {error.strerror}", PROG)
    faulthandler.enable()
    where, results, began = about(device), {}, time.perf_counter()
    writing = threading.Lock()
    print(where, flush=True)

    def note(result):
        with writing:
            results[result["check"]] = result
            known = [results[name] for name in args.only if name in results]
            write(known, where, time.perf_counter() - began, out)

    def end(result):
        note(result)
        said = result["why"] or "; ".join(result["failures"])[:300]
        print(f"{result['result']:<9} {result['check']:<10} {result['seconds']:7.1f} s  {said}", flush=True)

    if len(args.only) == 1:
        end(run(args.only[0], device, args.full, note))
    else:
        apart = [name for name in args.only if name not in ALONE]
        together = side_by_side(device)
        threads = args.threads or max(1, cores() // together)
        with ThreadPoolExecutor(together) as pool:
            for done in as_completed(
                [pool.submit(in_own_process, name, args, note, threads) for name in apart]
            ):
                end(done.result())
        for name in args.only:
            if name in ALONE:
                end(in_own_process(name, args, note, args.threads))
    failed = [r["check"] for r in results.values() if r["failures"]]
    print(f"{out / 'gpu_acceptance.md'}: {f'FAILED {failed}' if failed else 'all passed'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
