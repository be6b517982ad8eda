"""Otter as a model of transformers: importing this package registers it with the Auto classes.

::

    from transformers import AutoModelForImageTextToText, AutoProcessor
    import otter_train.pretrained

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    batch = processor.converse([[{"role": "user", "content": [
        {"type": "image", "image": "a.jpg"}, {"type": "text", "text": "What is this?"}]}]])
    new = model.generate(**batch, num_beams=4, max_new_tokens=32)[:, batch["input_ids"].shape[1]:]
"""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from otter_train.pretrained.configuration import OtterConfig
from otter_train.pretrained.modeling import OtterForConditionalGeneration, ProjectedMedia
from otter_train.pretrained.processing import OtterProcessor, Prompt

__all__ = ["OtterConfig", "OtterForConditionalGeneration", "OtterProcessor", "ProjectedMedia", "Prompt"]

AutoConfig.register("otter", OtterConfig, exist_ok=True)
AutoModelForImageTextToText.register(OtterConfig, OtterForConditionalGeneration, exist_ok=True)
AutoProcessor.register(OtterConfig, OtterProcessor, exist_ok=True)
