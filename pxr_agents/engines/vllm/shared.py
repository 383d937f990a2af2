"""Weights from one process to vLLM's, which run on the same node, without a copy in between. No vLLM in here.

What lies in memory that processes share through a file (Ray's object store) is mapped by vLLM's processes as well;
anything else is written once into an anonymous file in memory. Linux only, as vLLM is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Of tensors in a file; no type needs more.
_ALIGNMENT = 64

Place = tuple[str, str, int, str, list[int]]
"""Name of a weight, path and offset in bytes where it lies, its type and shape."""


def _shared_mappings() -> list[tuple[range, str, int]]:
    """Addresses that this process shares through files which others can open, too, the file, and where it begins there:
    proc(5), "/proc/pid/maps".

    The files of Ray's object store have no name any more; the process that started this one, the raylet, has them open.
    """
    opened: dict[tuple[int, int], str] = {}
    with suppress(OSError):
        for path in Path(f"/proc/{os.getppid()}/fd").iterdir():
            # Some are closed meanwhile.
            with suppress(OSError):
                opened[path.stat().st_dev, path.stat().st_ino] = str(path)
    mappings = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, mode, offset, device, inode, *_ = line.split()
        start, end, major, minor = (int(number, 16) for number in (*span.split("-"), *device.split(":")))
        file = opened.get((os.makedev(major, minor), int(inode)))
        if file is not None and mode.endswith("s"):
            mappings.append((range(start, end), file, int(offset, 16)))
    return mappings


@contextmanager
def shared_weights(weights: Mapping[str, Tensor]) -> Iterator[list[Place]]:
    """Inside, other processes of this node find the weights where the list says; tied ones in one place.

    Raises:
        ValueError: there is no output layer among them. Checkpoints leave it out if it is tied to the embeddings, but
            vLLM keeps a packed copy of it on CPUs, which would silently stay the old one.
    """
    if "lm_head.weight" not in weights:
        raise ValueError(
            f"got {len(weights)} weights without 'lm_head.weight'; expected the model's whole state_dict(), in which "
            f"tied weights have all their names"
        )
    mappings = _shared_mappings()
    places: list[Place] = []
    written: dict[Any, int] = {}
    with os.fdopen(os.memfd_create("weights"), "wb") as file:
        own = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        for name, tensor in weights.items():
            kind, shape, address = str(tensor.dtype).removeprefix("torch."), list(tensor.shape), tensor.data_ptr()
            mapped = [(path, offset + address - span.start) for span, path, offset in mappings if address in span]
            if mapped and tensor.is_contiguous():
                places.append((name, *mapped[0], kind, shape))
                continue
            key = (address, tensor.shape, tensor.stride())
            if key not in written:
                written[key] = file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
                file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            places.append((name, own, written[key], kind, shape))
        file.flush()
        yield places


def mapped_weights(places: Iterable[Place]) -> Iterator[tuple[str, Tensor]]:
    """What `shared_weights` describes, in another process; what is written to it is seen nowhere else."""
    files: dict[str, np.ndarray] = {}
    for name, path, offset, kind, shape in places:
        if path not in files:
            files[path] = np.memmap(path, dtype=np.uint8, mode="c")
        dtype = getattr(torch, kind)
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        yield name, torch.from_numpy(files[path][offset : offset + n_bytes]).view(dtype).view(shape)


class SharedReload:
    """Added to vLLM's workers, which all map the same weights (`worker_extension_cls`)."""

    def reload_shared(self: Any, places: list[Place]) -> None:
        """Replace the weights by those at `places`."""
        self.reload_weights(weights_iterator=mapped_weights(places))
