"""Chat completions by the `openai` client: bounded retries, and the key in no text it writes.

Reference: https://platform.openai.com/docs/api-reference/chat; vLLM, SGLang, llama.cpp and most hosts speak it, too.
The client's own retries are off: they repeat nothing that fails with status 200, know no total, and do not hold back
the other requests after a 429.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import random
import re
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pxr_agents.chat_reply import NoReply, Reply, error_text, is_too_long, read_reply
from pxr_env.errors import quote, show

Parsed = TypeVar("Parsed")

#: Answers that may be another one next time. Every other status of 400 and above says something about the request.
_TRANSIENT = frozenset({408, 409, 425, 429})
#: Answers after which no request at all will succeed: wrong key, nothing to pay with, no such model or address.
_REFUSALS = frozenset({401, 402, 403, 404, 405})
#: Seconds between two lines about repeated requests.
_QUIET = 10.0
_LOG = logging.getLogger(__name__)


class RemoteError(RuntimeError):
    """A server did not do what it was asked; `status` of HTTP, None if there was none."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Unanswered(RemoteError):
    """One request could not be answered, and asking again did not help; `is_down` if others would fare no better."""

    def __init__(self, message: str, *, is_down: bool = False, status: int | None = None) -> None:
        super().__init__(message, status=status)
        self.is_down = is_down


class ContextExceeded(Unanswered):
    """The conversation, with the tokens that may follow, does not fit the model's context."""


class ServerRefused(RemoteError):
    """The server takes no request of this kind: the key, the address or the model is wrong, or the account is empty."""


class _Transient(Exception):
    """Worth another attempt, after the seconds that the server asked for if it did.

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
    """

    attempts: int = 8  # the first one included
    first_wait: float = 1.0  # bound of the first wait, in seconds
    longest_wait: float = 60.0  # bound of any wait that the server did not ask for, in seconds
    total: float = 900.0  # seconds after which a request is not repeated any more, waits included

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.first_wait, self.longest_wait) < 0 or self.total <= 0:
            raise ValueError(f"got {self}, expected at least 1 attempt, waits of at least 0 s and a total above 0 s")

    def wait(self, attempt: int, drawn: float) -> float:
        """Seconds to wait after attempt number `attempt` (from 1); `drawn` is uniform in [0, 1)."""
        return drawn * min(self.longest_wait, self.first_wait * 2 ** min(attempt - 1, 30))


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """Where a model is served: `Server(base_url="http://localhost:8000/v1", model="Qwen/Qwen2.5-VL-7B-Instruct")`."""

    base_url: str  # up to and with the version, without a key or a password
    model: str  # the name the server knows it by
    api_key_env: str = "OPENAI_API_KEY"  # environment variable of the key; nothing is sent if it is not set
    timeout: float = 300.0  # seconds for one attempt
    retries: Retries = field(default_factory=Retries)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "got a base URL with a name, a password or a query, expected none, because it would be written into "
                f"records. Put the key into the environment variable {self.api_key_env}."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f'got the base URL "{quote(self.base_url)}", expected one like http://localhost:8000/v1 or '
                "https://api.openai.com/v1."
            )
        if self.timeout <= 0:
            raise ValueError(f"got timeout={self.timeout:g}, expected seconds above 0")

    @property
    def host(self) -> str:
        """Host and port: how messages and manifests name the server."""
        return urlsplit(self.base_url).netloc


