"""A progress bar where tqdm is installed, silence where it is not (a training machine may have torch alone)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class NoBar:
    """Stands in for a tqdm bar."""

    def update(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def bar(**options: Any) -> Any:
    """``tqdm(**options)``, or a stand-in."""
    try:
        from tqdm import tqdm
    except ImportError:
        return NoBar()
    return tqdm(**options)


def track(items: Iterable[T], **options: Any) -> Iterable[T]:
    """``items`` with a progress bar, if there is one."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    tracked: Iterable[T] = tqdm(items, **options)
    return tracked
