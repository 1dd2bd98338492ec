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
import warnings
from pathlib import Path

from common import UserError, one_line, one_line_errors, write_atomically
from flags import export_parser

TOLERANCE = 1e-4  # of a logit
COMPARED = 16  # images
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}


def main(argv=None):
    args = export_parser(__doc__).parse_args(argv)
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
    content = encode(net, info)
    exported = decode(content)
    with torch.inference_mode():
        # one image too: a graph that was traced for more may not take it
        batches = (images, images[:1])
        difference = max(float((exported(batch) - net(batch)).abs().max()) for batch in batches)
    said = f"largest difference of a logit {difference:.1e} on {len(images)} {whose}"
    if not difference <= TOLERANCE:  # nor NaN
        raise UserError(f"the {args.format} file would say something else: {said}, more than {TOLERANCE:g}")
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
        if given and not name.exists():
            raise UserError(f"{name} is not there")
        paths += find_images(name) if name.is_dir() else [str(name)]
    if given and not paths:
        raise UserError(f"no images in {', '.join(given)}")
    if not paths:
        random = torch.randn(
            COMPARED, 3, info.image_size, info.image_size, generator=torch.Generator().manual_seed(0)
        )
        return random, "random images (--images takes yours)"
    # from all over the folder, so that every class is there
    paths = paths[:: -(-len(paths) // COMPARED)]
    return torch.cat([transform(path) for path in paths]), f"images of {', '.join(map(str, names))}"


@contextlib.contextmanager
def quiet():
    """Without what the exporters log, warn of and print: what matters of them, an error says."""
    logging.disable(logging.CRITICAL)
    try:
        nobody = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(nobody),
            contextlib.redirect_stdout(nobody),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def trace(net, info):
    """torch.export's program of the net, for any number of images."""
    import torch

    two = torch.zeros(2, 3, info.image_size, info.image_size)
    try:
        with quiet():
            return torch.export.export(net, (two,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # tracing runs the net's own code, and fails as that does
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UserError(
            f"torch.export cannot trace {info.net}: {one_line(reason, 300)}; --format safetensors can keep it"
        ) from error


def to_pt2(net, info):
    import torch

    file = io.BytesIO()
    torch.export.save(trace(net, info), file, extra_files={"info.json": json.dumps(info.to_dict())})
    return file.getvalue()


def from_pt2(content):
    import torch

    return torch.export.load(io.BytesIO(content)).module()


def to_onnx(net, info):
    import torch

    program = trace(net, info)
    try:
        with quiet():
            proto = torch.onnx.export(
                program, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
            ).model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"ONNX has no words for {info.net}: {one_line(reason, 300)}; --format pt2 may have"
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


def to_safetensors(net, info):
    from models.run import safetensors_bytes

    return safetensors_bytes(net.state_dict(), info)


def from_safetensors(content):
    import tempfile

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
