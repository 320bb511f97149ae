"""Feature files: HDF5 in, splits that live on the device out; batches are index selections."""

from fmasearch.data.cache import DataSpec, check_labels, default_cache_dir, open_dataset, open_split, prepare
from fmasearch.data.checking import FileReport, Finding, check_feature_file
from fmasearch.data.feature_file import (
    SPLITS,
    FeatureInfo,
    FileInfo,
    LabelInfo,
    content_hash,
    read_info,
)
from fmasearch.data.genres import GenreMap, class_names, genre_map
from fmasearch.data.merging import merge_feature_files
from fmasearch.data.reworking import resplit_feature_file
from fmasearch.data.rows import read_all_columns, read_track
from fmasearch.data.shapes import model_shape
from fmasearch.data.splits import Batch, Dataset, Normaliser, Split, merge_splits
from fmasearch.data.writing import (
    Columns,
    FeatureArray,
    FeatureFileWriter,
    FeatureLayout,
    write_feature_file,
    writing_feature_file,
)

__all__ = [
    "SPLITS",
    "Batch",
    "Columns",
    "DataSpec",
    "Dataset",
    "FeatureArray",
    "FeatureFileWriter",
    "FeatureInfo",
    "FeatureLayout",
    "FileInfo",
    "FileReport",
    "Finding",
    "GenreMap",
    "LabelInfo",
    "Normaliser",
    "Split",
    "check_feature_file",
    "check_labels",
    "class_names",
    "content_hash",
    "default_cache_dir",
    "genre_map",
    "merge_feature_files",
    "merge_splits",
    "model_shape",
    "open_dataset",
    "open_split",
    "prepare",
    "read_all_columns",
    "read_info",
    "read_track",
    "resplit_feature_file",
    "write_feature_file",
    "writing_feature_file",
]
