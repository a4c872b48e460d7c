"""One picture at a target size: the largest stream that is not above the target.

The search only encodes, never decodes. It walks the codec's qps by interpolating log size, which is
close to linear in qp for every codec here, and then turns the codec's fine knob (a factor on the
encoder's lambda) to land just below the target. Nothing is assumed beyond that: a lower quality may
give a larger stream (as it does in practice, see AOMediaCodec/libavif#1278), so the result is always
the best of the streams that were really made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, cast

from codec_wrappers.base import NO_METADATA, Codec, FineKnob, Image, Metadata, bits_per_pixel
from codec_wrappers.encode_cache import EncodeCache
from codec_wrappers.errors import RateControlError
from codec_wrappers.rate_search import Point, bracket, propose, search_qp

PROBE_RATIO = 0.94
"""Expected size of a full encode over that of its probe (vvenc medium over faster: 0.88 to 1.00)."""

# d log(size) / d -log(lambda): 0.35 to 0.63 for x265, 0.25 to 0.5 for vvenc on photographs.
_FINE_SLOPE = 0.45
# A finer qp wastes a little against a coarser one with a smaller lambda, as long as the factor stays
# above this; so the qp search stops at a qp that can be raised to the target by such a factor.
_PREFERRED_FACTOR = 0.7
_FINE_REACH = -_FINE_SLOPE * math.log(_PREFERRED_FACTOR)
_FINEST_STEP = 0.02  # of log lambda: within this sizes jump up and down by as much
_UNLUCKY = 0.01  # part of the target left unused at one qp for which another qp is tried, too
_PROBES_PER_STAGE = 7
_CAUTION = 0.015  # of log size: how much lower an encode aims that had better fit


@dataclass(frozen=True)
class Encoding:
    """A bitstream with the settings that made it.

    Attributes:
        qp: The codec's native quality index.
        codec: The codec with all its options, the fine one included:
            ``codec.encode(image, qp)`` gives ``bitstream`` again.
        bitstream: The stream, container included.
        bpp: Its rate in bits per pixel.
        encodes: Number of settings tried with the full encoder.
        probes: Number of settings tried with the codec's cheaper probe.
    """

    qp: int
    codec: Codec
    bitstream: bytes = field(repr=False)
    bpp: float
    encodes: int
    probes: int = 0


def encode_to_bpp(
    codec: Codec,
    image: Image,
    bpp: float,
    *,
    metadata: Metadata = NO_METADATA,
    max_encodes: int | None = None,
    tolerance: float = 0.005,
    cache: EncodeCache | None = None,
) -> Encoding:
    """The largest stream of ``image`` found at no more than ``bpp`` bits per pixel.

    See :func:`encode_to_bytes`.

    Raises:
        ValueError: If ``bpp`` is not a positive number.
        RateControlError: If no setting comes close to ``bpp``; names the reachable range.
    """
    if not (math.isfinite(bpp) and bpp > 0):
        raise ValueError(f"bpp must be a positive number, got {bpp}")
    height, width = image.shape[:2]
    # The small term lets a rate that was computed from a whole number of bytes mean that number.
    target_bytes = math.floor(bpp * height * width / 8 + 1e-6)
    if target_bytes < 1:
        raise RateControlError(f"{bpp:g} bpp is less than one byte for {width} x {height} pixels")
    return encode_to_bytes(
        codec,
        image,
        target_bytes,
        metadata=metadata,
        max_encodes=max_encodes,
        tolerance=tolerance,
        cache=cache,
    )


def encode_to_bytes(
    codec: Codec,
    image: Image,
    target_bytes: int,
    *,
    metadata: Metadata = NO_METADATA,
    max_encodes: int | None = None,
    tolerance: float = 0.005,
    cache: EncodeCache | None = None,
) -> Encoding:
    """The largest stream of ``image`` found that has no more than ``target_bytes`` bytes.

    A codec with a cheap :meth:`~codec_wrappers.base.Codec.probe` is searched with that one; full
    encodes then only measure and correct the ratio between the two.

    Args:
        codec: Encoder and its options. The fine option is moved around the value given here.
        image: Picture to encode.
        target_bytes: Limit, container and metadata included.
        metadata: Stored in the stream if the codec can.
        max_encodes: Limit of full encodes; by default 9, or 3 with a probe. Exceeded only while no
            stream fits yet.
        tolerance: The search ends early when at most this fraction of the target is unused.
        cache: Where finished encodes are kept, if anywhere.

    Raises:
        ValueError: If an argument is out of range or the codec does not take the picture.
        RateControlError: If no setting comes close to the target; names the reachable range.
        CodecError: If encoding fails.
    """
    if target_bytes < 1:
        raise ValueError(f"target_bytes must be at least 1, got {target_bytes}")
    if max_encodes is not None and max_encodes < 1:
        raise ValueError(f"max_encodes must be at least 1, got {max_encodes}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be in 0..1, got {tolerance}")
    full = _Meter(codec, image, metadata, cache, target_bytes)
    quick = _Meter(codec.probe(), image, metadata, cache, target_bytes)
    if quick.codec == codec:
        quick = full
        _search(full, target_bytes, max_encodes or 9, tolerance)
    else:
        _search_by_probe(full, quick, target_bytes, max_encodes or 3, tolerance)
    encoding = full.encoding(probes=0 if quick is full else quick.count)
    if encoding is None:
        raise _out_of_reach(full, quick, target_bytes, above=False)
    if len(encoding.bitstream) < target_bytes * (1 - tolerance) and full.reaches_no_higher_than(target_bytes):
        raise _out_of_reach(full, quick, target_bytes, above=True)
    return encoding


def refine_to_bytes(
    codec: Codec,
    image: Image,
    qp: int,
    target_bytes: int,
    *,
    max_encodes: int = 4,
    tolerance: float = 0.005,
    cache: EncodeCache | None = None,
) -> Encoding | None:
    """The largest stream at this ``qp`` within ``target_bytes``, by the fine knob alone; None if none fits."""
    meter = _Meter(codec, image, NO_METADATA, cache, target_bytes)
    index = meter.qps.index(qp)
    _search_fine(meter, index, target_bytes, max_encodes, tolerance)
    return meter.encoding()


@dataclass(frozen=True, order=True)
class _Setting:
    """What the search may change: position of the qp, cheapest first, and value of the fine option."""

    index: int
    fine: float


class _Meter:
    """Encodes one picture at many settings, each once, and remembers sizes.

    Of the streams, only the largest that fits the limit is kept.
    """

    def __init__(self, codec: Codec, image: Image, metadata: Metadata, cache: EncodeCache | None, limit: int) -> None:
        self.codec = codec
        self.qps = tuple(codec.qp_range.by_rate())
        self.pixels = image.shape[0] * image.shape[1]
        self.knob = usable_knob(codec)
        self.neutral = float(getattr(codec, self.knob.option)) if self.knob else 1.0
        self.sizes: dict[_Setting, int] = {}
        self.best: tuple[_Setting, bytes] | None = None
        self._image, self._metadata, self._cache, self._limit = image, metadata, cache, limit

    @property
    def count(self) -> int:
        return len(self.sizes)

    @property
    def cheapest(self) -> _Setting:
        return _Setting(0, self.knob.high if self.knob else self.neutral)

    @property
    def dearest(self) -> _Setting:
        return _Setting(len(self.qps) - 1, self.knob.low if self.knob else self.neutral)

    def reaches_no_higher_than(self, target: int) -> bool:
        """Whether the search ended at the dearest qp, and everything that qp can do fits."""
        if self.best is None or self.best[0].index < self.dearest.index:
            return self.sizes.get(self.dearest, math.inf) <= target
        return self.size(self.dearest) <= target

    def size(self, setting: _Setting) -> int:
        """Bytes at this setting; encodes unless that was done before."""
        if setting not in self.sizes:
            codec, qp = self.codec_at(setting), self.qps[setting.index]
            if self._cache:
                bitstream = self._cache.encode(codec, self._image, qp, metadata=self._metadata)
            else:
                bitstream = codec.encode(self._image, qp, metadata=self._metadata)
            self.sizes[setting] = len(bitstream)
            if (self.best is None or len(bitstream) > len(self.best[1])) and len(bitstream) <= self._limit:
                self.best = setting, bitstream
        return self.sizes[setting]

    def neutral_sizes(self) -> dict[int, int]:
        """Sizes by position of the qp, fine option untouched."""
        return {s.index: size for s, size in self.sizes.items() if s.fine == self.neutral}

    def codec_at(self, setting: _Setting) -> Codec:
        return self.codec if setting.fine == self.neutral else with_fine_option(self.codec, setting.fine)

    def closest(self, target: float) -> _Setting:
        """The measured setting with the largest size not above ``target``, else the smallest one."""
        fitting = [setting for setting, size in self.sizes.items() if size <= target]
        if fitting:
            return max(fitting, key=self.sizes.__getitem__)
        return min(self.sizes, key=self.sizes.__getitem__)

    def encoding(self, probes: int = 0) -> Encoding | None:
        """The largest stream that fits the limit, if there is one."""
        if self.best is None:
            return None
        setting, bitstream = self.best
        return Encoding(
            qp=self.qps[setting.index],
            codec=self.codec_at(setting),
            bitstream=bitstream,
            bpp=bits_per_pixel(bitstream, self._image),
            encodes=self.count,
            probes=probes,
        )


def with_fine_option(codec: Codec, value: float) -> Codec:
    """``codec`` with its fine option set; the codec itself where that changes nothing."""
    if codec.fine_knob is None or getattr(codec, codec.fine_knob.option) == value:
        return codec
    changed: Codec = replace(cast(Any, codec), **{codec.fine_knob.option: value})
    return changed


def usable_knob(codec: Codec) -> FineKnob | None:
    """The codec's fine knob, unless its other options (a backend, say) do not take it."""
    knob = codec.fine_knob
    try:
        return knob if knob and with_fine_option(codec, knob.low) else None
    except ValueError:
        return None


