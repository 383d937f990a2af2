"""The one place where whatever a decoder raises on a file becomes a `MediaError`.

Libraries that decode promise no exceptions: on broken files Pillow raises `OSError`, `SyntaxError`, `ValueError`,
`struct.error`, `TypeError`, `IndexError`, `RuntimeError` and more, PyAV and decord others again. Everything that hands
bytes to one of them does it inside `decoding`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from pxr_env.errors import MediaError, quote

#: Characters of a library's message that are quoted.
_CAUSE_LIMIT = 200


@contextmanager
def decoding(name: str, advice: str) -> Iterator[None]:
    """Raises MediaError in place of any exception.

    A `MediaError` passes as it is, and so does an `ImportError`: that a library is not installed is no fault of the
    file. A `MemoryError` is one: the size of a picture is checked before, so what asks for more is not as it says.

    Args:
        name: what is decoded, such as 'image file "a.png"'.
        advice: what was expected and what to do, in whole sentences.
    """
    try:
        yield
    except (MediaError, ImportError):
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(
            f"{name} is too large to be decoded ({quote(str(error), _CAUSE_LIMIT)}). Make it smaller, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it."
        ) from error
    except Exception as error:
        raise MediaError(f"{name} cannot be decoded ({_cause(error)}). {advice}") from error


def _cause(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        # Its text repeats the path, or the address of a buffer.
        return "its header is that of no known format"
    text = quote(str(getattr(error, "strerror", None) or error), _CAUSE_LIMIT)
    # Others are written for people; "argument out of range" alone says little.
    is_plain = isinstance(error, OSError | ValueError | SyntaxError) and text
    return text if is_plain else f"{type(error).__name__}: {text}".rstrip(": ")
