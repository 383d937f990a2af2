from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pxr_agents.chat import Conversation
from pxr_agents.engines import transformers as engine_module
from pxr_agents.engines.transformers import TransformersEngine
from pxr_agents.types import Request, Sampling, episode_seed, turn_seed
from pxr_agents.vlm import VLM, collate
from tests.distributions import token_distributions


class Talk:
    """Drives conversations through an engine without an environment."""

    def __init__(self, vlm, engine, sampling, seed=0):
        self.vlm, self.engine, self.sampling, self.seed = vlm, engine, sampling, seed
        self.conversations: dict[int, Conversation] = {}

    def prompt(self, key, images, text):
        conversation = self.conversations[key] = Conversation()
        self.vlm.chat.prompt(conversation, "You look.", {"text": text, "images": tuple(images)})

    def reply(self, key, images, text):
        self.vlm.chat.reply(self.conversations[key], {"text": text, "images": tuple(images)})

    def request(self, key):
        c = self.conversations[key]
        seed = turn_seed(episode_seed(self.seed, "", key), c.n_turns)
        return Request(key=key, ids=c.ids, positions=c.positions(), images=c.images, seed=seed)

    def turn(self, keys):
        for key in keys:
            self.engine.submit(self.request(key), self.sampling)
        completions = dict(self.engine.collect())
        for key, completion in completions.items():
            self.conversations[key].append_completion(completion)
        return completions


def learner_logprobs(vlm, tokens):
    with torch.no_grad():
        ids, logprobs, _ = token_distributions(vlm, collate([tokens]))
    return logprobs.gather(1, ids[:, None])[:, 0].numpy()


def test_logprobs_over_turns_equal_a_fresh_forward_pass(tiny_vlm, noise_image):
    """Ragged turns, new images, rows that leave and stay: the cache with its gaps must not change a number."""
    talk = Talk(tiny_vlm, TransformersEngine(tiny_vlm), Sampling(max_tokens=7), seed=1)
    shared = noise_image()
    for key, text in enumerate(["red?", "a much longer question about blue", "red?", "red?", "green"]):
        talk.prompt(key, [shared] if key != 1 else [noise_image(56, 84), shared], text)
    talk.turn(range(5))
    for key in (0, 1, 3, 4):
        talk.reply(key, [noise_image(84, 28 * (1 + key % 3))] if key != 3 else [], "see " * key)
    talk.engine.forget(2)
    talk.turn([0, 1, 3, 4])
    for key in (1, 4):
        talk.reply(key, [shared], "last")
    talk.turn([1, 4])
    # Key 0 waited for a turn and goes on from its own cache.
    talk.reply(0, [], "still there?")
    talk.turn([0, 1])
    for key, n_turns in {0: 3, 1: 4, 2: 1, 3: 2, 4: 3}.items():
        tokens = talk.conversations[key].tokens()
        assert len(tokens.turn_ends) == n_turns
        np.testing.assert_allclose(
            tokens.logprobs[tokens.action], learner_logprobs(tiny_vlm, tokens), atol=2e-5, rtol=0
        )


def test_a_key_that_was_forgotten_names_a_new_conversation(tiny_vlm, noise_image):
    talk = Talk(tiny_vlm, TransformersEngine(tiny_vlm), Sampling(max_tokens=7), seed=1)
    # Shorter than what was cached under the key, and then longer.
    for text in ("a much longer question about blue", "red?", "green and blue and red and green and blue? " * 4):
        talk.prompt(0, [noise_image()], text)
        talk.turn([0])
        tokens = talk.conversations[0].tokens()
        np.testing.assert_allclose(
            tokens.logprobs[tokens.action], learner_logprobs(tiny_vlm, tokens), atol=2e-5, rtol=0
        )
        talk.engine.forget(0)


def test_every_id_and_image_is_processed_once(tiny_vlm, noise_image, monkeypatch):
    fed, encoded = [], []
    hidden_states, encode, step = VLM.hidden_states, VLM._encode, engine_module.next_hidden

    def counting(self, ids, positions, images=(), **kwargs):
        fed.append(ids.numel())
        return hidden_states(self, ids, positions, images, **kwargs)

    monkeypatch.setattr(VLM, "hidden_states", counting)
    monkeypatch.setattr(engine_module, "next_hidden", lambda *args: fed.append(len(args[2])) or step(*args))
    monkeypatch.setattr(VLM, "_encode", lambda self, *x: encoded.append(len(x[1])) or encode(self, *x))
    talk = Talk(tiny_vlm, TransformersEngine(tiny_vlm), Sampling(max_tokens=3, forced=(5, 5, 5)))
    image = noise_image()
    for key in range(4):
        talk.prompt(key, [image.copy()], "red?")
    prompt = len(talk.conversations[0].ids)
    talk.turn(range(4))
    # The prompt once for all four, then two steps of four tokens: the last sampled id is never fed.
    assert fed == [prompt, 4, 4]
    for key in range(4):
        talk.reply(key, [noise_image()], "more")
    new = len(talk.conversations[0].ids) - prompt - 2
    talk.turn(range(4))
    assert fed[3:] == [4 * new, 4, 4]
    assert encoded == [1, 4]


