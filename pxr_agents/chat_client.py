"""A client of servers that speak OpenAI's chat completions: bounded retries, and the key in no text it writes.

Reference: https://platform.openai.com/docs/api-reference/chat. vLLM, SGLang, llama.cpp and most hosts speak it, too.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pxr_agents.api_key import ApiKey
from pxr_agents.chat_reply import NoReply, Reply, error_text, is_too_long, read_reply
from pxr_env.errors import quote, show

if TYPE_CHECKING:
    import urllib3

Parsed = TypeVar("Parsed")

#: Answers that may be another one next time. Every other status of 400 and above says something about the request.
_TRANSIENT = frozenset({408, 409, 425, 429})
#: Answers after which no request at all will succeed: wrong key, nothing to pay with, no such model or address.
_REFUSALS = frozenset({401, 402, 403, 404, 405})
#: A longer answer is none.
_LONGEST_ANSWER = 32 * 1024 * 1024
#: Seconds between two lines about repeated requests.
_QUIET = 10.0
_LOG = logging.getLogger(__name__)


class RemoteError(RuntimeError):
    """A server did not do what it was asked."""


class Unanswered(RemoteError):
    """One request could not be answered, and asking again did not help. Others may be.

    Args:
        message: what came.
        is_down: whether the server failed in a way that other requests would meet, too.
        status: the HTTP status, None if there was none.
    """

    def __init__(self, message: str, *, is_down: bool = False, status: int | None = None) -> None:
        super().__init__(message)
        self.is_down, self.status = is_down, status


class ContextExceeded(Unanswered):
    """The conversation, with the tokens that may follow, does not fit the model's context."""


class ServerRefused(RemoteError):
    """The server takes no request of this kind: the key, the address or the model is wrong, or the account is empty.

    Args:
        message: what came, and what to do.
        status: the HTTP status, None if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _Transient(Exception):
    """Worth another attempt; `retry_after` are the seconds the server asked for, None if it did not say.

    `of_question`: should it stay so, that says nothing about other questions.
    """

    def __init__(
        self, reason: str, retry_after: float | None = None, *, of_question: bool = False, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.retry_after, self.of_question, self.status = retry_after, of_question, status


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """How often and how long a request is repeated: exponential back-off with full jitter.

    Before attempt n + 1 it waits a random time between 0 and `first_wait * 2**(n - 1)`, at most `longest_wait` (M.
    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015), or as long as the server asks for.

    Args:
        attempts: most attempts of one request, the first one included.
        first_wait: bound of the first wait, in seconds.
        longest_wait: bound of any wait that the server did not ask for, in seconds.
        total: seconds after which a request is not repeated any more, waits included.
    """

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    total: float = 900.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.first_wait, self.longest_wait) < 0 or self.total <= 0:
            raise ValueError(f"{self} came; expected at least 1 attempt, waits of at least 0 s and a total above 0 s")

    def wait(self, attempt: int, drawn: float) -> float:
        """Seconds to wait after attempt number `attempt` (from 1); `drawn` is uniform in [0, 1)."""
        return drawn * min(self.longest_wait, self.first_wait * 2 ** min(attempt - 1, 30))


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """Where a model is served.

    Args:
        base_url: up to and with the version, such as "http://localhost:8000/v1"; without a key or a password.
        model: the name the server knows it by.
        api_key_env: environment variable that holds the key; nothing is sent if it is not set.
        timeout: seconds for one attempt.
        retries: when to give up.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    timeout: float = 300.0
    retries: Retries = field(default_factory=Retries)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "a base URL with a name, a password or a query came; expected none, because it would be written into "
                f"records. Put the key into the environment variable {self.api_key_env}."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f'the base URL "{quote(self.base_url)}" came; expected one like http://localhost:8000/v1 or '
                "https://api.openai.com/v1."
            )
        if self.timeout <= 0:
            raise ValueError(f"timeout={self.timeout:g} came; expected seconds above 0")

    @property
    def host(self) -> str:
        """Host and port: how messages and manifests name the server."""
        return urlsplit(self.base_url).netloc


