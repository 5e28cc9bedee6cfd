"""Check that the source distribution holds what a build needs, and no more than 5 MB.

Usage: python ci/check_sdist.py
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 5_000_000
NEEDED = (
    "CMakeLists.txt",
    "LICENSE",
    "README.md",
    "cpp/kernels.h",
    "pyx/_native.pyx",
    "python/lanewise/data/sift_20k.npz",
    "python/lanewise/py.typed",
    "tests/conftest.py",
)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "build", "--sdist", "--outdir", folder, str(ROOT)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tar.gz")
        size = archive.stat().st_size
        with tarfile.open(archive) as tar:
            names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    missing = [name for name in NEEDED if name not in names]
    print(f"{archive.name}: {size / 1e6:.2f} MB, {len(names)} files, missing: {missing or 'none'}")
    return 1 if missing or size > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
