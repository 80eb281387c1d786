"""Checks that call each of our own tools once, as a run would, but without its cache, whose answers prove nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from arpo_tools import PythonInterpreter, Tool, ToolResult, ToolStatus, open_python, open_search
from arpo_tools.dotted_path import is_dotted
from arpo_tools.redaction import redact, without_credentials
from arpo_tools.sandbox.plan import SandboxReport
from arpo_tools.sandbox.probe import SandboxUnavailable
from arpo_tools.search.open import AUTO, cache_folder
from arpo_verl.doctor.cache import check_cache
from arpo_verl.doctor.corpus import check_corpus
from arpo_verl.doctor.finding import DoctorCheck, DoctorInput, Finding, Status
from arpo_verl.preflight.tool_list import ToolEntry, tool_errors_as_value_errors

if TYPE_CHECKING:
    from arpo_tools.remote_python import RemotePython  # it imports aiohttp

PROGRAM, OUTPUT = "print(6*7)", "42"
QUERY = "capital of France"
TOOL_TIME_SHARE = 2 / 3
"""Share of a check's time that a tool gets, so that its own message about a time-out comes first."""
OFFLINE = ("local", "replay")


def check_tool(doctor_input: DoctorInput, entry: ToolEntry) -> list[Finding]:
    """Make a tool and call it once."""
    try:
        options = entry.options()
    except ValueError as error:
        if doctor_input.is_run:
            raise
        reason = str(error.__cause__).splitlines()[0].removeprefix("KeyError raised while resolving interpolation: ")
        return [
            Finding(entry.label, Status.SKIPPED, f"{reason}; set it, or give the run's overrides, to have it checked")
        ]
    with tool_errors_as_value_errors([entry.path]):
        return CALLS[entry.kind](doctor_input, entry.label, options)


def _check_python(doctor_input: DoctorInput, label: str, options: dict[str, Any]) -> list[Finding]:
    if "base_url" in options:
        limit_seconds = TOOL_TIME_SHARE * doctor_input.options.check_seconds
        options = options | {
            "attempts": 1,
            "timeout_seconds": min(5.0, limit_seconds),
            "answer_seconds": limit_seconds / 2,
        }
    try:
        tool = open_python(**options)
    except SandboxUnavailable as error:
        return [
            Finding("sandbox", Status.FAILED, str(error)),
            Finding(label, Status.FAILED, "not made, see `sandbox`; expected programs to run: repair that first"),
        ]
    result, report, seconds = asyncio.run(_call_python(tool))
    if result.status is ToolStatus.OK and result.text == OUTPUT:
        finding = Finding(label, Status.OK, f"{PROGRAM} answered {OUTPUT} in {seconds:.2f} s")
    else:
        problem = f"{PROGRAM} answered {redact(result.text)[:500]!r} ({result.status.value}); expected {OUTPUT}: "
        finding = Finding(label, Status.FAILED, problem + _python_fix(result.status, options))
    return [*_sandbox(report, options), finding]


async def _call_python(tool: "PythonInterpreter | RemotePython") -> tuple[ToolResult, SandboxReport | None, float]:
    report = await tool.start() if isinstance(tool, PythonInterpreter) else None
    started = time.monotonic()
    return await tool.run(PROGRAM), report, time.monotonic() - started


def _python_fix(status: ToolStatus, options: dict[str, Any]) -> str:
    if "base_url" in options:
        return f"start the server or correct base_url={without_credentials(str(options['base_url']))!r}"
    if status in (ToolStatus.TIMEOUT, ToolStatus.LIMIT, ToolStatus.MODEL_ERROR):
        return "raise timeout_seconds, cpu_seconds or memory_mb in the tool list"
    return "repair what the text names"


def _sandbox(report: SandboxReport | None, options: dict[str, Any]) -> list[Finding]:
    """Return the level; bubblewrap is an extra layer and no reason to warn."""
    if report is None:
        return [
            Finding(
                "sandbox",
                Status.OK,
                f"programs run on {without_credentials(str(options['base_url']))}, which walls them in",
            )
        ]
    isolation = options.get("isolation", "auto")
    found = f"{report.level} (isolation={isolation})"
    if isolation == "limits":
        advice = "expected auto or strict for what a model writes: change it in the tool list"
        return [Finding("sandbox", Status.WARNING, f"{found}; {advice}")]
    is_whole = report.has_landlock and report.has_seccomp and report.has_thread_gate and not report.unreadable
    missing = "; missing: " + "; ".join(report.missing) if report.missing else ""
    return [Finding("sandbox", Status.OK if is_whole else Status.WARNING, found + missing)]


