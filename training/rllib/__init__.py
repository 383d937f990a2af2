"""The thin layer over RLlib's new API stack: it schedules, moves data and checkpoints. No mathematics lives here.

Reading order: `training/loop.py` (the same in one process), `algorithm.py` (configuration, one iteration, which groups
are trained on), `env_runner.py` (whole groups of episodes), `sampling.py` (those of every iteration, also ahead),
`runner_pool.py`, `sample_queue.py` and `owed.py` (who samples what, and what becomes of those that die), `learner.py`
(RLlib's steps around `training.update`), `weights.py` and `engines.py` (how weights travel, and to whom), `run.py` (a
training run, and the cluster it is on).
"""
