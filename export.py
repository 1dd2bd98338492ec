#!/usr/bin/env python
"""Write a net that train.py trained as a file for other programs, and check that it says the same.

python export.py runs/NAME --format onnx                     ONNX, any number of images at a time
python export.py runs/NAME --format pt2 --images photos      torch.export's file, compared on these images
"""

import contextlib
import importlib.util
import io
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # PYTHONSAFEPATH=1 leaves it out

from common import Parser, UserError, one_line, one_line_errors, write_atomically

TOLERANCE = 1e-4  # of a logit, relative to the largest where that is above 1
COMPARED = 16  # images
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}


def parse_args(argv=None):
    parser = Parser("export.py", __doc__)
    add = parser.add_argument
    # fmt: off
    add("run", metavar="RUN", help="a run directory, or its best.pt or model.safetensors")
    add("--format", choices=("onnx", "pt2", "safetensors"), required=True, help="what to write")
    add("--out", default="", metavar="FILE", help="write there (default: model.FORMAT beside the weights)")
    add("--images", nargs="+", default=[], metavar="IMAGE",
        help="image files or folders to compare both nets on (default: those of the folder that the run was "
        "trained on, if it is there, else random ones)")
    # fmt: on
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors("export.py"):
        missing = [name for name in PACKAGES.get(args.format, ()) if not importlib.util.find_spec(name)]
        if missing:
            raise UserError(
                f"--format {args.format} needs {' and '.join(missing)}: pip install {' '.join(missing)}"
            )
        export(args)


def export(args):
    """Write the file and print how far its net is from the run's; nothing is written if it is too far."""
    import torch

    from models import load_run, read_info
    from models.run import weights_file

    weights = weights_file(args.run)
    # best_ema.pt makes model_ema.onnx, as train.py calls its model_ema.safetensors
    out = weights.with_name(f"{weights.stem.replace('best', 'model')}.{args.format}")
    out = Path(args.out or out)
    if out.is_file() and out.suffix != f".{args.format}":
        raise UserError(f"{out} exists, and is no .{args.format} file; give another --out")
    net, transform, _ = load_run(weights)
    info = read_info(weights)
    images, whose = test_images(args.images, info, transform)

    encode, decode = FORMATS[args.format]
    content = encode(weights, info)
    exported = decode(content)
    with torch.inference_mode():
        # one image too: a graph that was traced for more may not take it
        ours = torch.cat([net(images), net(images[:1])])
        theirs = torch.cat([exported(images), exported(images[:1])])
    difference, largest = float((theirs - ours).abs().max()), float(ours.abs().max())
    said = f"largest difference of a logit {difference:.1e} on {len(images)} {whose}"
    tolerance = TOLERANCE * max(1.0, largest)
    if not difference <= tolerance:  # so that NaN fails
        raise UserError(
            f"the {args.format} file would give other logits: {said}, more than {tolerance:.1e}; nothing is written"
        )
    write_atomically(out, lambda file: file.write(content))
    print(f"{out}: {said}")


def test_images(given, info, transform):
    """A batch of at most 16 images, and in words whose they are."""
    import torch

    from data.images import find_images

    folder = info.dataset.partition("folder:")[2]
    names = given or [folder] * bool(folder and Path(folder).is_dir())
    paths = []
    for name in map(Path, names):
        if not name.exists():
            raise UserError(f"{name} is not there")
        paths += find_images(name) if name.is_dir() else [str(name)]
    if given and not paths:
        raise UserError(f"no images in {', '.join(given)}")
    if not paths:
        shape, generator = (COMPARED, 3, info.image_size, info.image_size), torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator), "random images (--images takes yours)"
    # from all over the folder, so that every class is there
    return transform(paths[:: -(-len(paths) // COMPARED)]), f"images of {', '.join(map(str, names))}"


@contextlib.contextmanager
def quiet():
    """Keep what the exporters log, warn of and print off the terminal; an error carries what matters of it."""
    logging.disable(logging.CRITICAL)
    printed = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(printed),
            contextlib.redirect_stdout(printed),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def first_line(error):
    return one_line(str(error).strip().split("\n")[0] or type(error).__name__, 300)


def trace(weights, info, onnx=False):
    """torch.export's program of the net, for any number of images; with `onnx` of ONNX's operations alone."""
    import timm
    import torch

    from models import load_run

    with timm.layers.set_exportable(onnx):  # True: without fused attention, for one
        net, _, _ = load_run(weights)
    two = torch.zeros(2, 3, info.image_size, info.image_size)
    try:
        with quiet():
            return torch.export.export(net, (two,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # tracing runs the net's own code, and fails as that does
        raise UserError(
            f"torch.export cannot trace {info.net} ({first_line(error)}); --format safetensors works for every net"
        ) from error


def to_pt2(weights, info):
    import torch

    file = io.BytesIO()
    torch.export.save(trace(weights, info), file, extra_files={"info.json": json.dumps(info.to_dict())})
    return file.getvalue()


def from_pt2(content):
    import torch

    return torch.export.load(io.BytesIO(content)).module()


def to_onnx(weights, info):
    import torch

    program = trace(weights, info, onnx=True)
    try:
        with quiet():
            proto = torch.onnx.export(
                program, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
            ).model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(
            f"torch.onnx cannot export {info.net} ({first_line(error)}); try --format pt2"
        ) from error
    entry = proto.metadata_props.add()
    entry.key, entry.value = "info", json.dumps(info.to_dict())
    return proto.SerializeToString()


def from_onnx(content):
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def to_safetensors(weights, info):
    from models.run import safetensors_bytes
    from models.weights import read_state_dict

    return safetensors_bytes(read_state_dict(weights), info)


def from_safetensors(content):
    from models import load_run

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        return load_run(path)[0]


FORMATS = {
    "onnx": (to_onnx, from_onnx),
    "pt2": (to_pt2, from_pt2),
    "safetensors": (to_safetensors, from_safetensors),
}


if __name__ == "__main__":
    main()
