"""What a checkpoint says besides its weights: architecture, tokenizer, chat template, how pixels become patches.

It is read in a second, so that everything that can be wrong with the files is found before a process is started.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pxr_agents.chat import ChatFormat
from pxr_env.media import MAX_ASPECT_RATIO

if TYPE_CHECKING:
    from torch import Tensor

#: The architectures (`model_type` of config.json) whose forward pass, positions and pixels are tested here.
ARCHITECTURES = {
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL, mixture of experts",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageNormalization:
    """How pixels become patches (from the checkpoint's image processor configuration)."""

    patch_size: int  # side of a patch in pixels
    merge_size: int  # patches a side that become one vision token
    temporal_patch_size: int  # frames a patch spans; an image counts as that many equal ones
    mean: tuple[float, ...]  # of red, green and blue (0 to 1), subtracted
    std: tuple[float, ...]  # divided by then
    min_pixels: int = 0  # smaller images (area in pixels) are enlarged by the checkpoint's own processor
    max_pixels: int = 2**62  # larger ones are shrunk by it

    @property
    def image_unit(self) -> int:
        """Side of a vision token in pixels: 28 for Qwen2.5-VL, 32 for Qwen3-VL."""
        return self.patch_size * self.merge_size

    def keeps(self, width: int, height: int) -> bool:
        """Whether the checkpoint's own processor leaves an image of this size as it is. Here none is ever resized."""
        return (
            width % self.image_unit == height % self.image_unit == 0
            and self.min_pixels <= width * height <= self.max_pixels
            and max(width, height) <= MAX_ASPECT_RATIO * min(width, height)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint without its weights."""

    folder: Path  # for a hub name: in the Hugging Face cache
    config: Any  # of transformers
    chat: ChatFormat  # with its tokenizer
    norm: ImageNormalization
    processor_files: Mapping[str, bytes]  # its processor configurations, name -> content

    @property
    def family(self) -> str:
        """Its architecture in words."""
        return ARCHITECTURES[self.config.model_type]

    @property
    def has_experts(self) -> bool:
        """Whether it is a mixture of experts."""
        return bool(getattr(self.config.text_config, "num_experts", 0))

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """What a policy may never sample: `chat.banned_ids`, and the rows of the vocabulary that decode to nothing."""
        return (*self.chat.banned_ids, *range(len(self.chat.tokenizer), self.config.text_config.vocab_size))


def read_checkpoint(model: str | Path) -> Checkpoint:
    """Read and check everything but the weights of a Qwen2.5-VL or Qwen3-VL checkpoint.

    Args:
        model: a directory, or a hub name such as "Qwen/Qwen2.5-VL-7B-Instruct".

    Raises:
        FileNotFoundError: there is no such checkpoint, or it lacks a file.
        ValueError: it is of another architecture, or its files do not belong together.
    """
    folder = find_checkpoint(model)
    config = read_config(folder, model)
    tokenizer = _read_tokenizer(folder)
    norm, files = read_processor(folder, config.vision_config)
    chat = ChatFormat(tokenizer, patch_size=norm.patch_size, merge_size=norm.merge_size)
    if config.image_token_id != chat.image_id or len(tokenizer) > config.text_config.vocab_size:
        raise ValueError(
            f"The tokenizer of {model} has {len(tokenizer)} ids, and <|image_pad|> is id {chat.image_id}; its "
            f"config.json expects at most {config.text_config.vocab_size} and image_token_id {config.image_token_id}. "
            f"Copy the tokenizer files of the checkpoint that the weights came from."
        )
    return Checkpoint(folder=folder, config=config, chat=chat, norm=norm, processor_files=files)


def find_checkpoint(model: str | Path, *, weights: bool = False) -> Path:
    """The directory of a checkpoint's small files, with `weights` of all; those of a hub name are downloaded if they
    are not in the cache.

    Raises:
        FileNotFoundError: it is no directory, and no hub name that is cached or can be reached; or weights are missing.
    """
    folder = _folder(model, ["*.json", "*.jinja", "*.txt", *(["*.safetensors"] if weights else [])])
    if weights:
        check_weights(folder)
    return folder


def _folder(model: str | Path, files: list[str]) -> Path:
    if Path(model).is_dir() and str(model):
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(str(model), allow_patterns=files))
    except HFValidationError:
        reason = "There is no such directory, and it is no hub name (owner/name)."
    except (OSError, HfHubHTTPError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = (
            f"There is no such directory, it is not in the Hugging Face cache, and the hub did not give it "
            f"({first_line}). Where the hub can be reached, run `hf download {model}`; then set HF_HOME to that cache, "
            f"or pass the path."
        )
    raise FileNotFoundError(
        f"got model={str(model)!r}, expected the directory of a Qwen2.5-VL or Qwen3-VL checkpoint, or its hub name. "
        f"{reason}"
    )


def published_weights(model_type: str, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Weights of a model in memory as checkpoints of its family hold them, which is what engines read.

    transformers turns the matrices of the experts of a Qwen3-VL when it reads them. When it writes them (5.19) it does
    not, and vLLM cannot load that. All other families are the same in memory and on disk.
    """
    for name, tensor in weights:
        turned = model_type == "qwen3_vl_moe" and name.endswith((".experts.gate_up_proj", ".experts.down_proj"))
        yield name, tensor.transpose(1, 2).contiguous() if turned else tensor


def save_weights(model: Any, path: str | Path) -> None:
    """Write the weights and config.json of a transformers model as checkpoints of its family have them."""
    state = dict(published_weights(model.config.model_type, model.state_dict().items()))
    # What transformers calls the original format is the one in memory wherever the shapes fit that.
    model.save_pretrained(path, state_dict=state, save_original_format=model.config.model_type != "qwen3_vl_moe")


def hub_revision(folder: Path) -> str | None:
    """The commit on the hub that a directory of the Hugging Face cache holds; None for any other directory."""
    cached = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    return folder.name if cached else None


def has_all_it_gets(model: str | Path) -> bool:
    """Whether nothing more of a checkpoint can come: it is a directory, or the hub is out of reach on purpose."""
    if Path(model).is_dir():
        return True
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def check_weights(folder: Path) -> None:
    """Raises FileNotFoundError if a file of weights is missing in a checkpoint directory, or only a pointer to one."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(_read_json(index)["weight_map"].values())) if index.is_file() else ["model.safetensors"]
    for name in names:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; expected {len(names)} files of weights. Was the download interrupted?"
            )
        with path.open("rb") as file:
            if file.read(12) == b"version http":
                raise FileNotFoundError(
                    f"{path} is a pointer of Git LFS; expected the weights themselves. Run `git lfs pull` there."
                )


def _read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint, with the chat template of its processor.

    Qwen2.5-VL as published has two templates: that in tokenizer_config.json is for text and tools and knows no images;
    the one that the model was trained with lies in chat_template.json, where only a processor looks.
    """
    from transformers import AutoTokenizer

    # Without them transformers makes a tokenizer that knows no words, and says nothing.
    if not (folder / "tokenizer.json").is_file() and not all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    ):
        raise FileNotFoundError(
            f"{folder} has no tokenizer; expected tokenizer.json, or vocab.json and merges.txt. Copy them from the "
            f"checkpoint it was made from."
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = _processor_template(folder) or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise FileNotFoundError(
            f"{folder} has no chat template; expected chat_template.jinja, chat_template.json, or one in "
            f"tokenizer_config.json. Copy it from the checkpoint it was made from."
        )
    tokenizer.chat_template = template
    return tokenizer


def _processor_template(folder: Path) -> str | None:
    """The chat template a processor would use, in the order transformers looks for it."""
    template = _read_json(folder / "processor_config.json", missing=True).get("chat_template")
    if isinstance(template, str):
        return template
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return _read_json(folder / "chat_template.json", missing=True).get("chat_template")


def read_processor(folder: Path, vision: Any) -> tuple[ImageNormalization, dict[str, bytes]]:
    """How a checkpoint with this vision configuration normalizes pixels, and its processor's files, name -> content.

    It lies in preprocessor_config.json, or, as transformers 5 saves it, within processor_config.json.

    Raises:
        FileNotFoundError: there is no image processor.
        ValueError: the processor cuts other patches than the model expects, or does something else to the pixels.
    """
    names = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
    files = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    processor = _read_json(folder / "processor_config.json", missing=True).get("image_processor")
    if processor is None:
        if "preprocessor_config.json" not in files:
            raise FileNotFoundError(
                f"{folder} has no preprocessor_config.json; expected a checkpoint saved with its image processor. Copy "
                f"the file from the checkpoint it was made from."
            )
        processor = _read_json(folder / "preprocessor_config.json")
    size = processor.get("size") or {}
    norm = ImageNormalization(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        mean=tuple(processor["image_mean"]),
        std=tuple(processor["image_std"]),
        min_pixels=processor.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or 0,
        max_pixels=processor.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or 2**62,
    )
    expected = {
        "patch_size": norm.patch_size,
        "merge_size": norm.merge_size,
        "temporal_patch_size": norm.temporal_patch_size,
        "do_rescale": True,
        "do_normalize": True,
    }
    for key, value in expected.items():
        if processor.get(key, value) not in (value, None):
            raise ValueError(
                f"The image processor of {folder} has {key}={processor[key]}; expected {value}, as its config.json and "
                f"this package have it. Is the processor's file from another checkpoint?"
            )
    return norm, files


def read_config(folder: Path, model: str | Path) -> Any:
    """What transformers makes of the config.json in the directory of a checkpoint, `model` in messages.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another architecture.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; expected the directory of a checkpoint (model={model})")
    model_type = _read_json(folder / "config.json").get("model_type")
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"model={str(model)!r} is a {model_type}; expected one of {', '.join(ARCHITECTURES)} "
            f"({', '.join(ARCHITECTURES.values())}). See docs/models.md."
        )
    return AutoConfig.from_pretrained(folder)


def _read_json(path: Path, *, missing: bool = False) -> dict[str, Any]:
    """The object in a file; an empty one where it may be missing, and is."""
    if missing and not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON object ({error}); expected the file of a checkpoint") from error
