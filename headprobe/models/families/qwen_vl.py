"""Qwen2-VL and Qwen2.5-VL: patches of two frames, merged two by two, with positions in time, height and width."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headprobe.errors import InputError
from headprobe.examples import Frames
from headprobe.models._pixels import PixelPacking, pack
from headprobe.models.adapter import ModelInputs, register
from headprobe.models.frame_times import frame_interval
from headprobe.models.video_adapter import CONTRACT, EncodedClip, VideoAdapter, grid_places

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["Qwen25VLAdapter", "QwenVLAdapter"]


class QwenVLAdapter(VideoAdapter):
    """Feeds a clip and a question to Qwen2-VL; also the base of families that cut clips into the same patches.

    Attributes
    ----------
    whole_clip
        Whether the pixel limits of the preprocessor configuration are those of a whole clip.
    marks
        Names in the configuration of the tokens before and after the video.

    Examples
    --------
    >>> QwenVLAdapter().name
    'qwen2_vl'
    """

    name = "qwen2_vl"
    verified = CONTRACT
    whole_clip: bool = False
    marks: tuple[str, str] = ("vision_start_token_id", "vision_end_token_id")

    def packing(self, model: Model) -> PixelPacking:
        """The pixel packing of a loaded model, checked against its configuration.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        PixelPacking

        Raises
        ------
        InputError
            There is no preprocessor configuration or it contradicts the vision tower.
        """
        packing = PixelPacking.from_config(super().settings(model), self.whole_clip)
        vision = model.config.vision_config
        expected = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
        given = (packing.patch_size, packing.temporal_patch_size, packing.merge_size)
        if given != expected:
            raise InputError(
                f"The preprocessor configuration has (patch, temporal patch, merge) sizes {given}, the "
                f"model {expected}."
            )
        return packing

    def settings(self, model: Model) -> dict[str, Any]:
        return asdict(self.packing(model))

    def encode_clip(self, clip: Frames, model: Model) -> EncodedClip:
        packing = self.packing(model)
        packed = pack(clip.pixels, packing)
        t, h, w = packed.grid
        places = grid_places(t, h // packing.merge_size, w // packing.merge_size, packing.temporal_patch_size)
        inputs = {"pixel_values_videos": packed.patches, "video_grid_thw": torch.tensor([packed.grid])}
        text = self.words(model, self.video_token(model))[0] * len(places)
        return EncodedClip(inputs, text, places, packing.temporal_patch_size)

    def words(self, model: Model, *ids: int) -> list[str]:
        """Tokens as they stand in a text.

        Parameters
        ----------
        model
            The model.
        *ids
            Their ids.

        Returns
        -------
        list of str
        """
        return model.tokenizer.convert_ids_to_tokens(list(ids))

    def without_template(self, prompt: str, model: Model) -> str:
        start, end = self.words(model, *(getattr(model.config, name) for name in self.marks))
        return f"{start}{self.placeholder(model)}{end}{prompt}"

    def position_ids(self, batch: ModelInputs, model: Model) -> Tensor:
        names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "attention_mask", "second_per_grid_ts")
        given = {name: batch.inputs[name] for name in names if name in batch.inputs}
        module: Any = model.module
        return module.model.get_rope_index(**given)[0]

    def share(self, inputs: ModelInputs, model: Model, turn: AbstractContextManager[Any]) -> dict[str, Any]:
        if "mm_encoder_outputs" not in model.accepts:
            return {}
        device = model.device
        pixels, grid = (inputs.inputs[name].to(device) for name in ("pixel_values_videos", "video_grid_thw"))
        with turn, torch.no_grad():
            module: Any = model.module
            seen = module.get_video_features(pixels, grid, return_dict=True)
        return {"pixel_values_videos": None, "mm_encoder_outputs": {"video": seen}}


class Qwen25VLAdapter(QwenVLAdapter):
    """Feeds a clip and a question to Qwen2.5-VL, whose temporal positions follow the clock.

    Examples
    --------
    >>> Qwen25VLAdapter().name
    'qwen2_5_vl'
    """

    name = "qwen2_5_vl"
    verified = CONTRACT
    needs_times = True

    def encode_clip(self, clip: Frames, model: Model) -> EncodedClip:
        encoded = super().encode_clip(clip, model)
        step = encoded.frames_per_token
        seconds = step * frame_interval(clip, self.name, default_fps=24.0)
        encoded.inputs["second_per_grid_ts"] = torch.tensor([seconds])
        return encoded


for _adapter in (QwenVLAdapter(), Qwen25VLAdapter()):
    register(_adapter.name, _adapter)
