"""What the errors of obstore mean for a store, in words that quote none of them.

Their texts hold URLs with signatures, and answers of servers with names of keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stformat.errors import (
    CorruptStoreError,
    Problem,
    StoreError,
    StoreReadError,
    UnsupportedStoreError,
)

__all__ = ["Failure", "classify"]

_STATUS = re.compile(r"status code: (?P<code>\d{3})(?P<reason>[A-Za-z ]{0,40})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a request failed."""

    kind: type[StoreError]
    """Error to raise."""

    code: str
    """Code of its problem."""

    expected: str
    """What must hold."""

    found: str
    """What was found instead."""

    remedy: str
    """What to do about it."""

    @property
    def is_broken_body(self) -> bool:
        """Whether an answer broke off, which obstore repeats in part only."""
        return self.code == "store.truncated"

    def error(self, where: str) -> StoreError:
        """Return the error to raise for a place."""
        return self.kind(Problem(self.code, where, self.expected, self.found, self.remedy))


_DENIED = Failure(
    kind=StoreReadError,
    code="store.denied",
    expected="the server must let the store be read",
    found="a refusal",
    remedy="give credentials in the environment or by storage_options; for a public bucket, "
    "storage_options={'skip_signature': True}",
)
_NO_CREDENTIALS = Failure(
    kind=StoreReadError,
    code="store.credentials",
    expected="credentials for the bucket must be given",
    found="none in the environment nor in storage_options",
    remedy=_DENIED.remedy,
)
_NO_RANGES = Failure(
    kind=UnsupportedStoreError,
    code="store.no-ranges",
    expected="the server must serve ranges of bytes, those at the end of a file too",
    found="an answer that is not the range that was asked for",
    remedy="serve the store by one that does, such as nginx or an object store, or copy it here",
)
_NO_LENGTH = Failure(
    kind=UnsupportedStoreError,
    code="store.no-length",
    expected="the server must say how long its answers are",
    found="an answer without Content-Length",
    remedy=_NO_RANGES.remedy,
)
_BEYOND_END = Failure(
    kind=CorruptStoreError,
    code="store.file-short",
    expected="the range must lie within the file",
    found="a shorter file",
    remedy="run `stformat verify`; copy the store anew",
)
_SERVER = Failure(
    kind=StoreReadError,
    code="store.server",
    expected="the server must answer",
    found="an error",
    remedy="try again later; if it persists, check the URL, its region and the server's log",
)
_UNKNOWN_SERVER = Failure(
    kind=StoreReadError,
    code="store.unreachable",
    expected="the server must be reachable",
    found="a name that is not known",
    remedy="check the URL and the connection to the network",
)
_NO_CONNECTION = Failure(
    kind=StoreReadError,
    code="store.unreachable",
    expected="the server must be reachable",
    found="no connection, or one that was broken off",
    remedy="check the URL, the connection to the network, and whether the server is running",
)
_TLS = Failure(
    kind=StoreReadError,
    code="store.tls",
    expected="the server must prove by TLS who it is",
    found="a certificate or an answer that does not",
    remedy="check the URL; for a certificate authority of your own, "
    "storage_options={'client_options': {'root_certificate': ...}}",
)
_TIMEOUT = Failure(
    kind=StoreReadError,
    code="store.timeout",
    expected="the server must answer in time",
    found="no answer, or one that stalls",
    remedy="try again later; for a slow one, storage_options={'client_options': {'timeout': ...}}",
)
_TRUNCATED = Failure(
    kind=StoreReadError,
    code="store.truncated",
    expected="an answer must be as long as the server says",
    found="answers that broke off",
    remedy="try again later; check the connection and what stands between",
)
_OTHER = Failure(
    kind=StoreReadError,
    code="store.request",
    expected="the request must succeed",
    found="a failure of another kind",
    remedy="check the URL and storage_options",
)

# Text of obstore's errors, which hold the chain of their causes; the first that fits counts.
_SIGNS: tuple[tuple[re.Pattern[str], Failure], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), failure)
    for pattern, failure in (
        (r"/latest/(api/token|meta-data)|169\.254\.169\.254|metadata\.google", _NO_CREDENTIALS),
        (r"UnexpectedRange|NoContentRange|ParseContentRange", _NO_RANGES),
        (r"ContentLength|content-length", _NO_LENGTH),
        (r"dns error|failed to lookup address", _UNKNOWN_SERVER),
        (r"certificate|InvalidMessage|HandshakeFailure|AlertReceived|UnknownIssuer", _TLS),
        (r"TimedOut|kind: Timeout", _TIMEOUT),
        (r"IncompleteBody|kind: Body|kind: Decode|response body error", _TRUNCATED),
        (r"kind: Connect|kind: Interrupted|error sending request", _NO_CONNECTION),
    )
)


def classify(error: Exception) -> Failure:
    """Say what an error of obstore means.

    Parameters
    ----------
    error : Exception
        Of a request, but one that says that there is no such object.

    Returns
    -------
    Failure
        What to raise; it quotes the status of the answer at most.
    """
    text = str(error)
    status = _STATUS.search(text)
    if status is not None:
        return _of_status(int(status["code"]), f"{status['code']}{status['reason']}".strip())
    kind = type(error).__name__
    if kind in {"PermissionDeniedError", "UnauthenticatedError"}:
        return _DENIED
    for pattern, failure in _SIGNS:
        if pattern.search(text):
            return failure
    return _NO_RANGES if kind == "NotSupportedError" else _OTHER


def _of_status(code: int, found: str) -> Failure:
    failure = {401: _DENIED, 403: _DENIED, 416: _BEYOND_END}.get(code, _SERVER)
    return Failure(
        kind=failure.kind,
        code=failure.code,
        expected=failure.expected,
        found=found,
        remedy=failure.remedy,
    )
