"""Sends spans to a server by OTLP over HTTP, with the SDK's own exporter, and never waits without end."""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from arpo_verl.record.visible import one_line

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
"""Variables that the exporter reads, the first one first."""
PATH = "/v1/traces"
SECONDS = 10.0
"""How long the exporter tries to send a request, if nobody says."""
REASON_CHARACTERS = 300


class NotSent(Exception):
    """A request was not taken; the message says why."""


def endpoint_of(given: str | None, variables: Mapping[str, str]) -> str:
    """Return the address that spans are sent to.

    Args:
        given: on the command line: a whole address, or that of a server alone.
        variables: the environment, whose addresses hold where none is given.

    Raises:
        ValueError: there is none, or it is not one of HTTP.
    """
    specific, common = (variables.get(name, "").strip() for name in ENDPOINTS)
    address = given or specific or (common and common.rstrip("/") + PATH)
    if not address:
        raise ValueError(
            f"got neither --out nor an endpoint; expected --out FILE, --endpoint URL or the variable {ENDPOINTS[1]}: "
            f"give one"
        )
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError(f"the endpoint is {address!r:.200}; expected http://HOST[:PORT]{PATH} or https://: correct it")
    return parts._replace(path=PATH).geturl() if parts.path in ("", "/") else address


def shown(endpoint: str) -> str:
    """Return an address without a password and a query."""
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def timeout_of(variables: Mapping[str, str]) -> float:
    """Return the seconds that a request may take.

    Raises:
        ValueError: the variable that says so holds no positive number.
    """
    for name in TIMEOUTS:
        if text := variables.get(name, "").strip():
            try:
                seconds = float(text)
            except ValueError:
                seconds = -1.0
            if not 0 < seconds < 3600:
                raise ValueError(f"{name}={text!r:.80}; expected a positive number of seconds: correct it")
            return seconds
    return SECONDS


class Sender:
    """Sends requests one after another. Headers and certificates are those of the exporter's variables."""

    def __init__(self, endpoint: str, seconds: float) -> None:
        self._session = _Session()
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=seconds, session=self._session)
        # Its own time-out begins anew with each byte of an answer, and it tries twice.
        self._patience = 3 * seconds + 2
        self._reasons = _Reasons()

    def __enter__(self) -> "Sender":
        log = logging.getLogger("opentelemetry")
        log.addHandler(self._reasons)
        log.propagate = False  # what goes wrong is told once, by the error
        return self

    def __exit__(self, *_: object) -> None:
        log = logging.getLogger("opentelemetry")
        log.removeHandler(self._reasons)
        log.propagate = True

    def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Send one request.

        Raises:
            NotSent: it was refused, nobody has answered, or not in time.
        """
        self._session.outcome = ""
        results: list[SpanExportResult] = []
        thread = threading.Thread(target=lambda: results.append(self._exporter.export(spans)), daemon=True)
        thread.start()
        thread.join(self._patience)
        if thread.is_alive():
            raise NotSent(f"no answer within {self._patience:g} s")
        if results != [SpanExportResult.SUCCESS]:
            raise NotSent(self._session.outcome or self._reasons.last or "the exporter gives no reason")


class _Session(requests.Session):
    """Keeps what has become of the last request, which the exporter does not always say."""

    outcome = ""

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        try:
            response = super().send(*args, **kwargs)
        except requests.RequestException as error:
            # The reason inside names neither the address's query nor how often it was tried.
            reason = getattr(error.args[0], "reason", error) if error.args else error
            self.outcome = one_line(str(reason), REASON_CHARACTERS)
            raise
        kind = response.headers.get("Content-Type", "")
        said = response.text if "json" in kind or "text" in kind else ""
        self.outcome = one_line(f"{response.status_code} {response.reason} {said}", REASON_CHARACTERS)
        return response


class _Reasons(logging.Handler):
    """Keeps what the exporter logs last, of spans that it can't even send."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = one_line(record.getMessage(), REASON_CHARACTERS)
