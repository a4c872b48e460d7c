from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageFilter

from codec_wrappers import get_codec
from enhancer.cli.eval import main
from enhancer.errors import EnhancerError
from enhancer.evaluation.pictures import load_image, load_originals, samples_sha256
from enhancer.evaluation.rd import RdSettings, run_rd
from enhancer.evaluation.records import kept_picture
from enhancer.evaluation.results import Record, Run, load_runs
from enhancer.evaluation.sources import parse_codec
from enhancer.image_io import Picture, write_picture
from enhancer.metrics import psnr
from enhancer.report.gallery import QUALITIES, build_gallery
from enhancer.report.page import PageSettings, build_page
from enhancer.report.plots import curve_styles
from enhancer.report.published import KODAK, bundled, fitting, load_overlay
from tests.browser import Browser, find_chromium

pytest.importorskip("plotly", reason="the page's charts need plotly")


@pytest.fixture(scope="module")
def results(tmp_path_factory, photograph):
    """Two pictures, JPEG and WebP at four points, pictures kept; one name tries to break out of the page."""
    folder = tmp_path_factory.mktemp("report")
    pictures = folder / "pictures"
    pictures.mkdir()
    for i, name in enumerate(["first", "second <script>alert(1)<"]):
        PillowImage.fromarray(photograph[40 * i : 40 * i + 100, 30 * i : 30 * i + 130]).save(pictures / f"{name}.png")
    sources = [parse_codec("jpeg@20,40,60,80"), parse_codec("webp@10,30,50,70")]
    run_rd(load_originals(pictures), sources, RdSettings(keep_pictures=True), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def page(results):
    """The page as a file."""
    path = results.parent / "report.html"
    settings = PageSettings(title="A <b>test</b>", overlays=bundled()[:2], resamples=20)
    path.write_bytes(build_page(load_runs(results), results, settings))
    return path


def embedded(page, name):
    text = page.read_text(encoding="utf-8")
    match = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    return json.loads(match[1])


def test_the_page_holds_the_numbers_of_the_runs(page, results):
    data = embedded(page, "data")
    runs = {run.label: run for run in load_runs(results)}

    points = next(r for r in data["runs"] if r["label"] == "jpeg")["curves"]["psnr"]

    assert [p[0] for p in points] == pytest.approx([p.bpp for p in runs["jpeg"].curve("psnr").points], rel=1e-6)
    assert [p[2] for p in points] == [20, 40, 60, 80]
    assert len(data["table"]["rows"]) == 2 * 2 * 4
    assert {(d["anchor"], d["test"]) for d in data["bd"]} == {("jpeg", "webp"), ("webp", "jpeg")}
    assert [o["label"] for o in data["overlays"]] == [o.label for o in bundled()[:2]]


def test_the_viewer_has_the_exact_pictures_if_they_fit(page, results):
    gallery = embedded(page, "gallery")

    assert gallery["quality"] == "lossless"
    assert gallery["dropped"] == 0
    first = gallery["pictures"][0]
    assert [(s["label"], s["qp"]) for s in first["shots"]] == [("jpeg", 20), ("jpeg", 60), ("webp", 10), ("webp", 50)]
    assert all(url.startswith("data:image/webp;base64,") for url in gallery["images"].values())
    assert len(gallery["images"]) == 2 * 5


def test_pictures_are_compressed_until_the_page_is_small_enough(results):
    runs = load_runs(results)
    large = build_gallery(runs, results, (), None, 10**9)
    room = sum(map(len, large.images.values())) // 3

    small = build_gallery(runs, results, (), None, room)
    tiny, room_for_one = small, room
    while tiny.dropped == 0:
        room_for_one = room_for_one * 3 // 4
        tiny = build_gallery(runs, results, (), None, room_for_one)

    assert small.quality in map(str, QUALITIES[1:])
    assert sum(map(len, small.images.values())) <= room
    assert len(small.pictures) == 2
    assert (len(tiny.pictures), tiny.dropped, tiny.quality) == (1, 1, str(QUALITIES[-1]))
    nothing = build_gallery(runs, results, (), None, 10)
    assert (nothing.pictures, nothing.dropped) == ([], 2)
    assert "too large" in nothing.reason


@pytest.mark.data
@pytest.mark.slow
def test_24_pictures_at_two_qps_fit_into_15_megabytes(tmp_path, eval_data):
    """Kodak, decoded and (as a stand-in for enhanced) smoothed: all in the viewer, without a poor compression."""
    records = {"jpeg": [], "jpeg + net": []}
    (tmp_path / "pictures").mkdir()
    for original in load_originals(eval_data / "kodak"):
        image = load_image(original.path)
        write_picture(kept_picture(tmp_path, original.sha256), Picture(image))
        for qp in (20, 60):
            decoded = get_codec("jpeg").decode(get_codec("jpeg").encode(image, qp)).image
            smoothed = np.asarray(PillowImage.fromarray(decoded).filter(ImageFilter.SMOOTH))
            for label, output in zip(records, (decoded, smoothed), strict=True):
                sha256 = samples_sha256(output)
                write_picture(kept_picture(tmp_path, sha256), Picture(output), overwrite=True)
                size = {"width": original.width, "height": original.height, "byte_count": 1, "bpp": 1.0}
                metrics = {"psnr": psnr(image, output, data_range=255)}
                records[label].append(
                    Record(
                        *(original.name, original.sha256),
                        qp=qp,
                        metrics=metrics,
                        bitstream_sha256=None,
                        output_sha256=sha256,
                        coding=None,
                        seconds={},
                        **size,
                    )
                )
    runs = [
        Run(label, {}, {"model": "net"} if "+" in label else None, {}, tuple(rows)) for label, rows in records.items()
    ]

    page = build_page(runs, tmp_path, PageSettings(resamples=1))

    assert len(page) < 15_000_000
    (tmp_path / "page.html").write_bytes(page)
    gallery = embedded(tmp_path / "page.html", "gallery")
    assert (len(gallery["pictures"]), gallery["dropped"]) == (24, 0)
    assert len(gallery["images"]) == 24 * 5
    assert int(gallery["quality"]) >= 80


def test_without_kept_pictures_the_page_says_how_to_get_them(tmp_path, results):
    gallery = build_gallery(load_runs(results), tmp_path, (), None, 10**9)

    assert gallery.pictures == []
    assert "--keep-pictures" in gallery.reason


def test_a_codec_has_one_colour_and_a_network_one_line():
    labels = ("X", "X + a", "X + b", "Y", "Y + b")
    runs = [Run(label, {"codec": label[0]}, {"model": label[-1]} if "+" in label else None, {}, ()) for label in labels]

    assert curve_styles(runs) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]


