"""Animated GIF and WebP, as videos: Pillow puts their frames together, the core install suffices."""

from __future__ import annotations

from PIL import Image

from pxr_env.geometry import Size
from pxr_env.media.colours import to_rgb
from pxr_env.media.images import check_area
from pxr_env.media.orientation import orientation, turn, upright_size

#: Bytes by which animations are recognized: (offset, bytes).
_MAGIC = ((0, b"GIF8"), (8, b"WEBP"))
#: A frame of so many milliseconds or fewer is shown for as long as the second number says: so do Chromium, Firefox and
#: WebKit, for GIF and WebP alike.
_TOO_SHORT, _SHOWN_INSTEAD = 10, 100


def is_animation(head: bytes) -> bool:
    """Returns whether a file that begins with `head` (12 bytes) is a GIF or WebP."""
    return any(head[offset : offset + len(magic)] == magic for offset, magic in _MAGIC)


def read_animation(path: str) -> tuple[Size, list[int]]:
    """Returns the size of an animation and how long each of its frames is shown, in milliseconds.

    Raises:
        MediaError: it is too large. Whatever Pillow raises: the file is no complete GIF or WebP.
    """
    durations = []
    with _checked(path) as image:
        size = upright_size(image)
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            duration = round(image.info.get("duration", 0))
            durations.append(duration if duration > _TOO_SHORT else _SHOWN_INSTEAD)
        return size, durations


class AnimationDecoder:
    """The frames of an animation; transparent parts are white.

    It and `read` raise whatever Pillow raises.
    """

    def __init__(self, path: str) -> None:
        self._image = _checked(path)
        self._size = self._image.size

    def read(self, index: int) -> Image.Image:
        """Returns frame `index` as a new RGB image. Going back decodes from the beginning."""
        self._image.seek(index)
        # A frame may reach beyond the first one, which is the canvas.
        shown = to_rgb(self._image).crop((0, 0, *self._size))
        return turn(shown, orientation(self._image))

    def close(self) -> None:
        """Closes the file."""
        self._image.close()


def _checked(path: str) -> Image.Image:
    image = Image.open(path, formats=("GIF", "WEBP"))
    check_area(image.size, f'video file "{path}"')
    return image
