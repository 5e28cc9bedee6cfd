"""The command ``lanewise``: what lanes do on real vectors, and what this machine runs."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["machine_facts", "main"]

_WIDTH = 100
_INDEXES = ("hnsw", "ivf", "flat")
_METRICS = ("l2", "ip", "cosine")

_EXTRAS = {
    "hnsw": ("hnswlib",),
    "hdf5": ("h5py",),
    "fetch": ("pooch", "h5py"),
    "lanes": ("hnswlib", "rich", "matplotlib"),
}


class _UserError(Exception):
    """Something that the user can put right; shown as one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UserError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        Exit code: 0; 2 after an error of the user, which is one line on stderr; 130 after Ctrl-C.

    Examples
    --------
    >>> main(["lanes", "--lanes", "0"])
    2
    """
    try:
        arguments = _parser().parse_args(argv)
        command = {"lanes": _lanes, "info": _info}[arguments.command]
        command(arguments)
        sys.stdout.flush()
    except SystemExit as done:
        # argparse leaves this way after --help and --version.
        return done.code if isinstance(done.code, int) else 0
    except _UserError as error:
        print(f"lanewise: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lanewise: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing more can be written, at exit neither.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lanewise", description="Vector search in lanes.")
    parser.add_argument(
        "--version", action="version", version=f"lanewise {importlib.metadata.version('lanewise')}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("info", help="version, CPU, instruction sets, threads, extras")
    lanes = commands.add_parser(
        "lanes",
        help="compare lanes with what else the same budget buys, on real vectors",
        description="Compare lanes with what else the same budget buys: a table for each index, "
        "the cost of planning, a picture (lanes.png) and all numbers (lanes.json). Without --data "
        "it takes the SIFT vectors shipped with the package.",
    )
    lanes.add_argument(
        "--data",
        metavar="FILE",
        help=".npz with base and queries, ann-benchmarks .hdf5, or .npy .fvecs .bvecs .fbin .u8bin "
        ".i8bin, of which random rows then become queries",
    )
    lanes.add_argument(
        "--index",
        metavar="NAME",
        action="append",
        help=f"{', '.join(_INDEXES)}; may be repeated or a list with commas (default: hnsw,ivf)",
    )
    lanes.add_argument("--lanes", metavar="N", type=_positive, default=4, help="default: 4")
    lanes.add_argument(
        "--k-lane",
        metavar="N",
        type=_positive,
        default=16,
        help="candidates that a lane scores for a query (default: 16)",
    )
    lanes.add_argument(
        "-k", metavar="N", type=_positive, default=10, help="length of an answer (default: 10)"
    )
    lanes.add_argument(
        "--queries",
        metavar="N",
        type=_positive,
        help="ask the first N queries (default: all, at most 1,000)",
    )
    lanes.add_argument(
        "--rows",
        metavar="N",
        type=_positive,
        help="search the first N rows (default: all, at most 50,000 and 10 million numbers)",
    )
    lanes.add_argument(
        "--metric", choices=_METRICS, help="default: the data set's; l2 if it does not say"
    )
    lanes.add_argument(
        "--out", metavar="DIR", default="lanewise-report", help="default: lanewise-report"
    )
    lanes.add_argument("--seed", metavar="N", type=_seed, default=0, help="default: 0")
    lanes.add_argument(
        "--threads",
        metavar="N",
        type=_positive,
        help="default: all that the process may use; only times depend on it",
    )
    return parser


def _positive(text: str) -> int:
    return _number(text, 1)


def _seed(text: str) -> int:
    return _number(text, 0)


def _number(text: str, low: int) -> int:
    # The upper bound is that of hnswlib's seed, and beyond any size that could be meant.
    if not text.isdecimal() or not low <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, got {text!r}")
    return int(text)


@contextlib.contextmanager
def _users_fault() -> Iterator[None]:
    """Take the library's refusals for errors of the user: where data and arguments are read."""
    try:
        yield
    except OSError as error:
        raise _UserError(_describe_os_error(error)) from error
    except (ImportError, TypeError, ValueError) as error:
        raise _UserError(str(error)) from error
    except MemoryError as error:
        raise _UserError(f"not enough memory; --rows takes less of the file ({error})") from error


