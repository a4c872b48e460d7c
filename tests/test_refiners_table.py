"""The table of refiners: rows, real sizes, gains against base and control."""

import re

import pytest
import torch
from learned_models import INSTALLED
from PIL import Image

if not INSTALLED:
    pytest.skip("CompressAI is not installed (the extra [learned])", allow_module_level=True)

from benchmarks.learned_table import DOCUMENT, MARKS, Row, insert, main, table
from codec_wrappers.learned.models import ModelConfig, build
from codec_wrappers.learned.storage import dump_model, parse_model
from enhancer.refiners import RefinerSet, fresh_refiner, save_refiners, weights_sha256


@pytest.fixture
def base_file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(dump_model(build(ModelConfig("msh", 8, 12, (0.013,))))[0])
    return path


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        pixels = torch.randint(0, 256, (65, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return folder


def test_each_set_is_measured_on_its_own_base_with_the_size_of_real_files(base_file, pictures, tmp_path, capsys):
    base = parse_model(base_file.read_bytes(), base_file)
    fenm = tmp_path / "fenm.safetensors"
    save_refiners(fenm, RefinerSet((fresh_refiner("fenm", base, growth=4),), weights_sha256(base)))

    assert main([str(base_file), "--pictures", str(pictures), "--refined", f"base: FEnM={fenm}"]) == 0

    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line[1:] for line in lines if line and ":" not in line[-1]}
    assert set(rows) >= {"base", "base: FEnM", "untrained: QECM soft", "untrained: QECM paper"}
    assert rows["base: FEnM"][2] == rows["base"][2]  # a fresh refiner changes nothing
    assert rows["base: FEnM"][3] == "+0.000"
    assert rows["untrained: QECM soft"][3] == "+0.000"
    pixels = 65 * 40
    name_and_digest = 1 + len("baseFEnM") + 8
    assert float(rows["base: FEnM"][1]) == pytest.approx(
        float(rows["base"][1]) + 8 * name_and_digest / pixels, abs=1e-4
    )


def test_a_set_of_no_base_is_refused(base_file, pictures, tmp_path):
    lost = tmp_path / "lost.safetensors"
    save_refiners(lost, RefinerSet((), "0" * 64))

    with pytest.raises(ValueError, match="was trained on none of these bases"):
        main([str(base_file), "--pictures", str(pictures), "--refined", f"x={lost}"])


def test_gains_are_over_the_base_and_over_the_control_of_the_group():
    base = Row("base", bpp=[0.5], psnr=[[30.0, 32.0]], seconds=[1.0])
    control = Row("frozen: g_s alone", 1000, [0.5], [[30.5, 32.5], [30.7, 32.7]], seconds=[1.0])
    refined = Row("frozen: FEnM", 1000, [0.5], [[31.0, 33.0], [31.4, 33.4]], seconds=[1.0])

    lines = [re.split(r" \| ", line) for line in table([base, control, refined]).splitlines()]

    assert lines[4][:6] == ["| frozen: FEnM", "1 000", "0.5000", "32.200", "+1.200 [+1.000, +1.400]", lines[4][5]]
    assert lines[4][5] == "+0.600 [+0.400, +0.800]"
    assert lines[3][5] == "–"


def test_tables_replace_what_stands_between_the_marks_of_the_document():
    document = DOCUMENT.read_text()
    once = insert(document, "| old |")

    assert insert(once, "| new |").count(MARKS[0]) == 1
    assert "| old |" not in insert(once, "| new |")
    with pytest.raises(ValueError, match="to write between"):
        insert("no marks", "text")
