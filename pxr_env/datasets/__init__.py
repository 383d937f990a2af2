"""Data sets on disk: typed loaders for the released and original formats, checking, and safe unpacking."""

from pxr_env.datasets.archives import unpack
from pxr_env.datasets.benchmarks import HRBench, InfographicVQA, MVBench, TallyQA, VStar
from pxr_env.datasets.check import Report, check_dataset
from pxr_env.datasets.formats import FORMATS, open_dataset, recognize
from pxr_env.datasets.own_data import JSONL, HuggingFaceData
from pxr_env.datasets.released import (
    EvaluationData,
    ImagePart,
    Message,
    Part,
    RLData,
    SFTData,
    TextPart,
    Trace,
    VideoPart,
)
from pxr_env.datasets.rows import BadRow, Dataset, Record, RowWarning

__all__ = [
    "FORMATS",
    "JSONL",
    "BadRow",
    "Dataset",
    "EvaluationData",
    "HRBench",
    "HuggingFaceData",
    "ImagePart",
    "InfographicVQA",
    "MVBench",
    "Message",
    "Part",
    "RLData",
    "Record",
    "Report",
    "RowWarning",
    "SFTData",
    "TallyQA",
    "TextPart",
    "Trace",
    "VStar",
    "VideoPart",
    "check_dataset",
    "open_dataset",
    "recognize",
    "unpack",
]
