from __future__ import annotations

import io
import pickle
import shlex
import sys

import numpy as np
import pytest
from PIL import Image as PillowImage

from codec_wrappers.errors import CodecError, ToolError
from enhancer.evaluation.external_codec import ExternalCodec
from enhancer.evaluation.pictures import load_originals
from enhancer.evaluation.rd import RdSettings, run_rd
from enhancer.evaluation.sources import parse_codec

COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
JPEG_ENCODER = (
    "import sys; from PIL import Image; "
    "Image.open(sys.argv[1]).save(sys.argv[2], format='jpeg', quality=int(sys.argv[3]), subsampling=2)"
)
JPEG_DECODER = "import sys; from PIL import Image; Image.open(sys.argv[1]).save(sys.argv[2])"


def external(encode: str, decode: str, limits: str = "") -> str:
    python = shlex.quote(sys.executable)
    return (
        f"cmd{limits}:{python} -c {shlex.quote(encode)} {{in}} {{out}} {{qp}} ;; "
        f"{python} -c {shlex.quote(decode)} {{in}} {{out}}"
    )


def test_an_external_codec_gives_what_its_programs_give(picture):
    codec = ExternalCodec.parse(external(JPEG_ENCODER, JPEG_DECODER, "[5..95]"))

    bitstream = codec.encode(picture, 40)

    expected = PillowImage.open(io.BytesIO(bitstream))
    np.testing.assert_array_equal(codec.decode(bitstream).image, np.asarray(expected))
    assert codec.qp_range.by_rate()[0] == 5
    assert len(codec.encode(picture, 90)) > len(bitstream)
    with pytest.raises(ValueError, match=r"5\.\.95"):
        codec.encode(picture, 96)


def test_an_external_codec_gets_16_bit_pictures_as_they_are(rng):
    image = rng.integers(0, 65536, (9, 7, 3)).astype(np.uint16)
    codec = ExternalCodec.parse(external(COPY, COPY))

    np.testing.assert_array_equal(codec.decode(codec.encode(image, 1)).image, image)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("cmd:true {in} {out}", ValueError, "reads 'cmd:ENCODE"),
        ("cmd:true {in} {out} ;; true {in} {out}", ValueError, "lacks {qp}"),
        ("cmd:true {in} {out} {qp} ;; true {in}", ValueError, "lacks {out}"),
        ("cmd:no-such-program {in} {out} {qp} ;; true {in} {out}", ValueError, "'no-such-program'"),
        ("cmd:true '{in} {out} {qp} ;; true {in} {out}", ValueError, "cannot be split"),
    ],
)
def test_impossible_external_codecs_are_refused(spec, error, message):
    with pytest.raises(error, match=message):
        ExternalCodec.parse(spec)


def test_a_failing_or_silent_external_program_is_named_and_leaves_nothing(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    failing = ExternalCodec.parse(external("raise SystemExit('no licence')", COPY))
    silent = ExternalCodec.parse(external("pass", COPY))

    with pytest.raises(ToolError, match="no licence"):
        failing.encode(picture, 1)
    with pytest.raises(CodecError, match="wrote no output"):
        silent.encode(picture, 1)
    assert not list(tmp_path.iterdir())


def test_no_shell_sees_an_external_command(picture, tmp_path):
    codec = ExternalCodec.parse(f"cmd:echo {{in}} {{out}} {{qp}} > {tmp_path}/x ;; true {{in}} {{out}}")

    with pytest.raises(CodecError, match="wrote no output"):
        codec.encode(picture, 1)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_names_picture_and_codec_of_a_failure(picture, tmp_path):
    PillowImage.fromarray(picture).save(tmp_path / "a.png")
    source = parse_codec(f"mine={external('raise SystemExit(3)', COPY)}@7")

    with pytest.raises(CodecError, match=r"^mine at qp 7 of a\.png: python.* exited with status 3") as caught:
        run_rd(load_originals(tmp_path), [source], RdSettings(), tmp_path / "out")

    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
