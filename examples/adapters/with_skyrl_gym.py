"""An episode in skyrl-gym. Two messages that are known beforehand stand where a model belongs."""

import skyrl_gym

from pxr_env.adapters.skyrl_gym import register

register()
config = {"task": "pxr_env:pxr/SyntheticSearch-v0", "max_turns": 6}
env = skyrl_gym.make("pxr", env_config=config, extras={"seed": 0})
messages, _ = env.init([])
call = '{"name": "zoom_in", "arguments": {"bbox_2d": [0.0, 0.0, 0.5, 0.5], "target_image": 1}}'
for text in (f"A look. <tool_call>{call}</tool_call>", r"It is \boxed{T}."):
    step = env.step(text)
    messages += [{"role": "assistant", "content": text}, *step["observations"]]
print([message["role"] for message in messages])
print(step["reward"], step["metadata"])
