"""`OtterForConditionalGeneration`: the one `Otter`, with what transformers expects around it.

The model inside is the same module tree that is trained here; its weights are saved as ``model.*``, and files without
that prefix load as well. `generate` is that of transformers: greedy, sampling, beams. The media are encoded, and their
keys and values computed, once per call. All beams of a row look at the same media and grow from the same prompt, so
when beams are reordered only the language model's cache has to follow.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers import Cache, GenerationMixin, LogitsProcessorList, PreTrainedModel, SuppressTokensLogitsProcessor
from transformers.modeling_outputs import CausalLMOutputWithPast

from mimicit.errors import TrainError
from otter_train.model.build import build_model
from otter_train.model.cross_attention import MediaKV, media_mask
from otter_train.model.families import decoder_in
from otter_train.model.language import Conditioning
from otter_train.model.otter import Otter
from otter_train.model.packing import positions
from otter_train.pretrained.configuration import OtterConfig, Portable


class ProjectedMedia(NamedTuple):
    """The keys and values of the media of a batch, a pair per cross-attention block; ``media`` media per row."""

    blocks: tuple[MediaKV, ...]
    media: int
    latents: int

    def repeated(self, times: int) -> ProjectedMedia:
        """Each row repeated ``times`` times, in the order of beams."""
        blocks = (MediaKV(*(part.repeat_interleave(times, dim=0) for part in block)) for block in self.blocks)
        return self._replace(blocks=tuple(blocks))


class OtterForConditionalGeneration(Portable, PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """An Otter that transformers can load, save, push and generate with.

    Inputs are named as in training: ``input_ids`` (B, T), ``vision_x`` float (B, T_img, F, 3, H, W), normalised
    (`OtterProcessor` makes them), ``vision_mask`` bool (B, T_img, F) if rows differ in their media.
    """

    config_class = OtterConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # its loss is the mean of the batch, which transformers' trainer then shares out
    _supports_sdpa = True

    def __init__(self, config: OtterConfig) -> None:
        super().__init__(config)
        self.model = build_model(
            config.to_model_config(),
            vocab_size=config.text_config.vocab_size,
            token_ids=config.token_ids,
            device=torch.get_default_device(),  # transformers builds on the meta device and loads weights into it
            dtype=torch.get_default_dtype(),  # and sets the requested dtype
            load_weights=False,
        )
        self.post_init()

    @classmethod
    def around(cls, model: Otter, config: OtterConfig) -> Self:
        """The class around a model that exists; the two share every parameter."""
        with torch.device("meta"):
            made = cls(config)
        made.model = model
        made._know_tied_weights()
        return made

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, except that weights that are missing or unexpected are an error and not a warning."""
        wants_report = kwargs.pop("output_loading_info", False)
        model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        faults = [f"{key} is missing" for key in sorted(report["missing_keys"])]
        faults += [f"{key} is unexpected" for key in sorted(report["unexpected_keys"])]
        if faults:
            raise TrainError(f"the weights do not fit the model: {'; '.join(faults)}")
        return (model, report) if wants_report else model

    def post_init(self) -> None:
        """What transformers does when a model is complete; it looks for tied weights in direct children only."""
        self._know_tied_weights()
        super().post_init()
        self._know_tied_weights()

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers."""
        super().gradient_checkpointing_enable(*args, **kwargs)
        self.train(self.training)  # tells the layers

    def _know_tied_weights(self) -> None:
        """Set which weights are tied, and which modules must lie on one device as a whole."""
        inner = self.model.language.lm.all_tied_weights_keys
        prefix = "model.language.lm."
        self.all_tied_weights_keys = {f"{prefix}{name}": f"{prefix}{source}" for name, source in inner.items()}
        parts = [module for module in self.model.modules() if isinstance(module, PreTrainedModel)]
        whole = {name for part in parts for name in part._no_split_modules or ()}
        self._no_split_modules = {"GatedCrossAttentionBlock", "PerceiverResampler", "VisionTower", *whole}

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: for custom code, transformers does not compute buffers that follow from the configuration.

        The multipliers of Falcon-H1 would then be uninitialised memory.
        """
        return False

    def _init_weights(self, module: Any) -> None:
        """Do nothing: the parts draw their own random weights when they are built."""

    def get_input_embeddings(self) -> Any:
        """The input embedding of the language model."""
        return self.model.language.lm.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """The output matrix of the language model."""
        return self.model.language.lm.get_output_embeddings()

    def get_decoder(self) -> Any:
        """The decoder of the language model."""
        return decoder_in(self.model.language.lm)

    def forward(
        self,
        input_ids: Tensor,
        vision_x: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        vision_mask: Tensor | None = None,
        media: ProjectedMedia | None = None,
        text_time: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits float32 (B, T, vocabulary), and the mean loss if there are ``labels`` (as `Otter.forward`).

        ``attention_mask`` covers what is in the cache, too. ``media`` and ``text_time`` (B, T) are what `generate`
        prepares: the media, and how many of them come before each token or are it. ``logits_to_keep`` n computes
        logits of the last n positions only (0: of all). `TrainError` if a row does not have one ``<image>`` per medium,
        or if ``labels`` come with ``media``, a cache or ``logits_to_keep``, which have no loss.
        """
        if labels is not None and (media is not None or past_key_values is not None or logits_to_keep):
            raise TrainError("labels need the whole prompt: leave out media, past_key_values and logits_to_keep")
        if media is None:
            vision_x = self._pictures(vision_x, input_ids)
            if labels is not None or (past_key_values is None and not use_cache and not logits_to_keep):
                output = self.model(vision_x, input_ids, attention_mask, labels, vision_mask=vision_mask)
                return CausalLMOutputWithPast(loss=output.loss, logits=output.logits)
            media = self.project_media(vision_x, input_ids, vision_mask)
        if text_time is None:
            text_time = self._text_time(input_ids)
        if position_ids is None and attention_mask is not None:
            position_ids = positions(attention_mask.bool())[:, -input_ids.shape[1] :]
        state = self.model.language(
            input_ids,
            Conditioning(media.blocks, media_mask(text_time, media_count=media.media, latents=media.latents)),
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=past_key_values,
            use_cache=bool(use_cache),
        )
        logits = self.model.language.logits(state.hidden[:, -logits_to_keep:]).float()
        return CausalLMOutputWithPast(logits=logits, past_key_values=state.cache)

    def project_media(self, vision_x: Tensor, input_ids: Tensor, vision_mask: Tensor | None = None) -> ProjectedMedia:
        """The keys and values of the media of a batch; arguments and errors are those of `forward`."""
        self.model.check(vision_x, input_ids, vision_mask)
        tokens = self.model.encode_vision(vision_x, vision_mask)
        blocks = self.model.language.project_media(tokens.flatten(1, 2))
        return ProjectedMedia(blocks, media=tokens.shape[1], latents=tokens.shape[2])

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        vision_x: Tensor | None = None,
        vision_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers; prompts are padded on the left, and the media are encoded once.

        ``<image>`` is never generated: there would be no picture for it.
        """
        mask = kwargs.get("attention_mask")
        if mask is not None and not mask[:, -1].all():
            raise TrainError("a prompt ends in padding; pad prompts on the left to generate")
        media = self.project_media(self._pictures(vision_x, input_ids), input_ids, vision_mask)
        no_picture = SuppressTokensLogitsProcessor([self.config.image_token_id], device=input_ids.device)
        processors = LogitsProcessorList([*(kwargs.pop("logits_processor", None) or []), no_picture])
        return super().generate(input_ids, media=media, logits_processor=processors, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, media: ProjectedMedia | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The inputs of the next forward pass; new tokens look at the last medium of their prompt."""
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        new = prepared["input_ids"].shape[1]
        return prepared | {"media": media, "text_time": self._text_time(input_ids)[:, -new:]}

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        media: ProjectedMedia | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        expanded, rest = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **kwargs
        )
        return expanded, rest | {"media": None if media is None else media.repeated(expand_size)}

    def _text_time(self, input_ids: Tensor) -> Tensor:
        counted: Tensor = (input_ids == self.config.image_token_id).cumsum(dim=-1)
        return counted

    def _pictures(self, vision_x: Tensor | None, input_ids: Tensor) -> Tensor:
        side = self.model.vision.image_size
        if vision_x is None:
            return torch.zeros(len(input_ids), 0, 1, 3, side, side, device=input_ids.device, dtype=self.dtype)
        return vision_x
