"""RLlib's own PPO on a grid of zooms: pip install pxr-gym "ray[rllib]" torch"""

import gymnasium
import numpy as np
from gymnasium.wrappers import DtypeObservation, RescaleObservation
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from pxr_env.adapters.grid import GridZoom


def make(config):
    env = GridZoom(gymnasium.make("pxr_env:pxr/SyntheticSearch-v0"), answers="ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    # Its networks want floats.
    return RescaleObservation(DtypeObservation(env, np.float32), np.float32(0), np.float32(1))


tune.register_env("grid", make)
config = PPOConfig().environment("grid").env_runners(num_env_runners=0, rollout_fragment_length=64)
config = config.rl_module(model_config=DefaultModelConfig(conv_filters=[[16, 8, 4], [32, 4, 2], [64, 3, 2]]))
config = config.training(train_batch_size_per_learner=64, minibatch_size=32, num_epochs=1)
result = config.build_algo().train()
