"""Gymnasium's machinery around an environment: all its wrappers, windows, vectors of different tasks, and threads."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from threading import Barrier

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import DependencyNotInstalled, Error
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from PIL import Image

from pxr_env import Sample, VisualReasoningEnv
from pxr_env.media import ImageSource, VideoSource
from pxr_env.media.images import decoded_cache
from pxr_env.operations import operation_names
from pxr_env.synthetic import SyntheticSearch
from pxr_env.testing.playing import as_plain, drawn_turns, play
from pxr_env.types import SampleList
from tests.pxr_env.media import clips

TASK = "pxr_env:pxr/SyntheticSearch-v0"
NONE = {"images": (), "text": ""}

PLAYED = {
    "AddRenderObservation": {"render_only": False},
    "AddWhiteNoise": {"probability_of_noise_per_pixel": 0.5},
    "Autoreset": {},
    "ClipReward": {"min_reward": 0, "max_reward": 1},
    "DelayObservation": {"delay": 1},
    "DictInfoToList": {},
    "FilterObservation": {"filter_keys": ["text"]},
    "FrameStackObservation": {"stack_size": 2},
    "HumanRendering": {},
    "NormalizeReward": {},
    "ObstructView": {"obstructed_pixels_ratio": 0.5, "obstruction_width": 2},
    "OrderEnforcing": {},
    "PassiveEnvChecker": {},
    "RecordEpisodeStatistics": {},
    "RecordVideo": {"video_folder": "videos"},
    "RenderCollection": {},
    "RepeatAction": {"num_repeats": 2},
    "StickyAction": {"repeat_action_probability": 0.0},
    "TimeAwareObservation": {"flatten": False},
    "TimeLimit": {"max_episode_steps": 4},
    "TransformAction": {"func": lambda turn: turn, "action_space": None},
    "TransformObservation": {"func": lambda observation: observation, "observation_space": None},
    "TransformReward": {"func": lambda reward: 2 * reward},
    "VectorizeTransformAction": {"wrapper": wrappers.TransformAction, "func": str.strip, "action_space": None},
    "VectorizeTransformObservation": {"wrapper": wrappers.FilterObservation, "filter_keys": ["text"]},
    "VectorizeTransformReward": {"wrapper": wrappers.ClipReward, "max_reward": 1},
}
#: What they need is not there: observations that are one array of one size, or actions that are numbers.
REFUSED = {
    "AtariPreprocessing": {},
    "ClipAction": {},
    "DiscretizeAction": {"bins": 4},
    "DiscretizeObservation": {"bins": 4},
    "DtypeObservation": {"dtype": np.float32},
    "FlattenObservation": {},
    "GrayscaleObservation": {},
    "MaxAndSkipObservation": {},
    "NormalizeObservation": {},
    "RescaleAction": {"min_action": 0, "max_action": 1},
    "RescaleObservation": {"min_obs": 0, "max_obs": 1},
    "ReshapeObservation": {"shape": (8,)},
    "ResizeObservation": {"shape": (8, 8)},
}
#: They take texts apart, see the test below.
CONVERTERS = {"ArrayConversion", "JaxToNumpy", "JaxToTorch", "NumpyToTorch"}
WRAPPERS = [
    pytest.param(module, name, id=f"{module.__name__.removeprefix('gymnasium.')}.{name}")
    for module in (wrappers, wrappers.vector)
    for name in module.__all__
    if name not in {"vector", *CONVERTERS}
]


@pytest.mark.parametrize(("module", "name"), WRAPPERS)
def test_every_wrapper_plays_an_episode_or_refuses(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    make = partial(gymnasium.make, TASK, render_mode="rgb_array", max_episode_steps=5)
    env = SyncVectorEnv([make] * 2) if module is wrappers.vector else make()
    if name in REFUSED:
        with pytest.raises((AssertionError, TypeError, ValueError, NotImplementedError, Error)):
            getattr(module, name)(env, **REFUSED[name]).reset(seed=0)
        return
    try:
        env = getattr(module, name)(env, **PLAYED[name])
        observation, _ = env.reset(seed=0)
        for turn in ("Hm.", r"\boxed{A}"):
            assert observation in env.observation_space
            observation, _, terminated, _, _ = env.step((turn, turn) if module is wrappers.vector else turn)
            assert np.all(terminated) == np.any(terminated) == (turn != "Hm.")
        assert observation in env.observation_space
        env.close()
    except DependencyNotInstalled as error:
        pytest.skip(str(error))


def test_nothing_stands_in_for_what_is_still_to_come():
    first, _ = gymnasium.make(TASK).reset(seed=0)
    env = wrappers.DelayObservation(gymnasium.make(TASK), delay=1)
    assert env.reset(seed=0)[0] == NONE
    assert env.step("Hm.")[0]["text"] == first["text"]
    env = wrappers.FrameStackObservation(gymnasium.make(TASK), 2, padding_type="zero")
    stacked, _ = env.reset(seed=0)
    assert stacked["text"] == ("", first["text"])
    assert [len(images) for images in stacked["images"]] == [0, 1]
    assert [text[:5] for text in env.step("Hm.")[0]["text"]] == ["What ", "Error"]


def test_array_converters_lose_texts():
    pytest.importorskip("array_api_compat")
    env = wrappers.ArrayConversion(gymnasium.make(TASK), env_xp=np, target_xp=np)
    assert env.reset(seed=0)[0]["text"].startswith("<generator object")


def test_frames_are_collected_and_shown(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gymnasium.make(TASK, render_mode="rgb_array_list")
    for made in (env, gymnasium.make(EnvSpec.from_json(env.spec.to_json()))):
        made.reset(seed=0)
        made.step("Hm.")
        assert [frame.shape for frame in made.render()] == [(720, 960, 3)] * 2
    with pytest.warns(UserWarning, match="HumanRendering"):
        env = gymnasium.make(TASK, render_mode="human")
    if find_spec("pygame") is None:
        with pytest.raises(DependencyNotInstalled, match="pygame is not installed"):
            env.reset(seed=0)
        return
    import pygame

    for seed in (0, 1):
        env.reset(seed=seed)
        shown = pygame.surfarray.array3d(env.get_wrapper_attr("window")).swapaxes(0, 1)
        assert np.array_equal(shown, env.unwrapped.render())
    env.close()


MIXED = (
    {"id": TASK},
    {"id": "pxr_env:pxr/SyntheticVideo-v0", "coordinates": "pixel", "operations": ["seek", "zoom_in"]},
    {"id": TASK, "min_pixels": 168**2, "max_pixels": 168**2, "dialect": "tags", "costs": {"format": 1}},
)


@pytest.mark.parametrize("vector", [SyncVectorEnv, partial(AsyncVectorEnv, shared_memory=False)], ids=["sync", "async"])
@pytest.mark.parametrize("mode", ["same", "different"])
def test_different_tasks_share_a_vector(vector, mode):
    alone = [gymnasium.make(**arguments) for arguments in MIXED]
    envs = vector([partial(gymnasium.make, **arguments) for arguments in MIXED], observation_mode=mode)
    observations, infos = envs.reset(seed=7)
    for number, env in enumerate(alone):
        observation, info = env.reset(seed=7 + number)
        assert observations["text"][number] == observation["text"]
        assert all(map(np.array_equal, observations["images"][number], observation["images"]))
        assert infos["sample_id"][number] == info["sample_id"]
    turns = tuple(env.unwrapped.dialect.render_answer(env.unwrapped.sample.answers[0]) for env in alone)
    assert turns in envs.action_space
    assert envs.step(turns)[1].tolist() == [1.0, 1.0, 1.0]
    envs.close()


def test_each_environment_of_a_vector_draws_for_itself():
    envs = gymnasium.make_vec(TASK, num_envs=4)
    alone = [gymnasium.make(TASK) for _ in range(4)]
    drawn = [env.reset(seed=seed)[1]["sample_id"] for seed, env in enumerate(alone)]
    assert len(set(drawn)) == 4
    assert envs.reset(seed=0)[1]["sample_id"].tolist() == drawn
    envs.step((r"\boxed{A}",) * 4)
    # Reset by the vector, at the next step: each goes on with its own generator.
    assert envs.step(("",) * 4)[-1]["sample_id"].tolist() == [env.reset()[1]["sample_id"] for env in alone]
    unseeded = gymnasium.make_vec(TASK, num_envs=4)
    draws = zip(*(unseeded.reset()[1]["sample_id"] for _ in range(3)), strict=True)
    assert len(set(draws)) == 4  # equal by chance once in 10^14


@pytest.fixture
def files(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 128, 3), dtype=np.uint8)
    first, *others = map(Image.fromarray, noise)
    first.save(tmp_path / "picture.png")
    first.save(tmp_path / "animation.gif", save_all=True, append_images=others, duration=100)
    if find_spec("av") is not None:
        clips.write(tmp_path / "film.mp4", 40)
    return tmp_path


def shared_source(files):
    """Pictures and videos that nobody has looked at yet."""
    photograph = ImageSource(image=np.random.default_rng(1).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    drawn = SyntheticSearch().get("train-0").sources[0]
    media = [photograph, drawn, ImageSource(path=files / "picture.png")]
    media += [VideoSource(path=path) for path in sorted(files.iterdir()) if path.suffix in (".gif", ".mp4")]
    return SampleList(
        [Sample(sample_id=str(k), question="What?", sources=(one,), answers=("A",)) for k, one in enumerate(media)]
    )


def test_threads_share_a_source(files, monkeypatch):
    def make(source):
        limits = {"max_turns": 60, "max_operations": 60, "duplicates": "execute"}
        return VisualReasoningEnv(source, operations=operation_names(), min_pixels=784, max_pixels=56**2, **limits)

    def plan(thread):
        """Every sample, each thread with calls of its own, the videos first."""
        rng = np.random.default_rng(thread)
        for sample_id in reversed(env.data.sample_ids()):
            env.reset(options={"sample_id": sample_id})
            yield sample_id, drawn_turns(env, 1, rng)

    def play_all(source, plan):
        own = make(source)
        start.wait()
        return [as_plain(play(own, turns, sample_id=sample_id)) for sample_id, turns in plan]

    env, start = make(shared_source(files)), Barrier(1)
    plans = [list(plan(thread)) for thread in range(8)]
    expected = [play_all(env.data, plan) for plan in plans]
    # Without room for a second picture, all of them read the same open files all the time.
    monkeypatch.setattr(decoded_cache, "max_bytes", 1)
    decoded_cache.clear()
    start = Barrier(8)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(play_all, [shared_source(files)] * 8, plans)) == expected
