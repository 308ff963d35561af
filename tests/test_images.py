"""How one file becomes pixels: known pixels of each kind, and what is refused."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swa_bench.data.decoding import read_rgb, read_square
from swa_bench.errors import SwaBenchError

Pixels = list[tuple[int, int, int]]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def grey(*values: int) -> Pixels:
    return [(value, value, value) for value in values]


def square(path: Path) -> Pixels:
    """The four pixels of a file of 2x2, which is not resized."""
    pixels = np.frombuffer(read_square(str(path), 2), np.uint8).reshape(4, 3)
    return [(int(r), int(g), int(b)) for r, g, b in pixels]


def of(mode: str, values: list[object]) -> Image.Image:
    image = Image.new(mode, (2, 2))
    for place, value in enumerate(values):
        image.putpixel((place % 2, place // 2), value)  # type: ignore[arg-type]
    return image


def palette() -> Image.Image:
    image = of("P", [0, 1, 2, 3])
    image.putpalette([*RED, *GREEN, *BLUE, *BLACK])
    return image


def png(depth: int, colour: int, rows: list[bytes], transparent: bytes = b"") -> bytes:
    """A PNG of 2x2, chunk by chunk: kinds that Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", 2, 2, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header)] + [chunk(b"tRNS", transparent)] * bool(transparent)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts, chunk(b"IDAT", body), chunk(b"IEND", b"")])


SIXTEEN = np.array([[0, 25700], [65535, 300]], dtype=np.uint16)  # 300 / 257 = 1.17
HALF = (0, 0, 0, 128)  # black of opacity 128/255 over white: 255 - 128

MADE: dict[str, tuple[Image.Image, Pixels]] = {
    "grey.png": (of("L", [0, 7, 77, 255]), grey(0, 7, 77, 255)),
    "bits.png": (of("1", [0, 255, 255, 0]), grey(0, 255, 255, 0)),
    "palette.png": (palette(), [RED, GREEN, BLUE, BLACK]),
    "colour.bmp": (of("RGB", [RED, GREEN, (1, 2, 3), WHITE]), [RED, GREEN, (1, 2, 3), WHITE]),
    "print.tif": (
        of("CMYK", [(0, 255, 255, 0), (0, 0, 0, 255), (0, 0, 0, 0), (255, 255, 0, 0)]),
        [RED, BLACK, WHITE, BLUE],
    ),
    "alpha.png": (
        of("RGBA", [(*RED, 0), (*RED, 255), HALF, (*BLACK, 0)]),
        [WHITE, RED, (127, 127, 127), WHITE],
    ),
    "alpha.webp": (of("RGBA", [(*RED, 0), (*RED, 255)] * 2), [WHITE, RED] * 2),
    "grey-alpha.png": (of("LA", [(0, 0), (10, 255), (0, 128), (200, 0)]), grey(255, 10, 127, 255)),
    "16.png": (Image.fromarray(SIXTEEN), grey(0, 100, 255, 1)),
    "16.tif": (Image.fromarray(SIXTEEN), grey(0, 100, 255, 1)),
    "16.pgm": (Image.fromarray(SIXTEEN.astype(np.int32)), grey(0, 100, 255, 1)),
}


@pytest.mark.parametrize("name", MADE)
def test_known_pixels(tmp_path: Path, name: str) -> None:
    image, expected = MADE[name]
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert square(tmp_path / name) == expected