def test_unknown_anchors_are_refused(results):
    with pytest.raises(EnhancerError, match="no run is called 'vvc'; there are: jpeg, webp"):
        build_page(load_runs(results), results, PageSettings(anchors=("vvc",)))


def test_published_curves_name_their_source_and_fit_their_own_pictures_only(results):
    curves = bundled()

    assert all(c.source and c.test_set and len(c.bpp) == len(c.psnr) == len(c.ms_ssim) for c in curves)
    assert all(list(c.psnr) == sorted(c.psnr) for c in curves if len(c.bpp) > 1)
    run = load_runs(results)[0]
    assert fitting(run) == ()
    kodak = type("Kodak", (), {"pictures": dict.fromkeys(f"{stem}.webp" for stem in KODAK)})()
    assert {c.test_set for c in fitting(kodak)} == {"Kodak"}
    assert "BPG + post-processing" in [c.label for c in fitting(run, "CLIC 2019 validation")]
    with pytest.raises(EnhancerError, match="no published results on 'DIV2K' come along; there are: CLIC 2019"):
        fitting(run, "DIV2K")


def test_an_overlay_in_compressai_s_format_is_read_and_others_are_refused(tmp_path):
    good = tmp_path / "good.json"
    good.write_text(json.dumps({"name": "N", "results": {"bpp": [0.1, 0.2], "psnr-rgb": [28, 30]}}))
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"name": "N", "results": {"bpp": [0.1], "psnr": [28, 30]}}))

    assert load_overlay(good).psnr == (28.0, 30.0)
    with pytest.raises(EnhancerError, match="differ in number"):
        load_overlay(bad)
    bad.write_text("[]")
    with pytest.raises(EnhancerError, match="not a result file in CompressAI's format"):
        load_overlay(bad)


