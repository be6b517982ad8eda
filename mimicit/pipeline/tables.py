"""The tables between the stages of a build: what each column means. Every table is written once and never changed.

Tables refer to each other by row number (*row*). They are Arrow IPC files, so any row can be read without the others
(see `mimicit.pipeline.parts`). In the order of the stages::

    import   RECORDS, REFERENCES, NAMES, PICTURES, TRAINING, ENTRIES, USED_ENTRIES  (one file of each per part),
             ENTRY_INDEX  (one per source)
    resolve  MEDIA_REFERENCES, UNITS, RESOLVED
    encode   ENCODED (one file per unit), MEDIA
    filter   TRIPLETS, MERGED
    link     LINKS, SAME_MEDIA
    choose   SAMPLES (in parts)

and REJECTS from every stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from mimicit.shards.index import RELATIONS, relation_counts

MEDIA_REFERENCES_NAME: Final = "media-references.arrow"
UNITS_NAME: Final = "units.arrow"
RESOLVED_NAME: Final = "resolved.arrow"
MEDIA_NAME: Final = "media.arrow"
TRIPLETS_NAME: Final = "triplets.arrow"
MERGED_NAME: Final = "merged.arrow"
LINKS_NAME: Final = "links.arrow"
SAME_MEDIA_NAME: Final = "same-media.arrow"

_IDS: Final = pa.list_(pa.large_string())
_NUMBERS: Final = pa.list_(pa.int64())

RECORDS: Final = pa.schema(
    [
        # The records of one part of a source, as they were read and in their order.
        ("item", pa.int64()),  # place among all that was read in this part, rejects included
        ("id", pa.large_string()),  # as published
        ("place", pa.large_string()),  # where in the input it is, for messages
        ("instruction", pa.large_string()),
        ("answer", pa.large_string()),
        ("meta", pa.large_binary()),  # canonical JSON
        ("conversation", pa.large_string()),  # empty if it is not part of one
        ("turn", pa.int32()),
        ("is_query", pa.bool_()),
        ("related", _IDS),  # in published order
        ("references", _NUMBERS),  # rows of REFERENCES of this part
        ("parts", pa.large_binary()),  # of an interleaved document: [media shown, text] of each as JSON; else empty
        ("says", pa.binary(16)),  # tells records of one id apart; null if ids of its format do not repeat
        ("fault", pa.large_string()),  # the reason why the text filters leave it out, or null
        ("fault_detail", pa.large_string()),
    ]
)

REFERENCES: Final = pa.schema(
    [
        # What the records of one part show.
        ("ref", pa.large_string()),  # as canonical JSON (see `mimicit.sources.items`)
        ("place_in_table", pa.large_string()),  # empty unless it is a cell of a table
        ("is_video", pa.bool_()),
        ("is_named", pa.bool_()),  # whether a part of it is a picture named by id, see NAMES
    ]
)

NAMES: Final = pa.schema(
    [
        # The ids under which PICTURES may list a part of a reference, the likeliest first.
        ("reference", pa.int64()),
        ("place", pa.int32()),  # of the part in the reference
        ("rank", pa.int32()),
        ("id", pa.large_string()),
    ]
)

PICTURES: Final = pa.schema(
    [
        # Pictures that records of the same source name by id.
        ("item", pa.int64()),
        ("id", pa.large_string()),
        ("locator", pa.large_string()),  # JSON
        ("place", pa.large_string()),  # for messages
    ]
)

TRAINING: Final = pa.schema(
    [
        # The publisher's list of queries, if there is one.
        ("item", pa.int64()),
        ("id", pa.large_string()),
        ("related", _IDS),
        ("place", pa.large_string()),  # for messages
    ]
)

ENTRIES: Final = pa.schema(
    [
        # What records of the same source look up, if its parts are read in parallel (`mimicit.sources.format.Join`).
        ("item", pa.int64()),
        ("digest", pa.uint64()),  # of the key
        ("key", pa.large_string()),
        ("value", pa.large_string()),
        ("place", pa.large_string()),  # for messages
    ]
)

ENTRY_INDEX: Final = pa.schema(
    [
        # The entries of one source, by the digest of the key; those with the same one in their order.
        ("digest", pa.uint64()),
        ("part", pa.int64()),  # of ENTRIES,
        ("row", pa.int64()),  # in this row
        ("is_first", pa.bool_()),  # of its key
    ]
)

USED_ENTRIES: Final = pa.schema([("part", pa.int64()), ("row", pa.int64())])
"""The rows of ENTRIES that the records of one part have used."""

MEDIA_REFERENCES: Final = pa.schema(
    [
        # The distinct references of all sources, in the order of their first record; a row is the medium's number.
        ("ref", pa.large_string()),  # as canonical JSON, with the place of every part
    ]
)

UNITS: Final = pa.schema(
    [
        # Which media are encoded together, in the order of encoding: media in tables are sorted by their places there.
        ("unit", pa.int64()),
        ("number", pa.int64()),  # row of MEDIA_REFERENCES
    ]
)

RESOLVED: Final = pa.schema(
    [
        # The records whose references were all found, in the order of the input.
        ("part", pa.int32()),  # of RECORDS,
        ("row", pa.int64()),  # in this row
        ("source", pa.int32()),
        ("id", pa.large_string()),  # unique in its source
        ("media", _NUMBERS),  # rows of MEDIA_REFERENCES
        ("is_query", pa.bool_()),
        ("related", _IDS),
    ]
)

ENCODED: Final = pa.schema(
    [
        # The results for the media of one unit.
        ("number", pa.int64()),  # row of MEDIA_REFERENCES
        ("content", pa.large_string()),  # identifies the stored bytes; null: rejected
        ("media", pa.large_binary()),  # kind, extension, width, height, sha256, origin, times as JSON
        ("file", pa.large_string()),  # that holds the stored files, relative to the work folder,
        ("offsets", _NUMBERS),  # at these bytes,
        ("sizes", _NUMBERS),  # of these sizes
        ("width", pa.int64()),  # of the original, in pixels
        ("height", pa.int64()),
        ("bytes", pa.int64()),  # of the original
        ("fingerprint", pa.large_binary()),  # of how a picture looks, if pictures are compared
        ("reason", pa.large_string()),  # why it was rejected
        ("detail", pa.large_string()),
    ]
)

MEDIA: Final = pa.schema(
    [
        # ENCODED of all units, in the order of MEDIA_REFERENCES.
        *(field for field in ENCODED if field.name != "number"),
        ("same_as", pa.int64()),  # the first row of equal content; -1 if the medium was rejected
    ]
)

TRIPLETS: Final = pa.schema(
    [
        # The usable triplets, in the order of the input: the triplets of a source have consecutive rows.
        ("source", pa.int32()),
        ("id", pa.large_string()),
        ("place", pa.large_string()),
        ("instruction", pa.large_string()),
        ("answer", pa.large_string()),
        ("meta", pa.large_binary()),
        ("media", _NUMBERS),  # rows of MEDIA; media of equal content have one row
        ("shown", pa.large_string()),  # identifies all that is shown by content; empty for nothing
        ("parts", pa.large_binary()),
        ("conversation", pa.large_string()),
        ("turn", pa.int32()),
        ("is_query", pa.bool_()),
        ("related", _IDS),
    ]
)

MERGED: Final = pa.schema(
    [
        # Triplets that were merged into another, which shows and says the same.
        ("source", pa.int32()),
        ("id", pa.large_string()),
        ("place", pa.large_string()),
        ("into", pa.int64()),  # row of TRIPLETS
    ]
)

LINKS: Final = pa.schema(
    [
        # One row for each row of TRIPLETS: where its context may be found.
        ("conversation", pa.int64()),  # the first row of its conversation; -1 if it is not part of one
        ("turn_before", pa.int64()),  # the row of the turn right before in its conversation; -1 for none
        ("same_media", pa.int64()),  # the first place in SAME_MEDIA of the triplets that show the same; -1 for none
        ("same_media_count", pa.int64()),  # how many triplets show the same, this one included
        ("related", _NUMBERS),  # rows, in published order, without ids that no record has
    ]
)

SAME_MEDIA: Final = pa.schema([("row", pa.int64())])
"""Rows of TRIPLETS sorted by source, by what they show, and by row."""

SAMPLES: Final = pa.schema(
    [
        # The samples as they will be in the shards, in parts, in the order of TRIPLETS.
        ("key", pa.large_string()),
        ("id", pa.large_string()),
        ("source", pa.large_string()),
        ("json", pa.large_binary()),  # the sample's JSON, byte for byte
        ("digest", pa.binary(32)),  # its SHA-256
        ("media", _NUMBERS),  # rows of MEDIA, as they are shown
        ("size", pa.int64()),  # bytes in a shard, if the sample holds all its files itself
        ("relations", relation_counts(RELATIONS)),  # context triplets of each; see `samples_schema`
        ("triplets", pa.int32()),
        ("videos", pa.int32()),
        ("frames", pa.int32()),
        ("characters", pa.int64()),
    ]
)


def samples_schema(relations: Sequence[str]) -> pa.Schema:
    """`SAMPLES` of a build whose strategies make these ``relations``: mimicit's, and those of other packages."""
    place = SAMPLES.get_field_index("relations")
    return SAMPLES.set(place, pa.field("relations", relation_counts(relations)))


REJECTS: Final = pa.schema(
    [
        # What a stage has left out. The first five columns give their order (see `mimicit.pipeline.rejects`).
        ("source", pa.int32()),  # -1: the input as a whole
        ("phase", pa.int32()),
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("place", pa.int64()),
        ("scope", pa.large_string()),
        ("stage", pa.large_string()),
        ("reason", pa.large_string()),
        ("locator", pa.large_string()),
        ("id", pa.large_string()),
        ("detail", pa.large_string()),
    ]
)
