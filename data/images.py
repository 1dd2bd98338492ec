"""Images to squares of the size wanted, resized and cropped to their centre: from files, and of whole tensors."""

from __future__ import annotations

import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torchvision.transforms import functional as F
from torchvision.transforms.v2 import functional as v2

from .errors import DataError, one_line

# What counts as an image in a folder, and the decoders it may be opened with. Not all that Pillow knows:
# its EPS decoder, for one, runs another program on the file.
EXTENSIONS = tuple(
    ".jpg .jpeg .jfif .png .bmp .gif .tif .tiff .webp .avif .ppm .pgm .pbm .pnm .tga .jp2".split()
)
_LONGEST = 8  # sides' ratio above which only the middle is resized: 1 × 65,000 pixels would become gigabytes
_FAINT = 1 / 16  # of white: an image below it in more than 8 bits holds fewer bits than its file has room for
_TOO_FAINT = "nearly black, so which value is white is not known; stretch it, or save it in 8 bits"
_SLACK = 1e-4  # of white, for rounding of floats
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _SAMPLE_FORMAT = 258, 262, 274, 277, 339  # tags of TIFF and EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
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
    """Upright, 8-bit RGB, on white where transparent; `ValueError` where Pillow would lose what is in it."""
    if isinstance(image, TiffImageFile):
        _check_tiff(image)
    tile = getattr(image, "tile", None)  # images that are no file's have none
    # Pillow keeps the upper eight of a colour's sixteen bits, and only the raw mode tells
    wide = image.mode[0] != "I" and bool(tile) and ";16" in str(tile[0][3])
    image.load()
    turn = _TURNS.get(_orientation(image))  # TIFF has turned itself by now
    see_through = image.has_transparency_data
    if image.mode[0] in "IF":
        image = _grey(image)
    elif wide:
        channels: Any = image.getextrema()[: 3 if image.mode == "RGBA" else 4]
        if max(high for _, high in channels) < _FAINT * 256:
            raise ValueError(f"mode {image.mode} of 16 bits a channel: {_TOO_FAINT}")
    if see_through:
        image = _on_white(image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _check_tiff(image: TiffImageFile) -> None:
    """Refuse files of which Pillow would read other numbers, or fewer, than they hold."""
    tags, bands = image.tag_v2, len(image.getbands())
    if tags.get(_SAMPLES, 1) > bands:
        raise ValueError(f"mode {image.mode}: {tags[_SAMPLES]} channels, of which only {bands} can be kept")
    if 2 in tags.get(_SAMPLE_FORMAT, (1,)) or image.mode == "I":
        raise ValueError(f"mode {image.mode} of signed or 32-bit integers: which value is white is not known")
    if image.is_animated:
        shape = image.size, image.mode
        image.seek(1)
        same = (image.size, image.mode) == shape  # other sizes are thumbnails, or levels of a pyramid
        pages = image.n_frames
        image.seek(0)
        if same:
            raise ValueError(f"mode {image.mode}, {pages} pages: save the one that is the image")


def _orientation(image: Image.Image) -> int:
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return 1  # at once: most files, and asking takes a tenth of a thumbnail's decoding
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the pixels are whole: viewers show them as if there were no EXIF
        return 1


def _grey(image: Image.Image) -> Image.Image:
    """8-bit grey of integers up to 65,535 (4,095 in 12-bit TIFFs) or floats in 0 … 1."""
    # TIFF's tags go with its pixels; other formats have none of them
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    white = 1.0 if image.mode == "F" else 4095.0 if tags.get(_BITS) == (12,) else 65535.0
    low, high = float(values.min()), float(values.max())
    if not -_SLACK * white <= low <= high <= (1 + _SLACK) * white:  # nor NaN
        raise ValueError(f"mode {image.mode} with values from {low:g} to {high:g}, expected 0 to {white:g}")
    if tags.get(_PHOTOMETRIC) == 0:  # 0 is white, which Pillow heeds at 8 bits only
        values = white - values
    if 0 < values.max() < _FAINT * white:
        raise ValueError(f"mode {image.mode} with values up to {high:g} of {white:g}: {_TOO_FAINT}")
    if image.mode == "F":
        grey = np.rint(np.clip(values, 0, 1) * 255)
    else:
        grey = np.floor(values * (256 / (white + 1)))  # the upper eight bits, as Pillow does for colours
    result = Image.fromarray(grey.astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        result.putalpha(Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8)))
    return result


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):  # colours already multiplied by alpha
        image = image.convert(image.mode.upper())
    mode, image = image.mode, image.convert("RGBA")
    if image.getchannel("A").getextrema()[1] == 0:
        raise ValueError(f"mode {mode}, wholly transparent: nothing of it would be seen")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def decode(
    path: str | Image.Image,
    size: int,
    interpolation: str = "bilinear",
    crop_pct: float = 1.0,
    enlarge: bool = True,
) -> np.ndarray:
    """Read one image upright: shorter side resized to ``size / crop_pct`` (antialiased), centre cropped, RGB.

    Transparent parts show white; of an animation the first frame is read; colour profiles are ignored.

    Parameters
    ----------
    path : str, or an image of Pillow's, taken by the pixels that it holds
    size : int
        Pixels.
    interpolation : {'bilinear', 'bicubic'}
    crop_pct : float
        Share of the resized image's shorter side that the crop keeps.
    enlarge : bool
        False leaves smaller squares as they are.

    Returns
    -------
    ndarray of uint8, shape (3, size, size)

    Raises
    ------
    DataError
        The file is missing, truncated, no image, larger than Pillow's limit against image bombs, or its mode
        leaves open which value is black and which is white.
    """
    try:
        # a copy: decoding less than the whole would change the caller's image
        with path.copy() if isinstance(path, Image.Image) else _open(path) as image:
            if not enlarge and image.width == image.height < size:
                size, crop_pct = image.width, 1.0
            side = int(size / crop_pct)
            # lets the JPEG decoder skip resolution; twice the size leaves the resize enough to filter
            image.draft(None, (2 * side, 2 * side))
            rgb = _rgb(image)
            long, short = max(rgb.size), min(rgb.size)
            if long > _LONGEST * short:
                rgb = F.center_crop(rgb, [min(side, _LONGEST * short) for side in (rgb.height, rgb.width)])
            if rgb.size != (side, side):
                rgb = F.resize(rgb, side, F.InterpolationMode(interpolation))
            if rgb.size != (size, size):
                rgb = F.center_crop(rgb, [size, size])
            return np.asarray(rgb).transpose(2, 0, 1)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise all kinds of them on damaged files
        raise unreadable(str(path), error) from error


