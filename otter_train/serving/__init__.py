"""The HTTP endpoint: OpenAI's chat completions, answered by a trained Otter.

::

    request bytes ──protocol──> Question ──worker (bounded queue, batches)──> pieces ──app──> JSON or SSE
"""