def _describe_os_error(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


# ------------------------------------------------------------------------------------------- lanes


def _lanes(arguments: argparse.Namespace) -> None:
    started = time.perf_counter()
    indexes = _indexes(arguments.index)
    _require("rich", "matplotlib", *(["hnswlib"] if "hnsw" in indexes else []))
    # It reports on stderr that it builds its font cache, once.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

    from lanewise import datasets
    from lanewise.lanes import compare, report
    from lanewise.progress import bars

    with _users_fault():
        budget = compare.Budget(arguments.lanes, arguments.k_lane, arguments.k)
        facts = machine_facts(arguments.threads)
        out = _writable_folder(arguments.out, arguments.data)
        if arguments.data is None:
            data = datasets.sift_small()
        else:
            data = datasets.load(arguments.data, metric=arguments.metric)
        problem = compare.prepare(
            data,
            budget,
            metric=arguments.metric,
            n_rows=arguments.rows,
            n_queries=arguments.queries,
            seed=arguments.seed,
            n_threads=arguments.threads,
        )

    console = _console()
    _print_sentences(console, report.problem_lines(problem, budget))
    comparisons = []
    for index in indexes:
        with bars(console, index) as progress:
            comparison = compare.compare_index(
                problem,
                index,
                budget,
                seed=arguments.seed,
                n_threads=arguments.threads,
                progress=progress,
            )
        comparisons.append(comparison)
        _print_section(console, report.title(comparison), report.variants_table(comparison, budget))
        _print_sentences(console, report.footnotes(comparison))
        console.print()
        _print_sentences(console, report.reading(comparison, budget), bullet="- ")
    with bars(console, "plan") as progress:
        costs = compare.planner_costs(
            budget, seed=arguments.seed, n_threads=arguments.threads, progress=progress
        )
    _print_section(console, "Planning, in nanoseconds", report.planner_table(costs))
    _print_sentences(console, report.planner_reading(costs), bullet="- ")

    content = report.as_dict(
        problem,
        budget,
        comparisons,
        costs,
        seed=arguments.seed,
        versions=_versions("lanewise", "numpy", "hnswlib", "matplotlib", "rich"),
        machine=facts,
        seconds=time.perf_counter() - started,
    )
    with _users_fault():
        report.write_json(out / "lanes.json", content)
        report.plot(out / "lanes.png", comparisons, problem, budget)
    console.print()
    console.print(
        f"{time.perf_counter() - started:.1f} s on {facts['threads']} threads, {facts['isa']} "
        f"kernels; wrote {out / 'lanes.png'} and {out / 'lanes.json'}",
        soft_wrap=True,
    )


def _indexes(asked: list[str] | None) -> list[str]:
    names = [name.strip() for one in asked or ["hnsw,ivf"] for name in one.split(",")]
    for name in names:
        if name not in _INDEXES:
            raise _UserError(f"--index: expected one of {', '.join(_INDEXES)}, got {name!r}")
    return list(dict.fromkeys(names))


def _require(*modules: str) -> None:
    missing = []
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(module)
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise _UserError(
            f'{" and ".join(missing)} {verb} not installed: pip install "lanewise[lanes]"'
        )


def _writable_folder(name: str, data: str | None) -> Path:
    """Make the folder for the report, and see that files can be written there."""
    if data is not None and not Path(data).is_file():
        # Said before the folder is made, so that a mistyped name leaves nothing behind.
        raise _UserError(f"--data: no file {data}")
    out = Path(name)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise _UserError(f"--out: cannot write to {name} ({error.strerror})") from error
    return out


def _console() -> Console:
    from rich.console import Console

    # A pipe gets plain text of a fixed width, whatever the environment says about colours.
    terminal = sys.stdout.isatty()
    width = min(_WIDTH, shutil.get_terminal_size().columns) if terminal else _WIDTH
    return Console(width=width, force_terminal=terminal, highlight=False, markup=False)


def _print_section(console: Console, title: str, table: Table) -> None:
    console.print()
    console.print(title, style="bold")
    console.print(table)
    console.print()


def _print_sentences(console: Console, sentences: list[str], bullet: str = "") -> None:
    for sentence in sentences:
        text = textwrap.fill(
            sentence,
            console.width,
            initial_indent=bullet,
            subsequent_indent=" " * len(bullet),
            break_on_hyphens=False,
        )
        console.print(text, soft_wrap=True)


# -------------------------------------------------------------------------------------------- info


def machine_facts(n_threads: int | None = None) -> dict[str, Any]:
    """Describe what measurements depend on: CPU, kernels, threads, system and versions.

    Parameters
    ----------
    n_threads : int, optional
        Threads that were asked for; by default those that a call uses.

    Returns
    -------
    dict
        Nothing in it names the machine or its user.

    Raises
    ------
    ValueError
        If ``LANEWISE_ISA`` or ``LANEWISE_NUM_THREADS`` cannot be followed.
    """
    from lanewise import kernels
    from lanewise.threads import resolve_threads

    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": resolve_threads(n_threads),
        "isa": kernels.get().name,
        "isas_built": kernels.built(),
        "isas_runnable": kernels.available(),
        "os": _os_name(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": importlib.metadata.version("numpy"),
    }


def _cpu_model() -> str:
    system = platform.system()
    try:
        if system == "Linux":
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                name, _, value = line.partition(":")
                if name.strip().lower() in ("model name", "cpu model", "hardware"):
                    return value.strip()
        if system == "Darwin":
            brand = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(brand, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine() or "unknown"


def _os_name() -> str:
    if platform.system() == "Linux":
        with contextlib.suppress(OSError, KeyError):
            return platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{platform.system()} {platform.release()}"


def _versions(*distributions: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _info(_: argparse.Namespace) -> None:
    from lanewise import kernels

    with _users_fault():
        facts = machine_facts()
    chosen = "LANEWISE_ISA" if os.environ.get("LANEWISE_ISA", "").strip() else "the best that runs"
    sets = [
        name if name in facts["isas_runnable"] else f"{name} (cannot run here)"
        for name in kernels.built()
    ]
    lines = [
        ("lanewise", importlib.metadata.version("lanewise")),
        ("CPU", f"{facts['cpu']} ({facts['architecture']}, {facts['cpus']} CPUs)"),
        ("kernel sets", ", ".join(sets)),
        ("kernels used", f"{facts['isa']}: {chosen}"),
        ("threads", f"{facts['threads']}: {_why_threads()}"),
        ("system", facts["os"]),
        ("Python", facts["python"]),
        ("NumPy", facts["numpy"]),
    ]
    for extra, modules in _EXTRAS.items():
        versions = _versions(*modules)
        parts = [f"{name} {version or 'missing'}" for name, version in versions.items()]
        advice = "" if all(versions.values()) else f'; pip install "lanewise[{extra}]"'
        lines.append((f"extra {extra}", ", ".join(parts) + advice))
    for name, value in lines:
        print(f"{name:<14}{value}")


def _why_threads() -> str:
    """Say what decided the number of threads."""
    from lanewise import threads

    if os.environ.get("LANEWISE_NUM_THREADS", "").strip():
        return "LANEWISE_NUM_THREADS"
    cpus = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpus
    if threads.default_threads() < usable:
        return f"the control group's limit, of {usable} CPUs"
    if usable < cpus:
        return f"the CPUs that this process may run on, of {cpus}"
    return "all CPUs"
