"""Check that kernel objects hold nothing but kernels.

A weak symbol in an object that was compiled for a newer instruction set may win over its twin in
another object, and code that cannot run everywhere then runs everywhere. A static initialiser or a
global would run such code at import. No compiler warns of either, so this reads the symbol tables
of objects compiled without optimisation, where nothing has been inlined away.

Usage: python ci/check_objects.py [COMPILER]
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++20", "-O0", "-fPIC", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
ALL, CODES, AMX = ("kernels", "code_kernels"), ("code_kernels",), ("amx_kernels",)
# Each ISA's flags, and the lists in CMakeLists.txt that are compiled for it.
ISAS = {
    "x86_64": {
        "scalar": ([], ALL),
        "avx2": (["-mavx2", "-mfma"], ALL),
        "avx2vnni": (["-mavx2", "-mfma", "-mavxvnni"], CODES),
        "avx512": (AVX512, ALL),
        "avx512vnni": ([*AVX512, "-mavx512vnni"], CODES),
        "amx": ([*AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-int8", "-mamx-bf16"], AMX),
    },
    "aarch64": {
        "scalar": ([], ALL),
        "neon": ([], ALL),
        "neondot": (["-march=armv8.2-a+dotprod"], CODES),
    },
}

# What a kernel may call: fused multiply-add, and what the compiler itself calls for copies.
ALLOWED_UNDEFINED = {"fmaf", "memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_"}


def kernel_files(lists: tuple[str, ...]) -> list[Path]:
    """Kernel sources, as CMakeLists.txt lists them."""
    text = (ROOT / "CMakeLists.txt").read_text()
    files = []
    for name in lists:
        listed = re.search(rf"set\(lw_{name} ([^)]*)\)", text)
        assert listed is not None, f"CMakeLists.txt: no list lw_{name}"
        files += [ROOT / "cpp" / f"{kernel}.cpp" for kernel in listed.group(1).split()]
    return files


def faults(symbols: str, isa: str) -> list[str]:
    """Return what is wrong with an object, given its `nm` table."""
    found = []
    for line in symbols.splitlines():
        kind, name = line[17:18], line[19:]
        if kind == "U":
            if name not in ALLOWED_UNDEFINED:
                found.append(f"calls {name}")
        elif kind in "WVuvw":
            found.append(f"weak symbol {name}")
        elif kind in "BDGSC":
            found.append(f"global variable {name}")
        elif kind in "bd":
            found.append(f"static variable {name}")
        elif kind == "T" and not name.startswith(f"_ZN2lw{len(isa)}{isa}"):
            found.append(f"symbol outside of lw::{isa}: {name}")
        if "_GLOBAL__sub_I" in name or "__static_initialization" in name:
            found.append(f"static initialiser {name}")
    return found


def main() -> int:
    compiler = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CXX", "g++")
    nm = compiler.replace("clang++", "nm").replace("g++", "nm")
    nm = nm if shutil.which(nm) else "nm"
    machine = subprocess.run(
        [compiler, "-dumpmachine"], check=True, capture_output=True, text=True
    ).stdout.split("-")[0]
    bad = 0
    checked = 0
    with tempfile.TemporaryDirectory() as folder:
        for isa, (isa_flags, lists) in ISAS[machine].items():
            for source in kernel_files(lists):
                target = Path(folder) / "kernel.o"
                command = [compiler, *FLAGS, *isa_flags, f"-DLW_ISA={isa}"]
                subprocess.run([*command, "-c", source, "-o", target], check=True)
                symbols = subprocess.run(
                    [nm, target], check=True, capture_output=True, text=True
                ).stdout
                checked += 1
                for fault in faults(symbols, isa):
                    bad += 1
                    print(f"{source.relative_to(ROOT)} for {isa}: {fault}")
    print(f"{checked} kernel objects for {machine}: {bad} faults")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
