"""The longest conversation that an environment allows, counted in a model's ids before anything runs."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import replace
from typing import NamedTuple

from pxr_agents.chat import ChatFormat, Conversation
from pxr_agents.types import Observation
from pxr_env.env import VisualReasoningEnv
from pxr_env.errors import DataError, MediaError
from pxr_env.media import ImageSource
from pxr_env.operations import Operation
from pxr_env.operations.pixels import MAX_FRAMES
from pxr_env.types import OperationCall, Sample
from pxr_env.views import Adjustment, Quad, Region, View

#: Samples that are looked at, at equal distances.
SAMPLES = 200
#: A refusal as long as they get, 400 characters.
REFUSAL = 4 * "[0.1234, 0.5678, 1.1234, 0.5678] leaves image 12 of 1932x1092 pixels; expected numbers from 0 to 1. "
# A frame of a long video.
_FRAME = Region(source=1, quad=Quad.from_box((0, 0, 1920, 1080)), frame=99_999, time=9999.99)


class ConversationBound(NamedTuple):
    """The most ids of a conversation: every turn is as long as it may be, every operation shows as much as it may, and
    every turn gets a refusal as well. Only one with several refused calls in its turns can be longer."""

    prompt: int  # text before the first turn
    images: int  # vision tokens of all images, and two ids around each
    replies: int  # text that answers the turns
    turns: int  # what the model writes
    n_images: int

    @property
    def total(self) -> int:
        """All ids."""
        return self.prompt + self.images + self.replies + self.turns


def conversation_bound(env: VisualReasoningEnv, chat: ChatFormat, *, max_tokens: int) -> ConversationBound:
    """What a conversation with turns of `max_tokens` may grow to, by the budgets, limits and words of an environment
    and the longest questions of its samples."""
    rules, limits, operations = env.rules, env.limits, env.operations.values()
    unit, n_calls = limits.size_multiple**2, limits.max_operations
    picture, frame = (budget["max_pixels"] // unit for budget in (rules.image_budget, rules.frame_budget))
    n_new = n_calls * max(map(_n_images, operations), default=0)
    most = [min(rules.call_pixels // unit, _n_images(each) * picture) for each in operations]
    new = max(n_calls * max(most, default=0), n_new)
    results = n_calls * max((_result_ids(env, chat, each) for each in operations), default=0)
    conversation = Conversation()
    # The longest reply follows a turn that was cut off, and closes it for the model.
    conversation.append_turn((chat.image_id,), train=False)
    chat.reply(conversation, {"text": env.dialect.render_error(REFUSAL, call_number=16), "images": ()})
    refusals = (limits.max_turns - 1) * (len(conversation.ids) - 1)

    def grown(sample: Sample) -> ConversationBound:
        n_pictures = sum(isinstance(source, ImageSource) for source in sample.sources)
        n_frames = (len(sample.sources) - n_pictures) * env.video_frames
        n_images = min(n_pictures + n_frames + n_new, limits.max_images or 10**9)
        vision = n_pictures * picture + n_frames * frame
        vision += min(new, max(n_images - n_pictures - n_frames, 0) * picture)
        vision = min(vision, limits.max_vision_tokens or vision, (limits.max_shown_pixels or vision * unit) // unit)
        frames = [View.of(100 + n, _FRAME, (1932, 1092)) for n in range(env.video_frames)]
        videos = [env.dialect.render_video(frames, duration=9999.99)] * (n_frames // env.video_frames)
        conversation, text = Conversation(), "\n".join([*videos, sample.question]) + env.question_suffix
        chat.prompt(conversation, env.system_prompt, {"text": text, "images": ()})
        turns = limits.max_turns * max_tokens
        return ConversationBound(len(conversation.ids), vision + 2 * n_images, refusals + results, turns, n_images)

    return max((grown(env.data.get(sample_id)) for sample_id in _sample_ids(env)), key=lambda bound: bound.total)


def mute_samples(env: VisualReasoningEnv, chat: ChatFormat, *, n_ids: int, n_images: int | None) -> list[str]:
    """The samples without a turn: what comes before it takes more than `n_ids`, or more than `n_images` images. Those
    that cannot be shown at all are not among them."""
    mute = []
    for sample_id in _sample_ids(env):
        with contextlib.suppress(DataError, MediaError):
            observation, info = env.reset(options={"sample_id": sample_id})
            conversation, shown = Conversation(), Observation(text=observation["text"], images=observation["images"])
            chat.prompt(conversation, info["system_prompt"], shown, info.get("image_places"))
            if len(conversation.ids) > n_ids or (n_images is not None and len(conversation.images) > n_images):
                mute.append(sample_id)
    return mute


def _sample_ids(env: VisualReasoningEnv) -> list[str]:
    ids = env.data.sample_ids()
    return list(ids[:: -(-len(ids) // SAMPLES)])


def _n_images(operation: Operation) -> int:
    """What a call shows at most: one image if the operation's function says that it returns one."""
    returned = inspect.signature(operation.function).return_annotation
    return 1 if getattr(returned, "__name__", returned) in ("Region", "Comparison") else MAX_FRAMES


def _result_ids(env: VisualReasoningEnv, chat: ChatFormat, operation: Operation) -> int:
    """Ids of the words with a result. Operations change one view each: only one of several can have all changes."""
    changes = (Adjustment(contrast=1.25, brightness=1.25, sharpness=1.25),) * env.limits.max_operations
    changed = replace(_FRAME, quad=_FRAME.quad.rotated(17), adjustments=changes if "enhance" in env.operations else ())
    regions = [changed] + [_FRAME] * (_n_images(operation) - 1)
    views = [View.of(100 + n, region, (1932, 1092)) for n, region in enumerate(regions)]
    call = OperationCall(name=operation.name, arguments={"first_image": 100, "second_image": 101})
    return len(chat.encode_text("\n" + env.dialect.render_views(views, call)))
