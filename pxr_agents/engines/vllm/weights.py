"""Weights on their way into vLLM's processes as a file in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

SHARED_MEMORY = Path("/dev/shm")


@contextmanager
def weights_directory(weights: Mapping[str, Tensor]) -> Iterator[Path]:
    """A temporary directory with the weights as a safetensors file, in shared memory where there is some.

    Raises:
        ValueError: there is no output layer among them. Checkpoints leave it out if it is tied to the embeddings, but
            vLLM keeps a packed copy of it on CPUs, which would silently stay the old one.
    """
    from safetensors.torch import save_file

    if "lm_head.weight" not in weights:
        raise ValueError(
            f"{len(weights)} weights came without 'lm_head.weight'; expected the model's whole state_dict(), in which "
            f"tied weights have all their names"
        )
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        # The format has no notion of tied weights.
        separate[name] = tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
        seen.add(tensor.data_ptr())
    with tempfile.TemporaryDirectory(
        prefix="pxr-weights-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    ) as directory:
        save_file(separate, Path(directory) / "model.safetensors", metadata={"format": "pt"})
        yield Path(directory)