def unreadable(path: str, error: Exception) -> DataError:
    """The error for a file that no image comes out of."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return DataError(f"{path}: refused, {one_line(error)}; remove the file or make the image smaller")
    return DataError(f"{path}: cannot be read as an image ({one_line(error)}); remove or replace the file")


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
        images = v2.resize(images, [side, side], F.InterpolationMode(interpolation), antialias=True)
    return v2.center_crop(images, [size, size])


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """At most `count` of the indices 0 … n - 1, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).astype(np.int64))


def common_square_size(*splits: Sequence[str], sample: int = 256) -> int:
    """Side of the images in pixels if a sample of each split all have the same square size, else 0.

    Unreadable files are skipped here: decoding names all of them.
    """
    sizes: set[tuple[int, int]] = set()
    with strict_pillow():
        for path in (paths[i] for paths in splits for i in evenly_spaced(len(paths), sample)):
            with suppress(Exception), _open(path) as image:
                sizes.add(image.size)
    width, height = sizes.pop() if sizes else (0, 0)
    return width if not sizes and width == height else 0


def is_hidden(folder: str) -> bool:
    """Whether a folder of this name is the system's, not the user's: hidden, a Mac's, or a NAS's thumbnails."""
    return folder.startswith(".") or folder in ("__MACOSX", "@eaDir")


def find_images(folder: str | os.PathLike[str], left_out: Counter[str] | None = None) -> list[str]:
    """Image files below `folder`, sorted; hidden files and folders and other kinds of files are skipped.

    Links are followed, each folder once. `left_out` counts the other files by their suffix.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(files):
            if name.startswith("."):
                continue
            if name.lower().endswith(EXTENSIONS):
                found.append(os.path.join(root, name))
            elif left_out is not None:
                left_out[os.path.splitext(name)[1].lower()] += 1
    return found


def suffixes(left_out: Counter[str]) -> str:
    """What `find_images` has counted, in words: ``"3 files (2 .heic, 1 without one)"``."""
    files = "file" if left_out.total() == 1 else "files"
    kinds = ", ".join(f"{n} {suffix or 'without one'}" for suffix, n in left_out.most_common())
    return f"{left_out.total()} {files} ({kinds})"