def test_samples_from_the_distribution_it_reports(tiny_vlm, noise_image):
    talk = Talk(tiny_vlm, TransformersEngine(tiny_vlm), Sampling(max_tokens=1), seed=3)
    image, n = noise_image(), 2000
    for key in range(n):
        talk.prompt(key, [image], "red?")
    completions = talk.turn(range(n))
    drawn = np.array([completions[key].token_ids[0] for key in range(n)])
    tokens, counts = np.unique(drawn, return_counts=True)
    probability = {c.token_ids[0]: np.exp(c.logprobs[0]) for c in completions.values()}
    assert not set(drawn.tolist()) & set(tiny_vlm.chat.banned_ids)
    for token, count in zip(tokens, counts, strict=True):
        p = probability[int(token)]
        # Five standard deviations of a binomial count.
        assert abs(count - n * p) < 5 * np.sqrt(n * p * (1 - p)) + 1


def test_greedy_takes_the_most_likely_and_same_seed_repeats(tiny_vlm, noise_image):
    image = noise_image()

    def run(sampling, seed):
        talk = Talk(tiny_vlm, TransformersEngine(tiny_vlm), sampling, seed=seed)
        for key in range(3):
            talk.prompt(key, [image], "red?")
        return [c.token_ids for _, c in sorted(talk.turn(range(3)).items())]

    greedy = run(Sampling(temperature=0, max_tokens=5), 0)
    assert len(set(greedy)) == 1
    assert greedy == run(Sampling(temperature=0, max_tokens=5), 1)
    assert run(Sampling(max_tokens=8), 0) == run(Sampling(max_tokens=8), 0)
    assert run(Sampling(max_tokens=8), 0) != run(Sampling(max_tokens=8), 1)