def test_the_command_writes_the_page_and_keeps_an_old_one(capsys, results, tmp_path):
    path = tmp_path / "page.html"
    options = ["report", str(results), "-o", str(path), "--resamples", "5", "--title", "Mine"]

    assert main(options) == 0
    assert "page.html: " in capsys.readouterr().out
    assert "<title>Mine</title>" in path.read_text(encoding="utf-8")
    assert main(options) == 1
    assert "--overwrite" in capsys.readouterr().err


# ---- in a real browser ----


@pytest.fixture(scope="module")
def chromium():
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    return program


@pytest.fixture(scope="module")
def window(chromium):
    with Browser(chromium) as opened:
        yield opened


@pytest.fixture
def browser(window, page):
    """The page freshly loaded; nothing may go wrong in it, and nothing but itself may be asked for."""
    window.dark(False)
    window.open(page)
    window.wait_until("document.querySelectorAll('#chart .legend .traces').length > 0")
    yield window
    assert window.problems == []
    assert window.requests == [page.as_uri()]


def center(browser, element):
    return browser.evaluate(
        f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
        f" return [b.x + b.width / 2, b.y + b.height / 2]; }})(document.querySelector('{element}'))"
    )


def test_page_shows_curves_tables_and_pictures(browser):
    assert browser.evaluate("document.querySelector('h1').textContent") == "A <b>test</b>"
    legend = browser.evaluate("[...document.querySelectorAll('#chart .legendtext')].map(e => e.textContent)")
    assert legend[:2] == ["jpeg", "webp"]
    assert len(legend) == 4
    assert browser.evaluate("document.querySelectorAll('#bd tbody tr').length") == 1
    assert browser.evaluate("document.querySelectorAll('#table tbody tr').length") == 16
    browser.wait_until("['img-left', 'img-right'].every(id => document.getElementById(id).naturalWidth === 130)")


def test_metric_and_overlays_can_be_chosen(browser):
    browser.evaluate(
        "(s => { s.value = 'ssim'; s.dispatchEvent(new Event('change')); })(document.getElementById('metric'))"
    )
    browser.wait_until("document.querySelectorAll('#chart .legend .traces').length <= 2")
    assert "SSIM" in browser.evaluate("document.querySelector('#chart .ytitle').textContent")


def test_table_sorts_both_ways(browser):
    column = "[...document.querySelectorAll('#table tbody tr')].map(r => Number(r.cells[4].textContent))"
    click = "[...document.querySelectorAll('#table th button')].find(b => b.textContent.startsWith('bpp')).click()"

    browser.evaluate(click)
    rising = browser.evaluate(column)
    browser.evaluate(click)

    assert rising == sorted(rising)
    assert browser.evaluate(column) == rising[::-1]


def test_slider_moves_by_input_keys_and_mouse(browser):
    clip = "parseFloat(document.getElementById('pane-right').style.clipPath.split(' ').pop())"
    width = browser.evaluate("document.getElementById('stage').clientWidth")
    assert browser.evaluate(clip) == pytest.approx(width / 2, abs=1)

    browser.evaluate(
        "(s => { s.value = 250; s.dispatchEvent(new Event('input')); })(document.getElementById('v-slider'))"
    )
    assert browser.evaluate(clip) == pytest.approx(width / 4, abs=1)
    x, y = center(browser, "#divider")
    browser.drag((x, y), (x + 100, y))
    assert browser.evaluate(clip) == pytest.approx(width / 4 + 100, abs=2)
    browser.evaluate("document.getElementById('stage').focus()")
    browser.key("ArrowLeft")
    assert browser.evaluate(clip) == pytest.approx(width / 4 + 100 - 0.02 * width, abs=2)


