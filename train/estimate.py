"""``python -m train estimate``: trains the estimate of codec, qp and chroma format on the pairs of a store."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.numpy import save as save_tensors
from torch import Tensor, nn

from codec_wrappers import get_codec
from codec_wrappers.color import Plane
from enhancer.condition import QP_SCALES, stand_in
from enhancer.estimate import CLASSES, CODECS, OUTPUTS, PRISTINE, PRISTINE_ENOUGH, RANGE, is_gray, load_weights
from enhancer.files import write_atomically
from enhancer.traces import LATTICE_TRACES, TRACES, traces
from train.camera import with_chroma
from train.store import PairStore, Pixels

Floats = npt.NDArray[np.float32]

_SIDES = (160, 512)  # of training crops
_GRAY = 0.06  # share of training crops that lose their colour
# Codecs, chroma formats and qps of which stores hold too few, and the share of the originals that are coded so (BPG is
# slow); without them such pictures pass for something else.
_FINE = (
    ("jpeg", "420", (61, 100), 1.0),
    ("jpeg", "444", (61, 100), 1.0),
    ("webp", "420", (85, 100), 1.0),
    ("bpg", "420", (4, 19), 0.1),
    ("bpg", "444", (4, 19), 0.1),
    ("jpeg2000", "444", (250, 500), 0.3),  # counts as the codec that stands in for it
)
_OTHER_CHROMA = 0.15  # share of 4:2:0 training pictures whose chroma is interpolated again, as by another decoder
_DOUBLING = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
_PRISTINE_CROPS = 4  # of each original and pass, for there are many more decoded pictures

_HIDDEN = (128, 64)
_HIDE_LATTICE = 0.12  # share of samples whose colours are taken for those of another conversion
_NOISE = 0.02  # on normalised statistics
_SEVERITY_WEIGHT = 20.0
_OVERESTIMATE = 2.0  # how much worse too high a severity is than too low a one


@dataclass(frozen=True)
class EstimateSettings:
    """How the estimate is trained.

    Attributes:
        passes: Random crops of each training picture.
        networks: How many are trained; their answers are averaged.
        epochs: Passes over all crops.
        batch: Crops of a step.
        lr: Highest learning rate; it falls to zero with a cosine.
        seed: Of everything random but the crops.
    """

    passes: int = 5
    networks: int = 3
    epochs: int = 50
    batch: int = 256
    lr: float = 3e-3
    seed: int = 0


@dataclass(frozen=True)
class Samples:
    """What the network learns from, one row a picture or crop.

    Attributes:
        traces: Statistics, ``(N, TRACES)``.
        classes: Index into ``CLASSES``.
        severities: 0..1 as in the condition vector; NaN for what has none.
        subsampled: 1 for 4:2:0, 0 for 4:4:4, NaN for pristine and gray pictures.
    """

    traces: Floats
    classes: npt.NDArray[np.int64]
    severities: Floats
    subsampled: Floats


def collect(store: PairStore, *, validation: bool, passes: range, cache: Path) -> Samples:
    """Statistics of the (validation) pairs and originals of a store as it is, computed once and kept in ``cache``.

    Validation pictures are looked at as they are, once; training ones as random crops, once a pass.
    """
    parts = []
    state = hashlib.sha256((store.folder / "index.jsonl").read_bytes()).hexdigest()[:12]
    for seed in passes if not validation else range(1):
        file = cache / f"{state}-{'validation' if validation else f'training-{seed}'}.npz"
        if not file.is_file():
            rows = list(_rows(store, np.random.default_rng(seed), validation=validation))
            if not rows:
                raise ValueError(f"{store.folder} has no {'validation' if validation else 'training'} pairs")
            cache.mkdir(parents=True, exist_ok=True)
            table = [np.array(column) for column in zip(*rows, strict=True)]
            buffer = io.BytesIO()
            severities, subsampled = (column.astype(np.float32) for column in table[2:])
            np.savez(buffer, traces=table[0], classes=table[1], severities=severities, subsampled=subsampled)
            write_atomically(file, buffer.getvalue())
        parts.append(np.load(file))
    return Samples(*(np.concatenate([part[field.name] for part in parts]) for field in fields(Samples)))


_Row = tuple[Floats, int, float, float]


def _rows(store: PairStore, rng: np.random.Generator, *, validation: bool) -> Iterator[_Row]:
    pairs = store.split(validation=validation)
    for pair in pairs:
        image = store.image(store.original(pair), pair.offset)
        yield _row(image, pair.codec, pair.coded_qp, pair.chroma, rng, whole=validation)
    for key in dict.fromkeys(pair.original for pair in pairs):
        original = store.originals[key]
        image = store.image(original, original.offset)
        for _ in range(1 if validation else _PRISTINE_CROPS):
            yield _row(image, PRISTINE, None, None, rng, whole=validation)
        for name, chroma, (low, high), share in _FINE:
            if rng.random() >= share:
                continue
            codec = get_codec(name, chroma=chroma) if name in ("jpeg", "bpg") else get_codec(name)
            qp = int(rng.integers(low, high + 1))
            decoded = codec.decode(codec.encode(image, qp))
            counts_as, coded_qp = (name, decoded.info.qp) if name in CODECS else stand_in(name, qp)
            yield _row(decoded.image, counts_as or name, coded_qp, chroma, rng, whole=validation)


def _row(
    image: Pixels, name: str, qp: float | None, chroma: str | None, rng: np.random.Generator, *, whole: bool
) -> _Row:
    if not whole:
        if chroma == "420" and rng.random() < _OTHER_CHROMA:
            image = _with_other_chroma(image, _DOUBLING[int(rng.integers(len(_DOUBLING)))])
        image = _augmented(image, rng)
    severity = np.nan
    if qp is not None:
        best, worst = QP_SCALES[name]
        severity = min(max((qp - best) / (worst - best), 0.0), 1.0)
    subsampled = np.nan if chroma is None or is_gray(image) else float(chroma == "420")
    return traces(np.ascontiguousarray(image)), CLASSES.index(name), severity, subsampled


def _with_other_chroma(image: Pixels, doubling: Image.Resampling) -> Pixels:
    """A decoded 4:2:0 picture as from a decoder that doubles chroma by another filter; odd sides lose a sample."""
    height, width = (side // 2 for side in image.shape[:2])

    def doubled(plane: Plane) -> Plane:
        half = Image.fromarray(plane).resize((width, height), Image.Resampling.BOX)
        return np.asarray(half.resize((2 * width, 2 * height), doubling))

    return with_chroma(image[: 2 * height, : 2 * width], doubled)


def _augmented(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A crop, which leaves the codec's grid anywhere, and sometimes gray."""
    height, width = (min(int(rng.integers(_SIDES[0], _SIDES[1] + 1)), side) for side in image.shape[:2])
    top, left = int(rng.integers(image.shape[0] - height + 1)), int(rng.integers(image.shape[1] - width + 1))
    image = image[top : top + height, left : left + width]
    if rng.random() < _GRAY:
        gray = np.round(image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
        image = np.repeat(gray[..., None], 3, axis=2)
    return image


def train_estimate(store_folder: Path, output: Path, cache: Path, settings: EstimateSettings) -> Iterator[str]:
    """Trains on the training part, writes the weights, and yields lines on the validation part.

    Raises:
        ValueError: If ``store_folder`` is no store, has no validation part, or its index lacks the qp of a codec's
            pairs.
    """
    store = PairStore(store_folder)
    training = collect(store, validation=False, passes=range(settings.passes), cache=cache)
    for number, codec in enumerate(CODECS):
        if not np.isfinite(training.severities[training.classes == number]).any():
            raise ValueError(f"{store_folder} has no training pairs of {codec} with their qp")
    validation = collect(store, validation=True, passes=range(1), cache=cache)
    data = save_tensors(fit(training, settings), metadata={"format": "enhancer-estimate", "classes": ",".join(CLASSES)})
    write_atomically(output, data, overwrite=True)
    yield from report(data, validation)
    yield f'{output}: sha256 = "{hashlib.sha256(data).hexdigest()}"'


class _Networks(nn.Module):
    """Several small networks side by side: ``(networks, N, inputs)`` to ``(networks, N, outputs)``."""

    def __init__(self, networks: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (TRACES, *_HIDDEN, OUTPUTS)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            weight = torch.randn(networks, inputs, outputs, generator=generator) * (2 / inputs) ** 0.5
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(networks, 1, outputs)))

    def forward(self, x: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.relu(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])


