"""Refiners: small networks that plug into the decoder of a learned codec and leave its bitstream alone.

>>> with attach(model, [fresh_refiner("fenm", model)]):
...     refined = model.decompress(**model.compress(x))
"""

from enhancer.refiners.attach import Attachment, attach, detach
from enhancer.refiners.base import Context, Point, Refiner
from enhancer.refiners.build import REFINER_NAMES, RESTORING, fresh_refiner, residual_control
from enhancer.refiners.checkpoint import RefinerSet, load_refiners, save_refiners, weights_sha256
from enhancer.refiners.networks import FEnM, PictureQECM, PixelRefiner, PlainResidual
from enhancer.refiners.qecm import FourierQECM, LearnedQECM, fourier_error, truncated_laplace

__all__ = [
    "REFINER_NAMES",
    "RESTORING",
    "Attachment",
    "Context",
    "FEnM",
    "FourierQECM",
    "LearnedQECM",
    "PictureQECM",
    "PixelRefiner",
    "PlainResidual",
    "Point",
    "Refiner",
    "RefinerSet",
    "attach",
    "detach",
    "fourier_error",
    "fresh_refiner",
    "load_refiners",
    "residual_control",
    "save_refiners",
    "truncated_laplace",
    "weights_sha256",
]
