"""A sample of the episodes of an iteration, with pictures: to look at what the policy does, not only at its numbers.

OUT/episodes/N/index.html       iteration N for a browser
OUT/episodes/N/episodes.jsonl   the same, one episode per line, every field of `pxr_agents.types.Episode` but its tokens
OUT/episodes/N/K.png            the sources of episode K (from 1), with numbered boxes of its views

With wandb the same episodes are a table named "episodes".
"""

from __future__ import annotations

import dataclasses
import html
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

from pxr_agents.statistics import is_free, term_returns, used
from pxr_agents.types import Episode
from pxr_env.curiosity import WithdrawOperations
from .env_recipe import EnvRecipe, MixedEnvRecipe, by_name, name_in


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PicturedEpisode:
    """An episode and its picture, uint8 HxWx3; None if the environment draws none."""

    episode: Episode
    picture: np.ndarray | None


def choose_episodes(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """At most `count` episodes that show every kind there is: one of each in turn, in their order.

    Kinds differ in whether an operation was executed, whether one was refused, whether the answer was right, and
    whether it was left alone.
    """
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for index, episode in enumerate(episodes):
        kind = used(episode), any(episode.failures.values()), episode.correct, is_free(episode)
        kinds.setdefault(kind, []).append(index)
    in_turn = sorted((turn, index) for indices in kinds.values() for turn, index in enumerate(indices))
    return [episodes[index] for index in sorted(index for _, index in in_turn[:count])]


class Illustrator:
    """Draws episodes by playing their turns again in environments of its own: records hold no pixels. For one that
    cannot be rendered there are no pictures."""

    def __init__(self, env: EnvRecipe | tuple[MixedEnvRecipe, ...]) -> None:
        self._recipe = env
        self._envs: dict[str, gymnasium.Env[Any, Any]] = {}

    def draw(self, episode: Episode) -> np.ndarray | None:
        """The sources with the boxes of all views at the end of the episode, uint8 HxWx3, or None."""
        try:
            name = name_in(self._recipe, episode.sample_id)
            if name not in self._envs:
                recipe = by_name(self._recipe)[name]
                kwargs = {**recipe.kwargs, "render_mode": "rgb_array"}
                self._envs[name] = WithdrawOperations(gymnasium.make(recipe.id, disable_env_checker=True, **kwargs))
            env, sample_id = self._envs[name], episode.sample_id.removeprefix(name and f"{name}/")
            env.reset(options={"sample_id": sample_id, "withdrawn": episode.withdrawn})
            for step in episode.steps:
                env.step(step.turn)
            picture: Any = env.render()
        except Exception as error:
            # Whatever a user's environment raises here: a missing picture must not end a training run.
            logging.getLogger(__name__).warning("no picture of sample %s: %r", episode.sample_id, error)
            return None
        return None if picture is None else np.asarray(picture)

    def close(self) -> None:
        """Free the environments."""
        for env in self._envs.values():
            env.close()


def write_episodes(folder: Path, pictured: Sequence[PicturedEpisode], *, iteration: int) -> None:
    """Write the files of one iteration; what `folder` held before (by a run that was resumed) is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, each in enumerate(pictured, start=1):
        if each.picture is not None:
            Image.fromarray(each.picture).save(folder / f"{number}.png")
    # Every field but the tokens, as `eval` writes and reads them.
    records = [dataclasses.asdict(dataclasses.replace(each.episode, tokens=None)) for each in pictured]
    lines = [json.dumps({name: record[name] for name in record if name != "tokens"}) + "\n" for record in records]
    (folder / "episodes.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "index.html").write_text(episodes_page(pictured, iteration=iteration), encoding="utf-8", errors="replace")


def table_row(pictured: PicturedEpisode, *, iteration: int) -> dict[str, Any]:
    """A row of the table that goes to wandb: column -> value; the picture stays an array."""
    episode = pictured.episode
    return {
        "iteration": iteration,
        "sample": episode.sample_id,
        "question": episode.prompt,
        "turns": "\n\n".join(f"{step.turn}\n> {step.reply}" if step.reply else step.turn for step in episode.steps),
        "picture": pictured.picture,
        "answer": episode.answer,
        "target": episode.target,
        "correct": episode.correct,
        "reward": episode.reward,
        "reward terms": _table(term_returns(episode)),
        "usage": _table(episode.usage),
        "failures": _table(episode.failures),
        "truncated by": episode.truncated_by,
        "probe": episode.probe,
        "withdrawn": episode.withdrawn,
    }


def _table(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items() if value)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
article { border-top: 1px solid #8888; padding: 1rem 0; display: grid; grid-template-columns: 2fr 3fr; gap: 1.5rem; }
img { width: 100%; } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 .5rem; }
.reply { opacity: .7; border-left: 3px solid #8888; padding-left: .6rem; }
.right { color: #00795b; } .wrong { color: #b34700; }
@media (max-width: 60rem) { article { grid-template-columns: 1fr; } }
"""


def episodes_page(pictured: Sequence[PicturedEpisode], *, iteration: int) -> str:
    """The page of an iteration; its pictures are the files that `write_episodes` writes, and it loads nothing else."""
    title = f"Iteration {iteration}: {len(pictured)} episodes"
    articles = "".join(_article(each, number) for number, each in enumerate(pictured, start=1))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src 'self' file:; "
        f"style-src 'unsafe-inline'\"><style>{_STYLE}</style><h1>{title}</h1>{articles}</html>\n"
    )


def _article(pictured: PicturedEpisode, number: int) -> str:
    episode, escape = pictured.episode, html.escape
    outcome = "right" if episode.correct else "wrong"
    made = {"made to begin with": episode.probe, "operations": "withdrawn" if episode.withdrawn else None}
    ends = {**made, "cut off by": episode.truncated_by, "error": episode.error}
    facts = [
        f"reward {episode.reward:.3f} ({_table(term_returns(episode)) or 'no terms'})",
        f"executed: {_table(episode.usage) or 'nothing'}",
        f"refused: {_table(episode.failures) or 'nothing'}",
        f"answer {episode.answer!r}, expected {episode.target!r}",
        *(f"{name} {value}" for name, value in ends.items() if value),
    ]
    picture = f'<img src="{number}.png" alt="sources with the boxes of all views">'
    turns = "".join(
        f'<pre>{escape(step.turn)}</pre><pre class="reply">{escape(step.reply)}</pre>' for step in episode.steps
    )
    return (
        f"<article><div>{'' if pictured.picture is None else picture}"
        f"<ul>{''.join(f'<li>{escape(fact)}</li>' for fact in facts)}</ul></div>"
        f'<div><h2 class="{outcome}">{number}. {escape(episode.sample_id)}: {outcome}</h2>'
        f"<pre><b>{escape(episode.prompt)}</b></pre>{turns}</div></article>"
    )
