"""Run every benchmark: ``python -m bench [--json FILE] [what pytest takes]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        allow_abbrev=False,
        description="Time lanewise beside its peers, and print one line for each claim.",
        epilog="Everything else goes to pytest: -k rotate, --full, --data FILE, ...",
    )
    parser.add_argument("--json", default=FOLDER / "results.json", help="where results go")
    options, rest = parser.parse_known_args()
    fixed = ["--quiet", "--benchmark-quiet", "--benchmark-disable-gc"]
    return int(pytest.main([str(FOLDER), *fixed, f"--benchmark-json={options.json}", *rest]))


if __name__ == "__main__":
    sys.exit(main())
