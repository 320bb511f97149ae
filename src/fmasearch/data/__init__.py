"""Feature files: HDF5 in, splits that live on the device out; batches are index selections."""

from fmasearch.data.cache import DataSpec, open_dataset, open_split, prepare
from fmasearch.data.feature_file import (
    SPLITS,
    FeatureArray,
    FeatureInfo,
    FileInfo,
    LabelInfo,
    content_hash,
    read_info,
    write_feature_file,
)
from fmasearch.data.shapes import model_shape
from fmasearch.data.splits import Batch, Dataset, Normaliser, Split, merge_splits

__all__ = [
    "SPLITS",
    "Batch",
    "DataSpec",
    "Dataset",
    "FeatureArray",
    "FeatureInfo",
    "FileInfo",
    "LabelInfo",
    "Normaliser",
    "Split",
    "content_hash",
    "merge_splits",
    "model_shape",
    "open_dataset",
    "open_split",
    "prepare",
    "read_info",
    "write_feature_file",
]
