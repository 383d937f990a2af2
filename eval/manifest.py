"""What made a score: everything that has to be equal for two scores to be comparable."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium

from pxr_agents.types import Sampling

_VERSIONS = ("pxr-gym", "numpy", "gymnasium", "pillow")
_MODEL_VERSIONS = ("torch", "transformers", "tokenizers")
_MODEL_SUFFIXES = frozenset({".safetensors", ".bin", ".json", ".jinja", ".txt", ".model"})


def build_manifest(
    *,
    env: gymnasium.Env,
    sample_ids: Sequence[str],
    agent: str,
    model: str | None,
    sampling: Sampling | None,
    seed: int,
) -> dict[str, Any]:
    """The manifest of a run, as plain JSON values.

    Args:
        env: one of the environments of the run; its spec rebuilds it anywhere.
        sample_ids: the samples in the order they are run; recorded as their number and a hash.
        agent: the agent's name as given on the command line.
        model: directory or hub name of the model, None for agents without one.
        sampling: how the model's tokens are drawn, None for agents without a model.
        seed: seed of sampling noise and scripted randomness.
    """
    if env.spec is None:
        raise ValueError("the environment has no spec, so it could not be rebuilt. Make it with gymnasium.make().")
    return {
        "env": json.loads(env.spec.to_json()),
        "n_samples": len(sample_ids),
        "samples_sha256": hashlib.sha256("\n".join(sample_ids).encode("utf-8", "surrogatepass")).hexdigest(),
        "agent": agent,
        "model": model,
        "model_sha256": {} if model is None else hash_model(Path(model)),
        "sampling": None
        if sampling is None
        else {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens},
        "seed": seed,
        "versions": _versions(_VERSIONS + (_MODEL_VERSIONS if model is not None else ())),
    }


def hash_model(directory: Path) -> dict[str, str]:
    """SHA-256 of weights, configuration, tokenizer and chat template by file name; empty if it is no directory."""
    if not directory.is_dir():
        return {}
    hashes = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.suffix in _MODEL_SUFFIXES:
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _versions(names: Sequence[str]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
