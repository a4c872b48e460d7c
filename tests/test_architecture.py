"""Facts about the source tree as a whole: who imports whom, how long files are, what a start costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("codec_wrappers", "enhancer", "train")
FOLDERS = (*PACKAGES, "benchmarks", "examples", "tests")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

FORBIDDEN = {
    "codec_wrappers": ("enhancer", "train", "torch", "benchmarks", "examples", "tests"),
    "enhancer": ("train", "benchmarks", "examples", "tests"),
    "train": ("benchmarks", "examples", "tests"),
}
PURE_NETWORK_CODE = ("network", "condition", "tiling", "ensemble")
CODECS_AND_FILES = (
    "codec_wrappers",
    "enhancer.image_io",
    "enhancer.streams",
    "enhancer.files",
    "enhancer.cli",
    "PIL",
    "cv2",
    "av",
    "pathlib",
)


def imported_modules(source: str) -> set[str]:
    """Names of all modules that ``source`` imports, at any depth; relative imports as ``.name``."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            modules.add(name)
            modules.update(f"{name}.{alias.name}" for alias in node.names)
    return modules


def among(modules: set[str], forbidden: tuple[str, ...]) -> set[str]:
    """Those of ``modules`` that are, or lie in, one of the packages ``forbidden``."""
    return {module for module in modules if any(f"{module}.".startswith(f"{name}.") for name in forbidden)}


def test_imports_are_found_at_any_depth_and_matched_by_whole_names():
    source = "import os.path\ndef f():\n    from enhancer import tiling\n    import trainer\nfrom .near import x"

    modules = imported_modules(source)

    assert modules >= {"os.path", "enhancer", "enhancer.tiling", "trainer", ".near"}
    assert among(modules, ("enhancer", "train", "os")) == {"os.path", "enhancer", "enhancer.tiling"}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    found = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in (ROOT / package).rglob("*.py")
        if path.relative_to(ROOT).parts[:2] != ("codec_wrappers", "learned")  # the one place there with torch
        for module in among(imported_modules(path.read_text()), FORBIDDEN[package])
    }

    assert not found


@pytest.mark.parametrize("name", PURE_NETWORK_CODE)
def test_networks_tiles_and_ensembles_know_nothing_of_codecs_or_files(name):
    modules = imported_modules((ROOT / "enhancer" / f"{name}.py").read_text())

    assert not among(modules, CODECS_AND_FILES)


def test_imports_are_absolute():
    relative = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(module.startswith(".") for module in imported_modules(path.read_text()))
    }

    assert not relative


@pytest.mark.parametrize("package", ["codec_wrappers", "enhancer"])
def test_every_package_that_is_imported_is_declared(package):
    """Else an installation works only where something else happens to bring it along."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: wanted for name, wanted in project["optional-dependencies"].items() if name != "dev"}
    declared = {re.split(r"[<>=!~\[ ]", line)[0] for line in sum(extras.values(), project["dependencies"])}
    declared.add("compressai")  # no extra can name it: it asks for NumPy 1; see [learned]
    distributions = {
        module: {name.lower().replace("_", "-") for name in names} for module, names in packages_distributions().items()
    }
    imported = {
        module.split(".")[0] for path in (ROOT / package).rglob("*.py") for module in imported_modules(path.read_text())
    }
    foreign = imported - set(sys.stdlib_module_names) - set(PACKAGES)

    assert {name for name in foreign if not declared & distributions.get(name, set())} == set()


def test_no_file_is_too_long_to_be_read_in_one_sitting():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}

    assert {name: length for name, length in lengths.items() if length > 450} == {}


@pytest.mark.parametrize(
    "program",
    [
        "import codec_wrappers; codec_wrappers.codec_names()",
        "import enhancer",
        "import sys; sys.argv = ['enhance', '--help']; from enhancer.cli.enhance import main; main()",
        "import sys; sys.argv = ['enhance-codec', '--help']; from enhancer.cli.codec import main; main()",
        "import sys; sys.argv = ['enhance-eval', '--help']; from enhancer.cli.eval import main; main()",
    ],
)
def test_starting_does_not_load_what_only_the_work_needs(program):
    heavy = "('torch', 'av', 'cv2', 'scipy', 'skimage', 'imagecodecs', 'pillow_heif', 'openvino')"
    report = f"import atexit, sys; atexit.register(lambda: print([m for m in {heavy} if m in sys.modules]))"

    run = subprocess.run([sys.executable, "-c", f"{report}; {program}"], cwd=ROOT, capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
