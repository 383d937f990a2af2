"""Reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from training.config.checks import above_zero, at_least, one_of, require, share
from training.config.engine import EngineRecipe
from training.config.environment import CuriosityRecipe, EnvRecipe
from training.config.learner import LearnerRecipe
from training.config.probes import ProbesRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class PPORecipe:
    """Reinforcement learning. Where the defaults can, they follow Pixel Reasoner (arXiv 2505.15966) and its released
    code: rollouts, clipping, an advantage that is not divided by the standard deviation, no KL term.

    Attributes:
        model: the checkpoint to start from: its directory, or its hub name.
        env: the environment to train in.
        out: directory of the run.
        seed: of everything random.
        iterations: rounds of rollouts and updates.
        groups_per_iteration: samples (groups) per iteration.
        group_size: rollouts of each sample.
        num_env_runners: processes that produce rollouts; 0 for this process.
        num_learners: processes that compute updates; 0 for this process.
        max_envs_per_runner: episodes that an env runner runs, and generates for, at the same time.
        num_cpus_per_env_runner: what Ray reserves for each; may be a fraction.
        num_cpus_per_learner: what Ray reserves for each; may be a fraction.
        rollout_timeout: seconds after which an env runner that has not come back counts as lost.
        max_staleness: iterations that rollouts may be older than the weights that they train: 0 for rollouts and
            updates in turn, 1 to sample the next iteration while learners work at this one (see docs/ppo.md).
        env_timeout: seconds after which a step or reset of an environment that has not come back counts as stuck.
        learner_timeout: seconds after which learners that have not finished an update count as lost.
        max_restarts: how often the run starts again from the newest checkpoint, after processes it needs were lost.
        num_epochs: passes over the rollouts of an iteration.
        num_minibatches: optimizer steps per epoch; minibatches are made of whole groups.
        lr: peak learning rate of AdamW.
        lr_warmup_iterations: iterations over which the learning rate rises to lr.
        lr_decay_fraction: share of the iterations, at the end, over which it falls linearly to 0.
        adam_betas: decay rates of AdamW's two averages.
        weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this global norm.
        clip_coef: the probability ratio earns nothing below 1 - clip_coef.
        clip_coef_high: the probability ratio earns nothing above 1 + clip_coef_high.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the critic's loss (advantage = "gae").
        gamma: discount per action token (advantage = "gae").
        gae_lambda: of generalized advantage estimation (advantage = "gae").
        advantage: "group", relative to the group's mean, or "gae", with a critic.
        normalize_std: divide the group's advantage by its standard deviation.
        loss_normalization: what the loss is a mean over: "token", "sequence" (of means over an episode), "group" (of
            means over a group's tokens) or "constant" (episodes, of sums divided by max_tokens).
        clip_coef_dual: a negative advantage counts at most this many times (dual clip); none by default.
        kl_coef: weight of the KL divergence from the checkpoint that the run started from; 0 loads no copy of it.
        kl_estimator: "k1", "k2" or "k3" (see `training.loss.kl_penalty`).
        old_logprobs: what the ratio is taken to: the "engine"'s log-probabilities, or the "learner"'s own, computed
            before its first step.
        importance_cap: largest importance weight between engine and learner (old_logprobs = "learner"); by default
            there are none.
        uniform_groups: "keep" groups whose rollouts all score alike (they carry no loss), "drop" them before
            minibatches are made, or "replay" earlier groups in their place.
        replay_size: groups that are kept for replay, at most.
        replay_bytes: bytes of them, at most; in the driver's object store and in every checkpoint.
        replay_alpha: a group is drawn with probability proportional to the sum of |advantage| ** replay_alpha.
        replay_staleness: iterations after which a group is no longer replayed.
        minibatch_tokens: ids in a minibatch of one learner, at most, instead of num_minibatches.
        temperature: of sampling.
        max_tokens: limit of one turn.
        stop_strings: end a turn where the dialect says that generation may stop, behind a call, say; by default only
            the model ends it.
        curiosity: the curiosity reward.
        probes: rollouts that are made to begin with an operation nobody uses any more.
        checkpoint_every: iterations between checkpoints.
        wandb: log to Weights & Biases if it is installed, offline if no key is set.
        episode_table_every: iterations between samples of episodes with pictures, in OUT/episodes and in wandb; 0 for
            none.
        episode_table_size: episodes in each, at most.
        alarm_rate: warn when the share of episodes that use an operation falls below it; 0 never warns.
        alarm_iterations: how many iterations in a row it has to be below.
        engine: what generates.
        learner: how the model is held and trained.
        num_gpus_per_learner: what Ray reserves for each learner: 1, or 0 on a CPU.
    """

    model: str
    env: EnvRecipe
    out: str = "runs/ppo"
    seed: int = 0

    iterations: int = 100
    groups_per_iteration: int = 32
    group_size: int = 8
    num_env_runners: int = 0
    num_learners: int = 0
    max_envs_per_runner: int = 64
    num_cpus_per_env_runner: float = 1.0
    num_cpus_per_learner: float = 1.0
    rollout_timeout: float = 1800.0
    max_staleness: int = 0
    env_timeout: float = 300.0
    learner_timeout: float = 3600.0
    max_restarts: int = 3

    num_epochs: int = 1
    num_minibatches: int = 2
    lr: float = 1e-6
    lr_warmup_iterations: int = 3
    lr_decay_fraction: float = 0.3
    adam_betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    clip_coef: float = 0.2
    clip_coef_high: float = 0.35
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    # A reward at the end of an episode is worth as much to its first token as to its last.
    gamma: float = 1.0
    gae_lambda: float = 0.95
    advantage: Literal["group", "gae"] = "group"
    normalize_std: bool = False

    loss_normalization: Literal["token", "sequence", "group", "constant"] = "token"
    clip_coef_dual: float | None = None
    kl_coef: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    old_logprobs: Literal["engine", "learner"] = "engine"
    importance_cap: float | None = None
    uniform_groups: Literal["keep", "drop", "replay"] = "keep"
    replay_size: int = 256
    replay_bytes: int = 2**30
    replay_alpha: float = 1.0
    replay_staleness: int = 8
    minibatch_tokens: int | None = None

    temperature: float = 1.0
    max_tokens: int = 512
    stop_strings: bool = False
    curiosity: CuriosityRecipe = field(default_factory=CuriosityRecipe)
    probes: ProbesRecipe = field(default_factory=ProbesRecipe)
    checkpoint_every: int = 10
    wandb: bool = True

    episode_table_every: int = 10
    episode_table_size: int = 8
    alarm_rate: float = 0.05
    alarm_iterations: int = 5

    engine: EngineRecipe = field(default_factory=EngineRecipe)

    learner: LearnerRecipe = field(default_factory=LearnerRecipe)
    num_gpus_per_learner: float = 0.0

    def __post_init__(self) -> None:
        at_least(
            self, 1, "iterations", "groups_per_iteration", "group_size", "max_envs_per_runner", "num_epochs",
            "num_minibatches", "max_tokens", "checkpoint_every",
        )  # fmt: skip
        at_least(
            self, 0, "seed", "num_env_runners", "num_learners", "num_cpus_per_env_runner", "num_cpus_per_learner",
            "lr_warmup_iterations", "weight_decay", "ent_coef", "vf_coef", "max_restarts",
        )  # fmt: skip
        above_zero(self, "lr", "max_grad_norm", "temperature", "clip_coef", "clip_coef_high")
        above_zero(self, "rollout_timeout", "env_timeout", "learner_timeout")
        share(self, "lr_decay_fraction", "gamma", "gae_lambda")
        require(self.clip_coef < 1, "clip_coef", self.clip_coef, "a number below 1")
        require(all(0 <= beta < 1 for beta in self.adam_betas), "adam_betas", self.adam_betas, "two numbers in [0, 1)")
        require(self.advantage in ("group", "gae"), "advantage", self.advantage, "'group' or 'gae'")
        require(
            self.advantage == "gae" or self.group_size > 1,
            "group_size", self.group_size, "2 or more where advantage is 'group', which compares rollouts",
        )  # fmt: skip
        at_least(self, 0, "episode_table_every")
        at_least(self, 1, "episode_table_size", "alarm_iterations")
        share(self, "alarm_rate")
        # Every learner splits its own share of the groups.
        groups = self.groups_per_iteration // max(self.num_learners, 1)
        require(
            (1 if self.minibatch_tokens else self.num_minibatches) <= groups,
            "num_minibatches", self.num_minibatches,
            f"at most groups_per_iteration per learner ({self.groups_per_iteration} for {self.num_learners} learners)",
        )  # fmt: skip
        self._check_loss()
        self._check_staleness()
        if self.probes.enabled:
            self._check_probes()
        at_least(self, 0, "num_gpus_per_learner")
        require(
            self.learner.kind == "ddp" or self.num_learners > 0,
            "num_learners", self.num_learners,
            f"1 or more where learner.kind is {self.learner.kind!r}: DeepSpeed needs processes of its own",
        )  # fmt: skip

    def _check_staleness(self) -> None:
        require(
            self.max_staleness in (0, 1),
            "max_staleness", self.max_staleness,
            "0 or 1: sampling further ahead makes rollouts older, and no iteration shorter",
        )  # fmt: skip
        if not self.max_staleness:
            return
        require(
            self.num_env_runners > 0,
            "num_env_runners", self.num_env_runners,
            "1 or more where max_staleness is 1: rollouts that run beside the learners need processes of their own",
        )  # fmt: skip
        require(
            self.old_logprobs == "engine" or self.importance_cap is not None,
            "importance_cap", self.importance_cap,
            "a number above 0 where max_staleness is 1 and old_logprobs 'learner': rollouts come from older weights",
        )  # fmt: skip

    def _check_probes(self) -> None:
        revival = self.probes.revival(["any"], seed=self.seed)
        probed = revival.n_candidates(self.group_size)
        require(
            self.advantage == "group",
            "advantage", self.advantage,
            "'group' where probes are enabled: a probe is compared with rollouts of its group that were left alone; a "
            "critic would learn the value of a policy that is made to begin with operations",
        )  # fmt: skip
        require(
            probed > 0,
            "probes.share", self.probes.share, f"at least one rollout of a group of {self.group_size}",
        )  # fmt: skip
        counted = self.groups_per_iteration * (self.group_size - probed)
        require(
            counted * self.probes.window >= revival.min_episodes,
            "probes.window", self.probes.window,
            f"{-(-revival.min_episodes // counted)} or more: there are no probes until {revival.min_episodes} episodes "
            f"are counted, and an iteration has {counted} that are none",
        )  # fmt: skip

    def _check_loss(self) -> None:
        at_least(self, 0, "kl_coef", "replay_alpha")
        at_least(self, 1, "replay_size", "replay_bytes", "replay_staleness")
        one_of(self, "loss_normalization", "token", "sequence", "group", "constant")
        one_of(self, "kl_estimator", "k1", "k2", "k3")
        one_of(self, "old_logprobs", "engine", "learner")
        one_of(self, "uniform_groups", "keep", "drop", "replay")
        require(
            self.clip_coef_dual is None or 1 < self.clip_coef_dual < float("inf"),
            "clip_coef_dual", self.clip_coef_dual, "a number above 1",
        )  # fmt: skip
        require(
            self.importance_cap is None or (self.importance_cap > 0 and self.old_logprobs == "learner"),
            "importance_cap", self.importance_cap,
            "a number above 0 where old_logprobs is 'learner'; with 'engine' PPO's own ratio is the importance weight",
        )  # fmt: skip
        require(
            self.uniform_groups != "replay" or self.old_logprobs == "engine" or self.importance_cap is not None,
            "importance_cap", self.importance_cap,
            "a number above 0 where uniform_groups is 'replay' and old_logprobs 'learner': what is replayed comes "
            "from older weights",
        )  # fmt: skip
        require(
            self.uniform_groups == "keep" or self.advantage == "group",
            "uniform_groups", self.uniform_groups,
            "'keep' where advantage is 'gae': there a group that scores alike still teaches the critic",
        )  # fmt: skip
        require(
            self.minibatch_tokens is None or self.minibatch_tokens > 0,
            "minibatch_tokens", self.minibatch_tokens, "1 or more",
        )  # fmt: skip