class ChatClient:
    """Asks one server, from any number of threads.

    A 429 or 503 with Retry-After makes all threads wait, not only the one that was told. Redirects are not followed:
    they would carry the key to another host.

    Args:
        server: where, and when to give up.
        connections: how many are kept open.

    Raises:
        ImportError: urllib3 is not installed.
        ValueError: the key is not of the kind that a header can carry.
    """

    def __init__(self, server: Server, *, connections: int = 8) -> None:
        self.server = server
        self._key = ApiKey.from_environment(server.api_key_env)
        self._pool = _connect(server.base_url, connections)
        self._random = random.Random()
        self._closed = threading.Event()
        self._open_at = self._quiet_until = 0.0

    def complete(self, body: Mapping[str, Any]) -> Reply:
        """One completion for a request body (the model's name is added).

        Raises:
            Unanswered: after as many attempts as the server's `Retries` allow, or at once where the server says that
                this request is wrong.
            ServerRefused: no request would be answered.
        """
        content = json.dumps({"model": self.server.model, **body}).encode("utf-8")
        return self._ask("POST", "/chat/completions", content, self._reply)

    def served_model(self) -> dict[str, Any] | None:
        """What the server's list says of the model: `id`, `root`, `owned_by`, `max_model_len`; None without a list.

        Raises:
            ServerRefused: the key is wrong.
            Unanswered: it cannot be reached.
        """
        try:
            listed = self._ask("GET", "/models", None, lambda payload, attempts: payload)
        except (ServerRefused, Unanswered) as error:
            # Keys may be good for completions alone, and the list of transformers' server wants a cache of models.
            if error.status in (400, 403, 404, 405) or (error.status or 0) >= 500:
                return None
            raise
        entries = listed.get("data") if isinstance(listed, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and entry.get("id") == self.server.model:
                known = {name: entry[name] for name in ("id", "root", "owned_by") if isinstance(entry.get(name), str)}
                length = {name: entry[name] for name in ("max_model_len",) if isinstance(entry.get(name), int)}
                return {name: self._key.redact(value) for name, value in known.items()} | length
        return None

    def close(self) -> None:
        """Gives up all waiting, and closes the connections."""
        self._closed.set()
        self._pool.clear()

    def _ask(self, method: str, path: str, content: bytes | None, read: Callable[[Any, int], Parsed]) -> Parsed:
        """Attempts until `read` takes the answer; `read` gets the payload and the number of attempts."""
        retries, started = self.server.retries, time.monotonic()
        for attempt in itertools.count(1):
            held = self._open_at - time.monotonic()
            # Those who were held back do not come back all at once.
            self._wait(held + self._random.random() * retries.first_wait if held > 0 else 0.0)
            try:
                return read(self._attempt(method, path, content), attempt)
            except _Transient as error:
                wait = retries.wait(attempt, self._random.random())
                if error.retry_after is not None:
                    wait = max(wait, error.retry_after)
                elapsed = time.monotonic() - started
                if attempt >= retries.attempts or elapsed + wait > retries.total:
                    raise Unanswered(
                        f"{self.server.host}: {self._key.redact(str(error))}. Gave up after {attempt} attempts",
                        is_down=not error.of_question,
                        status=error.status,
                    ) from None
                self._tell(error, attempt, wait)
                if error.retry_after is not None:
                    self._open_at = max(self._open_at, time.monotonic() + error.retry_after)
                self._wait(wait)
        raise AssertionError("unreachable")

    def _tell(self, error: _Transient, attempt: int, wait: float) -> None:
        """Log that a request is repeated: not more than one line in a while, whatever the number of threads."""
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _QUIET
            asked = "" if (error.retry_after or 0.0) < 1 else f"the server asks to wait {error.retry_after:.0f} s: "
            again = f"attempt {attempt + 1} of {self.server.retries.attempts} in {wait:.1f} s"
            _LOG.warning("%s: %s%s; %s", self.server.host, asked, self._key.redact(str(error)), again)

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(seconds) if seconds > 0 else self._closed.is_set():
            raise Unanswered(f"{self.server.host}: closed while a request was waiting")

    def _attempt(self, method: str, path: str, content: bytes | None) -> Any:
        import urllib3

        started = time.monotonic()
        limits = urllib3.Timeout(connect=min(self.server.timeout, 20.0), read=self.server.timeout)
        url = self.server.base_url.rstrip("/") + path
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._key.headers()}
        try:
            response = self._pool.request(
                method, url, body=content, headers=headers, timeout=limits, retries=False, preload_content=False
            )
            try:
                text = self._read(response, started)
            except BaseException:
                response.close()
                raise
            response.release_conn()
        except urllib3.exceptions.NewConnectionError:
            # A kind of timeout to urllib3, and none to anybody else.
            raise _Transient("nobody answers at this address") from None
        except urllib3.exceptions.TimeoutError:
            raise _Transient(f"no whole answer within {self.server.timeout:g} s") from None
        except urllib3.exceptions.SSLError as error:
            raise ServerRefused(f"{self.server.host}: {self._key.redact(quote(str(error), 300))}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            # Its text may quote what was sent.
            raise _Transient(f"the connection failed ({type(error).__name__})") from None
        return self._payload(response.status, response.headers, text)

    def _read(self, response: urllib3.BaseHTTPResponse, started: float) -> bytes:
        """The whole body. A timeout of sockets is one between two packets: a server that drips would never end."""
        chunks, length = [], 0
        while chunk := response.read1(65536):
            chunks.append(chunk)
            length += len(chunk)
            if time.monotonic() - started > self.server.timeout:
                raise _Transient(f"no whole answer within {self.server.timeout:g} s")
            if length > _LONGEST_ANSWER:
                raise Unanswered(f"{self.server.host}: an answer of more than {_LONGEST_ANSWER >> 20} MiB came")
        return b"".join(chunks)

    def _payload(self, status: int, headers: Mapping[str, str], text: bytes) -> Any:
        if status == 200:
            try:
                return json.loads(text)
            except ValueError:
                kind = quote(headers.get("Content-Type", "none"), 40)
                raise _Transient(f"{len(text)} bytes came that are no JSON (content type {kind})") from None
        try:
            said = error_text(json.loads(text))
        except ValueError:
            said = None
        said = said or quote(text[:300].decode("utf-8", "replace"), 300)
        raise self._fault(status, f"status {status}{': ' + said if said else ''}", headers.get("Retry-After"))

    def _fault(
        self, status: int | None, reason: str, retry_after: str | None = None, *, of_question: bool = False
    ) -> Exception:
        """What an error means: for this question, for another attempt, or for the whole run."""
        reason = self._key.redact(reason)
        named = f"{self.server.host}: {reason}"
        if status != 429 and is_too_long(reason):
            return ContextExceeded(named)
        if status is None or status in _TRANSIENT or status >= 500:
            if "insufficient_quota" in reason:
                return ServerRefused(f"{named}. Nothing is left to pay with.", status)
            return _Transient(reason, _seconds(retry_after), of_question=of_question, status=status)
        if status in _REFUSALS or status < 400:
            return ServerRefused(f"{named}. {self._advice(status)}", status)
        return Unanswered(named, status=status)

    def _advice(self, status: int) -> str:
        if status in (401, 403):
            state = "is set, and was refused" if self._key.is_set else "is not set"
            return f"The environment variable {self.server.api_key_env} {state}."
        if status < 400:
            return "Redirects are not followed: give the address it leads to."
        return f"Check the base URL and the model's name, {show(self.server.model)}."

    def _reply(self, payload: Any, attempts: int) -> Reply:
        """What a completion says."""
        try:
            reply = read_reply(payload)
        except NoReply as error:
            raise self._fault(error.status, str(error), of_question=error.of_question) from None
        redact = self._key.redact
        return replace(
            reply,
            text=redact(reply.text),
            reasoning=redact(reply.reasoning),
            calls=tuple(replace(call, arguments=redact(call.arguments)) for call in reply.calls),
            served=redact(reply.served),
            attempts=attempts,
        )


def _connect(base_url: str, connections: int) -> urllib3.PoolManager:
    try:
        import urllib3
    except ImportError as error:
        raise ImportError("a model behind an API needs urllib3; install it with `pip install pxr-gym[api]`") from error
    parts = urlsplit(base_url)
    # As every client of this kind does: HTTPS_PROXY and NO_PROXY are honoured.
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        return urllib3.ProxyManager(proxy, maxsize=connections)
    return urllib3.PoolManager(maxsize=connections)


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, seconds or a date (RFC 9110, 10.2.3), as seconds from now; None if it is neither."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    # Some mean a point in time by it, in seconds since 1970.
    seconds -= time.time() if 1e9 < seconds < float("inf") else 0.0
    return max(0.0, seconds) if seconds < float("inf") else None
