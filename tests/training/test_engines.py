"""vLLM engines as Ray actors: routing, loss and restart of engines, weights, and a whole iteration of PPO with them."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import pytest
import ray
import torch

from pxr_agents.chat import Conversation
from pxr_agents.engines.vllm import EngineError, StaleWeightsError, StartArguments
from pxr_agents.types import Episode, Request, Sampling, episode_seed, turn_seed
from pxr_agents.vlm import VLM
from tests.training.conftest import ENV
from tests.training.uneven import uneven
from tests.vllm_support import ARGUMENTS, VARIABLES, Talk, needs_vllm, vllm_processes
from training.config import EngineRecipe, ProbesRecipe
from training.rllib.algorithm import VLMPPOConfig
from training.rllib.engines import EngineGroup
from training.rllib.env_runner import SampledGroup, VLMEnvRunner
from training.rllib.remote_engine import RemoteEngine
from training.rllib.sample_queue import Part, SampleQueue
from training.rllib.store import StoredWeights
from training.run_directory import Fault

pytestmark = [*needs_vllm, pytest.mark.ray]

VLLM = StartArguments(**ARGUMENTS)


@pytest.fixture(scope="module")
def vllm_ray(request: pytest.FixtureRequest):
    """Ray whose processes have vLLM's variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        yield request.getfixturevalue("ray_session")


@pytest.fixture(scope="module")
def group(vllm_ray, tiny_path):
    recipe = EngineRecipe(kind="vllm", num_engines=2, num_cpus_per_engine=0.25, timeout=400, vllm=VLLM)
    group = EngineGroup.start(str(tiny_path), recipe)
    yield group
    group.close()


def changed(vlm: VLM, seed: int) -> VLM:
    """The model with noise on every parameter, text and vision."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in vlm.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return vlm


def actor_pids(group: EngineGroup) -> list[int]:
    return ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in group.actors])


def loaded(group: EngineGroup) -> int:
    """The version of the weights that all engines have."""
    [version] = set(ray.get([actor.refresh.remote() for actor in group.actors]))
    return int(version)


def cache_counts(group: EngineGroup) -> list[dict[str, int]]:
    """vLLM's counts of its caches, by engine."""
    return ray.get([actor.__ray_call__.remote(lambda self: self._core.cache_counter.counts) for actor in group.actors])


def test_engines_complete_with_the_weights_pushed_last(group, tiny_vlm, noise_image):
    for version in (1, 2):
        changed(tiny_vlm, version)
        group.push(StoredWeights.put([tiny_vlm.model.state_dict()]), version)
        engine = RemoteEngine(group.handles, weights_version=version)
        talk = Talk(tiny_vlm, engine, Sampling(max_tokens=9))
        shared = noise_image()
        for key in range(6):
            talk.prompt(key, [shared, noise_image(28, 56)][: 1 + key % 2])
        completions = talk.turn(range(6))
        for key in range(4):
            talk.reply(key, [noise_image(56, 28)])
        completions |= talk.turn(range(4))
        assert {completion.weights_version for completion in completions.values()} == {version}
        assert max(talk.gap(key) for key in range(6)) < 1e-5


