"""Reinforcement learning."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from training.config.base import RECIPE, Share, require
from training.config.engine import EngineRecipe
from training.config.environment import CuriosityRecipe, EnvRecipe
from training.config.learner import LearnerRecipe
from training.config.probes import ProbesRecipe

Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class PPORecipe:
    """Reinforcement learning. Where the defaults can, they follow Pixel Reasoner (arXiv 2505.15966) and its released
    code: rollouts, clipping, an advantage that is not divided by the standard deviation, no KL term.
    """

    model: str
    """The checkpoint to start from: its directory, or its hub name."""
    env: EnvRecipe
    """The environment to train in."""
    out: str = "runs/ppo"
    """Directory of the run."""
    seed: NonNegativeInt = 0
    """Seed of everything random."""

    iterations: PositiveInt = 100
    """Rounds of rollouts and updates."""
    groups_per_iteration: PositiveInt = 32
    """Samples (groups) per iteration."""
    group_size: PositiveInt = 8
    """Rollouts of each sample."""
    num_env_runners: NonNegativeInt = 0
    """Processes that produce rollouts; 0 for this process."""
    num_learners: NonNegativeInt = 0
    """Processes that compute updates; 0 for this process."""
    max_envs_per_runner: PositiveInt = 64
    """Episodes that an env runner runs, and generates for, at the same time."""
    num_cpus_per_env_runner: NonNegativeFloat = 1.0
    """What Ray reserves for each; may be a fraction."""
    num_cpus_per_learner: NonNegativeFloat = 1.0
    """What Ray reserves for each; may be a fraction."""
    rollout_timeout: PositiveFloat = 1800.0
    """Seconds after which an env runner that has not come back counts as lost."""
    max_staleness: int = 0
    """Iterations that rollouts may be older than the weights that they train: 0 for rollouts and updates in turn, 1 to
    sample the next iteration while learners work at this one (see docs/ppo.md)."""
    env_timeout: PositiveFloat = 300.0
    """Seconds after which a step or reset of an environment that has not come back counts as stuck."""
    learner_timeout: PositiveFloat = 3600.0
    """Seconds after which learners that have not finished an update count as lost."""
    max_restarts: NonNegativeInt = 3
    """How often the run starts again from the newest checkpoint, after processes it needs were lost."""

    num_epochs: PositiveInt = 1
    """Passes over the rollouts of an iteration."""
    num_minibatches: PositiveInt = 2
    """Optimizer steps per epoch; minibatches are made of whole groups."""
    lr: PositiveFloat = 1e-6
    """Peak learning rate of AdamW."""
    lr_warmup_iterations: NonNegativeInt = 3
    """Iterations over which the learning rate rises to lr."""
    lr_decay_fraction: Share = 0.3
    """Share of the iterations, at the end, over which it falls linearly to 0."""
    adam_betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of AdamW's two averages."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this global norm."""

    clip_coef: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The probability ratio earns nothing below 1 - clip_coef."""
    clip_coef_high: PositiveFloat = 0.35
    """The probability ratio earns nothing above 1 + clip_coef_high."""
    ent_coef: NonNegativeFloat = 0.0
    """Weight of the entropy bonus."""
    vf_coef: NonNegativeFloat = 0.5
    """Weight of the critic's loss (advantage = "gae")."""
    # A reward at the end of an episode is worth as much to its first token as to its last.
    gamma: Share = 1.0
    """Discount per action token (advantage = "gae")."""
    gae_lambda: Share = 0.95
    """Lambda of generalized advantage estimation (advantage = "gae")."""
    advantage: Literal["group", "gae"] = "group"
    """Either "group", relative to the group's mean, or "gae", with a critic."""
    normalize_std: bool = False
    """Divide the group's advantage by its standard deviation."""

    loss_normalization: Literal["token", "sequence", "group", "constant"] = "token"
    """What the loss is a mean over: "token", "sequence" (of means over an episode), "group" (of means over a group's
    tokens) or "constant" (episodes, of sums divided by max_tokens)."""
    clip_coef_dual: Annotated[float, Field(gt=1)] | None = None
    """A negative advantage counts at most this many times (dual clip); none by default."""
    kl_coef: NonNegativeFloat = 0.0
    """Weight of the KL divergence from the checkpoint that the run started from; 0 loads no copy of it."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """One of "k1", "k2" or "k3" (see `training.loss.kl_penalty`)."""
    old_logprobs: Literal["engine", "learner"] = "engine"
    """What the ratio is taken to: the "engine"'s log-probabilities, or the "learner"'s own, computed before its first
    step."""
    importance_cap: PositiveFloat | None = None
    """Largest importance weight between engine and learner (old_logprobs = "learner"); by default there are none."""
    uniform_groups: Literal["keep", "drop", "replay"] = "keep"
    """What becomes of groups whose rollouts all score alike (they carry no loss): "keep" them, "drop" them before
    minibatches are made, or "replay" earlier groups in their place."""
    replay_size: PositiveInt = 256
    """Groups that are kept for replay, at most."""
    replay_bytes: PositiveInt = 2**30
    """Bytes of the groups that are kept, at most; in the driver's object store and in every checkpoint."""
    replay_alpha: NonNegativeFloat = 1.0
    """A group is drawn with probability proportional to the sum of |advantage| ** replay_alpha."""
    replay_staleness: PositiveInt = 8
    """Iterations after which a group is no longer replayed."""
    minibatch_tokens: PositiveInt | None = None
    """Ids in a minibatch of one learner, at most, instead of num_minibatches."""

    temperature: PositiveFloat = 1.0
    """Temperature of sampling."""
    max_tokens: PositiveInt = 512
    """Limit of one turn."""
    stop_strings: bool = False
    """End a turn where the dialect says that generation may stop, behind a call, say; by default only the model ends
    it."""
    curiosity: CuriosityRecipe = field(default_factory=CuriosityRecipe)
    """The curiosity reward."""
    probes: ProbesRecipe = field(default_factory=ProbesRecipe)
    """Rollouts that are made to begin with an operation nobody uses any more."""
    checkpoint_every: PositiveInt = 10
    """Iterations between checkpoints."""
    wandb: bool = True
    """Log to Weights & Biases if it is installed, offline if no key is set."""

    episode_table_every: NonNegativeInt = 10
    """Iterations between samples of episodes with pictures, in OUT/episodes and in wandb; 0 for none."""
    episode_table_size: PositiveInt = 8
    """Episodes in each, at most."""
    alarm_rate: Share = 0.05
    """Warn when the share of episodes that use an operation falls below it; 0 never warns."""
    alarm_iterations: PositiveInt = 5
    """How many iterations in a row it has to be below."""

    engine: EngineRecipe = field(default_factory=EngineRecipe)
    """What generates."""

    learner: LearnerRecipe = field(default_factory=LearnerRecipe)
    """How the model is held and trained."""
    num_gpus_per_learner: NonNegativeFloat = 0.0
    """What Ray reserves for each learner: 1, or 0 on a CPU."""

    def __post_init__(self) -> None:
        require(
            self.advantage == "gae" or self.group_size > 1,
            "group_size", self.group_size, "2 or more where advantage is 'group', which compares rollouts",
        )  # fmt: skip
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
        require(
            self.importance_cap is None or self.old_logprobs == "learner",
            "importance_cap", self.importance_cap,
            "none where old_logprobs is 'engine': there PPO's own ratio is the importance weight",
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
