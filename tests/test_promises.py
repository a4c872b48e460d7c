"""Every test that docs/promises.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_promise_names_a_test_that_exists():
    rows = [line for line in (ROOT / "docs" / "promises.md").read_text().splitlines() if line.startswith("| ")][1:]
    missing = []
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, f"no test for: {row}"
        for file, test in named:
            path = ROOT / "tests" / file
            if not path.is_file() or f"def {test}(" not in path.read_text():
                missing.append(f"{file}::{test}")
    assert rows
    assert not missing
