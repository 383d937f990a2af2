"""The thin layer over RLlib's new API stack: it schedules, moves data and checkpoints. No mathematics lives here.

Reading order: `training/loop.py` (the same in one process), `algorithm.py` (configuration, one iteration, which groups
are trained on), `env_runner.py` (whole groups of episodes), `sampling.py` (all of them, whatever dies, and ahead),
`learner.py` (RLlib's steps around `training.update`), `weights.py` and `engines.py` (how weights travel, and to whom),
`run.py` (a training run, and the cluster it is on).
"""
