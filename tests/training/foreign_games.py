"""Environments as others write them: pictures and words in a dict, numbered actions; or text all the way."""

import gymnasium
import numpy as np
from gymnasium import spaces

COLOURS = ((200, 30, 30), (30, 160, 60), (40, 70, 200))


class Letters(gymnasium.Env):
    """Two turns; each pays one half for a letter (every third one) that belongs to the colour of the picture."""

    def __init__(self, n=26, render_mode=None):
        picture = spaces.Box(0, 255, (60, 90, 3), np.uint8)
        self.observation_space = spaces.Dict({"image": picture, "text": spaces.Text(200)})
        self.action_space = spaces.Discrete(n, start=5)
        self.render_mode = render_mode

    def _see(self, words):
        self.colour = int(self.np_random.integers(3))
        return {"image": np.full((60, 90, 3), COLOURS[self.colour], np.uint8), "text": words}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turns = 0
        return self._see("What letter is in the blue box?"), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.turns += 1
        right = (action - 5) % 3 == self.colour
        return self._see("right" if right else "wrong"), 0.5 * right, self.turns == 2, False, {}


def by_length(message):
    """An action for every message, of a model that cannot write any yet."""
    return 5 + len(message) % 26


class Echo:
    """No Gymnasium in it: `reset` and `step` are all. Right is a message with the word of the seed."""

    def __init__(self, words):
        self.words = words

    def reset(self, seed=None):
        self.word = self.words[seed % len(self.words)]
        return f"Say {self.word}.", {}

    def step(self, action):
        return None, float(self.word in action), True, False, {"success": self.word in action}

    def close(self):
        self.word = None
