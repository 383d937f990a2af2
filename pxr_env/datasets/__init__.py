"""Data sets on disk: typed loaders for the released and original formats, checking, and safe unpacking."""

from pxr_env.datasets.archives import unpack
from pxr_env.datasets.benchmarks import HRBench, InfographicVQA, MVBench, TallyQA, VStar
from pxr_env.datasets.check import DataReport, check_dataset
from pxr_env.datasets.formats import FORMATS, JSONL, HuggingFaceData, open_dataset, recognize
from pxr_env.datasets.released import (
    EvaluationData,
    ImagePart,
    Part,
    RLData,
    SFTData,
    SFTTrace,
    TextPart,
    TraceMessage,
    VideoPart,
)
from pxr_env.datasets.rows import BadRow, Dataset, Record, RowWarning

__all__ = [
    "FORMATS",
    "JSONL",
    "BadRow",
    "DataReport",
    "Dataset",
    "EvaluationData",
    "HRBench",
    "HuggingFaceData",
    "ImagePart",
    "InfographicVQA",
    "MVBench",
    "Part",
    "RLData",
    "Record",
    "RowWarning",
    "SFTData",
    "SFTTrace",
    "TallyQA",
    "TextPart",
    "TraceMessage",
    "VStar",
    "VideoPart",
    "check_dataset",
    "open_dataset",
    "recognize",
    "unpack",
]
