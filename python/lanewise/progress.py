"""Progress of long calls: what they report, and the bars that show it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Progress", "bars", "reporting", "say_nothing"]

Progress = Callable[[str, int, int], object]
"""Called with what is being done, the steps done, and the steps in all; from any thread."""


def say_nothing(what: str, done: int, total: int) -> None:
    """Report to nobody."""


@contextlib.contextmanager
def reporting(progress: Any, title: str) -> Iterator[Progress]:
    """Return what to call for a `progress` argument: True for bars, or a function."""
    if callable(progress):
        yield progress
        return
    if not isinstance(progress, bool):
        raise TypeError(f"progress: expected a bool or a function, got {progress!r}")
    if not progress:
        yield say_nothing
        return
    try:
        from rich.console import Console
    except ImportError as error:
        raise ImportError("progress=True needs rich: pip install rich") from error
    with bars(Console(stderr=True), title) as show:
        yield show


@contextlib.contextmanager
def bars(console: Console, title: str) -> Iterator[Progress]:
    """Show bars while something runs, if somebody is watching."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    shown = Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not (console.is_terminal or console.is_jupyter),
    )
    tasks: dict[str, TaskID] = {}

    def show(doing: str, done: int, total: int) -> None:
        if doing not in tasks:
            tasks[doing] = shown.add_task(f"{title}: {doing}", total=total)
        shown.update(tasks[doing], completed=done)

    with shown:
        yield show
