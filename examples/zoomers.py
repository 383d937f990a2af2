"""Four ways to decide when to zoom, by agents that read perfectly what they see and guess what they do not.

They look into the sample to know what can be read, so what operations show causes none of their answers.

python -m eval run pxr_env:pxr/SyntheticSearch-v0 --agent examples.zoomers:AlwaysZoom --limit 400 --out runs/always
"""

from pxr_env.env import oracle_turns

GUESS = "T"  # the most frequent letter where it cannot be read


class WhenNeeded:
    """Zooms into the evidence where the first view does not show it, if there is something to zoom with."""

    def __init__(self, env):
        self.env = env.unwrapped

    def zooms(self):
        return self.env.sample.needs_operation

    def act(self, observation):
        env, sample = self.env, self.env.sample
        if self.zooms() and env.operations and len(env.views) == 1:
            return next(oracle_turns(env))
        seen = len(env.views) > 1 or not sample.needs_operation
        return env.dialect.render_answer(sample.answers[0] if seen else GUESS)


class AlwaysZoom(WhenNeeded):
    """Zooms into the evidence of every question."""

    def zooms(self):
        return True


class NeverZoom(WhenNeeded):
    """Answers at once."""

    def zooms(self):
        return False


class BrokenCall(WhenNeeded):
    """Breaks a call off where none is needed, and answers after the error: its usage is that of `WhenNeeded`."""

    begun = False

    def act(self, observation):
        if not self.begun and self.env.operations and not self.zooms():
            self.begun = True
            return '<tool_call>{"name": "zoom_in", "arg'
        return super().act(observation)
