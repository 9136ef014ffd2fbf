"""Random crops and flips of a batch of images, all images at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.errors import unknown_name

AUGMENTS = ("none", "flip_crop")


def augment_batch(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """``images`` ``[N, C, H, W]`` of any type, augmented; the same shape and type.

    ``flip_crop`` pads each side by an eighth of the height with zeros, cuts a window of the old size at a random place
    and mirrors half of the images (C.-Y. Lee et al., "Deeply-Supervised Nets", 2015, and most work on CIFAR-10 since).

    Raises:
        UnknownNameError: another kind.
    """
    if kind == "none":
        return images
    if kind not in AUGMENTS:
        raise unknown_name("augmentation", kind, AUGMENTS)
    count, _, height, width = images.shape
    pad = max(1, height // 8)
    padded = nn.functional.pad(images, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)  # [N, 1] each
    flip = torch.randint(0, 2, (count, 1), generator=generator, dtype=torch.bool)
    rows = top + torch.arange(height)  # [N, H]
    ahead = torch.arange(width)
    columns = left + torch.where(flip, width - 1 - ahead, ahead)  # [N, W]
    sample = torch.arange(count)[:, None, None]
    cut = padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]  # [N, H, W, C]
    return cut.permute(0, 3, 1, 2)
