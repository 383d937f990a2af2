import gymnasium

env = gymnasium.make("pxr_env:pxr/SyntheticSearch-v0", coordinates="unit")
observation, info = env.reset(seed=0)
print(info["system_prompt"], observation["text"], [image.shape for image in observation["images"]], sep="\n")

box = '{"name": "zoom_in", "arguments": {"bbox_2d": [0.0, 0.0, 0.5, 0.5], "target_image": 1}}'
observation, reward, terminated, truncated, info = env.step(f"A closer look: <tool_call>{box}</tool_call>")
print(observation["text"], info["views"][-1])

observation, reward, terminated, truncated, info = env.step(r"The letter is \boxed{T}.")
print(reward, info["reward_terms"], info["usage"], info["target"])
