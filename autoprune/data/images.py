"""Image files to tensors, through pillow."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from torch import Tensor

from autoprune.errors import DataError

MODES = {1: "L", 3: "RGB"}


def decode_image(data: bytes, where: str, *, channels: int = 3, size: tuple[int, int] | None = None) -> Tensor:
    """One image as uint8 ``[channels, H, W]``.

    Args:
        data: content of a PNG, JPEG or other image file.
        where: its name, for messages.
        channels: 3 for colour, 1 for grey.
        size: height and width to resize it to (bilinear), its own by default.

    Raises:
        DataError: no image, or one that is truncated, corrupt or far too large.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                picture = image.convert(MODES[channels])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = str(error).split(" <_io")[0]
        raise DataError(f"image '{where}' cannot be read ({reason}); replace it or take it out") from error
    if size is not None and picture.size != (size[1], size[0]):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, dtype=np.uint8).reshape(picture.height, picture.width, channels)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
