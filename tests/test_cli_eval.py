from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from enhancer.cli.eval import build_parser, main
from enhancer.evaluation.sources import parse_codec
from tests.small_network import write_random_checkpoint


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ENHANCER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photograph):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(2):
        PillowImage.fromarray(photograph[60 * i : 60 * i + 100, 100 * i : 100 * i + 120]).save(folder / f"p{i}.png")
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("results")
    codecs = ["--codec", "jpeg", "--codec", "webp"]
    args = ["rd", str(pictures), "-o", str(folder), *codecs, "--qps", "20,40,60,80", "--jobs", "1", "--no-cache"]
    assert main(args) == 0
    return folder


def run(capsys, *args) -> tuple[int, str, str]:
    status = main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def wrong_usage(capsys, *args) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_rd_names_its_files_and_enhances(capsys, tmp_path, pictures):
    model = write_random_checkpoint(tmp_path / "tiny.safetensors")
    options = ["--model", model, "--backend", "torch", "--device", "cpu", "--jobs", 1, "--limit", 1]

    status, out, err = run(capsys, "rd", pictures, "-o", tmp_path / "out", "--codec", "jpeg@30,60", *options)

    assert (status, err) == (0, "")
    names = ["jpeg.run.json", "jpeg_+_tiny.run.json", "results.csv"]
    assert out.split() == [str(tmp_path / "out" / name) for name in names]
    rows = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert rows[0].startswith("label,qp,picture,width,height,bytes,bpp,psnr")
    assert len(rows) == 1 + 2 * 2 * (1 + 1)


def test_bd_prints_a_table_with_interval_and_overlap(capsys, results):
    quick = ["--method", "akima", "--resamples", 50]

    status, out, err = run(capsys, "bd", "jpeg", "webp", "--results", results, "--per-picture", *quick)

    assert (status, err) == (0, "")
    assert "B = webp" in out
    line = next(line for line in out.splitlines() if line.startswith("psnr "))
    assert "akima" in line
    assert "[-" in line
    assert ".." in line
    assert "p0.png" in out


def test_bd_takes_files_and_gives_json(capsys, results):
    files = [results / "jpeg.run.json", results / "webp.run.json"]

    methods = [word for name in ("pchip", "akima", "cubic") for word in ("--method", name)]
    status, out, _ = run(capsys, "bd", *files, "--json", "--resamples", 10, *methods)

    document = json.loads(out)
    assert status == 0
    assert {c["method"] for c in document["comparisons"]} == {"pchip", "akima", "cubic"}
    assert all(c["bd_rate"]["value"] < 0 for c in document["comparisons"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("jpeg", "avif"), "no run is called 'avif'; there are: 'jpeg', 'webp'"),
        (("jpeg", "none.json"), "cannot read none.json: No such file"),
        (("jpeg", "webp", "--metric", "vmaf"), "'vmaf' cannot be compared between jpeg and webp; possible: psnr"),
    ],
)
def test_bd_refuses_in_one_line(capsys, results, args, message):
    status, out, err = run(capsys, "bd", *args, "--results", results)

    assert (status, out) == (1, "")
    assert err.startswith(f"enhance-eval: {message}")
    assert err.count("\n") == 1


def test_bd_refuses_too_few_points_and_other_pictures(capsys, tmp_path, pictures, results):
    run(capsys, "rd", pictures, "-o", tmp_path / "few", "--codec", "webp@20,40,60", "--jobs", 1)
    run(capsys, "rd", pictures, "-o", tmp_path / "one", "--codec", "webp@20,40,60,80", "--jobs", 1, "--limit", 1)

    few = run(capsys, "bd", results / "jpeg.run.json", tmp_path / "few" / "webp.run.json")
    one = run(capsys, "bd", results / "jpeg.run.json", tmp_path / "one" / "webp.run.json")

    assert (few[0], few[2]) == (1, "enhance-eval: webp: 3 points, Bjøntegaard deltas need 4\n")
    assert one[0] == 1
    assert "were measured on different pictures, e.g. p1.png" in one[2]


def test_bd_refuses_what_is_no_result(capsys, tmp_path, results):
    other = tmp_path / "x.json"
    other.write_text('{"format": 1, "points": [{}]}')

    status, _, err = run(capsys, "bd", results / "jpeg.run.json", other)

    assert status == 1
    assert "is not a result of enhance-eval rd" in err
    assert err.count("\n") == 1


