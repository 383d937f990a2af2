"""RLlib's torch learner with a data plane of whole episodes: no connectors, no SingleAgentEpisode.

What is learned is in `training.update`; here it meets RLlib's steps, DDP, DeepSpeed, and learners that fail, die or
hang.
"""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store

from pxr_agents.vlm import VLM
from ..batch import Bucket, failed_batch_error
from ..learners import TAG, has_adapters, plain_weights, start_engine
from ..policy import Policy
from ..run_directory import Interrupted, LostProcessError, NonFiniteError, TrainingError, first_line
from ..update import Minibatch, Ranks, Update

_FAILED = "pxr/failed_learner"
# The exception is on its way to the driver within milliseconds.
_SECONDS_TO_REPORT = 5.0
# Answers of living processes, and of dead ones, come at once.
_PING_TIMEOUT = 10.0


class VLMModule(TorchRLModule):
    """A `Policy` as RLlib knows it, called with a list of buckets; `model_config["policy"]` are its arguments."""

    policy: Policy

    def setup(self) -> None:
        arguments = self.model_config["policy"]
        if self.inference_only:
            # Engines sample from it: no critic, and adapters come merged into the weights.
            arguments = {name: arguments[name] for name in ("path", "temperature")}
        self.policy = Policy.load(**arguments)
        # Registers the parameters; the policy itself is no torch module.
        self.model, self.value_head = self.policy.vlm.model, self.policy.value_head

    @property
    def vlm(self) -> VLM:
        return self.policy.vlm

    def get_state(self, *args: Any, inference_only: bool = False, **kwargs: Any) -> Any:
        state = super().get_state(*args, inference_only=inference_only, **kwargs)
        if inference_only:
            if has_adapters(self.model):
                return {f"model.{name}": tensor.cpu().numpy() for name, tensor in plain_weights(self.model)}
            state = {name: value for name, value in state.items() if not name.startswith("value_head.")}
        return state

    def _forward(self, batch: list[Bucket], **kwargs: Any) -> dict[str, Tensor]:
        return self.policy(batch)

    _forward_train = _forward


@dataclass(frozen=True, slots=True)
class RLlibMinibatch:
    """Stands where RLlib expects a MultiAgentBatch."""

    policy_batches: dict[str, Minibatch]

    def env_steps(self) -> int:
        return self.policy_batches[DEFAULT_MODULE_ID].n_turns


