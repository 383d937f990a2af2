"""The open video files of this process, shared by all of its environments and few."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import OrderedDict

from PIL import Image

from pxr_env.media.decoders import Decoder, open_decoder
from pxr_env.media.decoding import decoding
from pxr_env.media.video_index import BROKEN_VIDEO, FileKey, video_index

#: Video files open at a time. Each holds a file handle or two, and as many pictures as its codec refers to.
MAX_OPEN_VIDEOS = 16


class _OpenVideo:
    """One video file, opened by the first read."""

    def __init__(self, file: FileKey) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.decoder: Decoder | None = None

    def read(self, index: int) -> Image.Image:
        name = f'frame {index} of video file "{self._file[0]}"'
        with self._lock, decoding(name, BROKEN_VIDEO):
            if self.decoder is None:
                self.decoder = open_decoder(self._file[0], video_index(self._file))
            return self.decoder.read(index)

    def close(self) -> None:
        with self._lock:
            if self.decoder is not None:
                self.decoder.close()
            self.decoder = None


class DecoderPool:
    """Open video files, least recently used closed first. Threads may share it; a forked process starts an empty one.

    Args:
        max_open: bound of the files open at a time, apart from files that are being read at that moment.
    """

    def __init__(self, max_open: int = MAX_OPEN_VIDEOS) -> None:
        self.max_open = max_open
        self._videos: OrderedDict[FileKey, _OpenVideo] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._videos)

    def read(self, file: FileKey, index: int) -> Image.Image:
        """Returns frame `index` of a video file as a new RGB image.

        Raises:
            MediaError: the file cannot be opened or the frame not be decoded.
            ImportError: PyAV is not installed.
        """
        closed = []
        with self._lock:
            video = self._videos.setdefault(file, _OpenVideo(file))
            self._videos.move_to_end(file)
            while len(self._videos) > self.max_open:
                closed.append(self._videos.popitem(last=False)[1])
        for old in closed:
            old.close()
        # A file that another thread closes in between is opened again, and closed when nobody refers to it.
        return video.read(index)

    def close(self) -> None:
        """Closes all files; the next read opens its file again."""
        with self._lock:
            videos = list(self._videos.values())
            self._videos.clear()
        for video in videos:
            video.close()

    def abandon(self) -> None:
        """Forgets all files without closing them, for a process that was forked off.

        It shares their positions with its parent, and closing a decoder would wait for a thread that only runs there.
        The lock may have been held by such a thread, too.
        """
        for video in self._videos.values():
            # Immortal: not even the end of this process may call its destructor.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(video.decoder))
        self._videos = OrderedDict()
        self._lock = threading.Lock()


#: The pool of this process.
decoder_pool = DecoderPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=decoder_pool.abandon)