def test_pictures_move_and_zoom_together(browser):
    transforms = "['img-left', 'img-right', 'difference'].map(id => document.getElementById(id).style.transform)"
    x, y = center(browser, "#stage")
    before = browser.evaluate(transforms)

    browser.wheel((x + 60, y), -300)
    browser.wait_until(f"({transforms})[0] !== {json.dumps(before[0])}")
    zoomed = browser.evaluate(transforms)
    browser.drag((x + 60, y + 30), (x + 20, y + 50))
    moved = browser.evaluate(transforms)

    assert len(set(zoomed)) == len(set(moved)) == 1
    scale = [float(re.search(r"scale\((.*)\)", t[0])[1]) for t in (before, zoomed, moved)]
    assert scale[1] > scale[0]
    assert scale[2] == pytest.approx(scale[1])
    position = [np.array(re.findall(r"(-?[\d.]+)px", t[0]), float) for t in (zoomed, moved)]
    assert position[1] - position[0] == pytest.approx([-40, 20], abs=0.1)


def test_flip_key_swaps_the_two_pictures_and_back(browser):
    sources = "[document.getElementById('img-left').src, document.getElementById('img-right').src]"
    before = browser.evaluate(sources)
    browser.evaluate("document.getElementById('stage').focus()")

    browser.key("f")
    flipped = browser.evaluate(sources)
    browser.key("f")

    assert before[0] != before[1]
    assert flipped == before[::-1]
    assert browser.evaluate(sources) == before


def test_difference_map_is_the_absolute_difference_times_the_gain(browser, results):
    browser.evaluate(
        "(s => { s.value = 'difference'; s.dispatchEvent(new Event('change')); })(document.getElementById('v-mode'))"
    )
    browser.wait_until("document.getElementById('difference').width === 130")
    script = "[...document.getElementById('difference').getContext('2d').getImageData(17, 23, 1, 1).data].slice(0, 3)"
    browser.wait_until(f"({script}).some(v => v > 0)")
    run = load_runs(results)[0]
    record = next(r for r in run.at(20) if r.picture == "first.png")
    original, decoded = (
        np.asarray(PillowImage.open(results / "pictures" / f"{name}.png")).astype(int)[23, 17]
        for name in (record.picture_sha256, record.output_sha256)
    )

    assert browser.evaluate(script) == np.minimum(8 * np.abs(original - decoded), 255).tolist()


def test_side_by_side_shows_both_halves(browser):
    browser.evaluate(
        "(s => { s.value = 'pair'; s.dispatchEvent(new Event('change')); })(document.getElementById('v-mode'))"
    )
    boxes = browser.evaluate(
        "['pane-left', 'pane-right'].map(id => document.getElementById(id).getBoundingClientRect().toJSON())"
    )
    assert boxes[0]["right"] == pytest.approx(boxes[1]["left"], abs=2)
    assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=2)


def test_dark_follows_the_system_and_the_button(browser):
    background = "getComputedStyle(document.body).backgroundColor"
    browser.dark(False)
    browser.wait_until(f"{background} === 'rgb(255, 255, 255)'")
    browser.dark(True)
    browser.wait_until(f"{background} === 'rgb(18, 20, 23)'")
    browser.evaluate("document.getElementById('theme').click()")
    assert browser.evaluate(background) == "rgb(255, 255, 255)"


def test_page_fits_a_phone(chromium, page):
    with Browser(chromium, width=390, height=800, touch=True) as phone:
        phone.open(page)
        phone.wait_until("document.querySelectorAll('#chart .legend .traces').length > 0")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        assert phone.problems == []
