"""Training losses on pictures in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from train.config import LossName

MS_SSIM_LAMBDA = 1 / 20
"""Xue and Su 2019, sec. 3, equation 3. The printed loss adds lambda * MS-SSIM, which minimising would
drive the similarity down; 1 - MS-SSIM is what must be meant."""


ERROR_FLOOR = 1 / 255
"""Added to the errors that ``relative_mae`` divides by, so that almost perfect crops do not rule."""

MSE_FLOOR = (0.5 / 255) ** 2
"""Likewise for ``relative_mse``; about 54 dB."""


def reconstruction_loss(
    name: LossName, y: Tensor, target: Tensor, x: Tensor, codec_mse: Tensor | None = None
) -> Tensor:
    """Mean loss of restored pictures ``y`` of decoded ones ``x`` against ``target``, all ``(N, 3, S, S)``.

    ``relative_mae`` divides the error of each crop by the error that the codec left in it: all
    qualities then count alike, as they do in a mean of PSNR gains. ``relative_mse`` divides by the mean squared
    error ``(N,)`` of the whole picture that a crop comes from; its mean over all crops of a picture is what the
    picture's PSNR gain is the logarithm of.
    """
    if name == "relative_mae":
        before, after = ((picture - target).abs().mean((1, 2, 3)) for picture in (x, y))
        return (after / (before + ERROR_FLOOR)).mean()
    if name == "relative_mse":
        assert codec_mse is not None
        return ((y - target).square().mean((1, 2, 3)) / (codec_mse + MSE_FLOOR)).mean()
    if name == "mse":
        return F.mse_loss(y, target)
    mae = F.l1_loss(y, target)
    return mae if name == "mae" else mae + MS_SSIM_LAMBDA * (1 - crop_ms_ssim(y, target))


def crop_ms_ssim(y: Tensor, target: Tensor) -> Tensor:
    """Mean MS-SSIM over five scales, with the widest window (11 taps at most) that a crop allows.

    Below 177 pixels 11 taps do not fit on the coarsest scale; the window is narrowed rather than
    scales left out. ``data_range`` is 1.

    Raises:
        ValueError: If the crops are smaller than 33 pixels.
    """
    side = min(y.shape[-2:])
    if side < 33:
        raise ValueError(f"MS-SSIM needs crops of 33 pixels or more, got {side}")
    from pytorch_msssim import ms_ssim  # here: a machine that trains on MAE alone does not need it

    window = min(11, (side - 1) // 16 // 2 * 2 + 1)
    return torch.as_tensor(ms_ssim(y.clamp(0, 1), target, data_range=1.0, win_size=window))