def _search(meter: _Meter, target: float, max_encodes: int, tolerance: float) -> None:
    """Measures settings until one is just below ``target`` or ``max_encodes`` are spent."""
    index = _search_index(meter, target, max_encodes)
    if meter.knob is None:
        return
    sizes = meter.neutral_sizes()
    above = sizes.get(index + 1, math.inf)
    if sizes[index] <= target / math.exp(_FINE_REACH) and above / target < target / sizes[index]:
        index += 1  # far below, and a little above: come down from there
    last = index + 1 == len(meter.qps)
    _search_fine(meter, index, target, max_encodes, tolerance, to_end=last)
    unused = 1 - meter.sizes[meter.closest(target)] / target
    at_end = _Setting(index, meter.dearest.fine) in meter.sizes and unused > tolerance
    if not last and (at_end or unused > max(tolerance, _UNLUCKY)):
        _search_fine(meter, index + 1, target, max_encodes, tolerance)


def _search_index(meter: _Meter, target: float, max_encodes: int) -> int:
    """Position of the dearest qp found that fits with the fine option neutral; 0 if none does.

    With a fine knob the search ends at the first qp that the knob can raise to the target.
    """
    sizes = meter.neutral_sizes()

    def measure(index: int) -> None:
        sizes[index] = meter.size(_Setting(index, meter.neutral))

    return search_qp(
        sizes,
        measure,
        qps=len(meter.qps),
        target=target,
        pixels=meter.pixels,
        max_measured=max_encodes - meter.count + len(sizes),
        reach=_FINE_REACH if meter.knob else 0.0,
    )


