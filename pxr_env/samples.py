"""Samples as a source: given as a list, and found by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pxr_env.arguments import plain
from pxr_env.errors import DataError, did_you_mean, represent
from pxr_env.types import Sample, SampleSource

_METHODS = ("__len__", "sample_ids", "get")


class SampleList:
    """Samples held in memory.

    Args:
        samples: the samples, in their order.

    Raises:
        DataError: two samples have one id.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = {sample.sample_id: sample for sample in samples}
        if len(self._samples) < len(samples):
            ids = [sample.sample_id for sample in samples]
            twice = next(sample_id for sample_id in self._samples if ids.count(sample_id) > 1)
            raise DataError(f"got the id {represent(twice)} twice; expected another one for each sample.")

    def __len__(self) -> int:
        return len(self._samples)

    def sample_ids(self) -> Sequence[str]:
        """All ids, in their order."""
        return tuple(self._samples)

    def get(self, sample_id: str) -> Sample:
        """The sample of that id.

        Raises:
            DataError: there is none.
        """
        return self._samples[find_id(sample_id, self.sample_ids())]


def as_source(data: SampleSource | Sequence[Sample]) -> SampleSource:
    """Returns the data of an environment as a source with at least one sample.

    Raises:
        TypeError: it is neither a source nor a list of samples.
        DataError: it has no samples, or two samples have one id.
    """
    source: Any = data
    if isinstance(data, list | tuple) and all(isinstance(sample, Sample) for sample in data):
        source = SampleList(data)
    if isinstance(source, type) or not all(callable(getattr(source, name, None)) for name in _METHODS):
        raise TypeError(
            f"got data={represent(data)}; expected a list of Sample, or an object with __len__(), sample_ids() and "
            "get(sample_id). Write such a class, or make the environment of a data set with gymnasium.make(id, "
            'data="DIR").'
        )
    if len(source) == 0:
        raise DataError("got a data set without samples; expected at least one. Check the path or the split.")
    checked: SampleSource = source
    return checked


def find_id(asked: object, ids: Sequence[str]) -> str:
    """Returns the id that was asked for, as the data has it. An integer stands for the id in its digits.

    Raises:
        DataError: there is no such id.
    """
    asked = plain(asked)
    is_number = isinstance(asked, int) and not isinstance(asked, bool)
    for sample_id in (asked, str(asked)) if is_number else (asked,):
        if isinstance(sample_id, str | int) and not isinstance(sample_id, bool) and sample_id in ids:
            return sample_id  # type: ignore[return-value]
    raise DataError(
        f"got sample_id={represent(asked)}; expected one of {len(ids)} ids, {represent(ids[0])} to "
        f"{represent(ids[-1])}.{did_you_mean(asked, ids)} They are in env.unwrapped.data.sample_ids()."
    )
