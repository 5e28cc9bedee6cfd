"""Draw what ``python -m bench.scan`` measured: what is found against how many queries a second.

``python -m bench.picture RUN.json PICTURE`` draws an earlier run again.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_EXACT = 3e-5  # where a recall of 1 is drawn on an axis that has no 0
_SINGLE = "one query a call"

Point = tuple[float, float]  # recall, queries a second


def draw(workloads: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draw one panel for each set of vectors, one line for each storage and each peer.

    Lines join what nothing else on them beats; the other settings are pale.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(workloads))
    rows = math.ceil(len(workloads) / columns)
    figure = Figure(figsize=(5.2 * columns, 4.4 * rows), layout="constrained")
    handles: dict[str, Any] = {}
    for panel, found in enumerate(workloads.values(), 1):
        axes = figure.add_subplot(rows, columns, panel)
        for name, points in _lines(found).items():
            ours = name.startswith("lanewise")
            color = handles[name].get_color() if name in handles else f"C{len(handles) % 10}"
            marker, style = ("o", "-") if ours else ("s", "--")
            axes.plot(*_placed(points), marker, color=color, alpha=0.35, markersize=4)
            (line,) = axes.plot(
                *_placed(_front(points)), marker + style, color=color, label=name, zorder=3 + ours
            )
            handles.setdefault(name, line)
        axes.set(title=found["label"], xscale="log", yscale="log")
        axes.set(xlabel="share of neighbours missed", ylabel="queries per second, 1 thread")
        axes.set_xlim(1, _EXACT / 1.5)  # better is to the right
        axes.set_xticks([1, 0.1, 0.01, 1e-3, 1e-4, _EXACT], ["1", "0.1", "0.01", "0.001", "", "0"])
        axes.tick_params(axis="x", which="minor", bottom=False)
        axes.grid(alpha=0.3)
    figure.legend(handles=[*handles.values()], loc="outside lower center", ncols=columns + 1)
    figure.savefig(file, dpi=130)


def _placed(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [max(1 - recall, _EXACT) for recall, _ in points], [speed for _, speed in points]


def _front(points: Sequence[Point]) -> list[Point]:
    """Leave out every point beside which another finds as much and is as fast."""
    front: list[Point] = []
    for point in sorted(points, reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _lines(found: Mapping[str, Any]) -> dict[str, list[Point]]:
    """Recall and queries a second, by the name of the line."""
    lines: dict[str, list[Point]] = {}
    for record in found["records"]:
        facts, who = record["facts"], record["who"]
        again = record["role"] == "peer" and facts["race"] > 0
        if record["group"] != _SINGLE or again or who.endswith("threads"):
            continue
        if record["role"] == "ours":
            name = f"lanewise {who.split()[0]}"
        else:
            name = who.split(", refined, k_factor")[0]
        lines.setdefault(name, []).append((facts["recall"], 1 / record["median"]))
    return lines


def main(arguments: Sequence[str]) -> int:
    """Draw an earlier run again."""
    if len(arguments) != 2:
        print("usage: python -m bench.picture RUN.json PICTURE", file=sys.stderr)
        return 2
    draw(json.loads(Path(arguments[0]).read_text())["workloads"], Path(arguments[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
