"""The command ``lanewise``: what lanes do on real vectors, and what this machine runs."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.metadata
import logging
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lanewise.lanes.compare import Budget, Problem
    from lanewise.lanes.planning import Setting

__all__ = ["machine_facts", "main"]

_WIDTH = 100
_INDEXES = ("hnsw", "ivf", "flat")
_METRICS = ("l2", "ip", "cosine")

_EXTRAS = {
    "hnsw": ("hnswlib",),
    "hdf5": ("h5py",),
    "fetch": ("pooch", "h5py"),
    "lanes": ("hnswlib", "rich", "matplotlib"),
    "telemetry": ("prometheus-client",),
    "tracing": ("opentelemetry-api",),
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
        command = {"lanes": _lanes, "replay": _replay, "info": _info}[arguments.command]
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
    lanes.add_argument(
        "--advise",
        action="store_true",
        help="only say which setting the break-even law recommends, from --on-time and the data, "
        "or from the query log --log",
    )
    lanes.add_argument(
        "--on-time", metavar="SHARE", type=_share, help="with --advise: share of lanes on time"
    )
    lanes.add_argument("--log", metavar="FILE", help="with --advise: a query log, see replay")
    replay = commands.add_parser(
        "replay",
        help="predict what other settings would have found for a query log",
        description="Predict what other settings would have found for the queries of a log: plans "
        "are made again, lanes are drawn from the logged ones, scores are the logged ones.",
    )
    replay.add_argument("file", metavar="LOG", help="a query log, see lanewise.lanes.QueryLog")
    replay.add_argument(
        "--set",
        metavar="NAME=VALUE,...",
        action="append",
        dest="settings",
        help="a setting: n_lanes, k_lane, alpha, head, scheme, those of the log where left out; "
        "may be repeated (default: the ones that --advise considers)",
    )
    replay.add_argument(
        "-k", metavar="N", type=_positive, help="length of an answer (default: as logged)"
    )
    replay.add_argument(
        "--draws", metavar="N", type=_positive, default=16, help="replays of a query (default: 16)"
    )
    replay.add_argument(
        "--deadline", metavar="SECONDS", type=_seconds, help="that lanes had (default: not known)"
    )
    replay.add_argument("--seed", metavar="N", type=_seed, default=0, help="default: 0")
    return parser


def _positive(text: str) -> int:
    return _number(text, 1)


def _seed(text: str) -> int:
    return _number(text, 0)


def _share(text: str) -> float:
    return _real(text, 1.0)


def _seconds(text: str) -> float:
    return _real(text, math.inf)


def _real(text: str, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= high or math.isinf(number):
        bounds = "from 0 to 1" if high == 1 else "of at least 0"
        raise argparse.ArgumentTypeError(f"expected a number {bounds}, got {text!r}")
    return number


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
    if arguments.advise:
        _advise(arguments)
        return
    for name in ("on_time", "log"):
        if getattr(arguments, name) is not None:
            raise _UserError(f"--{name.replace('_', '-')}: expected --advise with it")
    started = time.perf_counter()
    indexes = _indexes(arguments.index)
    _require("rich", "matplotlib", *(["hnswlib"] if "hnsw" in indexes else []))
    # It reports on stderr that it builds its font cache, once.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

    from lanewise.lanes import compare, report
    from lanewise.progress import bars

    with _users_fault():
        budget = compare.Budget(arguments.lanes, arguments.k_lane, arguments.k)
        facts = machine_facts(arguments.threads)
        out = _writable_folder(arguments.out, arguments.data)
        problem = _problem(arguments, budget)

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


def _problem(arguments: argparse.Namespace, budget: Budget) -> Problem:
    from lanewise import datasets
    from lanewise.lanes import compare

    if arguments.data is None:
        data = datasets.sift_small()
    else:
        data = datasets.load(arguments.data, metric=arguments.metric)
    return compare.prepare(
        data,
        budget,
        metric=arguments.metric,
        n_rows=arguments.rows,
        n_queries=arguments.queries,
        seed=arguments.seed,
        n_threads=arguments.threads,
    )


def _advise(arguments: argparse.Namespace) -> None:
    """Say what the break-even law recommends."""
    from lanewise.lanes import law

    if arguments.log is not None:
        _advise_from_log(arguments)
        return
    if arguments.on_time is None:
        raise _UserError("--advise: expected --on-time SHARE or --log FILE with it")
    indexes = _indexes(arguments.index)
    _require("rich", *(["hnswlib"] if "hnsw" in indexes else []))

    from lanewise.lanes import compare, report
    from lanewise.progress import bars

    with _users_fault():
        budget = compare.Budget(arguments.lanes, arguments.k_lane, arguments.k)
        problem = _problem(arguments, budget)
    console = _console()
    _print_sentences(console, report.problem_lines(problem, budget))
    on_time = law.OnTime.independent(arguments.on_time, budget.n_lanes)
    settings = law.candidates(budget.n_lanes, budget.k_lane)
    for index in indexes:
        with bars(console, index) as progress:
            ranks, alone = compare.rank_recalls(
                problem,
                index,
                budget,
                seed=arguments.seed,
                n_threads=arguments.threads,
                progress=progress,
            )
        console.print(f"\n{index}", style="bold")
        if not ranks.sum() > 0:
            _print_sentences(console, ["The pool holds no true neighbour: nothing to advise."])
            continue
        _print_advice(law.advise(ranks, on_time, settings, alone=alone))
    _print_sentences(
        console,
        [
            "",
            "alpha 0 stands for lanes that each search by themselves with their own budget. Lanes "
            "are taken to be late independently of each other; a query log (--log) knows better.",
        ],
    )


def _advise_from_log(arguments: argparse.Namespace) -> None:
    from lanewise.lanes import law, querylog, replaying

    if arguments.data is not None or arguments.index is not None:
        raise _UserError("--log: expected neither --data nor --index beside it")
    with _users_fault():
        records = querylog.read_log(arguments.log)
        usual = replaying.logged_setting(records)
        ranks = replaying.rank_shares(records)
        on_time = replaying.on_time_of(records)
    _print_log(arguments.log, records)
    if arguments.on_time is not None:
        on_time = law.OnTime.independent(arguments.on_time, usual.n_lanes)
    settings = law.candidates(usual.n_lanes, usual.k_lane, usual.scheme)
    print()
    _print_advice(law.advise(ranks, on_time, settings))


def _print_advice(advice: Any) -> None:
    from lanewise.lanes import law

    print(f"{'':<36}{'predicted':>10}")
    for setting, quality in advice.predictions:
        mark = "  <-" if setting == advice.setting else ""
        print(f"{law.describe(setting):<36}{quality:>10.3f}{mark}")
    print()
    print(textwrap.fill(advice.reason, _WIDTH, break_on_hyphens=False))


def _print_log(name: str, records: Any) -> None:
    n = len(records)
    print(
        f"{name}: {n:,} quer{'y' if n == 1 else 'ies'}, {records.n_complete:,} of them with scores"
    )
    print("of the whole pool, which say what another setting finds.")
    if records.cut is not None:
        print(records.cut)


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


# ------------------------------------------------------------------------------------------ replay


def _replay(arguments: argparse.Namespace) -> None:
    from lanewise.lanes import law, querylog, replaying

    with _users_fault():
        records = querylog.read_log(arguments.file)
        usual = replaying.logged_setting(records)
        settings = [usual]
        if arguments.settings is None:
            settings += law.candidates(usual.n_lanes, usual.k_lane, usual.scheme)
        else:
            settings += [_setting(text, usual) for text in arguments.settings]
        rows = [("as logged", replaying.as_logged(records, k=arguments.k))]
        for setting in dict.fromkeys(settings):
            found = replaying.replay(
                records,
                setting,
                k=arguments.k,
                n_draws=arguments.draws,
                deadline=arguments.deadline,
                seed=arguments.seed,
            )
            mark = " (logged)" if setting == usual else ""
            rows.append((f"{law.describe(setting)}{mark}", found))
    _print_log(arguments.file, records)
    if records.n_complete == 0:
        print("NONE is complete: what nobody scored cannot be found, so the logged setting seems")
        print("better than it is. QueryLog.write(pool_distances=...) leaves complete records.")
    print()
    headers = ("recall", "+-", "5th pct", "labels", "on time", "coverage")
    print(f"{'':<40}" + "".join(f"{header:>10}" for header in headers))
    for name, found in rows:
        labels = "-" if found.label_recall is None else f"{found.label_recall:.3f}"
        figures = (
            f"{found.recall:.3f}",
            f"{found.recall_error:.3f}",
            f"{found.recall_p5:.3f}",
            labels,
            f"{found.on_time:.3f}",
            f"{found.coverage:.3f}",
        )
        print(f"{name:<40}" + "".join(f"{figure:>10}" for figure in figures))
    print()
    print("recall: share of the best k of all known scores; +-: standard error over the queries;")
    print(f"all rows but the first are predictions, each query replayed {arguments.draws} times.")
    print("as logged: the complete queries alone, of which too many had all lanes on time unless")
    print("all of them are shadow records.")


def _setting(text: str, usual: Setting) -> Setting:
    """Read ``name=value,...``; what is not named is as logged."""
    kinds: dict[str, Callable[[str], Any]] = {
        "n_lanes": int,
        "k_lane": int,
        "alpha": float,
        "head": int,
        "scheme": str,
    }
    changes = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in kinds or not equals:
            raise _UserError(f"--set: expected one of {', '.join(kinds)} and a value, got {part!r}")
        try:
            changes[name] = kinds[name](value)
        except ValueError:
            raise _UserError(f"--set: {name}: expected a number, got {value!r}") from None
    return dataclasses.replace(usual, **changes)


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
        print(f"{name:<13} {value}")


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
