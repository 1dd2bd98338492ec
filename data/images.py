"""Image files: found in folders, opened, turned upright, and made squares of 8-bit RGB."""

from __future__ import annotations

import math
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from .errors import DataError, one_line

# What counts as an image in a folder, and the decoders it may be opened with. Not all that Pillow knows:
# its EPS decoder, for one, runs another program on the file.
EXTENSIONS = tuple(
    ".jpg .jpeg .jfif .png .bmp .gif .tif .tiff .webp .avif .ppm .pgm .pbm .pnm .tga .jp2".split()
)
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "PPM", "TGA", "JPEG2000")
# Folders that systems and network drives make: thumbnails, snapshots, deleted files.
_SYSTEM_FOLDERS = {
    "@eadir", "@recycle", "#recycle", "#snapshot", "lost+found", "__macosx", "system volume information",
    "$recycle.bin",
}  # fmt: skip
_ORIENTATION = 0x0112  # the tag of EXIF; from 5 on width and height change places

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


class Square(NamedTuple):
    """How images become squares: the arguments of `decode`."""

    size: int
    interpolation: str = "bilinear"
    crop_pct: float = 1.0


def decode(
    picture: str | Image.Image,
    size: int,
    interpolation: str = "bilinear",
    crop_pct: float = 1.0,
    box_of: Callable[[int, int], Box] | None = None,
) -> np.ndarray:
    """Read one image upright, in RGB, as a square.

    Transparent parts show white; of an animation the first frame is read; colour profiles are ignored. JPEGs are
    decoded at the smallest scale that still has a pixel for each of the result's.

    Parameters
    ----------
    picture : str, or an image of Pillow's
        A path, or the pixels.
    size : int
        Height and width of the result.
    interpolation : {'bilinear', 'bicubic'}
        Always antialiased.
    crop_pct : float
        The shorter side is resized to ``size / crop_pct``, and the centre is cut out.
    box_of : callable, optional
        From the upright image's width and height to the part that is wanted instead of the centre, in proportion
        to them.

    Returns
    -------
    ndarray of uint8, shape (3, size, size)

    Raises
    ------
    DataError
        The file is missing, truncated, no image, has more than 8 bits a channel, or is larger than Pillow's
        limit against decompression bombs.
    """
    try:
        # a copy: reading less than the whole would change the caller's image
        with picture.copy() if isinstance(picture, Image.Image) else _open(picture) as image:
            if image.format in ("JPEG", "MPO"):
                _draft(image, size, box_of or _centre(size, crop_pct))
            rgb = _upright_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise all kinds of them on damaged files
        raise DataError(
            f"{picture}: cannot be read as an image ({one_line(error)}); remove or replace the file"
        ) from error
    if box_of is None and rgb.width == rgb.height < size:  # as sets of small arrays are enlarged
        pixels = torch.from_numpy(np.array(rgb).transpose(2, 0, 1).copy())[None]
        return resize_squares(pixels, size, interpolation, crop_pct)[0].numpy()
    box = (box_of or _centre(size, crop_pct))(*rgb.size)
    square = rgb.resize((size, size), Image.Resampling[interpolation.upper()], box)
    return np.asarray(square).transpose(2, 0, 1)


def _open(path: str) -> Image.Image:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for, a device might have no end
        raise ValueError("not a regular file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with a file is said by the errors below
        image = Image.open(path, formats=_formats())
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(
            f"{image.width} × {image.height} pixels are over Pillow's limit against decompression bombs"
        )
    return image


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _centre(size: int, crop_pct: float) -> Callable[[int, int], Box]:
    """What torchvision's Resize and CenterCrop leave, whose roundings are kept."""

    def box_of(width: int, height: int) -> Box:
        side = int(size / crop_pct)
        short = min(width, height)
        resized = int(side * width / short), int(side * height / short)
        left, top = (round((length - size) / 2) for length in resized)
        x, y = width / resized[0], height / resized[1]
        return left * x, top * y, (left + size) * x, (top + size) * y

    return box_of


def _draft(image: Image.Image, size: int, box_of: Callable[[int, int], Box]) -> None:
    """Let the JPEG decoder skip resolution that the result would not have."""
    turned = _orientation(image) >= 5
    left, top, right, bottom = box_of(*(image.size[::-1] if turned else image.size))
    shrink = min(right - left, bottom - top) / size
    if shrink >= 2:
        image.draft(None, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the pixels are whole: viewers show them as if there were no EXIF
        return 1


def _upright_rgb(image: Image.Image) -> Image.Image:
    tile = getattr(image, "tile", None)  # images that are no file's have none
    # Pillow keeps the upper eight of a colour's sixteen bits, and only the raw mode tells.
    if image.mode[0] in "IF" or (tile and ";16" in str(tile[0][3])):
        raise ValueError(f"mode {image.mode} of more than 8 bits a channel: save it in 8 bits")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.load()
        with suppress(Exception):  # see _orientation
            ImageOps.exif_transpose(image, in_place=True)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_squares(images: torch.Tensor, size: int, interpolation: str, crop_pct: float) -> torch.Tensor:
    """Resize square images to ``size / crop_pct`` pixels, antialiased, and keep the centre, as timm does.

    Parameters
    ----------
    images : Tensor of uint8, shape (B, C, H, H)
    size : int
        Height and width of the result.
    interpolation : {'bilinear', 'bicubic'}
    crop_pct : float
    """
    side = int(size / crop_pct)
    if images.shape[-1] != side:
        images = F.resize(images, [side, side], InterpolationMode(interpolation), antialias=True)
    return F.center_crop(images, [size, size])


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """At most `count` of the indices 0 … n - 1, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).astype(np.int64))


def common_square_size(*splits: Sequence[str], sample: int = 256) -> int:
    """Side of the images in pixels if a sample of each split all have the same square size, else 0.

    Unreadable files are skipped here: decoding names all of them.
    """
    sizes: set[tuple[int, int]] = set()
    for path in (paths[i] for paths in splits for i in evenly_spaced(len(paths), sample)):
        with suppress(Exception), _open(path) as image:
            sizes.add(image.size)
    width, height = sizes.pop() if sizes else (0, 0)
    return width if not sizes and width == height else 0


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name is the system's, not the user's: hidden, thumbnails, deleted files."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def find_images(folder: str | os.PathLike[str], left_out: Counter[str] | None = None) -> list[str]:
    """Image files below `folder`, sorted; hidden files, the system's folders and other kinds of files are skipped.

    Links are followed, each folder once. `left_out` counts the other files by their suffix.

    Raises
    ------
    DataError
        A folder that may not be listed, or a link to nothing: there might be images behind them.
    """

    def refuse(error: OSError):
        raise DataError(f"{error.filename} cannot be listed: {error.strerror}")

    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_system_folder(name))
        for name in sorted(files):
            if name.startswith("."):
                continue
            if name.lower().endswith(EXTENSIONS):
                found.append(os.path.join(root, name))
                continue
            if not os.path.exists(os.path.join(root, name)):
                raise DataError(f"{os.path.join(root, name)} is a link to nothing: remove or repair it")
            if left_out is not None:
                left_out[os.path.splitext(name)[1].lower()] += 1
    return found


def suffixes(left_out: Counter[str]) -> str:
    """What `find_images` has counted, in words: ``"3 files (2 .heic, 1 without one)"``."""
    files = "file" if left_out.total() == 1 else "files"
    kinds = ", ".join(f"{n} {suffix or 'without one'}" for suffix, n in left_out.most_common())
    return f"{left_out.total()} {files} ({kinds})"