class TokenPPOLearner(TorchLearner):
    """Runs an `Update`, `ppo`. Its `update` gets references to groups and the keywords of `Update.minibatches`."""

    ppo: Update

    def build(self) -> None:
        super().build()
        ranks = Ranks(self.config.num_learners, self._device)
        self.ppo = Update(
            self.config.ppo, self.module[DEFAULT_MODULE_ID].unwrapped().policy, ranks=ranks, **self._passes()
        )

    def _passes(self) -> dict[str, Any]:
        """How `Update` passes rows through the model, where that is not as the policy does."""
        return {}

    def get_parameters(self, module: Any) -> list[Tensor]:
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        parameters = self.get_parameters(self._module[module_id])
        ppo = self.config.ppo
        optimizer = torch.optim.AdamW(parameters, lr=ppo.lr, betas=tuple(ppo.adam_betas), weight_decay=ppo.weight_decay)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=parameters, lr_or_lr_schedule=ppo.lr)

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """As RLlib's. One of several learners that fails ends its process a little later: nobody waits for it."""
        try:
            return super().update(*args, **kwargs)
        except NonFiniteError:
            # All of them noticed, and stopped at the same place.
            raise
        except Exception:
            if self.config.num_learners > 1:
                leave_group()
            raise

    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, iteration: int = 0, weights_version: int | None = None, **kwargs: Any
    ) -> Iterator[RLlibMinibatch]:
        for _, optimizer in self.get_optimizers_for_module(DEFAULT_MODULE_ID):
            self._set_optimizer_lr(optimizer, self.ppo.lr(iteration))
        groups = training_data.episodes
        for batch in self.ppo.minibatches(groups, iteration=iteration, weights_version=weights_version):
            yield RLlibMinibatch({DEFAULT_MODULE_ID: batch})

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: Minibatch, fwd_out: dict[str, Tensor]
    ) -> Tensor:
        return self.ppo.loss(batch, fwd_out)

    def _uncompiled_update(self, batch: dict[str, Minibatch], **kwargs: Any) -> tuple[Any, Any, Any]:
        """One optimizer step on a minibatch, whose gradients add up pass by pass.

        RLlib's would have one loss, and with it the graph, of the whole minibatch.
        """
        out = {DEFAULT_MODULE_ID: self._backward(batch[DEFAULT_MODULE_ID])}
        losses = self.compute_losses(fwd_out=out, batch=batch)
        self._step()
        return out, losses, {}

    def _backward(self, batch: Minibatch) -> dict[str, Tensor]:
        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)
        module = self.module[DEFAULT_MODULE_ID]
        return self.ppo.backward(batch, module.forward_train, unsynced=getattr(module, "no_sync", nullcontext))

    def _step(self) -> None:
        # Parameters that took no part get zeros, not None.
        gradients = {
            ref: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for ref, parameter in self._params.items()
        }
        # RLlib's own norm makes 0 of nan, and a large number of infinity.
        if self.ppo.takes_step(float(torch.nn.utils.get_total_norm(gradients.values()))):
            self.apply_gradients(self.postprocess_gradients(gradients))

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """RLlib's schedules over time steps are not used: the rate is set from the iteration."""
        self.metrics.log_dict(self.ppo.metrics(), key=DEFAULT_MODULE_ID, window=1)


class DeepSpeedPPOLearner(TokenPPOLearner):
    """`TokenPPOLearner` whose optimizer states and gradients (ZeRO-2) and weights (ZeRO-3) are split over the learners.

    Only the step differs: DeepSpeed averages the gradients over the learners, clips them and steps. The numbers are the
    same, up to rounding.

    RLlib asks its first learner alone for weights and for the state of the optimizer. Here it has but a part of them:
    they are gathered by all learners together (`training.rllib.weights`), and checkpoints are written by all of them.
    """

    # DeepSpeed's, around the module.
    engine: Any = None

    def build(self) -> None:
        # DeepSpeed asks for what `torchrun` would have set. A learner sees its own GPU only, which is number 0.
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0", "LOCAL_SIZE": str(world)}
        super().build()

    def _passes(self) -> dict[str, Any]:
        # DeepSpeed follows which weights come when, pass by pass, from the outermost call.
        return {"forward": self.engine, "in_step": True}

    def _map_module_to_device(self, module: Any) -> None:
        """The model stays in the memory of the CPU; DeepSpeed moves what belongs on this learner's GPU."""

    def _make_modules_ddp_if_necessary(self) -> None:
        module = self._module[DEFAULT_MODULE_ID]
        if module.value_head is not None:
            module.value_head.register_forward_pre_hook(_cast_to_weight)
        [(_, optimizer)] = self.get_optimizers_for_module(DEFAULT_MODULE_ID)
        self.engine = start_engine(module, optimizer, self.config.ppo)

    def _backward(self, batch: Minibatch) -> dict[str, Tensor]:
        return self.ppo.backward(batch, self.engine, self.engine.backward)

    def _step(self) -> None:
        # DeepSpeed leaves a step out by itself where the norm is no number.
        self.engine.step()
        self.ppo.takes_step(float(self.engine.get_global_grad_norm()))

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Without weights and optimizer: this learner has but a part of them (see `save_shard`)."""
        others = [not_components] if isinstance(not_components, str) else not_components or []
        without = sorted({COMPONENT_RL_MODULE, COMPONENT_OPTIMIZER, *others})
        state: dict[str, Any] = super().get_state(components, not_components=without, **kwargs)
        return state

    def get_checkpointable_components(self) -> list[Any]:
        return []

    def save_shard(self, path: Path) -> None:
        """Write this learner's part of the weights and of the optimizer. All learners have to, together."""
        self.engine.save_checkpoint(str(path), tag=TAG, save_latest=False)

    def load_shard(self, path: Path, *, universal: bool = False) -> None:
        """Read what `save_shard` of as many learners wrote, or, from a `universal_checkpoint`, of any number. All
        learners have to, together."""
        # What a recipe would say at the start, before it is known who wrote the checkpoint.
        self.engine._config.load_universal_checkpoint = universal
        self.engine.load_checkpoint(str(path), tag=TAG)