def _check_search(doctor_input: DoctorInput, label: str, options: dict[str, Any]) -> list[Finding]:
    backend = options.get("backend", "local")
    if is_dotted(backend):
        return [_ask(doctor_input, label, open_search(**options | {"cache": None}), QUERY, backend)]
    if backend == "local":
        return check_corpus(label, options, partial(_ask, doctor_input))
    if backend in OFFLINE:
        return [Finding(label, Status.OK, f"{open_search(**options).backend.name}: its cache can be read; not asked")]
    limit_seconds = TOOL_TIME_SHARE * doctor_input.options.check_seconds
    limits = {
        "attempts": 1,
        "attempt_seconds": min(options.get("attempt_seconds", limit_seconds), limit_seconds),
        "total_seconds": min(options.get("total_seconds", limit_seconds), limit_seconds),
    }
    tool = open_search(**options | {"cache": None} | limits)
    from arpo_tools.search.engines import ENGINES_AND_KEYS

    variable = ENGINES_AND_KEYS.get(backend, (None, None))[1]
    if variable and not doctor_input.options.may_pay:
        return [Finding(label, Status.SKIPPED, f"{variable} is set; not called because of --no-paid-calls")]
    where = without_credentials(str(options.get("base_url", "the service")))
    finding = _ask(doctor_input, label, tool, QUERY, where)
    cost = "at most one paid call" if finding.status is Status.FAILED else "one paid call"
    return [Finding(label, finding.status, f"{finding.text}; {cost}" if variable else finding.text)]


def _ask(doctor_input: DoctorInput, label: str, tool: Tool, query: str, where: str) -> Finding:
    """Ask a search tool."""
    query = doctor_input.options.query or query
    result, seconds = asyncio.run(_timed(tool.run(query)))
    if result.status is ToolStatus.OK:
        passages = sum(line.startswith("Page ") for line in result.text.splitlines())
        return Finding(label, Status.OK, f"{query!r} found {passages} passages in {seconds:.2f} s")
    if result.status is ToolStatus.EMPTY:
        advice = "expected some: give a query that fits with --query, or see what the server has indexed"
        return Finding(label, Status.WARNING, f"{where} answers, but {query!r} found no passages; {advice}")
    text = f"{result.text.removeprefix('Error: ')} ({result.status.value})"
    if result.status in (ToolStatus.TIMEOUT, ToolStatus.INFRASTRUCTURE_ERROR):
        text += (
            f"; expected passages for {query!r}: see that {where} is up, is reached from here, and is what it should be"
        )
    return Finding(label, Status.FAILED, text)


async def _timed(call: Awaitable[ToolResult]) -> tuple[ToolResult, float]:
    started = time.monotonic()
    return await call, time.monotonic() - started


def _check_browser(doctor_input: DoctorInput, label: str, options: dict[str, Any]) -> list[Finding]:
    from arpo_tools.page_browser import PageBrowser

    limit_seconds = TOOL_TIME_SHARE * doctor_input.options.check_seconds
    limits = {"cache": None, "fetch_seconds": min(options.get("fetch_seconds", limit_seconds), limit_seconds)}
    browser = PageBrowser(**options | limits)
    url = doctor_input.options.url
    if not url:
        return [Finding(label, Status.OK, "made; no page was fetched (--fetch-url URL fetches one)")]
    result, seconds = asyncio.run(_timed(browser.run(url)))
    if result.status in (ToolStatus.OK, ToolStatus.EMPTY):
        return [Finding(label, Status.OK, f"{url} has {len(result.text)} characters, read in {seconds:.2f} s")]
    advice = "expected a page: see whether this machine reaches it, without a proxy, or give another address"
    text = f"{url}: {redact(result.text).removeprefix('Error: ')[:500]} ({result.status.value}); {advice}"
    return [Finding(label, Status.FAILED, text)]


CALLS: dict[str, Callable[[DoctorInput, str, dict[str, Any]], list[Finding]]] = {
    "python": _check_python,
    "search": _check_search,
    "browse": _check_browser,
}


def cache_checks(entries: list[ToolEntry]) -> list[DoctorCheck]:
    """Return a check for each cache file of the tools."""
    paths: dict[str, None] = {}
    for entry in entries:
        try:
            path = _cache_path(entry)
        except ValueError:
            continue  # the tool's own line says it
        if path:
            paths[path] = None
    return [DoctorCheck("cache", partial(check_cache, path)) for path in paths]


def _cache_path(entry: ToolEntry) -> str | None:
    if entry.kind == "python" or (entry.kind == "search" and entry.config.get("backend", "local") in OFFLINE):
        return None
    is_ours = entry.kind == "search" and not is_dotted(entry.config.get("backend", "local"))
    cache = entry.options().get("cache", AUTO if is_ours else None)
    return str(cache_folder() / "search.sqlite") if cache == AUTO else cache
