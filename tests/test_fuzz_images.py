"""Fuzz: images of every mode, depth, alpha, orientation and format are read as what was written, or refused.

`RLO_FUZZ_IMAGES=400` draws that many instead of the quick default.
"""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

import data
from data import images

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("RLO_FUZZ_IMAGES", 60))
SIDE = 16
# format → (suffix, grey levels it may be wrong by, keeps alpha, carries EXIF)
FORMATS = {
    "PNG": ("png", 0, True, True), "TIFF": ("tif", 0, True, True), "BMP": ("bmp", 0, False, False),
    "WEBP": ("webp", 0, True, True), "JPEG": ("jpg", 12, False, True), "GIF": ("gif", 0, False, False),
    "PPM": ("ppm", 0, False, False), "TGA": ("tga", 0, True, False), "JPEG2000": ("jp2", 0, True, False),
}  # fmt: skip
COLOURS = ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "P+alpha", "L+key", "RGB+key")


def smooth(rng, bands):
    """A picture that lossy formats keep: each channel a plane with its own slope."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    a, b, c = rng.uniform(-0.5, 0.5, (3, bands))
    return np.clip(0.5 + (x[..., None] - 0.5) * a + (y[..., None] - 0.5) * b + c * 0.4, 0.1, 0.9)


def over_white(rgb, alpha):
    return rgb * (alpha / 255) + 255 * (1 - alpha / 255)


def draw_colour(rng, kind):
    """Image in a mode of Pillow's with 8 bits, options of `save`, and the RGB that a viewer shows."""
    rgb = np.rint(smooth(rng, 3) * 255).astype(np.uint8)
    grey = rgb[..., :1]
    alpha = rng.integers(0, 256, (SIDE, SIDE, 1)).astype(np.uint8)
    triple = np.repeat(grey, 3, -1)
    if kind == "1":
        bits = rng.integers(0, 2, (SIDE, SIDE)).astype(bool)
        return Image.fromarray(bits), {}, np.repeat(bits[..., None] * 255, 3, -1)
    if kind in ("L", "L+key"):
        if kind == "L":
            return Image.fromarray(grey[..., 0]), {}, triple
        key = int(grey[3, 3, 0])
        return Image.fromarray(grey[..., 0]), {"transparency": key}, np.where(grey == key, 255, triple)
    if kind == "RGB":
        return Image.fromarray(rgb), {}, rgb
    if kind == "RGB+key":
        key = tuple(map(int, rgb[5, 2]))
        same = (rgb == rgb[5, 2]).all(-1, keepdims=True)
        return Image.fromarray(rgb), {"transparency": key}, np.where(same, 255, rgb)
    if kind == "LA":
        return Image.fromarray(np.concatenate([grey, alpha], -1)), {}, over_white(triple, alpha)
    if kind == "RGBA":
        return Image.fromarray(np.concatenate([rgb, alpha], -1)), {}, over_white(rgb, alpha)
    if kind in ("P", "P+alpha"):
        palette = rng.integers(0, 256, (8, 3)).astype(np.uint8)
        index = rng.integers(0, 8, (SIDE, SIDE)).astype(np.uint8)
        index.flat[:8] = range(8)  # or writers drop colours that are not used, and renumber the rest
        image = Image.fromarray(index, "L")
        image.putpalette(palette.tobytes())
        if kind == "P":
            return image, {}, palette[index]
        clear = np.full(8, 255)
        clear[rng.integers(8)] = 0
        clear_one = int(clear.argmin())
        shown = np.where((index == clear_one)[..., None], 255, palette[index])
        return image, {"transparency": clear_one}, shown
    image = Image.fromarray(rgb).convert(kind)  # CMYK, YCbCr: Pillow's own way back is the truth
    return image, {}, np.asarray(image.convert("RGB"))


