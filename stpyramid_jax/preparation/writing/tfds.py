"""Descriptions of the shards for TensorFlow Datasets, written without it.

With them `tfds.builder_from_directory(folder)` opens a prepared folder, a family of records as a
"split" of TFDS. Their form is that of TFDS 4.9: messages of its `core/proto/dataset_info.proto` and
`feature.proto` as JSON.
"""

import json
import re
from collections.abc import Mapping, Sequence

from stpyramid_jax.records import FORMAT

_FEATURES = "tensorflow_datasets.core.features"


def tfds_files(
    name: str, classes: Sequence[str], families: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[str, bytes]:
    """Files by name: `dataset_info.json`, `features.json`, `label.labels.txt`.

    TFDS keeps class names as lines and strips them. Where one of them would not come back as it is
    (it holds a line break, say) the last file is not written, and TFDS shows labels as numbers.

    Args:
      name: of the data set; TFDS shows it with _ for signs that it does not take.
      classes: names of the labels 0, 1, ...
      families: for each family the number of records and of bytes of each shard.
    """
    template = name.replace("{", "{{").replace("}", "}}") + "-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = [
        {
            "name": family,
            "filepathTemplate": template,
            "shardLengths": [str(records) for records, _ in shards],
            "numBytes": str(sum(size for _, size in shards)),
        }
        for family, shards in families.items()
    ]
    info = {
        "name": re.sub(r"\W", "_", name),
        "version": f"{FORMAT}.0.0",
        "description": "Frames and optical flow of videos; flow is grey, x over y.",
        "fileFormat": "tfrecord",
        "splits": splits,
    }
    files = {"dataset_info.json": _text(info), "features.json": _text(_features(len(classes)))}
    names = "".join(f"{name}\n" for name in classes)
    if names.splitlines() == [name.strip() for name in classes if name.strip()] == [*classes]:
        files["label.labels.txt"] = names.encode()
    return files


def _features(classes: int) -> dict:
    # One feature has frames of three channels and fields of one: none of its sides is said.
    image = {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "-1"]}}
    frame = {"dtype": "int64", "encoding": "none", "shape": {}}
    features = {
        "frame": {"pythonClassName": f"{_FEATURES}.scalar.Scalar", "tensor": frame},
        "image": {"pythonClassName": f"{_FEATURES}.image_feature.Image", "image": image},
        "label": {
            "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(classes)},
        },
        "video": {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}},
    }
    return {
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


def _text(tree: Mapping) -> bytes:
    return (json.dumps(tree, indent=1) + "\n").encode()
