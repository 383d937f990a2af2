"""PPO of Stable-Baselines3 on a grid of zooms: pip install pxr-gym stable-baselines3"""

import gymnasium
from stable_baselines3 import PPO

from pxr_env.adapters.grid import GridZoom

env = GridZoom(gymnasium.make("pxr_env:pxr/SyntheticSearch-v0"), answers="ABCDEFGHIJKLMNOPQRSTUVWXYZ")
model = PPO("CnnPolicy", env, n_steps=64, batch_size=32, n_epochs=1)
model.learn(total_timesteps=64)
