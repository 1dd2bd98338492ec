"""Image files to square uint8 arrays, with Pillow and torchvision."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
from PIL import Image
from torchvision.transforms import functional as F

from .errors import DataError, one_line

# What counts as an image in a folder, and the decoders it may be opened with. Not all that Pillow knows:
# its EPS decoder, for one, runs another program on the file.
EXTENSIONS = tuple(
    ".jpg .jpeg .jfif .png .bmp .gif .tif .tiff .webp .avif .ppm .pgm .pbm .pnm .tga .jp2".split()
)
_LONGEST = 8  # sides' ratio above which only the middle is resized: 1 × 65,000 pixels would become gigabytes
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF", "PPM", "TGA", "JPEG2000")


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Make Pillow's warning about huge images an error and keep its other warnings off the terminal."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _open(path: str) -> Image.Image:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for, a device might have no end
        raise ValueError("not a regular file")
    return Image.open(path, formats=_formats())


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip to white
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(path: str, size: int) -> np.ndarray:
    """Read one image: shorter side resized to `size` (bilinear, antialiased), centre cropped, RGB.

    Parameters
    ----------
    path : str
    size : int
        Pixels.

    Returns
    -------
    ndarray of uint8, shape (3, size, size)

    Raises
    ------
    DataError
        The file is missing, truncated, no image, or larger than Pillow's limit against image bombs.
    """
    try:
        with _open(path) as image:
            # lets the JPEG decoder skip resolution; twice the size leaves the resize enough to filter
            image.draft(None, (2 * size, 2 * size))
            rgb = _rgb(image)
            long, short = max(rgb.size), min(rgb.size)
            if long > _LONGEST * short:
                rgb = F.center_crop(rgb, [min(side, _LONGEST * short) for side in (rgb.height, rgb.width)])
            if rgb.size != (size, size):
                rgb = F.center_crop(F.resize(rgb, size), [size, size])
            return np.asarray(rgb).transpose(2, 0, 1)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise all kinds of them on damaged files
        raise unreadable(path, error) from error


def unreadable(path: str, error: Exception) -> DataError:
    """The error for a file that no image comes out of."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return DataError(f"{path}: refused, {one_line(error)}; remove the file or make the image smaller")
    return DataError(f"{path}: cannot be read as an image ({one_line(error)}); remove or replace the file")


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """At most `count` of the indices 0 … n - 1, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).astype(np.int64))


def common_square_size(*splits: Sequence[str], sample: int = 256) -> int:
    """Side of the images in pixels if a sample of each split all have the same square size, else 0."""
    sizes: set[tuple[int, int]] = set()
    with strict_pillow():
        for path in (paths[i] for paths in splits for i in evenly_spaced(len(paths), sample)):
            try:
                with _open(path) as image:
                    sizes.add(image.size)
            except Exception as error:
                raise unreadable(path, error) from error
    width, height = sizes.pop()
    return width if not sizes and width == height else 0


def find_images(folder: str | os.PathLike) -> list[str]:
    """Image files below `folder`, sorted; hidden files and folders and other kinds of files are skipped.

    Links are followed, each folder once.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(root, name)
            for name in sorted(files)
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS)
        ]
    return found
