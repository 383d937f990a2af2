"""Pictures of episodes on demand: played again when somebody looks, and kept for a while."""

from __future__ import annotations

import base64
import importlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
from PIL import Image

from eval.cards import EpisodeCard, SourcePicture, card_or_text, text_card
from eval.records import Record
from eval.replay import Replayer
from pxr_env.errors import MediaError
from pxr_env.media import ImageSource
from pxr_env.media.images import probe

#: Environments and cards that are kept. A card holds its pictures.
MAX_ENVIRONMENTS, MAX_CARDS = 6, 48
#: Most bytes of a picture that a training run drew.
MAX_DRAWN = 20_000_000

_NO_ENVIRONMENT = "The environment could not be made again: "


class _Room:
    """The environment of one run, used by one request at a time."""

    def __init__(self, manifest: Callable[[], Mapping[str, Any]]) -> None:
        self.lock = threading.Lock()
        self._manifest = manifest
        self._replayer: Replayer | None = None
        self._reason: str | None = None

    def card(self, record: Record) -> EpisodeCard:
        replayer = self._open()
        return text_card(record, self._reason or "") if replayer is None else card_or_text(record, replayer)

    def source(self, record: Record, number: int, frame: int) -> Image.Image:
        replayer = self._open()
        if replayer is None:
            raise LookupError(self._reason)
        sources = replayer.replay(record.episode).sources
        if not 1 <= number <= len(sources):
            raise LookupError(f"the episode has {len(sources)} of them.")
        found = sources[number - 1]
        return found.image if isinstance(found, ImageSource) else found.frame(frame)

    def _open(self) -> Replayer | None:
        if self._replayer is None and self._reason is None:
            try:
                self._replayer = Replayer(self._manifest())
            except Exception as error:
                # Data that lie elsewhere, a package that is not installed, somebody's own environment.
                self._reason = f"{_NO_ENVIRONMENT}{error or repr(error)}"
        return self._replayer

    def close(self) -> None:
        with self.lock:
            if self._replayer is not None:
                self._replayer.close()


class Pictures:
    """Cards of episodes.

    Args:
        replay: whether environments may be made; their code is that which the manifest names.
    """

    def __init__(self, *, replay: bool = True) -> None:
        self.replay = replay
        self._lock = threading.Lock()
        self._rooms: OrderedDict[str, _Room] = OrderedDict()
        self._cards: OrderedDict[tuple[object, ...], EpisodeCard] = OrderedDict()

    def card(
        self, key: tuple[object, ...], record: Record, run: str, manifest: Callable[[], Mapping[str, Any]]
    ) -> EpisodeCard:
        """The card of an episode.

        Args:
            key: names the episode and the state of its file.
            record: the episode.
            run: names the run and the state of its manifest: its episodes share an environment.
            manifest: gives the environment's spec under "env".
        """
        if not self.replay:
            return text_card(record, "The viewer was started with --no-pictures.")
        with self._lock:
            if key in self._cards:
                self._cards.move_to_end(key)
                return self._cards[key]
            room = self._room(run, manifest)
        with room.lock:
            card = room.card(record)
        with self._lock:
            self._cards[key] = card
            while len(self._cards) > MAX_CARDS:
                self._cards.popitem(last=False)
        return card

    def source(
        self, record: Record, run: str, manifest: Callable[[], Mapping[str, Any]], number: int, frame: int
    ) -> Image.Image:
        """A source of an episode as it is, by its number from 1; `frame` by its index where it is a video.

        Raises:
            LookupError: there is no such source, or no environment to make it with.
        """
        if not self.replay:
            raise LookupError("the viewer was started with --no-pictures.")
        with self._lock:
            room = self._room(run, manifest)
        with room.lock:
            return room.source(record, number, frame)

    def _room(self, run: str, manifest: Callable[[], Mapping[str, Any]]) -> _Room:
        room = self._rooms.setdefault(run, _Room(manifest))
        self._rooms.move_to_end(run)
        while len(self._rooms) > MAX_ENVIRONMENTS:
            _, old = self._rooms.popitem(last=False)
            threading.Thread(target=old.close, daemon=True).start()
        return room


def recipe_manifest(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What `Replayer` needs, from the recipe of a training run.

    Raises:
        ValueError: the recipe names no environment.
        gymnasium.error.Error: it names one that is not registered here.
        ImportError: the module that registers it is not installed.
    """
    env = recipe.get("env")
    if not isinstance(env, Mapping) or not isinstance(env.get("id"), str):
        raise ValueError('recipe.json names no environment; expected "env" with an "id".')
    module, _, name = env["id"].rpartition(":")
    if module:
        importlib.import_module(module)
    content = json.loads(gymnasium.spec(name).to_json())
    content["kwargs"] = {**content["kwargs"], **(env.get("kwargs") or {})}
    return {"env": content}


def drawn_card(card: EpisodeCard, picture: Path) -> EpisodeCard:
    """`card` with the picture that the training run drew, where it has none of its own."""
    if card.no_pictures is None or not picture.is_file() or picture.stat().st_size > MAX_DRAWN:
        return card
    href = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
    try:
        width, height = probe(picture)
    except MediaError:
        return card
    source = SourcePicture(href=href, number=1, frame=None, width=width, height=height, marks=())
    return replace(card, sources=(source,))