class ChatClient:
    """Asks one server, from any number of threads.

    A 429 or 503 with Retry-After makes all requests wait, not only the one that was told. Redirects are not followed:
    they would carry the key to another host.

    Raises:
        ImportError: openai is not installed.
        ValueError: the key is not of the kind that a header can carry.
    """

    def __init__(self, server: Server) -> None:
        try:
            import openai
        except ImportError as error:
            raise ImportError("a model behind an API needs openai: run `pip install 'pxr-gym[api]'`") from error
        self.server = server
        self._key = _key_in(server.api_key_env)
        self._loop = event_loop("chat-client")
        self._api = openai.AsyncOpenAI(
            base_url=server.base_url,
            api_key="sent as a header",
            timeout=openai.Timeout(server.timeout, connect=min(server.timeout, 20.0)),
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )
        self._random = random.Random()
        self._closed = False
        self._running: set[Future[Any]] = set()
        self._open_at = self._quiet_until = 0.0

    def complete(self, body: Mapping[str, Any]) -> Reply:
        """One completion for a request body (the model's name is added).

        Raises:
            Unanswered: after as many attempts as the `Retries` allow, or at once where the request is wrong.
            ServerRefused: no request would be answered.
        """
        create = self._api.chat.completions.with_raw_response.create
        ask = functools.partial(create, model=self.server.model, messages=[], extra_body=dict(body))
        return self._run(self._ask(ask, self._reply))

    def served_model(self) -> dict[str, Any] | None:
        """What the server's list says of the model: `id`, `root`, `owned_by`, `max_model_len`; None without a list.

        ServerRefused if the key is wrong, Unanswered if it cannot be reached.
        """
        try:
            listed = self._run(self._ask(self._api.models.with_raw_response.list, lambda payload, attempts: payload))
        except (ServerRefused, Unanswered) as error:
            # Keys may be good for completions alone, and the list of transformers' server wants a cache of models.
            if error.status in (400, 403, 404, 405) or (error.status or 0) >= 500:
                return None
            raise
        entries = listed.get("data") if isinstance(listed, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and entry.get("id") == self.server.model:
                known = {"id": str, "root": str, "owned_by": str, "max_model_len": int}
                told = {name: entry[name] for name, kind in known.items() if isinstance(entry.get(name), kind)}
                return {name: self._redact(value) if isinstance(value, str) else value for name, value in told.items()}
        return None

    def close(self) -> None:
        """Gives up all waiting, and closes the connections."""
        self._closed = True
        for future in list(self._running):
            future.cancel()
        asyncio.run_coroutine_threadsafe(self._api.close(), self._loop)

    def _redact(self, text: str) -> str:
        """A text without the key: servers echo what they were sent."""
        # Shorter ones, such as the "EMPTY" of local servers, are words that texts hold by chance.
        return text if len(self._key) < 8 else text.replace(self._key, "[API key]")

    def _headers(self) -> dict[str, Any]:
        """The key of this server alone, and nothing else that the environment holds for OpenAI."""
        import openai

        names = ("Authorization", "OpenAI-Organization", "OpenAI-Project")
        return dict.fromkeys(names, openai.Omit()) | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _run(self, request: Coroutine[Any, Any, Parsed]) -> Parsed:
        future = asyncio.run_coroutine_threadsafe(request, self._loop)
        self._running.add(future)
        try:
            if self._closed:
                future.cancel()
            return future.result()
        except CancelledError:
            raise Unanswered(f"{self.server.host}: closed while a request was waiting") from None
        finally:
            self._running.discard(future)

    async def _ask(self, send: Callable[..., Awaitable[Any]], read: Callable[[Any, int], Parsed]) -> Parsed:
        """Attempts until `read` takes the answer; `read` gets the payload and the number of attempts."""
        retries, started, attempt = self.server.retries, time.monotonic(), 0
        while True:
            attempt += 1
            held = self._open_at - time.monotonic()
            if held > 0:
                # Those who were held back do not come back all at once.
                await asyncio.sleep(held + self._random.random() * retries.first_wait)
            try:
                return read(await self._attempt(send), attempt)
            except _Transient as error:
                wait = max(retries.wait(attempt, self._random.random()), error.retry_after or 0.0)
                if attempt >= retries.attempts or time.monotonic() - started + wait > retries.total:
                    raise Unanswered(
                        f"{self.server.host}: {self._redact(str(error))}. Gave up after {attempt} attempts",
                        is_down=not error.of_question,
                        status=error.status,
                    ) from None
                self._tell(error, attempt, wait)
                if error.retry_after is not None:
                    self._open_at = max(self._open_at, time.monotonic() + error.retry_after)
                await asyncio.sleep(wait)

    def _tell(self, error: _Transient, attempt: int, wait: float) -> None:
        """Log that a request is repeated: not more than one line in a while, whatever the number of threads."""
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _QUIET
            asked = "" if (error.retry_after or 0.0) < 1 else f"the server asks to wait {error.retry_after:.0f} s: "
            again = f"attempt {attempt + 1} of {self.server.retries.attempts} in {wait:.1f} s"
            _LOG.warning("%s: %s%s; %s", self.server.host, asked, self._redact(str(error)), again)

    async def _attempt(self, send: Callable[..., Awaitable[Any]]) -> Any:
        """The JSON of one answer."""
        import openai

        try:
            # The client's timeout is one between two packets: a server that drips would never end.
            async with asyncio.timeout(self.server.timeout):
                response = (await send(extra_headers=self._headers())).http_response
        except openai.APIStatusError as error:
            raise self._refusal(error.response) from None
        except (TimeoutError, openai.APITimeoutError):
            raise _Transient(f"no whole answer within {self.server.timeout:g} s") from None
        except openai.APIConnectionError as error:
            # Its text may quote what was sent.
            causes = list(_causes(error))
            for cause in causes:
                if isinstance(cause, ssl.SSLError):
                    raise ServerRefused(f"{self.server.host}: {self._redact(quote(str(cause), 300))}") from None
            kind = type(causes[1]).__name__ if len(causes) > 1 else "unknown"
            if kind == "ConnectError":
                raise _Transient("nobody answers at this address") from None
            raise _Transient(f"the connection failed ({kind})") from None
        try:
            return json.loads(response.content)
        except ValueError:
            kind = quote(response.headers.get("Content-Type", "none"), 40)
            raise _Transient(f"got {len(response.content)} bytes of content type {kind}, expected JSON") from None

    def _refusal(self, response: Any) -> Exception:
        """What an answer with the status of an error means."""
        try:
            said = error_text(json.loads(response.content))
        except ValueError:
            said = None
        said = said or quote(response.content[:300].decode("utf-8", "replace"), 300)
        reason = f"status {response.status_code}{': ' + said if said else ''}"
        return self._fault(response.status_code, reason, response.headers.get("Retry-After"))

    def _fault(
        self, status: int | None, reason: str, retry_after: str | None = None, *, of_question: bool = False
    ) -> Exception:
        """What an error means: for this question, for another attempt, or for the whole run."""
        reason = self._redact(reason)
        named = f"{self.server.host}: {reason}"
        if status != 429 and is_too_long(reason):
            return ContextExceeded(named)
        if status is None or status in _TRANSIENT or status >= 500:
            if "insufficient_quota" in reason:
                return ServerRefused(f"{named}. Nothing is left to pay with.", status=status)
            return _Transient(reason, _seconds(retry_after), of_question=of_question, status=status)
        if status >= 400 and status not in _REFUSALS:
            return Unanswered(named, status=status)
        advice = f"Check the base URL and the model's name, {show(self.server.model)}."
        if status in (401, 403):
            state = "is set, and was refused" if self._key else "is not set"
            advice = f"The environment variable {self.server.api_key_env} {state}."
        elif status < 400:
            advice = "Redirects are not followed: give the address it leads to."
        return ServerRefused(f"{named}. {advice}", status=status)

    def _reply(self, payload: Any, attempts: int) -> Reply:
        """What a completion says."""
        try:
            reply = read_reply(payload)
        except NoReply as error:
            raise self._fault(error.status, str(error), of_question=error.of_question) from None
        redact = self._redact
        return replace(
            reply,
            text=redact(reply.text),
            reasoning=redact(reply.reasoning),
            calls=tuple(replace(call, arguments=redact(call.arguments)) for call in reply.calls),
            served=redact(reply.served),
            attempts=attempts,
        )


@functools.cache
def event_loop(name: str) -> asyncio.AbstractEventLoop:
    """The one of this name in this process, in a thread that ends with it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=name, daemon=True).start()
    return loop


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


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


class _Key(str):
    """A key that no log of a client shows."""

    def __repr__(self) -> str:
        return "[API key]"


def _key_in(variable: str) -> _Key:
    """The key in an environment variable, "" if there is none; a ValueError that does not quote it for no key."""
    value = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]*", value):
        raise ValueError(
            f"the environment variable {variable} holds blanks, line ends or other characters that are not "
            "printable ASCII; expected an API key alone. Set it again."
        )
    return _Key(value)
