"""Recipes: what a run is made of, as typed dataclasses that `load_recipe` fills from TOML and the command line.

A recipe with nothing but its required keys is complete. A field's type says what it may be, the text below it what it
means: `python -m training ppo --keys` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from pxr_env.curiosity import group_reward
from pxr_env.errors import quote
from .env_recipe import CuriosityRecipe, EnvRecipe, Envs, MixedEnvRecipe, by_name, name_in, shares_of
from .recipe_parts import EngineRecipe, ImagesRecipe, ProbesRecipe, SelectiveRecipe
from .recipe_reader import RECIPE, RecipeError, Share, load_recipe, recipe_keys, require, to_dict

__all__ = [
    "RECIPE", "CuriosityRecipe", "EngineRecipe", "EnvRecipe", "ImagesRecipe", "LearnerRecipe", "MixedEnvRecipe",
    "PPORecipe", "ProbesRecipe", "RecipeError", "SFTRecipe", "SelectiveRecipe", "Share", "TracesRecipe",
    "load_recipe", "recipe_keys", "to_dict",
]  # fmt: skip

#: What `reward` may be by a name alone -> the function.
OWN_REWARDS = {"judge": f"{__package__}.judge_reward:judge"}

Decay = Annotated[float, Field(ge=0, lt=1)]


def _processes(recipe: PPORecipe | SFTRecipe) -> tuple[str, bool, str]:
    expected = f"1 or more where learner.kind is {recipe.learner.kind!r}: DeepSpeed needs processes of its own"
    return "num_learners", recipe.learner.kind == "ddp" or recipe.num_learners > 0, expected


def _function_name(name: str) -> str:
    if name not in OWN_REWARDS and not all(name.partition(":")):
        raise ValueError(f'got "{quote(name)}"; expected "module:function", or {" or ".join(map(repr, OWN_REWARDS))}')
    return name


def _known_group_rewards(rewards: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for name, constants in rewards.items():
        if ":" not in name:  # one's own is imported where it runs
            group_reward(name, **constants)
    return rewards


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class LearnerRecipe:
    """How the model is held and trained (see docs/learners.md)."""

    kind: Literal["ddp", "zero2", "zero3"] = "ddp"
    """With "ddp" every learner holds everything; DeepSpeed's "zero2" splits gradients and optimizer states over the
    learners, "zero3" the weights, too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights that compute; with "bfloat16" float32 ones are kept beside them for the optimizer."""
    micro_batch_tokens: PositiveInt | None = None
    """Ids that go through the model at once, padding included; a minibatch that holds more is computed in parts whose
    gradients are accumulated. Parts are whole episodes. By default 65,536 in PPO, and a whole step in a warm start."""
    attn_implementation: str | None = None
    """Attention of the language model as transformers names it, "flash_attention_2" for one; by default torch's own
    ("sdpa"), which needs no package and is FlashAttention, too, on a GPU in bfloat16."""
    freeze_vision: bool = False
    """Leave the vision tower as it is, as adapters always do. By "ddp", PPO then encodes an image once an iteration."""
    feature_bytes: NonNegativeInt = 2**33
    """Memory of the CPU for what PPO keeps of encoded images during an iteration, at most, on each learner; where it
    would be more, images are encoded in every pass."""
    prefetch: NonNegativeInt = 0
    """Passes whose images PPO prepares in a thread while another one is computed."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of the layers, and compute what is between them a second time."""
    offload_optimizer: bool = False
    """Keep optimizer states in the memory of the CPU, and step there. ("zero2", "zero3")"""
    offload_parameters: bool = False
    """Keep the weights in the memory of the CPU, too. ("zero3")"""
    lora_rank: NonNegativeInt = 0
    """Inner width of low-rank adapters, which alone are trained; 0 trains all weights."""
    lora_alpha: PositiveFloat = 32.0
    """Adapters count lora_alpha / lora_rank times."""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers of the language model that get adapters."""

    def __post_init__(self) -> None:
        zero = self.kind != "ddp"
        require(
            self,
            ("lora_targets", not self.lora_rank or bool(self.lora_targets), "names of layers"),
            ("attn_implementation", "flash" not in (self.attn_implementation or "") or self.dtype == "bfloat16",
             "none where dtype is 'float32': FlashAttention computes in bfloat16"),
            ("offload_optimizer", zero or not self.offload_optimizer, "false where kind is 'ddp'"),
            ("offload_parameters", self.kind == "zero3" or not self.offload_parameters,
             "false where kind is not 'zero3'"),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class PPORecipe:
    """Reinforcement learning. Where the defaults can, they follow Pixel Reasoner (arXiv 2505.15966) and its released
    code: rollouts, clipping, an advantage that is not divided by the standard deviation, no KL term."""

    model: str
    """The checkpoint to start from: its directory, or its hub name."""
    env: Envs
    """The environment to train in; several as [[env]] tables, each with a share of the groups (docs/training.md)."""
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
    """Seconds without a finished group after which an env runner counts as lost."""
    max_staleness: NonNegativeInt = 0
    """Iterations that rollouts may be older than the weights that they train: 0 for rollouts and updates in turn, 1 to
    sample the next iteration while learners work at this one, more to go on sampling while weights change (see
    docs/ppo.md)."""
    oversample: Annotated[float, Field(ge=1)] = 1.0
    """Groups are asked for times this; the first groups_per_iteration that do not score alike are trained on, and the
    others are cancelled."""
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

    ratio: Literal["token", "sequence"] = "token"
    """Whose probability ratio is clipped: that of each "token", or the geometric mean over an episode's action ids
    ("sequence", GSPO), which needs far smaller clip_coef and clip_coef_high."""
    clip_coef: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The probability ratio earns nothing below 1 - clip_coef."""
    clip_coef_high: PositiveFloat = 0.35
    """The probability ratio earns nothing above 1 + clip_coef_high."""
    ent_coef: NonNegativeFloat = 0.0
    """Weight of the entropy bonus."""
    vf_coef: NonNegativeFloat = 0.5
    """Weight of the critic's loss (advantage = "gae")."""
    gamma: Share = 1.0
    """Discount per action token; 1 pays the first token of an episode as much as its last (advantage = "gae")."""
    gae_lambda: Share = 0.95
    """Lambda of generalized advantage estimation (advantage = "gae")."""
    advantage: Literal["group", "gae"] = "group"
    """Either "group", relative to the group's mean, or "gae", with a critic."""
    normalize_std: bool = False
    """Divide the group's advantage by its standard deviation."""

    loss_normalization: Literal["token", "sequence", "group", "constant"] = "token"
    """What the loss is a mean over: "token", "sequence" (of means over an episode), "group" (of means over a group's
    tokens) or "constant" (episodes, of sums divided by max_tokens)."""
    mask_truncated: Literal["never", "turns", "all"] = "never"
    """Which episodes carry no loss, but count in their group's mean: those that max_turns ended ("turns"), or that any
    limit did ("all")."""
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
    """End a turn where the dialect says that it may (behind a call, say); by default only the model ends it."""
    curiosity: CuriosityRecipe = field(default_factory=CuriosityRecipe)
    """The curiosity reward."""
    reward: Annotated[str, AfterValidator(_function_name)] | None = None
    """A function, "module:function", of a finished episode; the named terms that it returns are added to what the
    episode earns (docs/rewards.md). "judge" asks a judge model."""
    reward_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments."""
    reward_timeout: PositiveFloat = 600.0
    """Seconds after which an async one that has not come back counts as an outage: the episode is left out."""
    group_rewards: Annotated[dict[str, dict[str, Any]], AfterValidator(_known_group_rewards)] = field(
        default_factory=dict
    )
    """What the rollouts of a group earn by comparison, beside curiosity: by name ("beacon", "evidence", ...; or
    "module:function" of your own) the constants that differ from the defaults (docs/rewards.md)."""
    probes: ProbesRecipe = field(default_factory=ProbesRecipe)
    """Rollouts that are made to begin with an operation nobody uses any more."""
    selective: SelectiveRecipe = field(default_factory=SelectiveRecipe)
    """Teaches when not to use an operation."""
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
    alarm_habit: Share = 0.5
    """Warn when a larger share of the rollouts looks first on samples whose answers at once are right, as often as on
    others (docs/watching.md); 1 never warns."""
    alarm_gap: NonNegativeFloat | None = None
    """Warn when engine and learner differ by more nats per action id (learner/logprob_gap_mean); by default 0.01 where
    learner.dtype is "bfloat16", else 0.0001; 0 never warns."""

    engine: EngineRecipe = field(default_factory=EngineRecipe)
    """What generates."""
    learner: LearnerRecipe = field(default_factory=LearnerRecipe)
    """How the model is held and trained."""
    num_gpus_per_learner: NonNegativeFloat = 0.0
    """What Ray reserves for each learner: 1, or 0 on a CPU."""

    @property
    def has_arms(self) -> bool:
        """Whether some rollouts may be made to do something (`training.arms`)."""
        return self.probes.enabled or self.selective.enabled

    @property
    def envs(self) -> Mapping[str, EnvRecipe]:
        """Its environments by name; one alone has the name ""."""
        return by_name(self.env)

    def curiosity_of(self, sample_id: str) -> CuriosityRecipe:
        """The curiosity reward of the environment that a sample belongs to."""
        env = self.envs[name_in(self.env, sample_id)]
        own = env.curiosity if isinstance(env, MixedEnvRecipe) else None
        return own or self.curiosity

    def __post_init__(self) -> None:
        by_name(self.env)
        # Every learner splits its own share of the groups.
        groups = self.groups_per_iteration // max(self.num_learners, 1)
        corrected = self.old_logprobs == "engine" or self.importance_cap is not None
        require(
            self,
            ("group_size", self.advantage == "gae" or self.group_size > 1,
             "2 or more where advantage is 'group', which compares rollouts"),
            ("num_minibatches", (1 if self.minibatch_tokens else self.num_minibatches) <= groups,
             f"at most groups_per_iteration per learner ({self.groups_per_iteration} for {self.num_learners} "
             f"learners)"),
            ("advantage", self.ratio == "token" or self.advantage == "group",
             "'group' where ratio is 'sequence': one advantage decides whether a whole sequence is clipped"),
            *((key, self.ratio == "token" or getattr(self, key) <= 0.1,
               "at most 0.1 where ratio is 'sequence': a mean over an episode moves less than single ids, and would "
               "hardly ever be clipped; GSPO has clip_coef=3e-4 clip_coef_high=4e-4")
              for key in ("clip_coef", "clip_coef_high")),
            ("importance_cap", self.importance_cap is None or self.old_logprobs == "learner",
             "none where old_logprobs is 'engine': there PPO's own ratio is the importance weight"),
            ("importance_cap", self.uniform_groups != "replay" or corrected,
             "a number above 0 where uniform_groups is 'replay' and old_logprobs 'learner': what is replayed comes "
             "from older weights"),
            ("uniform_groups", self.uniform_groups == "keep" or self.advantage == "group",
             "'keep' where advantage is 'gae': there a group that scores alike still teaches the critic"),
            ("importance_cap", not self.max_staleness or corrected,
             "a number above 0 where max_staleness is 1 or more and old_logprobs 'learner': rollouts come from older "
             "weights"),
            ("num_env_runners", not self.max_staleness or self.num_env_runners > 0,
             "1 or more where max_staleness is: rollouts that run beside the learners need processes of their own"),
            ("oversample", self.oversample == 1 or self.advantage == "group",
             "1 where advantage is 'gae': there a group that scores alike still teaches the critic"),
            _processes(self),
            ("max_staleness", not self.engine.colocate or not self.max_staleness,
             "0 where engine.colocate is true: engines sleep while learners work"),
            ("num_gpus_per_learner", not self.engine.colocate or self.num_gpus_per_learner == 1,
             "1 where engine.colocate is true: engines sleep on the learners' GPUs, and a CPU has nothing to share"),
            ("engine.num_engines", not self.engine.colocate
             or self.engine.num_engines * self.engine.vllm.tensor_parallel_size <= self.num_learners,
             f"so many that with their tensor_parallel_size they fit on the GPUs of {self.num_learners} learners"),
        )  # fmt: skip
        if self.probes.enabled:
            self._check_probes()
        if self.selective.enabled:
            self._check_selective()

    @property
    def aligned_engine(self) -> EngineRecipe:
        """`engine` with the learner's type of weights where its own is "auto"."""
        dtype = self.learner.dtype if self.engine.vllm.dtype == "auto" else self.engine.vllm.dtype
        return replace(self.engine, vllm=replace(self.engine.vllm, dtype=dtype))

    def _check_probes(self) -> None:
        revival, probed = self.probes.revival(["any"], seed=self.seed), self.probes.n_candidates(self.group_size)
        counted = int(self.groups_per_iteration * min(shares_of(self.env).values())) * (self.group_size - probed)
        require(
            self,
            ("advantage", self.advantage == "group",
             "'group' where probes are enabled: a probe is compared with rollouts of its group that were left alone; a "
             "critic would learn the value of a policy that is made to begin with operations"),
            ("probes.share", probed > 0, f"at least one rollout of a group of {self.group_size}"),
            ("probes.window", counted * self.probes.window >= revival.min_episodes,
             f"{-(-revival.min_episodes // max(counted, 1))} or more: there are no probes until {revival.min_episodes} "
             f"episodes are counted, and an iteration has {counted} that are none"),
        )  # fmt: skip

    def _check_selective(self) -> None:
        free = self.group_size - self.selective.n_arms - self.probes.n_candidates(self.group_size)
        require(
            self,
            ("advantage", self.advantage == "group",
             "'group' where selective is enabled: rollouts of a group are compared, each with those like it"),
            ("selective.withdrawn", self.selective.withdrawn != 1,
             "0, or 2 and more: they are compared with each other"),
            ("selective.answer", free >= 2,
             f"so few with selective.withdrawn (and probes) that 2 of {self.group_size} rollouts are left alone, in "
             f"place of {free}"),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class SFTRecipe:
    """Supervised training on traces, the warm start before reinforcement learning (see docs/warm_start.md)."""

    model: str
    """The checkpoint to start from: its directory, or its hub name."""
    traces: str
    """The demonstrations to train on: a file, or a directory."""
    format: Literal["traces", "messages"] = "traces"
    """Either "traces", played in their environments (JSONL, see `training/demonstrations.py`), or "messages", recorded
    conversations in the released format."""
    out: str = "runs/sft"
    """Directory of the run."""
    seed: NonNegativeInt = 0
    """Seed of everything random."""

    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 32
    """Traces per step, of all learners together."""
    lr: PositiveFloat = 1e-5
    """Peak learning rate of AdamW."""
    lr_warmup_steps: NonNegativeInt = 30
    """Steps over which the learning rate rises to lr."""
    lr_decay_fraction: Share = 0.3
    """Share of the steps, at the end, over which it falls linearly to 0."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this global norm."""
    checkpoint_every: PositiveInt = 100
    """Steps between checkpoints."""
    wandb: bool = True
    """Log to Weights & Biases if it is installed, offline if no key is set."""

    images: ImagesRecipe = field(default_factory=ImagesRecipe)
    """Sizes of the images of recorded conversations (format = "messages")."""
    trained_turns: NonNegativeInt = 2
    """Of a recorded conversation the last so many turns of the assistant carry a loss, earlier ones are context; 0 for
    all (format = "messages")."""
    max_length: PositiveInt | None = None
    """A trace with more ids counts as bad; none does by default."""
    skip_bad_rows: bool = False
    """Leave bad traces out, and name them in OUT/skipped_rows.jsonl, instead of stopping."""
    pack_tokens: PositiveInt | None = None
    """Traces are put side by side into rows of at most so many ids, without attention between them; each row goes
    through the model by itself, and gradients add up. By default traces are padded to similar lengths."""
    prefetch: NonNegativeInt = 1
    """Batches that are read ahead, in a thread; 0 reads when a batch is needed."""

    learner: LearnerRecipe = field(default_factory=LearnerRecipe)
    """How the model is held and trained."""
    num_learners: NonNegativeInt = 0
    """Processes that train together; 0 for this process."""
    num_cpus_per_learner: NonNegativeFloat = 1.0
    """What Ray reserves for each; may be a fraction."""
    num_gpus_per_learner: NonNegativeFloat = 0.0
    """What Ray reserves for each: 1, or 0 on a CPU."""
    max_restarts: NonNegativeInt = 0
    """How often learners are started again, from the newest checkpoint, after one was lost."""

    def __post_init__(self) -> None:
        require(
            self,
            ("batch_size", self.batch_size >= self.num_learners,
             f"at least one trace for each of {self.num_learners} learners"),
            _processes(self),
            ("pack_tokens", self.pack_tokens is None or self.learner.micro_batch_tokens is None,
             "none where learner.micro_batch_tokens is set: that is a limit for padded rows"),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, config=RECIPE)
class TracesRecipe:
    """Demonstrations of an environment by its oracle, for the warm start."""

    env: EnvRecipe
    """The environment; its samples must know their evidence (box, time or call) if any operation is to be shown."""
    out: str = "runs/traces.jsonl"
    """The JSONL file to write."""
    seed: NonNegativeInt = 0
    """Seed of the samples and what happens in them."""
    count: PositiveInt = 1000
    """How many; samples come again once all had their turn."""
    zoom: Share = 0.35
    """Share of demonstrations that use operations where none is needed (where one is, all do)."""
    correction: Share = 0.2
    """Share of those with operations that begin with a wrong one, which carries no loss."""
