#!/usr/bin/env python
"""Does the CUDA path keep its promises on this GPU, and how fast is it? One command, a page of results.

python benchmarks/gpu_acceptance.py                          all checks, some 10 minutes on an H100
python benchmarks/gpu_acceptance.py --only waits resume      some of them
python benchmarks/gpu_acceptance.py --device cpu             what a CPU can check of it, small

Exits with 1 if a check fails; the others run all the same. It leaves gpu_acceptance.json and gpu_acceptance.md (GPU,
driver, versions, every figure; a section for docs/results.md) in --out, written anew before and after each check.
Nothing is downloaded.
"""

import faulthandler
import json
import math
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import gpu_checks
import gpu_runs
import gpu_speed
import torch
from gpu_setting import CHECKS, Setting, Skipped
from measure import machine, prepare

from common import one_line, write_atomically
from engine.cli import Parser, fail, number
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


def write(results, where, out):
    """The JSON, and the page: a section for docs/results.md, with those below it that it has there."""
    command = " ".join(["python", "benchmarks/gpu_acceptance.py", *sys.argv[1:]])
    page = [f"### On {where.split(',')[0]}\n\n`{command}`: {where}.\n"]
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
    content = {"command": command, "machine": where, "checks": without_nan(results)}
    text = {"json": json.dumps(content, indent=1, allow_nan=False), "md": "\n".join(page)}
    for name in text:
        write_atomically(
            out / f"gpu_acceptance.{name}", lambda file, name=name: file.write(f"{text[name]}\n".encode())
        )


def run(name, device, full=False):
    """One check: its result, whatever happens in it."""
    s = Setting(device=device, small=device.type == "cpu", full=full, rows=[], failures=[])
    why, began = "", time.perf_counter()
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
    result = "failed" if s.failures else "skipped" if why else "passed"
    return outcome(name, result, round(time.perf_counter() - began, 1), why, s.failures, s.rows)


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
    where, results = about(device), []
    print(where, flush=True)
    for name in args.only:
        # so that the page says which one the program did not survive
        write([*results, outcome(name, "not ended")], where, out)
        results.append(run(name, device, args.full))
        r = results[-1]
        print(
            f"{r['result']:<8}{name:<10} {r['seconds']:7.1f} s  {r['why'] or '; '.join(r['failures'])[:300]}",
            flush=True,
        )
        write(results, where, out)
    failed = [r["check"] for r in results if r["failures"]]
    print(f"{out / 'gpu_acceptance.md'}: {f'FAILED {failed}' if failed else 'all passed'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