def _cast_to_weight(module: torch.nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(module.weight.dtype),)


def leave_group() -> None:
    """What one of several learners does about an exception, in its `except` block, before it raises it again.

    The others wait for its part of a sum, and would until the collective times out (half an hour). A process that ends
    closes its connections, which they notice at once; so it says what happened where they can read it, hands the
    exception to the driver, and ends.

    Raises:
        RuntimeError: another learner failed first, and this exception is no more than its consequence.
    """
    # The store is gone if the learner that held it is.
    first = None
    with contextlib.suppress(RuntimeError):
        store = _get_default_store()
        if store.check([_FAILED]):
            first = store.get(_FAILED).decode()
        else:
            store.set(_FAILED, f"learner {torch.distributed.get_rank()}: {traceback.format_exc()}")
    if first is not None:
        raise RuntimeError(f"Another learner failed, and this one cannot go on without it:\n{first}")
    timer = threading.Timer(_SECONDS_TO_REPORT, os._exit, (1,))
    timer.daemon = True
    timer.start()


class LearnerWatch:
    """Ends the wait for learners of RLlib's group that do not finish within `timeout` seconds: RLlib would wait for
    ever for one that hangs in a collective."""

    def __init__(self, learner_group: Any, timeout: float) -> None:
        self._timeout, self._expired = timeout, False
        self._actors = list(learner_group._worker_manager.actors().values()) if learner_group.is_remote else []

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """What happens inside may take so long; then all learners are killed, which ends every wait for them.

        Raises:
            LostProcessError: it took longer, or a learner died meanwhile.
        """
        timer = threading.Timer(self._timeout, self._expire)
        timer.daemon = True
        if self._actors:
            timer.start()
        try:
            yield
        except (Interrupted, TrainingError):
            raise
        except Exception as error:
            why = self._why()
            if why is None:
                raise
            raise LostProcessError(f"{why} ({first_line(error)})") from error
        finally:
            timer.cancel()

    def _why(self) -> str | None:
        if self._expired:
            return f"The learners did not finish within learner_timeout={self._timeout:g} s and were killed"
        dead = [str(number) for number, actor in enumerate(self._actors) if _is_dead(actor)]
        if not dead:
            return None
        numbers = ", ".join(dead)
        return f"Learner {numbers} of {len(self._actors)} died" if len(dead) == 1 else f"Learners {numbers} died"

    def _expire(self) -> None:
        self._expired = True
        for actor in self._actors:
            ray.kill(actor)


def _is_dead(actor: Any) -> bool:
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=_PING_TIMEOUT)
    except RayActorError:
        return True
    except (RayTaskError, GetTimeoutError):
        pass
    return False


def failed_batch(error: NonFiniteError, learner_group: Any) -> NonFiniteError:
    """The error with what every learner was about to learn from."""
    results = learner_group.foreach_learner(
        lambda learner: learner.ppo.failed_batch, healthy_only=False, timeout_seconds=_PING_TIMEOUT
    )
    batches = [batch for result in results if result.ok and (batch := result.get()) is not None]
    # From another process it comes with its traceback around it.
    return failed_batch_error(str(getattr(error, "cause", error)), batches)
