"""One image file as a square of red, green and blue bytes.

What Pillow would convert to other pixels than the picture has is converted here, or refused.
"""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from swa_bench.errors import SwaBenchError

if TYPE_CHECKING:
    from torch import Tensor  # which takes seconds to import

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")  # whatever a file's ending says
PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK")  # of 8 bits or fewer
WITH_ALPHA = ("LA", "PA", "RGBA")
GREY_16 = ("I;16", "I;16L", "I;16B")
TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262


def read_square(path: str, size: int) -> bytes:
    """An image, its shorter side resized, cut to a square (size, size, 3), or SwaBenchError."""
    from torchvision.transforms import functional as T  # takes seconds

    try:
        rgb = read_rgb(path)
        refuse_narrow(rgb.width, rgb.height, size)
        square = T.center_crop(T.resize(rgb, [size]), [size])
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise SwaBenchError(f"{path} cannot be read as an image: {error}") from error
    return np.asarray(square).tobytes()


def refuse_narrow(width: int, height: int, size: int) -> None:
    """Raise ValueError if an image is too large once its shorter side is resized to `size`."""
    shorter, longer = sorted((width, height))
    if size * size * longer / shorter > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise ValueError(f"{width}x{height} pixels are too narrow to be resized")


def read_tensor(path: str) -> "Tensor":
    """An image as of `read_rgb`, as uint8 (3, H, W)."""
    import torch

    content = bytearray(Path(path).read_bytes())
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:  # whose text names the bytes, not the file
        raise ValueError("it is of no known format") from None
    with opened as image:
        plain = image.format == "JPEG" and image.mode in ("L", "RGB")
        if plain and not {"exif", "xmp"} & image.info.keys():  # which may say that it is turned
            # torchvision gives it the same pixels in less time. A later one may lack this function,
            # and of what is wrong with a file Pillow says more.
            with contextlib.suppress(ImportError, RuntimeError):
                from torchvision.io import ImageReadMode, decode_jpeg

                coded = torch.frombuffer(content, dtype=torch.uint8)
                rgb: Tensor = decode_jpeg(coded, ImageReadMode.RGB)
                return rgb
    return torch.from_numpy(np.array(read_rgb(path))).permute(2, 0, 1)


def read_rgb(path: str) -> Image.Image:
    """An image as RGB: turned as its EXIF says, 16 bits scaled to 8, transparency on white.

    Of an animation it is the first frame. ValueError if there is no right way to convert it.
    """
    # Of a path instead of a file, Pillow 13 maps a TIFF into memory and reads a turned one wrongly.
    with Path(path).open("rb") as file, Image.open(file, formats=FORMATS) as image:
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        raise ValueError("it has several pages: save the one that is meant")
    _refuse_scaled_transparency(image)
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in GREY_16 or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_16_bits(image)
    if image.mode in WITH_ALPHA or (image.mode in PLAIN and "transparency" in image.info):
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode in PLAIN:
        return image.convert("RGB")
    raise ValueError(f"its mode {image.mode} has no known range: save it with 8 or 16 bits")


def _refuse_scaled_transparency(image: Image.Image) -> None:
    """Pillow scales the pixels of 2, 4 and 16 bits, but not the transparent value beside them."""
    if not isinstance(image, PngImageFile) or "transparency" not in image.info:
        return
    if image.mode in ("L", "RGB") and image.tile[0][3] != image.mode:
        raise ValueError("it has a transparent colour and not 8 bits: save it with alpha")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 0..65535, scaled to 0..255."""
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        if tags.get(TIFF_BITS) != (16,) or tags.get(TIFF_PHOTOMETRIC) != 1:
            raise ValueError("its pixels are not 16 bits from black to white")
    values = np.asarray(image).astype(np.uint32)
    grey = ((values + 128) // 257).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")