def fit(samples: Samples, settings: EstimateSettings) -> dict[str, Floats]:
    """The tensors that :func:`enhancer.estimate.load_weights` reads."""
    mean, scale = samples.traces.mean(axis=0), 1 / (samples.traces.std(axis=0) + 1e-3)
    statistics, classes = torch.from_numpy(samples.traces), torch.from_numpy(samples.classes)
    severities, subsampled = torch.from_numpy(samples.severities), torch.from_numpy(samples.subsampled)
    counts = torch.bincount(classes, minlength=len(CLASSES)).float()
    class_weights = len(classes) / counts.clamp(min=1) / len(CLASSES)  # no codec is likelier than another
    generator = torch.Generator().manual_seed(settings.seed)
    networks = _Networks(settings.networks, generator)
    optimizer = torch.optim.AdamW(networks.parameters(), settings.lr, weight_decay=0.02)
    steps = settings.epochs * (len(classes) // settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        # Each network draws its own samples.
        chosen = torch.randint(len(classes), (settings.networks, settings.batch), generator=generator)
        x = statistics[chosen]
        hidden = torch.rand(x.shape[:2], generator=generator) < _HIDE_LATTICE
        x[..., LATTICE_TRACES] *= ~hidden.unsqueeze(-1)
        x = ((x - torch.from_numpy(mean)) * torch.from_numpy(scale)).clamp(-RANGE, RANGE)
        x = x + _NOISE * torch.randn(x.shape, generator=generator)
        loss = _loss(networks(x), classes[chosen], severities[chosen], subsampled[chosen], class_weights)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        schedule.step()
    tensors = {"mean": mean, "scale": scale.astype(np.float32)}
    for number, (weight, bias) in enumerate(zip(networks.weights, networks.biases, strict=True)):
        tensors |= {f"{number}.weight": weight.detach().numpy(), f"{number}.bias": bias.detach().numpy()}
    return tensors


def _loss(y: Tensor, classes: Tensor, severities: Tensor, subsampled: Tensor, class_weights: Tensor) -> Tensor:
    """Cross-entropy over the classes and over the chroma format, plus the error of the true codec's severity."""
    scores, estimates, odds = y[..., : len(CLASSES)], y[..., len(CLASSES) : -1], y[..., -1]
    entropy = nn.functional.cross_entropy(scores.flatten(0, 1), classes.flatten(), class_weights)
    known = severities.isfinite()
    own = estimates[known].gather(-1, classes[known].unsqueeze(-1)).squeeze(-1)
    errors = nn.functional.smooth_l1_loss(own, severities[known], beta=0.02, reduction="none")
    # Told too high a severity, the network blurs what the codec kept; too low a one only leaves errors.
    errors = errors * torch.where(own > severities[known], _OVERESTIMATE, 1.0)
    severity_loss = (errors * class_weights[classes[known]].sqrt()).mean()
    coloured = subsampled.isfinite()
    chroma_loss = nn.functional.binary_cross_entropy_with_logits(odds[coloured], subsampled[coloured], reduction="sum")
    return entropy + _SEVERITY_WEIGHT * severity_loss + chroma_loss / coloured.sum().clamp(min=1)


def report(weights: bytes, samples: Samples) -> Iterator[str]:
    """Markdown: which class is taken for which, the error of the severity in steps of qp, how often chroma is right."""
    logarithms, severities, odds = load_weights(weights, "the new weights").run(samples.traces)
    pristine = CLASSES.index(PRISTINE)
    judged = np.where(np.exp(logarithms[:, pristine]) >= PRISTINE_ENOUGH, pristine, logarithms.argmax(axis=1))
    judgements = " | ".join(f"judged {name}" for name in CLASSES)
    yield f"| is | {judgements} | mean qp error | 90 % below | chroma right |"
    yield "|---" * (len(CLASSES) + 4) + "|"
    for number, name in enumerate(CLASSES):
        own = samples.classes == number
        shares = " | ".join(str(int((judged[own] == other).sum())) for other in range(len(CLASSES)))
        errors = ""
        if name in CODECS:
            best, worst = QP_SCALES[name]
            off = abs(worst - best) * np.abs(severities[own, number] - samples.severities[own])
            coloured = own & np.isfinite(samples.subsampled)
            right = np.mean((odds[coloured] > 0) == samples.subsampled[coloured])
            errors = f"{np.nanmean(off):.2f} | {np.nanquantile(off, 0.9):.2f} | {right:.1%}"
        yield f"| {name} | {shares} | {errors or '| |'} |"