def test_a_conversation_stays_where_its_prefix_is(group, tiny_vlm, noise_image):
    engine = RemoteEngine(group.handles, weights_version=loaded(group), first=1)
    talk = Talk(tiny_vlm, engine, Sampling(max_tokens=40))
    before = cache_counts(group)
    for key in range(4):
        talk.prompt(key, [noise_image(112, 112)], f"question {key} " * 5)
    talk.turn(range(4))
    seen = [len(talk.conversations[key].ids) for key in range(4)]
    for key in range(4):
        talk.reply(key, [])
    talk.turn(range(4))
    counts = [
        {name: n - old[name] for name, n in new.items()} for new, old in zip(cache_counts(group), before, strict=True)
    ]
    # Two conversations each, and the second turn finds all whole blocks of the first.
    assert [c["image_queries"] for c in counts] == [4, 4]
    assert sum(c["prefix_hits"] for c in counts) >= sum((n - 1) // 32 * 32 for n in seen)


def test_engines_do_not_sample_with_other_weights_than_asked_for(group, tiny_vlm, noise_image):
    conversation = Conversation()
    tiny_vlm.chat.prompt(conversation, "You look.", {"text": "red?", "images": (noise_image(),)})
    request = Request(key=0, ids=conversation.ids, positions=conversation.positions(), images=[])
    with pytest.raises(StaleWeightsError, match=f"version {loaded(group)}, and 99 was asked for"):
        ray.get(group.actors[0].complete.remote(request, Sampling(), 99))


def test_engines_are_lost_hang_and_come_back_with_the_weights(group, tiny_vlm, noise_image):
    group.push(StoredWeights.put([changed(tiny_vlm, 7).model.state_dict()]), 7)
    [lost, hung] = actor_pids(group)
    talk = Talk(tiny_vlm, RemoteEngine(group.handles, weights_version=7), Sampling(max_tokens=400))
    below_lost = [p for p in vllm_processes() if lost in [parent.pid for parent in p.parents()]]
    assert below_lost
    for process in below_lost:
        # Nothing is finished before it dies, however long that takes on a busy machine.
        process.suspend()
    for key in range(8):
        talk.prompt(key, [noise_image()])
        talk.submit(key)
    # vLLM's process dies below one actor; what it owed goes to the other.
    for process in below_lost:
        process.kill()
    assert {completion.weights_version for completion in talk.collect(8).values()} == {7}
    assert max(talk.gap(key) for key in range(8)) < 1e-5

    below_hung = [p for p in vllm_processes() if hung in [parent.pid for parent in p.parents()]]
    assert below_hung
    os.kill(hung, signal.SIGSTOP)
    waiting = Talk(
        tiny_vlm, RemoteEngine(replace(group.handles, timeout=3.0), weights_version=7, first=1), Sampling(max_tokens=5)
    )
    waiting.prompt(0, [noise_image()])
    with pytest.raises(EngineError, match=r"1 turns .* none was finished within engine\.turn_timeout=3 s"):
        waiting.turn([0])

    group.check(timeout=3)
    assert not {lost, hung} & set(actor_pids(group))
    # A GPU's memory is free for the new one only if the old one's processes are gone.
    assert not [process for process in below_hung if process.is_running() and process.status() != "zombie"]
    talk = Talk(tiny_vlm, RemoteEngine(group.handles, weights_version=7), Sampling(max_tokens=5))
    for key in range(2):
        talk.prompt(key, [noise_image()])
    assert {completion.weights_version for completion in talk.turn(range(2)).values()} == {7}
    assert max(talk.gap(key) for key in range(2)) < 1e-5


def fail_once(actor, seed):
    complete = actor._core.complete

    async def failing(request, sampling):
        if request.seed == seed:
            actor._core.complete = complete
            raise EngineError("injected")
        return await complete(request, sampling)

    actor._core.complete = failing


def test_an_env_runner_needs_no_weights_and_an_error_of_an_engine_costs_one_group(group, tiny_path, make_recipe):
    recipe = make_recipe(model=str(tiny_path), engine=group._recipe, max_tokens=8)
    runner, queue = VLMEnvRunner(config=VLMPPOConfig().recipe(recipe), worker_index=0), ray.remote(SampleQueue).remote()
    ray.get(queue.set_weights.remote(loaded(group), []))
    ray.get(queue.put.remote([Part([sample_id], [0]) for sample_id in ("train-3", "train-4", "train-5")]))
    ray.get(
        [actor.__ray_call__.remote(fail_once, turn_seed(episode_seed((0,), "train-4", 1), 0)) for actor in group.actors]
    )
    pieces = list(runner.sample_from(queue, group.handles, refill=True))[1::2]
    [fault] = [piece for piece in pieces if isinstance(piece, Fault)]
    assert (fault.kind, fault.sample_id) == ("engine", "train-4")
    assert "injected" in fault.text
    sampled, other = [piece for piece in pieces if isinstance(piece, SampledGroup)]
    assert {sampled.sample_id, other.sample_id} == {"train-3", "train-5"}
    assert runner.module is None
    assert {step.weights_version for e in sampled.episodes for step in e.steps} == {loaded(group)}
    runner.stop()


def test_too_little_room_is_said_at_once(vllm_ray, tiny_path):
    recipe = EngineRecipe(kind="vllm", num_engines=2, num_gpus_per_engine=8, timeout=1, vllm=VLLM)
    with pytest.raises(EngineError, match=r"num_engines=2 need .*'GPU': 8.* each, and the cluster has"):
        EngineGroup.start(str(tiny_path), recipe)
    with pytest.raises(FileNotFoundError, match="expected the directory of a"):
        EngineGroup.start(str(tiny_path / "nothing"), recipe)


def test_ppo_trains_on_what_vllm_sampled(vllm_ray, make_recipe):
    """With a probe in most groups, as if thousands of episodes had not used the operation."""
    recipe = make_recipe(
        num_env_runners=2,
        env=uneven(ENV),
        probes=ProbesRecipe(enabled=True, window=8),
        engine=EngineRecipe(kind="vllm", num_cpus_per_engine=0.25, timeout=200, turn_timeout=20, vllm=VLLM),
    )
    others = vllm_processes()
    algorithm: Any = VLMPPOConfig().recipe(recipe).build_algo()
    idle = Episode(task="uneven/Any-v0", sample_id="s", usage={"zoom_in": 0})
    algorithm.books.arms.count([idle] * 6400, 0)
    try:
        for version in (1, 2):
            algorithm.train()
            metrics = algorithm.last_iteration
            assert metrics["n_episodes"] == 16
            probes = [episode for episode in algorithm.last_episodes if episode.probe == "zoom_in"]
            assert 0 < len(probes) <= 4
            assert all(episode.steps[0].turn.startswith('<tool_call>\n{"name": "zoom_in"') for episode in probes)
            # The second iteration was sampled with the weights that the first one made.
            assert metrics["learner/logprob_gap_max"] < 1e-4
            assert metrics["learner/ratio_mean"] == pytest.approx(1, abs=1e-4)
            assert metrics["learner/grad_norm"] > 1e-3
            assert algorithm.sampler.weights_version == version
            if version == 1:
                # vLLM's process hangs below an actor that answers.
                hung = [process for process in vllm_processes() if process not in others]
                for process in hung:
                    process.suspend()
        assert [fault.kind for fault in algorithm.books.faults].count("engine") >= 1
        assert metrics["faults/engine"] >= 1
        assert not [process for process in hung if process.is_running() and process.status() != "zombie"]
        sampled = algorithm.sampler.sample(["train-7"])
        assert {step.weights_version for e in sampled[0].episodes for step in e.steps} == {2}
        assert not any(r for r in algorithm.env_runner_group.foreach_env_runner(lambda runner: runner.module))
    finally:
        algorithm.stop()


def test_engines_sample_ahead_with_the_weights_before(vllm_ray, make_recipe):
    engine = EngineRecipe(kind="vllm", num_cpus_per_engine=0.25, timeout=400, vllm=VLLM)
    # With so small a rate the first weights are still nearly those of now: the gap is that of engine and learner.
    recipe = make_recipe(num_env_runners=1, iterations=3, max_staleness=1, engine=engine, lr=1e-9, env=uneven(ENV))
    algorithm: Any = VLMPPOConfig().recipe(recipe).build_algo()
    try:
        for sampled_by, trained in ((0, 0), (0, 1), (1, 2)):
            algorithm.train()
            steps = [step for episode in algorithm.last_episodes for step in episode.steps]
            assert {step.weights_version for step in steps} == {sampled_by}
            assert algorithm.last_iteration["async/staleness_max"] == trained - sampled_by
            assert algorithm.last_iteration["learner/ratio_max"] == pytest.approx(1, abs=1e-3)
            assert algorithm.sampler.weights_version == trained + 1
    finally:
        algorithm.stop()
