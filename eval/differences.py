"""How two manifests differ, and whether it matters for a comparison of their scores."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pxr_agents.engines.vllm.arguments import StartArguments
from pxr_env.errors import quote, show

Weight = Literal["yes", "maybe", "no"]

#: Arguments of an environment, by the field that says what they came to.
_RESOLVED = {
    "pixels": ("min_pixels", "max_pixels", "size_multiple", "video_frames", "max_frame_pixels"),
    "prompt": (
        *("dialect", "coordinates", "operations", "max_turns", "max_operations", "system_prompt", "question_suffix"),
        "images_in_text",
    ),
    "scorer": ("scorer",),
}
#: Start arguments of an engine that decide how much fits at once.
_ROOM = (
    *("block_size", "enforce_eager", "gpu_memory_utilization", "kv_cache_memory_bytes", "seed", "weight_transfer"),
    *("max_num_batched_tokens", "max_num_seqs", "tensor_parallel_size"),
)

#: Field -> (whether a difference matters, why). The longest prefix of a field counts; what is not named may matter.
FIELDS: Mapping[str, tuple[Weight, str]] = {
    "suite": ("no", "a name; what it stands for is compared field by field"),
    "env.id": ("yes", "another benchmark"),
    "env.kwargs": ("yes", "other rules of the environment"),
    "env.kwargs.data": ("no", "where the data lie; their hash is compared"),
    "env.kwargs.check_media": ("no", "only when files are checked"),
    "env.kwargs.render_mode": ("no", "only what people see"),
    # Recorded as resolved elsewhere, whether given or default.
    **{f"env.kwargs.{name}": ("no", f"compared under {where}") for where, names in _RESOLVED.items() for name in names},
    "env": ("no", "how it was registered"),
    **dict.fromkeys(("n_samples", "samples_sha256", "samples"), ("no", "only common samples are compared")),
    "data": ("maybe", "other data, or more of them; every common sample is compared by its own hash"),
    "agent": ("maybe", "another program between model and environment"),
    "engine": ("maybe", "other arithmetic (precision, kernels)"),
    "engine.max_model_len": ("maybe", "where a conversation outgrows the context, its episode has no answer"),
    "engine.images_per_prompt": ("maybe", "where a conversation has more images, its episode has no answer"),
    **{f"engine.{name}": ("no", "how much fits and how fast it is; answers change by rounding only") for name in _ROOM},
    "concurrency": ("no", "episodes at once; answers change by rounding only"),
    "model": ("yes", "another model"),
    "model_revision": ("maybe", "another version of the model; its files are compared by their hashes"),
    "model_sha256": ("maybe", "other files beside the weights"),
    "weights_sha256": ("yes", "other weights"),
    "server": ("maybe", "another host, or another name of the model there"),
    "server.model": ("yes", "another model"),
    "server.preflight": ("no", "what a server was found to do; what it then did is compared"),
    "chat_template_sha256": ("yes", "the model reads the same messages as other text"),
    "prompt": ("yes", "the model is told something else"),
    "pixels": ("yes", "the model sees other pixels"),
    "sampling": ("yes", "tokens are drawn differently"),
    "recipe": ("no", "a name; what it stands for is compared field by field"),
    "repeats": ("no", "more episodes of the same kind"),
    "scorer": ("yes", "answers are scored by another rule"),
    "judge.base_url": ("no", "compared as its host"),
    "judge": ("yes", "answers are judged by somebody else"),
    "seed": ("maybe", "other noise"),
    "versions": ("maybe", "another version may compute something else"),
    "commit": ("maybe", "other code"),
}

#: What differs between two models: in a comparison of models these are what is compared.
MODEL_FIELDS = (
    "model", "model_revision", "model_sha256", "weights_sha256", "server", "chat_template_sha256", "agent", "engine",
)  # fmt: skip

#: Without these an interrupted run is another one, though its scores might be compared.
_OF_ONE_RUN = (
    *("n_samples", "samples_sha256", "data.file_sha256", "agent", "seed", "repeats", "model_sha256", "env.kwargs"),
    "intervention",
)

#: Limits of an engine, or of a server that names its own -> what holds where none is given. With a higher one all that
#: fitted stays as it is.
_LIMITS: Mapping[str, float] = {
    "engine.max_model_len": math.inf,
    "engine.images_per_prompt": StartArguments().images_per_prompt,
    "server.says.max_model_len": math.inf,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A field that is not equal in all manifests.

    Args:
        field: its path, such as "sampling.temperature".
        values: one per manifest, None where it is absent.
        matters: "yes", "maybe", "no"; "compared" for what the comparison is about.
    """

    field: str
    values: tuple[Any, ...]
    matters: Weight | Literal["compared"]
    why: str


def find_differences(manifests: Sequence[Mapping[str, Any]], compared: Collection[str] = ()) -> list[Difference]:
    """The fields in which manifests differ, those that matter first.

    Args:
        compared: fields (or their prefixes) that are meant to differ.
    """
    flat = [_flatten(manifest) for manifest in manifests]
    sampled = [one for one in flat if one.get("sampling", "") is not None]
    differences = []
    for field in sorted({field for one in flat for field in one}):
        values = tuple(one.get(field) for one in flat)
        if any(value != values[0] for value in values[1:]):
            weight, why = _weigh(field)
            if _is_among(field, ("sampling",)) and len({json.dumps(one.get(field)) for one in sampled}) < 2:
                weight, why = "no", "an agent without a model draws no tokens"
            matters = "compared" if _is_among(field, compared) else weight
            differences.append(Difference(field=field, values=values, matters=matters, why=why))
    order = ("yes", "maybe", "compared", "no")
    return sorted(differences, key=lambda difference: order.index(difference.matters))


def describe(difference: Difference) -> str:
    """The values of a difference on one line."""
    return " | ".join("-" if value is None else show(value, 60) for value in difference.values)


def changes_that_matter(started: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, why an interrupted run cannot be continued with other settings; empty if it can.

    The number of samples and repeats, the data and the agent matter as well. Versions and the commit may change: the
    manifest keeps what the run began with. Limits of the engine may be raised (see `limits`), and what only decides how
    much fits, or what a server says of itself, may change: the manifest follows.
    """
    return [
        f"{one.field} was {_short(one.values[0])} and is {_short(one.values[1])}"
        for one in find_differences([started, now])
        if one.matters == "yes"
        or _is_among(one.field, _OF_ONE_RUN)
        or (one.field.startswith("engine.") and one.matters != "no" and not _is_raised(one))
    ]


def limits(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The limits of a run's engine by name, those included that nobody gave."""
    flat = _flatten(manifest)
    return {name: flat.get(name) or most for name, most in _LIMITS.items()}


def _is_raised(difference: Difference) -> bool:
    if difference.field not in _LIMITS:
        return False
    was, now = (value or _LIMITS[difference.field] for value in difference.values)
    return bool(was <= now)


def _is_among(field: str, names: Collection[str]) -> bool:
    return any(field == name or field.startswith(f"{name}.") for name in names)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Objects become paths; lists and other values stay."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        path: item
        for name, inner in value.items()
        for path, item in _flatten(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _weigh(field: str) -> tuple[Weight, str]:
    while field:
        if field in FIELDS:
            return FIELDS[field]
        field = field.rpartition(".")[0]
    return "maybe", "unknown to this version"


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, str) else quote(json.dumps(value), 120)
