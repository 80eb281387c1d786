"""The one redaction for every text that leaves a tool, a log line or a line of the doctor's report.

Two kinds of text need different care. A *message* (an error, a log line) is ours or a library's: everything that looks
like a credential is redacted, whoever it belongs to. *Content* (passages, pages) is what was asked for: only the
service's own secrets are redacted, because a page may well explain what `https://user:password@host` means.

What is not covered: a secret that was changed, cut or encoded in a way that is not listed in `_spellings`.
"""

import base64
import functools
import html
import json
import logging
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlsplit

REDACTED = "***"

_LEAST_IN_MESSAGES = 3
"""Characters that a secret must have to be redacted in messages: `a` would redact every a."""
_LEAST_IN_CONTENT = 6
"""The same in content, where words such as `admin` must stay."""

# The credentials before a host: `//user:password@`. The second form is for passwords with an unescaped slash.
_USER_INFO = re.compile(
    r"(?:(?<=//)|(?<=\\/\\/))(?:[^\s/?#'\"<>]{1,1000}@|[^\s/?#:@'\"<>\[]{1,200}:(?!\d{1,5}(?:[/?#]|$))[^\s'\"<>]{0,300}@)"
)
_SECRET_NAME = (
    r"(?:[\w.-]{0,80}(?:api[-_.]?key|access[-_.]?key|secret[-_.]?key|private[-_.]?key|subscription[-_.]?key|apikey|secret|"
    r"passw(?:or)?d|passwd|pwd|passphrase|passcode|[-_.]token|authorization|credentials?|signature|session[-_.]?id|"
    r"[-_.]auth)|token|auth|cookie|key|sig|pass)"
)
_ASSIGNED = re.compile(
    rf"(?<![\w.-])({_SECRET_NAME})=(?!\s|$)(?:(?:Bearer|Basic|Token)\s+)?([\"']?)[^\s\"'&;,)\]}}>]+\2", re.IGNORECASE
)
_QUOTED = re.compile(
    rf"""(\\?["'])({_SECRET_NAME}|(?:set-)?cookie)\1(\s*:\s*)(b?)(\\?["'])(?:\\.|(?!\5).)*\5""", re.IGNORECASE
)
_HEADER = re.compile(
    r"(?<![\w-])((?:proxy-)?authorization|(?:set-)?cookie|(?:x-)?api-?key|x-[\w-]*(?:key|token|secret))(\s*:\s*)"
    r"(?![\"'])[^\r\n\"'}]+",
    re.IGNORECASE,
)
_NAMED = re.compile(
    r"(?<![\w.-])([\w.-]{0,80}(?:api[-_]?key|password|passwd|[-_]token|[-_]secret|secret[-_]key|access[-_]key))(\s*:\s*)"
    r"([\"']?)(?!\*\*\*)[^\s\"',;})\]]+\3",
    re.IGNORECASE,
)
_KEY = re.compile(r"\b(?:sk|pk|rk|tvly|hf|ghp|gho|xox[abp])[-_][A-Za-z0-9_-]{12,}")
"""Keys that begin with a service's own prefix."""
_SCHEME = re.compile(r"\b(Bearer|Basic|Digest)\s+(?=\S*[\d=._-])[A-Za-z0-9._~+/=-]{4,}")
_IS_SECRET_NAME = re.compile(rf"{_SECRET_NAME}\Z", re.IGNORECASE)


def redact(text: str, secrets: "Secrets | None" = None) -> str:
    """Return a message without credentials: those of URLs, headers and named fields, and the given secrets."""
    if secrets is not None:
        text = secrets.redact_message(text)
    text = _USER_INFO.sub(f"{REDACTED}@", text)
    text = _HEADER.sub(rf"\1\2{REDACTED}", text)
    text = _KEY.sub(REDACTED, text)
    text = _QUOTED.sub(rf"\1\2\1\3\4\5{REDACTED}\5", text)
    text = _ASSIGNED.sub(rf"\1={REDACTED}", text)
    text = _NAMED.sub(rf"\1\2{REDACTED}", text)
    return _SCHEME.sub(rf"\1 {REDACTED}", text)


