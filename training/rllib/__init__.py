"""The thin layer over RLlib's new API stack: it schedules, moves data and checkpoints. No mathematics lives here.

Reading order: `algorithm.py` (configuration and one iteration), `env_runner.py` (whole groups of
episodes), `learner.py` (minibatches of whole episodes), `module.py` (the model), `run.py` (a training run).
"""