def _search_fine(
    meter: _Meter, index: int, target: float, max_encodes: int, tolerance: float, *, to_end: bool = True
) -> None:
    """Turns the fine knob at one qp until a size is just below ``target``.

    Without ``to_end``, no encode is spent on the knob's end when the target is seen to lie beyond it.
    """
    if meter.knob is None:
        return
    cheapest, dearest = -math.log(meter.knob.high), -math.log(meter.knob.low)
    limit, enough = math.log(target), math.log(target * (1 - tolerance))
    while True:
        points = [Point(-math.log(s.fine), math.log(size)) for s, size in meter.sizes.items() if s.index == index]
        low, high = bracket(points, limit)
        if low and (low.log_size >= enough or (high and high.position - low.position < _FINEST_STEP)):
            return
        if meter.count >= max_encodes and not (index == 0 and meter.best is None):
            return
        setting = _Setting(index, meter.neutral)
        if points:
            # The last encode had better fit if nothing near the target does so far.
            far = low is None or limit - low.log_size > 2 * _CAUTION
            caution = _CAUTION if far and meter.count >= max_encodes - 1 else 0.0
            proposal = propose(points, (limit + enough) / 2 - caution, limit, _FINE_SLOPE)
            if not to_end and len(points) > 1 and proposal > dearest + _FINEST_STEP:
                return
            setting = _Setting(index, round(math.exp(-min(max(proposal, cheapest), dearest)), 4))
        if setting in meter.sizes:
            return
        meter.size(setting)


def _search_by_probe(full: _Meter, quick: _Meter, target: int, max_encodes: int, tolerance: float) -> None:
    """Searches with ``quick``, whose ratio to ``full`` is measured once, and corrects with ``full``."""
    index = _search_index(quick, target / PROBE_RATIO, _PROBES_PER_STAGE)
    setting = _Setting(index, quick.neutral)
    size = full.size(setting)
    if target * (1 - tolerance) <= size <= target:
        return
    if full.count < max_encodes:
        aim = target * math.exp(-_CAUTION / 2) * quick.size(setting) / size
        _search(quick, aim, quick.count + _PROBES_PER_STAGE, tolerance)
        setting = quick.closest(aim)
        full.size(setting)
        _search_fine(full, setting.index, target, max_encodes, tolerance)
    if full.best is None or full.knob is None:
        _search(full, target, max_encodes, tolerance)


def _out_of_reach(full: _Meter, quick: _Meter, target: int, *, above: bool) -> RateControlError:
    """The error for a target that no setting meets; measures the far end with the cheaper encoder."""
    lowest = (quick if above else full).size(full.cheapest)
    highest = (full if above else quick).size(full.dearest)
    low, high = (8 * size / full.pixels for size in (lowest, highest))
    about = "" if quick is full else "about "
    return RateControlError(
        f"{target} bytes ({8 * target / full.pixels:.4g} bpp) are out of reach: with {full.codec.name} this picture "
        f"takes {about}{lowest} to {highest} bytes ({low:.4g} to {high:.4g} bpp)"
    )
