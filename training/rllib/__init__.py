"""The thin layer over RLlib's new API stack: it schedules, moves data and checkpoints. No mathematics lives here.

Reading order: `training/loop.py` (the same in one process), `algorithm.py` (configuration and one iteration),
`env_runner.py` (whole groups of episodes) and `sampling.py` (all of them, whatever dies), `learner.py` (RLlib's steps
around `training.update`), `weights.py` and `engines.py` (how weights travel, and to whom), `run.py` (a training run).
"""
