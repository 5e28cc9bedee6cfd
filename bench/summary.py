"""What the benchmarks found: every time beside its peers', then one line for each claim.

``python -m bench.summary FILE`` prints it again from the JSON of an earlier run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["ours", "peer", "yardstick"]


@dataclass(frozen=True)
class Record:
    """Seconds that something took, in a group of things that do the same work.

    The first of ours in a group is what its peers are compared with. A yardstick does less than the
    work, such as a plain copy of the same bytes.
    """

    group: str
    who: str
    role: Role
    median: float
    minimum: float
    rounds: int
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A ratio between `ours` and `other`: somebody in the same group, or a number of seconds.

    With ``"faster"`` it is other / ours and should be at least what is `asked`; with ``"as long"``
    it is ours / other and should be at most that. None asks for nothing.
    """

    text: str
    than: str
    group: str
    ours: str
    other: str | float
    kind: Literal["faster", "as long"] = "faster"
    asked: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A claim and what was measured: the ratio of the medians, and that of the minima."""

    claim: Claim
    ours: float
    other: float
    ratio: float
    ratio_of_minima: float

    @property
    def met(self) -> bool | None:
        """Whether the medians keep the claim; None if nothing is asked."""
        if self.claim.asked is None:
            return None
        if self.claim.kind == "faster":
            return self.ratio >= self.claim.asked
        return self.ratio <= self.claim.asked


def judge(claims: Iterable[Claim], records: Sequence[Record]) -> list[Verdict]:
    """Set claims against records; those that were not measured in this run are left out."""
    found = {(record.group, record.who): record for record in records}
    verdicts = []
    for claim in claims:
        ours = found.get((claim.group, claim.ours))
        if isinstance(claim.other, str):
            other = found.get((claim.group, claim.other))
        else:
            other = Record(claim.group, "constant", "yardstick", claim.other, claim.other, 0)
        if ours is None or other is None:
            continue
        ratios = other.median / ours.median, other.minimum / ours.minimum
        if claim.kind == "as long":
            ratios = 1 / ratios[0], 1 / ratios[1]
        verdicts.append(Verdict(claim, ours.median, other.median, *ratios))
    return verdicts


def as_json(records: Sequence[Record], claims: Iterable[Claim]) -> dict[str, Any]:
    """Return what a JSON file keeps of a run, beside pytest-benchmark's own data."""
    return {
        "records": [asdict(record) for record in records],
        "claims": [{**asdict(v), "met": v.met} for v in judge(claims, records)],
    }


def text(records: Sequence[Record], claims: Iterable[Claim]) -> str:
    """Return the tables of a run."""
    lines: list[str] = []
    for group, members in _groups(records).items():
        lines += ["", *_group_table(group, members)]
    lines += ["", *_slower_than_peers(records), "", *_claims_table(judge(claims, records))]
    return "\n".join(lines)


def _groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record)
    return groups


def _reference(members: Sequence[Record]) -> Record | None:
    return next((record for record in members if record.role == "ours"), None)


def _group_table(group: str, members: Sequence[Record]) -> list[str]:
    reference = _reference(members)
    rows = [(group, "median", "fastest", "time / ours", "")]
    for record in members:
        relative = "" if reference is None else f"{record.median / reference.median:.2f}"
        facts = "  ".join(f"{name} {_number(value)}" for name, value in record.facts.items())
        name = f"  {record.who}" if record.role == "ours" else f"  ({record.role}) {record.who}"
        rows.append(
            (name, format_time(record.median), format_time(record.minimum), relative, facts)
        )
    return _aligned(rows)


def _slower_than_peers(records: Sequence[Record]) -> list[str]:
    """Name each group in which a peer that answers as well is faster than we are."""
    rows = [("Where a peer is faster", "peer's time / ours", "", "", "")]
    for group, members in _groups(records).items():
        reference = _reference(members)
        if reference is None:
            continue
        recall = reference.facts.get("recall", 0.0)
        for record in members:
            as_good = record.facts.get("recall", 1.0) >= recall - 0.005
            ratio = record.median / reference.median
            if record.role == "peer" and as_good and ratio < 1:
                rows.append((f"  {group}: {record.who}", f"{ratio:.2f}", "", "", ""))
    return _aligned(rows) if len(rows) > 1 else ["No peer is faster anywhere."]


def _claims_table(verdicts: Sequence[Verdict]) -> list[str]:
    rows = [("Claim", "ours", "other", "times", "of fastest", "")]
    for v in verdicts:
        faster = v.claim.kind == "faster"
        sign = ">=" if faster else "<="
        asked = "" if v.claim.asked is None else f", asked {sign} {v.claim.asked:g}"
        verdict = {True: ": met", False: ": MISSED", None: ""}[v.met]
        than = f"{'faster than' if faster else 'as long as'} {v.claim.than}"
        times = format_time(v.ours), format_time(v.other)
        ratios = _number(v.ratio), _number(v.ratio_of_minima)
        rows.append((f"  {v.claim.text}", *times, *ratios, f"{than}{asked}{verdict}"))
    return _aligned(rows)


def threads_text(n: int) -> str:
    """Return ``"1 thread"`` or ``"2 threads"``."""
    return f"{n} thread{'' if n == 1 else 's'}"


def format_time(seconds: float) -> str:
    """Return a time with three digits and its unit.

    >>> format_time(0.00012345)
    '123 us'
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if seconds >= size or unit == "ns":
            break
    return f"{_number(seconds / size)} {unit}"


def _number(value: float) -> str:
    """Three digits, and no exponent."""
    magnitude = abs(value)
    if magnitude >= 100 or value == int(value):
        return f"{value:.0f}"
    if magnitude >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if magnitude >= 1 else f"{value:.3f}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """First and last column to the left, numbers between to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        middle = [f"{cell:>{width}}" for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([f"{row[0]:<{widths[0]}}", *middle, row[-1]]).rstrip())
    return lines


def main(arguments: Sequence[str]) -> int:
    """Print the summary of an earlier run."""
    if len(arguments) != 1:
        print("usage: python -m bench.summary FILE", file=sys.stderr)
        return 2
    kept = json.loads(Path(arguments[0]).read_text())
    records = [Record(**record) for record in kept["records"]]
    claims = [Claim(**verdict["claim"]) for verdict in kept["claims"]]
    print(text(records, claims))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