def test_target_prints_a_table_or_json_and_takes_bytes(capsys, tmp_path, pictures):
    budget = ["--bytes", 3000, "--codec", "jpeg", "--jobs", 1]

    status, out, _ = run(capsys, "target", pictures, *budget, "-o", tmp_path / "t.json")
    document = json.loads((tmp_path / "t.json").read_text())
    again = run(capsys, "target", pictures, *budget, "-o", tmp_path / "t.json")

    assert status == 0
    assert out.splitlines()[1].split()[:2] == ["jpeg", "mix"]
    assert document["rows"][0]["total_bytes"] <= 3000
    assert again[0] == 1
    assert "exists; it is replaced only with --overwrite" in again[2]


def test_target_out_of_reach_names_the_range(capsys, pictures):
    status, _, err = run(capsys, "target", pictures, "--bpp", 0.0001, "--codec", "jpeg", "--jobs", 1)

    assert status == 1
    assert "out of reach" in err


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_draws_every_run_and_never_overwrites_silently(capsys, tmp_path, results, suffix):
    path = tmp_path / f"curves.{suffix}"

    assert run(capsys, "plot", results, "-o", path)[0] == 0
    first = path.read_bytes()
    status, _, err = run(capsys, "plot", results, "-o", path)

    assert status == 1
    assert "exists" in err
    assert run(capsys, "plot", results, "-o", path, "--overwrite")[0] == 0
    assert path.read_bytes() == first
    if suffix == "png":
        picture = np.asarray(PillowImage.open(path).convert("RGB"))
        assert {(31, 119, 180), (255, 127, 14)} <= set(map(tuple, picture.reshape(-1, 3).tolist()))


def test_plot_refuses_unknown_kinds_and_metrics(capsys, tmp_path, results):
    assert "written as .png or .svg" in run(capsys, "plot", results, "-o", tmp_path / "x.pdf")[2]
    assert "metric must be one of psnr" in run(capsys, "plot", results, "-o", tmp_path / "x.png", "--metric", "m")[2]
    assert "no results" in run(capsys, "plot", tmp_path, "-o", tmp_path / "x.png")[2]
    assert not list(tmp_path.glob("x.*"))


def test_wrong_usage_is_status_2(capsys, tmp_path, pictures):
    assert "required" in wrong_usage(capsys)
    assert "nothing to measure" in wrong_usage(capsys, "rd", pictures, "-o", tmp_path)
    assert "give the folder of original pictures once" in wrong_usage(capsys, "rd", "-o", tmp_path, "--codec", "jpeg")
    twice = ("rd", pictures, "--reference", pictures, "-o", tmp_path, "--codec", "jpeg")
    assert "once" in wrong_usage(capsys, *twice)
    rates = ("rd", pictures, "-o", tmp_path, "--bitstreams", pictures)
    assert "--decoded, which is missing" in wrong_usage(capsys, *rates)
    blind = ("rd", pictures, "-o", tmp_path, "--codec", "jpeg@3", "--blind")
    assert "settings of a --model" in wrong_usage(capsys, *blind)
    rd = ("rd", pictures, "-o", tmp_path, "--codec", "jpeg")
    assert "--jobs: expected a whole number of at least 1, got '0'" in wrong_usage(capsys, *rd, "--jobs", 0)
    assert "--qps: expected whole numbers such as 22,27,32, got '3,x'" in wrong_usage(capsys, *rd, "--qps", "3,x")
    assert "not allowed with" in wrong_usage(capsys, "target", pictures, "--bpp", 1, "--bytes", 3, "--codec", "jpeg")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--codec", "nope", "--qps", "3"), "unknown codec 'nope'"),
        (("--codec", "jpeg"), "no qps for jpeg"),
        (("--codec", "jpeg", "--qps", "500"), "jpeg: qp must be an integer in"),
        (("--codec", "jpeg", "--qps", "50", "--model", "no.safetensors"), "cannot read checkpoint no.safetensors"),
    ],
)
def test_rd_refuses_in_one_line_and_writes_nothing(capsys, tmp_path, pictures, args, message):
    status, out, err = run(capsys, "rd", pictures, "-o", tmp_path / "out", *args)

    assert (status, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_commands_of_the_documentation_exist():
    text = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
    commands = [line.partition("  #")[0] for line in text.splitlines() if line.startswith("enhance-eval ")]

    parsed = [build_parser().parse_args(shlex.split(command)[1:]) for command in commands]

    assert {args.run.__module__.rpartition("_")[2] for args in parsed} == {"rd", "bd", "target", "plot", "report"}
    for spec in (spec for args in parsed for spec in getattr(args, "codec", None) or () if "myenc" not in spec):
        parse_codec(spec)


def test_help_and_the_curves_need_no_torch():
    code = (
        "import sys\n"
        "from enhancer.cli.eval import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'scipy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, check=False)

    assert done.returncode == 0
    assert b"enhance-eval" in done.stdout
