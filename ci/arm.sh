#!/usr/bin/env bash
# Cross-compile the wheel for 64-bit Arm on an x86-64 Debian 12 machine and run the tests on it under emulation.
#
#   ci/arm.sh [WORKDIR [PYTEST_ARGUMENT...]]
#
# WORKDIR (default ~/.cache/lanewise-arm) keeps the Arm Python and the test dependencies; delete it to refresh them.
# LANEWISE_ARM_OLD_TEST (default test_kernels.py) names the file in tests/ that is run once more on an old CPU.
set -euo pipefail
unset PYTHONPATH PYTHONHOME # ours would reach the emulated Python too

source=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-${LANEWISE_ARM_DIR:-$HOME/.cache/lanewise-arm}}
shift $(($# > 0))
old_test=$source/tests/${LANEWISE_ARM_OLD_TEST:-test_kernels.py}
mkdir -p "$work"
work=$(cd "$work" && pwd)
root=$work/root site=$work/site package=$work/package
python=${PYTHON:-python3.11} # Debian 12's, hence the Arm root's, version: byte code and headers then match

say() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }
# A directory is filled under another name and renamed when complete, so a broken run leaves nothing that looks ready.
ready() { [[ -f $1/.key && $(<"$1/.key") == "$2" ]]; }
finish() {
  printf '%s\n' "$2" >"$1.new/.key"
  rm -rf "$1"
  mv "$1.new" "$1"
}

say "tools"
missing=()
for name in g++-aarch64-linux-gnu qemu-user-static; do
  dpkg -s "$name" &>/dev/null || missing+=("$name")
done
"$python" -c 'import ensurepip' &>/dev/null || missing+=(python3.11-venv)
if ((${#missing[@]})); then
  sudo=()
  ((EUID == 0)) || sudo=(sudo)
  "${sudo[@]}" apt-get -qq update
  "${sudo[@]}" apt-get -qq install -y --no-install-recommends "${missing[@]}"
fi
qemu=$(command -v qemu-aarch64-static)
# Build requirements are for this machine, so the build below fetches them itself; this venv only drives it.
"$python" -m venv --clear "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install -q build 'pybind11<4'

say "Arm root"
# Unpacked packages are enough: no chroot, no second stage of debootstrap, no privileges. apt resolves the closure as
# for an empty arm64 machine, in a state directory of its own. Only Debian's own source is read: others may have no arm64.
runtime=(python3.11 libstdc++6)
headers=(libpython3.11-dev) # without its dependencies: libc's headers come with the cross compiler
key="${runtime[*]} ${headers[*]}"
if ! ready "$root" "$key"; then
  rm -rf "$root.new" "$work/apt"
  mkdir -p "$root.new" "$work"/apt/{lists,archives}/partial
  : >"$work/apt/status"
  sources=/etc/apt/sources.list.d/debian.sources
  [[ -s $sources ]] || sources=/etc/apt/sources.list
  apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Install-Recommends=false
    -o Dir::State="$work/apt" -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt"
    -o Dir::Etc::sourcelist="$sources" -o Dir::Etc::sourceparts=/dev/null
    -o APT::Sandbox::User= -o Acquire::Languages=none)
  "${apt[@]}" update
  "${apt[@]}" install -y --download-only "${runtime[@]}"
  (cd "$work/apt/archives" && "${apt[@]}" download "${headers[@]}")
  for deb in "$work"/apt/archives/*.deb; do dpkg-deb -x "$deb" "$root.new"; done
  rm -rf "$work/apt"
  finish "$root" "$key"
fi

# The kernel cannot exec an Arm binary, so sys.executable must be something it can: `-0` makes Python believe that it
# is this script, and subprocess and multiprocessing start their children through it. It must stand beside the real
# interpreter, from whose place Python finds its library. The user's site-packages are not for Arm.
cat >"$root/usr/bin/python" <<SH
#!/bin/sh
export PYTHONNOUSERSITE=1
exec "$qemu" -0 "\$0" -L "$root" "$root/usr/bin/python3.11" "\$@"
SH
chmod +x "$root/usr/bin/python"
# A .pth file instead of PYTHONPATH: it survives `python -I` and cleaned environments, and no native program sees it.
printf '%s\n' "$package" "$site" >"$root/usr/lib/python3/dist-packages/ci.pth"

say "test dependencies"
pip_arm=("${pip[@]}" install -q --only-binary=:all:
  --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none --platform linux_aarch64)
for ((minor = 36; minor >= 17; minor--)); do # 36: the root's glibc is 2.36
  pip_arm+=(--platform "manylinux_2_${minor}_aarch64")
done
pip_arm+=(--platform manylinux2014_aarch64)
hnswlib=hnswlib==0.8.0 # has no wheels
requirements=(numpy pytest pytest-xdist hypothesis h5py rich matplotlib scikit-learn scipy pooch ml_dtypes)
key="${requirements[*]} $hnswlib"
if ! ready "$site" "$key"; then
  rm -rf "$site.new" "$work/hnswlib"
  "${pip_arm[@]}" --target "$site.new" "${requirements[@]}"
  # One file, so the compiler is called directly; its setup.py would take flags and suffix from the build interpreter.
  "${pip[@]}" download -q --no-deps --no-binary hnswlib -d "$work/hnswlib" "$hnswlib"
  tar -xf "$work"/hnswlib/*.tar.gz -C "$work/hnswlib" --strip-components=1
  aarch64-linux-gnu-g++ -std=c++17 -O3 -w -shared -fPIC -fvisibility=hidden \
    -I"$work/hnswlib/hnswlib" -I"$("$work/venv/bin/python" -c 'import pybind11; print(pybind11.get_include())')" \
    -isystem "$root/usr/include/python3.11" -idirafter "$root/usr/include" \
    "$work/hnswlib/python_bindings/bindings.cpp" -o "$site.new/hnswlib.cpython-311-aarch64-linux-gnu.so"
  rm -rf "$work/hnswlib"
  finish "$site" "$key"
fi

say "wheel"
# The steps of `python -m build`, taken apart for one reason: _PYTHON_HOST_PLATFORM, which gives the wheel its tag,
# would also make pip fetch Arm builds of CMake and Cython. So it is set after the requirements are installed.
rm -rf "$work"/{build,wheel,package}
LANEWISE_ARM_ROOT=$root "$work/venv/bin/python" - "$source" "$work" <<'PY'
import os, sys
from build import ProjectBuilder
from build.env import DefaultIsolatedEnv

source, work = sys.argv[1:]
with DefaultIsolatedEnv() as env:
    builder = ProjectBuilder.from_isolated_env(env, source)
    env.install(builder.build_system_requires)
    env.install(builder.get_requires_for_build("wheel"))
    os.environ["_PYTHON_HOST_PLATFORM"] = "linux-aarch64"
    os.environ["CMAKE_TOOLCHAIN_FILE"] = f"{source}/ci/aarch64.cmake"
    builder.build("wheel", f"{work}/wheel", {"build-dir": f"{work}/build"})
PY
"${pip_arm[@]}" --no-deps --target "$package" "$work"/wheel/*-cp311-abi3-linux_aarch64.whl

# From an empty directory, so that nothing is imported from the source tree, and no cache is written into it.
rm -rf "$work/run"
mkdir "$work/run"
cd "$work/run"
export OPENBLAS_NUM_THREADS=1 # spinning threads starve each other under emulation
# One emulated process keeps one core busy.
arm_pytest() { "$root/usr/bin/python" -m pytest -n "$(nproc)" -p no:cacheprovider -m "not slow" -q --durations=15 "$@"; }

export QEMU_CPU=max # everything that qemu knows: dotprod, i8mm, bf16, SVE2
export LANEWISE_EXPECT_ISAS=scalar,neon,neondot
say "tests on $QEMU_CPU"
# What is Arm's own are its kernels, and answers that other machines must make again; what Python does, and the scalar
# kernels, have met their tests elsewhere. Most tests of the code scan compare with truths that NumPy makes, the same on
# every machine: emulated, that takes a quarter of an hour. The dot product changes kernels, which are compared with
# each other; drivers meet one set of them.
arm_pytest "$source/tests" --ignore "$source/tests/test_code_driver.py" --ignore "$source/tests/test_io.py" \
  --ignore "$source/tests/test_life.py" --ignore "$source/tests/test_progress.py" \
  -k "(neon or lanes or hnsw) and not scalar and not (neondot and not test_kernels) or same_bits" "$@"
arm_pytest "$source/tests/test_code_driver.py" -k "every_other_machine or same_bits_and_work"

export QEMU_CPU=cortex-a57 # plain Armv8.0: must run without any of them
export LANEWISE_EXPECT_ISAS=scalar,neon
say "tests on $QEMU_CPU"
arm_pytest "$old_test"
say "done"
