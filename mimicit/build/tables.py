"""The tables between the stages of a build: what each column means. Every table is written once and never changed.

A row number of one table (its *row*) is what the others refer to it by. Tables are Arrow IPC files, so any row is read
without the others (see `mimicit.build.column_file`).
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

__all__ = ["LINKS", "MEDIA", "SAME_MEDIA", "SAMPLES", "TRIPLETS"]

TRIPLETS: Final = pa.schema(
    [
        # The usable triplets, in the order of the input: those of a source lie side by side.
        ("seq", pa.int64()),  # the place of the record among all that were read
        ("source", pa.int32()),
        ("id", pa.large_string()),
        ("instruction", pa.large_string()),
        ("answer", pa.large_string()),
        ("meta", pa.large_binary()),  # canonical JSON
        ("media", pa.list_(pa.int64())),  # rows of MEDIA; media of equal content have one row
        ("shown", pa.large_string()),  # identifies all that is shown by content; empty for nothing
        ("parts", pa.large_binary()),  # of an interleaved document: [media shown, text] of each as JSON; else empty
        ("conversation", pa.large_string()),  # empty where the triplet is no turn of one
        ("turn", pa.int32()),
        ("is_query", pa.bool_()),
        ("related", pa.list_(pa.large_string())),  # ids, in published order
    ]
)

LINKS: Final = pa.schema(
    [
        # One row for each row of TRIPLETS: where its context may be found.
        ("turn_before", pa.int64()),  # the row of the turn right before in its conversation; -1 for none
        ("same_media", pa.int64()),  # the first place in SAME_MEDIA of those that show the same; -1 for none
        ("same_media_count", pa.int64()),  # how many show the same, this one included
        ("related", pa.list_(pa.int64())),  # rows, in published order, without what is not there
    ]
)

SAME_MEDIA: Final = pa.schema([("row", pa.int64())])
"""Rows of TRIPLETS sorted by source, by what they show, and by row."""

MEDIA: Final = pa.schema(
    [
        # The encoded media. A row is the number of the medium; those that nothing can show are null throughout.
        (
            "media",
            pa.large_binary(),
        ),  # kind, extension, width, height, sha256, origin, timestamps_s, duration_s as JSON
        ("file", pa.large_string()),  # where the stored files lie, relative to the work folder,
        ("offsets", pa.list_(pa.int64())),  # at these bytes,
        ("sizes", pa.list_(pa.int64())),  # of these sizes
        ("fingerprint", pa.large_binary()),  # of how a picture looks, where pictures are compared
    ]
)

SAMPLES: Final = pa.schema(
    [
        # The samples as they will stand in the shards, in parts, in the order of TRIPLETS.
        ("key", pa.large_string()),
        ("id", pa.large_string()),
        ("source", pa.large_string()),
        ("json", pa.large_binary()),  # the sample's JSON, byte for byte
        ("digest", pa.binary(32)),  # its SHA-256
        ("media", pa.list_(pa.int64())),  # rows of MEDIA, as they are shown
        ("size", pa.int64()),  # bytes in a shard, if the sample holds all its files itself
        ("relations", pa.list_(pa.int32())),  # context triplets of each of RELATIONS
        ("triplets", pa.int32()),
        ("videos", pa.int32()),
        ("frames", pa.int32()),
        ("characters", pa.int64()),
    ]
)
