#!/usr/bin/env python
"""Does the CUDA path keep its promises on this GPU, and how fast is it? One command, a page of results.

python benchmarks/gpu_acceptance.py                          all checks, some 10 minutes on an H100
python benchmarks/gpu_acceptance.py --only waits resume      some of them
python benchmarks/gpu_acceptance.py --device cpu             what a CPU can check of it, small

Exits with 1 if a check fails, and leaves gpu_acceptance.json and gpu_acceptance.md (GPU, driver, versions, every
figure) in --out, written anew after each check. Nothing is downloaded.
"""

import json
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch
from gpu_checks import CHECKS, Setting, Skipped
from measure import machine, parser, prepare

from common import write_atomically
from engine.cli import fail
from engine.precision import Precision

PROG = "gpu_acceptance.py"


def about(device):
    """GPU, driver and versions."""
    facts = machine(device)
    if device.type == "cuda" and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
        facts += f", CUDA {torch.version.cuda}, driver {driver}"
    return f"{facts}, {Precision(device)}"


def cell(value):
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def table(rows):
    """Rows (dicts) as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([cell(row.get(n, "")) for n in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(results, where, out):
    """The JSON and the page."""
    command = " ".join(["python", "benchmarks/gpu_acceptance.py", *sys.argv[1:]])
    page = [f"# GPU acceptance\n\n`{command}`  \n{where}\n"]
    shown = ("check", "result", "seconds")
    page.append(table([{name: r[name] for name in shown} | {"what": r["what"]} for r in results]))
    for r in results:
        page += [f"\n## {r['check']}\n\n{r['what']}\n"] if r["rows"] or r["failures"] or r["why"] else []
        page += [f"Skipped: {r['why']}."] if r["why"] else []
        page += [table(r["rows"])] if r["rows"] else []
        page += ["\n" + "\n".join(f"- **{failure}**" for failure in r["failures"])] if r["failures"] else []
    content = json.dumps({"command": command, "machine": where, "checks": results}, indent=1)
    for name, text in (("json", content), ("md", "\n".join(page))):
        write_atomically(
            out / f"gpu_acceptance.{name}", lambda file, text=text: file.write(f"{text}\n".encode())
        )


def run(name, device):
    """One check: its result, whatever happens in it."""
    s = Setting(device=device, small=device.type == "cpu", rows=[], failures=[])
    why, began = "", time.perf_counter()
    try:
        CHECKS[name](s)
    except Skipped as reason:
        why = str(reason)
    except Exception as error:
        traceback.print_exc()
        s.failures.append(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    result = "failed" if s.failures else "skipped" if why else "passed"
    return {
        "check": name, "result": result, "seconds": round(time.perf_counter() - began, 1), "why": why,
        "what": " ".join(CHECKS[name].__doc__.split()), "failures": s.failures, "rows": s.rows,
    }  # fmt: skip


def main(argv=None):
    p = parser(PROG, __doc__)
    p.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="(default: all)")
    p.add_argument("--out", default=".", metavar="DIR", help="where the two files go")
    args = p.parse_args(argv)
    device, out = prepare(args, PROG), Path(args.out)
    device = torch.device(device.type, 0) if device.type == "cuda" else device
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out {out}: {error.strerror}", PROG)
    where, results = about(device), []
    print(where, flush=True)
    for name in args.only:
        results.append(run(name, device))
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