def png16(rgb):
    """16-bit RGB PNG, which Pillow does not write."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    head = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff12(values):
    """A grey TIFF of 12 bits, two pixels in three bytes, which Pillow does not write."""
    pairs = values.reshape(-1, 2).astype(int)
    body = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    tags = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 12 * 8 + 4, 278: 16, 279: len(body)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, tags[tag], 0) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + body


@pytest.mark.parametrize(
    "kind", ["I;16 png", "I;16 tif", "I;16 jp2", "I;16B", "I", "F", "RGB png", "12 bits"]
)
def test_more_than_eight_bits_a_channel_are_refused_by_name(tmp_path, kind):
    """Which of the values is white is not in the file, and Pillow would cut off what is above 255."""
    share = smooth(np.random.default_rng(0), 3)
    grey, wide = share[..., 0], np.rint(share * 65535).astype(np.uint16)
    path = tmp_path / f"deep.{kind.partition(' ')[2] if kind[:3] in ('I;1', 'RGB') else ''}"
    path = path if path.suffix in (".png", ".jp2") else path.with_suffix(".tif")
    if kind == "RGB png":
        path.write_bytes(png16(wide))
    elif kind == "12 bits":
        path.write_bytes(tiff12(wide[..., 0] >> 4))
    else:
        types = {"I;16B": ">u2", "I": np.int32, "F": np.float32}
        values = {"I": grey * 255, "F": grey}.get(kind, wide[..., 0])
        Image.fromarray(values.astype(types.get(kind, np.uint16))).save(path)
    with pytest.raises(data.DataError, match="more than 8 bits a channel") as error:
        images.decode(str(path), SIDE)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_images_are_read_as_written(tmp_path):
    rng = np.random.default_rng(20)
    done = 0
    wrong = []
    while done < COUNT:
        kind, name = str(rng.choice(COLOURS)), str(rng.choice(list(FORMATS)))
        suffix, tolerance, keeps_alpha, exif = FORMATS[name]
        image, options, expected = draw_colour(rng, kind)
        if ("A" in kind or options) and (not keeps_alpha or (options and name != "PNG")):
            continue
        path, orientation = tmp_path / f"{done}.{suffix}", int(rng.integers(1, 9)) if exif else 1
        what = f"{name} {kind} turned {orientation}"
        if orientation > 1:
            tags = Image.Exif()
            tags[0x0112] = orientation
            options["exif"] = tags
            shown = Image.fromarray(expected.astype(np.uint8))
            shown.info["exif"] = tags.tobytes()
            expected = np.asarray(ImageOps.exif_transpose(shown))
        if name in ("JPEG", "WEBP"):
            options |= (
                {"quality": 98, "subsampling": 0} if name == "JPEG" else {"lossless": True, "exact": True}
            )
        try:
            image.save(path, name, **options)
        except (OSError, ValueError):  # the format has no such mode
            continue
        done += 1
        pixels = images.decode(str(path), SIDE).transpose(1, 2, 0).astype(int)
        if np.abs(pixels - expected).max() > tolerance + 1:
            wrong.append(f"{what}: off by {np.abs(pixels - expected).max():.0f}")
    assert not wrong, "\n".join(sorted(set(wrong)))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_as_viewers_show_them(tmp_path, suffix, orientation):
    pixels = np.rint(smooth(np.random.default_rng(0), 3) * 255).astype(np.uint8)[:, : SIDE - 5]
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 98} if suffix == "jpg" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=tags, **options)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        ImageOps.exif_transpose(image).save(tmp_path / "upright.png")
    got, wanted = (
        images.decode(str(tmp_path / name), 11).astype(int) for name in (f"a.{suffix}", "upright.png")
    )
    # JPEG: the decoder filters before the turn or after it
    assert np.abs(got - wanted).max() <= (4 if suffix == "jpg" else 0)


def test_hidden_colours_under_full_transparency_are_not_seen(tmp_path):
    for hidden in (0, 255):
        pixels = np.full((8, 8, 4), hidden, np.uint8)
        pixels[..., 3] = np.eye(8) * 255
        pixels[np.eye(8, dtype=bool)] = 90, 60, 30, 255
        Image.fromarray(pixels).save(tmp_path / f"{hidden}.png")
    a, b = (images.decode(str(tmp_path / f"{hidden}.png"), 8) for hidden in (0, 255))
    assert np.array_equal(a, b) and a[0, 0, 1] == 255 and a[0, 1, 1] == 90
