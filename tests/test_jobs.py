from __future__ import annotations

from pathlib import Path

import pytest

from enhancer.errors import EnhancerError
from enhancer.jobs import Job, plan_jobs


def tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def targets(root: Path, jobs: list[Job]) -> list[str]:
    return [str(job.target.relative_to(root)) for job in jobs]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("a.png", "a.enhanced.png"), ("a.TIF", "a.enhanced.tif"), ("a.ppm", "a.enhanced.ppm")),
        *(("a.jpg", "a.enhanced.png"), ("a.bpg", "a.enhanced.png"), ("a.b.266", "a.b.enhanced.png")),
        ("a.y4m", "a.enhanced.y4m"),
    ],
)
def test_an_output_without_name_lies_beside_the_input_in_a_lossless_format(tmp_path, name, expected):
    tree(tmp_path, name)

    assert targets(tmp_path, plan_jobs([str(tmp_path / name)])) == [expected]


def test_the_format_decides_the_suffix(tmp_path):
    tree(tmp_path, "a.jpg")

    assert targets(tmp_path, plan_jobs([str(tmp_path / "a.jpg")], format="tiff")) == ["a.enhanced.tiff"]
    assert targets(tmp_path, plan_jobs([str(tmp_path / "a.jpg")], format="JPEG2000")) == ["a.enhanced.jp2"]
    with pytest.raises(EnhancerError, match=r"unknown picture format 'xyz'; known: \.png"):
        plan_jobs([str(tmp_path / "a.jpg")], format="xyz")


def test_one_output_is_a_file_unless_it_is_a_folder(tmp_path):
    tree(tmp_path, "a.jpg", "folder/x.txt")
    source = str(tmp_path / "a.jpg")

    assert targets(tmp_path, plan_jobs([source], str(tmp_path / "out.ppm"))) == ["out.ppm"]
    assert targets(tmp_path, plan_jobs([source], str(tmp_path / "folder"))) == ["folder/a.png"]
    assert targets(tmp_path, plan_jobs([source], f"{tmp_path}/new/")) == ["new/a.png"]
    assert plan_jobs([source], "-")[0].target is None
    assert plan_jobs(["-"]) == [Job(None, None)]
    assert targets(tmp_path, plan_jobs(["-"], str(tmp_path / "x.png"))) == ["x.png"]


def test_folders_keep_their_structure_in_a_stable_order(tmp_path):
    tree(tmp_path, "in/b.png", "in/a.jpg", "in/c/d.bpg", "in/c/notes.txt", "in/e/f.JPG", "in/a.enhanced.png")

    flat = plan_jobs([str(tmp_path / "in")], str(tmp_path / "out"))
    deep = plan_jobs([str(tmp_path / "in")], str(tmp_path / "out"), recursive=True)

    assert targets(tmp_path, flat) == ["out/a.png", "out/b.png"]
    assert targets(tmp_path, deep) == ["out/a.png", "out/b.png", "out/c/d.png", "out/e/f.png"]


def test_a_loop_of_links_ends(tmp_path):
    tree(tmp_path, "in/a.png", "in/b/c.png")
    (tmp_path / "in" / "b" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in")

    jobs = plan_jobs([str(tmp_path / "in")], str(tmp_path / "out"), recursive=True)

    assert targets(tmp_path, jobs) == ["out/a.png", "out/b/c.png"]


def test_an_output_folder_within_the_input_folder_is_no_input(tmp_path):
    tree(tmp_path, "in/a.png", "in/out/a.png")
    folder = str(tmp_path / "in")

    jobs = plan_jobs([folder], str(tmp_path / "in" / "out"), recursive=True)

    assert targets(tmp_path, jobs) == ["in/out/a.png"]
    assert jobs[0].source == tmp_path / "in" / "a.png"
    assert len(plan_jobs([folder], folder, recursive=True)) == 2


def test_two_outputs_with_one_name_are_refused(tmp_path):
    tree(tmp_path, "in/a.jpg", "in/a.png", "other/a.png")

    with pytest.raises(EnhancerError, match=r"a\.jpg and .*a\.png would both be written to .*out/a\.png"):
        plan_jobs([str(tmp_path / "in")], str(tmp_path / "out"))
    with pytest.raises(EnhancerError, match="would both be written"):
        plan_jobs([str(tmp_path / "in/a.png"), str(tmp_path / "other/a.png")], str(tmp_path / "out"))
    with pytest.raises(EnhancerError, match="would both be written"):
        plan_jobs([str(tmp_path / "in/a.png"), str(tmp_path / "in/a.png")])


def test_an_output_that_is_another_input_is_refused(tmp_path):
    tree(tmp_path, "a.jpg", "a.png")
    inputs = [str(tmp_path / "a.jpg"), str(tmp_path / "a.enhanced.png")]
    tree(tmp_path, "a.enhanced.png")

    with pytest.raises(EnhancerError, match=r"a\.jpg, .*a\.enhanced\.png, is itself an input"):
        plan_jobs(inputs)


def test_comparison_sheets_count_as_outputs(tmp_path):
    tree(tmp_path, "a.jpg", "b.png")

    jobs = plan_jobs([str(tmp_path / "a.jpg"), str(tmp_path / "b.png")], str(tmp_path / "out"), compare=True)

    assert [path.name for job in jobs for path in job.targets] == ["a.png", "a.compare.png", "b.png", "b.compare.png"]
    tree(tmp_path, "a.compare.jpg")
    with pytest.raises(EnhancerError, match="would both be written"):
        plan_jobs([str(tmp_path / "a.jpg"), str(tmp_path / "a.compare.jpg")], str(tmp_path / "out"), compare=True)


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    tree(tmp_path, "a.png", "b.png")

    with pytest.raises(EnhancerError, match="nowhere: no such file or folder"):
        plan_jobs(["nowhere"])
    with pytest.raises(EnhancerError, match=r"empty: no picture in this folder \(--recursive looks"):
        plan_jobs([str(tmp_path / "empty")])
    with pytest.raises(EnhancerError, match="standard output takes one picture, not 2"):
        plan_jobs([str(tmp_path / "a.png"), str(tmp_path / "b.png")], "-")
