"""Shards out again, in the formats other tools read; each format states what it can hold.

============  ========================================  =====================================================
target        one record is                             what is lost
============  ========================================  =====================================================
``files``     a triplet of our own manifest, with the   why a context was chosen, scores, the names of the
              ids of its context                        original files
``llava``     a conversation, or any other query by     all context but conversations, triplets that are
              itself                                    context alone, documents, names of sources, ids of
                                                        turns unless they are ``{conversation}_{number}``
``mimicit``   an instruction, with the ids of its       as ``files``; documents (other readers than ours know
              context                                   no times of frames, and no clips beside other media)
``mmc4``      a sample as a document of sentences       which text asks and which answers, relations; clips
                                                        become one picture per frame
``datasets``  a sample as a row of a parquet table      nothing
============  ========================================  =====================================================

If media become files or entries by their content, two originals with the same bytes become one. Whole contexts,
records and clips that a format cannot hold are counted in the `ExportReport`. The bytes of media are those of the
shards, never encoded again.

To build the same samples again: ``mimicit build --size 0 --context related`` for ``files`` and ``mimicit``, with
``--shots`` and ``--frames`` no less than before; ``--context conversation`` for ``llava``; ``--size 0`` for ``mmc4``,
with the folder of the export as ``--src``.
"""

from mimicit.exporting.run import EXPORTERS, ExportReport, export_shards

__all__ = ["EXPORTERS", "ExportReport", "export_shards"]