def test_temperature_is_that_of_the_reported_logprobs(tiny_vlm, noise_image):
    talk = Talk(tiny_vlm, TransformersEngine(tiny_vlm), Sampling(temperature=0.5, max_tokens=6), seed=1)
    talk.prompt(0, [noise_image()], "red?")
    talk.turn([0])
    tokens = talk.conversations[0].tokens()
    with torch.no_grad():
        ids, logprobs, _ = token_distributions(tiny_vlm, collate([tokens]), temperature=0.5)
    expected = logprobs.gather(1, ids[:, None])[:, 0].numpy()
    np.testing.assert_allclose(tokens.logprobs[tokens.action], expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_stop_string_ends_the_turn_with_the_id_that_completes_it(tiny_vlm, noise_image, seed):
    image = noise_image()

    def turn(stop, forced=()):
        sampling = Sampling(temperature=1.5, max_tokens=12, stop=stop, forced=forced)
        talk = Talk(tiny_vlm, TransformersEngine(tiny_vlm), sampling, seed)
        talk.prompt(0, [image], "red?")
        [completion] = talk.turn([0]).values()
        talk.reply(0, [], "more")
        return completion, talk.conversations[0].ids

    free, _ = turn(())
    text = tiny_vlm.chat.decode(free.token_ids)
    # It lies across the borders of several ids.
    string = text[3:8]
    prefixes = [tiny_vlm.chat.decode(free.token_ids[:n]) for n in range(1, 13)]
    length = 1 + next(n for n, prefix in enumerate(prefixes) if string in prefix)
    stopped, ids = turn(("never", string))
    assert stopped.token_ids == free.token_ids[:length]
    assert stopped.finish_reason == "stop"
    # The next turn begins as after every other.
    assert tiny_vlm.chat.decode(ids).count("<|im_end|>") == 4
    # What was forced is not the model's wish to stop.
    forced = tiny_vlm.chat.encode_text(string)
    assert len(turn((string,), forced)[0].token_ids) > len(forced)


def test_forced_and_free_conversations_are_generated_together(tiny_vlm, noise_image):
    image, boxed, one = noise_image(), tiny_vlm.chat.encode_text("\\boxed{"), (5,)
    talk = Talk(tiny_vlm, TransformersEngine(tiny_vlm), Sampling(temperature=0, max_tokens=4))
    for key, forced in enumerate(((), boxed, one)):
        talk.prompt(key, [image], "red?")
        talk.engine.submit(talk.request(key), replace(talk.sampling, forced=forced))
    together = dict(talk.engine.collect())
    assert together[1].token_ids[: len(boxed)] == boxed
    assert together[2].token_ids[:1] == one
    for key, forced in enumerate(((), boxed, one)):
        alone = TransformersEngine(tiny_vlm)
        alone.submit(talk.request(key), replace(talk.sampling, forced=forced))
        [(_, completion)] = alone.collect()
        assert completion.token_ids == together[key].token_ids
        np.testing.assert_allclose(completion.logprobs, together[key].logprobs, atol=1e-5)
        # Forced or not, the log-probabilities are the model's own.
        talk.conversations[key].append_completion(completion)
        own = learner_logprobs(tiny_vlm, talk.conversations[key].tokens())
        np.testing.assert_allclose(completion.logprobs, own, atol=1e-5)


def test_new_weights_forget_the_old_cache(tiny_vlm, noise_image):
    engine = TransformersEngine(tiny_vlm)
    talk = Talk(tiny_vlm, engine, Sampling(max_tokens=3))
    talk.prompt(0, [noise_image()], "red?")
    talk.turn([0])
    with torch.no_grad():
        for parameter in tiny_vlm.model.parameters():
            parameter.mul_(1.1)
    engine.set_weights_version(8)
    talk.reply(0, [], "more")
    completion = talk.turn([0])[0]
    assert completion.weights_version == 8
    tokens = talk.conversations[0].tokens()
    np.testing.assert_allclose(completion.logprobs, learner_logprobs(tiny_vlm, tokens)[-3:], atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_model_in_the_mode_it_found(tiny_vlm, noise_image, training):
    tiny_vlm.model.train(training)
    talk = Talk(tiny_vlm, TransformersEngine(tiny_vlm), Sampling(max_tokens=2))
    talk.prompt(0, [noise_image()], "red?")
    talk.turn([0])
    assert tiny_vlm.model.training is training


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_noise_follows_from_the_seed_of_the_request_alone(tiny_vlm, noise_image, temperature):
    """Not from who else is in the batch, in which order, or what was drawn before."""
    images = [noise_image(56 + 28 * (key % 3), 84) for key in range(6)]
    engine, sampling = TransformersEngine(tiny_vlm), Sampling(temperature=temperature, max_tokens=12)

    def turns(batches):
        talk, ids = Talk(tiny_vlm, engine, sampling), {}
        for batch in batches:
            for key in batch:
                talk.prompt(key, [images[key]], "red? " * (1 + key % 2))
            ids |= {key: completion.token_ids for key, completion in talk.turn(batch).items()}
            for key in batch:
                engine.forget(key)
        return ids

    together = turns([range(6)])
    assert together == turns([[key] for key in reversed(range(6))]) == turns([[4, 1], [0, 5, 2], [3]])
    assert len(set(together.values())) == 6


def test_a_conversation_without_room_gets_no_turn(tiny_vlm, noise_image):
    talk = Talk(tiny_vlm, TransformersEngine(tiny_vlm), Sampling(temperature=0, max_tokens=5))
    for key, text in enumerate(["red?", "red and blue?"]):
        talk.prompt(key, [noise_image()], text)
    short, long = (len(talk.conversations[key].ids) for key in range(2))
    assert short < long
    free = talk.turn([0, 1])
    for room, full in ((long + 5, set()), (long + 4, {1}), (short + 4, {0, 1})):
        engine = TransformersEngine(tiny_vlm, max_model_len=room)
        engine.set_weights_version(3)
        limited = Talk(tiny_vlm, engine, talk.sampling)
        for key in range(2):
            limited.prompt(key, talk.conversations[key].images, ["red?", "red and blue?"][key])
        completions = limited.turn([0, 1])
        assert {key for key, completion in completions.items() if completion.finish_reason == "context"} == full
        for key, completion in completions.items():
            assert completion.token_ids == (() if key in full else free[key].token_ids)
            assert completion.weights_version == 3
    with pytest.raises(ValueError, match=r"max_tokens=5 .* max_model_len=5 ids"):
        TransformersEngine(tiny_vlm, max_model_len=5).submit(talk.request(0), talk.sampling)


def test_a_context_beyond_that_of_the_checkpoint_is_refused(tiny_vlm):
    assert TransformersEngine(tiny_vlm).max_model_len == 2048
    with pytest.raises(ValueError, match="got max_model_len=2049; the checkpoint allows 2048 at most"):
        TransformersEngine(tiny_vlm, max_model_len=2049)