def without_credentials(url: str) -> str:
    """Return a URL as it may be shown: without user name, password and the values of its query."""
    url = _USER_INFO.sub("", url, count=1) if "//" in url else url.rpartition("@")[2]
    beginning, question_mark, query = url.partition("?")
    if not question_mark:
        return url
    return beginning + "?" + "&".join(f"{part.partition('=')[0]}={REDACTED}" for part in query.split("&") if part)


def without_user_info(url: str) -> str:
    """Return a URL that may be shown and opened by others: without user name and password, its query as it is."""
    return _USER_INFO.sub("", url, count=1)


def is_web_url(url: str) -> bool:
    """Tell whether a configured URL is one of http or https with a host and, if any, a port that exists."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def log_failure(logger: logging.Logger, message: str, secrets: "Secrets | None" = None) -> None:
    """Log the exception that is being handled with its traceback, redacted; called from an `except` block."""
    logger.error("%s\n%s", redact(message, secrets), redact(traceback.format_exc(), secrets))


@dataclass(frozen=True, repr=False)
class Secrets:
    """The secrets of a service: its key, and what its URL holds."""

    values: frozenset[str] = frozenset()
    """Secrets that no text may hold."""
    names: frozenset[str] = frozenset()
    """User names: redacted in messages, but left in content, where `admin` may be a word."""

    @classmethod
    def of_service(cls, url: str = "", keys: Iterable[str] = ()) -> "Secrets":
        """Return the secrets of a service with this URL and these keys."""
        values = {key for key in keys if key}
        names: set[str] = set()
        user, password, query = _parts(url)
        if user and not password:
            values.add(user)  # a token in the place of the user
        elif user:
            names.add(user)
        if password:
            values.add(password)
        if user or password:
            values.add(base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode())
        for name, value in parse_qsl(query, keep_blank_values=False):
            if _IS_SECRET_NAME.match(name) or len(value) >= 16:
                values.add(value)
        return cls(frozenset(values), frozenset(names))

    def redact_message(self, text: str) -> str:
        """Return a message without any of the secrets."""
        return _redact(text, self.values | self.names, _LEAST_IN_MESSAGES)

    def redact_content(self, text: str) -> str:
        """Return content without the secrets that are too long to be an ordinary word."""
        return _redact(text, self.values, _LEAST_IN_CONTENT)

    def __repr__(self) -> str:
        return f"Secrets({len(self.values) + len(self.names)})"


def _parts(url: str) -> tuple[str, str, str]:
    """Return user, password and query of a URL as they are written."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", "", ""
    user_info, at_sign, _ = parts.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    return (user, password, parts.query) if at_sign else ("", "", parts.query)


def _redact(text: str, secrets: Iterable[str], least: int) -> str:
    pattern = _pattern(frozenset(secrets), least)
    return pattern.sub(REDACTED, text) if pattern else text


@functools.lru_cache(maxsize=256)
def _pattern(secrets: frozenset[str], least: int) -> re.Pattern[str] | None:
    spellings = {spelling for secret in secrets for spelling in _spellings(secret) if len(spelling) >= least}
    if not spellings:
        return None
    longest_first = sorted(spellings, key=lambda spelling: (-len(spelling), spelling))
    # Without case, because percent escapes are written in either.
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)


def _spellings(secret: str) -> set[str]:
    """Return the forms in which a server or a library may show a secret."""
    spellings: set[str] = set()
    for plain in {secret, unquote(secret), unquote_plus(secret)}:
        spellings |= {
            plain,
            quote(plain, safe="", errors="replace"),
            quote(plain, errors="replace"),
            quote_plus(plain, errors="replace"),
            json.dumps(plain)[1:-1],
            json.dumps(plain, ensure_ascii=False)[1:-1],
            repr(plain)[1:-1],
            html.escape(plain),
            base64.b64encode(plain.encode("utf-8", "replace")).decode().rstrip("="),
        }
    return spellings