TRANSPARENT: dict[str, tuple[bytes, Pixels]] = {
    "grey": (png(8, 0, [b"\x05\x06", b"\x05\xff"], b"\0\x05"), grey(255, 6, 255, 255)),
    "bits": (png(1, 0, [b"\x40", b"\x80"], b"\0\0"), grey(255, 255, 255, 255)),
    "16 bits": (png(16, 0, [b"\0\0\x64\x64", b"\xff\xff\0\0"], b"\x64\x64"), grey(0, 255, 255, 0)),
    "colour": (png(8, 2, [bytes([*RED, *BLUE])] * 2, b"\0\xff\0\0\0\0"), [WHITE, BLUE] * 2),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_a_transparent_colour_becomes_white(tmp_path: Path, kind: str) -> None:
    content, expected = TRANSPARENT[kind]
    (tmp_path / "made.png").write_bytes(content)
    assert square(tmp_path / "made.png") == expected


def test_a_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    palette().save(tmp_path / "one.png", transparency=1)
    assert square(tmp_path / "one.png") == [RED, WHITE, BLUE, BLACK]
    palette().save(tmp_path / "each.png", transparency=bytes([255, 0, 255, 128]))
    assert square(tmp_path / "each.png") == [RED, WHITE, BLUE, (127, 127, 127)]


def test_a_grey_map_of_10_bits_uses_its_own_white(tmp_path: Path) -> None:
    """1023 is white; 512 / 1023 of 255 is 127.6."""
    (tmp_path / "made.pgm").write_bytes(b"P5 2 2 1023\n" + struct.pack(">4H", 0, 1023, 512, 4))
    assert square(tmp_path / "made.pgm") == grey(0, 255, 128, 1)


UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # how an upright image lies in the file
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.T,
    6: lambda upright: np.rot90(upright),  # it is turned clockwise to be seen
    7: lambda upright: upright[::-1, ::-1].T,
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_the_orientation_is_applied(tmp_path: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](UPRIGHT))
    path = tmp_path / f"turned.{ending}"
    Image.fromarray(stored).save(
        path, exif=exif, **({"lossless": True} if ending == "webp" else {})
    )
    assert np.array_equal(np.asarray(read_rgb(str(path))), UPRIGHT[..., None].repeat(3, 2))


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert square(tmp_path / "moving.webp") == [RED] * 4


def float_tiff(path: Path) -> str:
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)).save(path)
    return "its mode F has no known range: save it with 8 or 16 bits"


def integer_tiff(path: Path) -> str:
    Image.fromarray(np.full((2, 2), 200, dtype=np.int32)).save(path)
    return "its mode I has no known range"


def pages(path: Path) -> str:
    frames = [Image.new("L", (2, 2), value) for value in (1, 2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return "it has several pages: save the one that is meant"


def white_is_zero(path: Path) -> str:
    Image.fromarray(SIXTEEN).save(path, tiffinfo={262: 0})
    content = path.read_bytes()
    entry = struct.pack("<HHI", 262, 3, 1)
    assert content.count(entry) == 1
    place = content.index(entry) + len(entry)
    path.write_bytes(content[:place] + b"\0\0" + content[place + 2 :])
    return "its pixels are not 16 bits from black to white"


def lab(path: Path) -> str:
    Image.new("LAB", (2, 2)).save(path)
    return "its mode LAB has no known range"


def four_bits(path: Path) -> str:
    path.write_bytes(png(4, 0, [b"\x1f", b"\xf1"], b"\0\x0f"))
    return "it has a transparent colour and not 8 bits"


def deep_colour(path: Path) -> str:
    path.write_bytes(png(16, 2, [bytes(12)] * 2, bytes(6)))
    return "it has a transparent colour and not 8 bits"


def bomb(path: Path) -> str:
    Image.new("1", (10_000, 9_000)).save(path, "PNG")
    return "exceeds limit of 89478485 pixels"


def thread(path: Path) -> str:
    Image.new("L", (1, 60_000)).save(path, "PNG")
    return "1x60000 pixels are too narrow"


def cut(path: Path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)).save(
        path, "JPEG"
    )
    path.write_bytes(path.read_bytes()[:-600])
    return "truncated"


def postscript(path: Path) -> str:
    Image.new("RGB", (2, 2)).save(path, "EPS")
    return "cannot identify image file"


REFUSED = [float_tiff, integer_tiff, pages, white_is_zero, lab, four_bits, deep_colour]
REFUSED += [bomb, thread, cut, postscript]


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("make", REFUSED)
def test_what_has_no_right_pixels_is_refused(tmp_path: Path, make: Callable[[Path], str]) -> None:
    path = tmp_path / "made.tif"
    expected = make(path)
    with pytest.raises(SwaBenchError) as caught:
        read_square(str(path), 256)
    assert str(caught.value).startswith(f"{path} cannot be read as an image: ")
    assert expected in str(caught.value)
