"""Pictures of episodes on demand: played again when somebody looks, and kept for a while."""

from __future__ import annotations

import base64
import importlib
import json
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium
from PIL import Image

from eval.cards import EpisodeCard, SourcePicture, card_or_text, text_card
from eval.records import RunRecord
from eval.replay import Replayer
from eval.view.index import EpisodeIndex
from pxr_env.errors import MediaError
from pxr_env.media import ImageSource
from pxr_env.media.images import probe

#: Environments and cards that are kept. A card holds its pictures.
MAX_ENVIRONMENTS, MAX_CARDS = 6, 48
#: Most bytes of a picture that a training run drew.
MAX_DRAWN = 20_000_000


class _Room:
    """The environment that the episodes of a run were played in, used by one request at a time.

    Args:
        file: the manifest of an evaluation, or the recipe of a training.
        state: of the file, see `library.signature`: a room is for one state of it.
    """

    def __init__(self, file: Path, state: str) -> None:
        self.lock = threading.Lock()
        self.replayer: Replayer | None = None
        self.reason = ""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            self.replayer = Replayer(content if file.name == "manifest.json" else recipe_manifest(content))
        except Exception as error:
            # Data that lie elsewhere, a package that is not installed, somebody's own environment.
            self.reason = f"The environment could not be made again: {error or repr(error)}"
        else:
            weakref.finalize(self, self.replayer.close)


class Pictures:
    """Cards of episodes, and whole sources.

    Args:
        replay: whether environments may be made; their code is that which the manifest names.
    """

    def __init__(self, *, replay: bool = True) -> None:
        self.replay = replay
        self._room = lru_cache(maxsize=MAX_ENVIRONMENTS)(_Room)
        #: `card(index, state, number, file, file_state)`: the card of an episode by its number in the index of its
        #: run; `state` is that of the episodes' file, `file` names the environment, see `_Room`.
        self.card = lru_cache(maxsize=MAX_CARDS)(self._card)

    def _card(self, index: EpisodeIndex, state: str, number: int, file: Path, file_state: str) -> EpisodeCard:
        record = index.record(number)
        if not self.replay:
            return text_card(record, "The viewer was started with --no-pictures.")
        room = self._room(file, file_state)
        with room.lock:
            return text_card(record, room.reason) if room.replayer is None else card_or_text(record, room.replayer)

    def source(self, record: RunRecord, number: int, frame: int, file: Path, file_state: str) -> Image.Image:
        """A source of an episode as it is, by its number from 1; `frame` by its index where it is a video.

        Raises:
            LookupError: there is no such source, or no environment to make it with.
        """
        if not self.replay:
            raise LookupError("the viewer was started with --no-pictures.")
        room = self._room(file, file_state)
        with room.lock:
            if room.replayer is None:
                raise LookupError(room.reason)
            sources = room.replayer.replay(record.episode).sources
            if not 1 <= number <= len(sources):
                raise LookupError(f"the episode has {len(sources)} of them.")
            found = sources[number - 1]
            return found.image if isinstance(found, ImageSource) else found.frame(frame)


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
