"""Qwen2-VL: a clip and a question become model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from headprobe.errors import InputError
from headprobe.examples import check_clip
from headprobe.models.adapter import ModelInputs, TokenInfo, pad, register
from headprobe.models.pixels import PackedClip, PixelPacking, pack
from headprobe.models.text import pad_id

if TYPE_CHECKING:
    from headprobe.models.model import Model

__all__ = ["QwenVLAdapter"]

_VIDEO_TYPE = 2


@dataclass(frozen=True)
class QwenVLAdapter:
    """Feeds a clip and a question to Qwen2-VL.

    Parameters
    ----------
    name
        Name in provenance.
    """

    name: str = "qwen2_vl"
    modality: Literal["text", "video"] = "video"
    padding_side: Literal["left", "right"] = "left"
    auto_class: str = "AutoModelForImageTextToText"

    def check_prompt(self, name: str, prompt: str) -> None:
        """Raise InputError for a text template, which a question about a clip is not.

        Parameters
        ----------
        name
            Name of the prompt, for the error text.
        prompt
            The question; empty for the clip alone.
        """
        if "{text}" in prompt:
            raise InputError(f"Prompt {name!r} contains {{text}}; for a video model the prompt is the question itself.")

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
        if model.processor_config is None:
            raise InputError(
                f"{model.name} has no preprocessor configuration; pass processor_config= with the content of "
                "preprocessor_config.json."
            )
        packing = PixelPacking.from_config(model.processor_config)
        vision = model.config.vision_config
        expected = (vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)
        given = (packing.patch_size, packing.temporal_patch_size, packing.merge_size)
        if given != expected:
            raise InputError(
                f"The preprocessor configuration has (patch, temporal patch, merge) sizes {given}, the "
                f"model {expected}."
            )
        return packing

    def encode(self, content: Any, name: str, model: Model) -> PackedClip:
        """Pack one clip; done once for all prompts.

        Parameters
        ----------
        content
            Frames, uint8 [frame, height, width, 3].
        name
            Id of the example, for the error text.
        model
            The model.

        Returns
        -------
        PackedClip

        Raises
        ------
        InputError
            The content is not a clip.
        """
        if isinstance(content, PackedClip):
            return content
        if isinstance(content, str):
            raise InputError(f"Example {name!r} is text, but {model.name} takes clips [frame, height, width, 3].")
        return pack(check_clip(content, name), self.packing(model))

    def prepare(self, contents: Sequence[Any], prompt: str, model: Model) -> ModelInputs:
        """Inputs for clips under one question.

        Parameters
        ----------
        contents
            Clips, packed or not.
        prompt
            The question; empty for the clip alone.
        model
            The model.

        Returns
        -------
        ModelInputs

        Raises
        ------
        InputError
            The prompt does not leave exactly one place for the video.
        """
        packing = self.packing(model)
        clips = [self.encode(content, str(i), model) for i, content in enumerate(contents)]
        before, after = self._around_video(prompt, model)
        video_id = model.config.video_token_id
        rows = [[*before, *[video_id] * clip.n_tokens(packing.merge_size), *after] for clip in clips]
        fill, meaningless = pad_id(model.tokenizer)
        if fill == video_id:
            raise InputError(f"The padding token (id {fill}) is the video token; the tokenizer needs another one.")
        ids = pad(rows, fill, "left")
        mask = pad([[1] * len(row) for row in rows], 0, "left")
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == video_id).int() * _VIDEO_TYPE,
            "pixel_values_videos": torch.cat([clip.patches for clip in clips]),
            "video_grid_thw": torch.tensor([clip.grid for clip in clips]),
        }
        return ModelInputs(inputs, _token_info(ids, mask, video_id, clips, packing), "left", meaningless)

    def share(self, inputs: ModelInputs, model: Model, turn: AbstractContextManager[Any]) -> dict[str, Any]:
        """Run the vision tower once for several prompts about the same clips.

        Parameters
        ----------
        inputs
            Inputs of any of the prompts.
        model
            The model.
        turn
            Held while the tower runs.

        Returns
        -------
        dict
            Arguments of the forward pass in place of the pixels; empty where the installed transformers cannot
            take them, and the tower then runs in every pass.
        """
        if "mm_encoder_outputs" not in model.accepts:
            return {}
        device = model.device
        pixels, grid = (inputs.inputs[name].to(device) for name in ("pixel_values_videos", "video_grid_thw"))
        with turn, torch.no_grad():
            module: Any = model.module
            seen = module.get_video_features(pixels, grid, return_dict=True)
        return {"pixel_values_videos": None, "mm_encoder_outputs": {"video": seen}}

    def processor_state(self, model: Model) -> dict[str, Any]:
        """The pixel packing and the chat template.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        dict
        """
        return {"packing": asdict(self.packing(model)), "chat_template": model.tokenizer.chat_template}

    def _around_video(self, prompt: str, model: Model) -> tuple[list[int], list[int]]:
        """Token ids before and after the video tokens."""
        tokenizer, config = model.tokenizer, model.config
        if tokenizer.chat_template is None:
            text = tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
            return [config.vision_start_token_id], [config.vision_end_token_id, *text]
        content: list[dict[str, str]] = [{"type": "video"}]
        if prompt:
            content.append({"type": "text", "text": prompt})
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if (count := ids.count(config.video_token_id)) != 1:
            raise InputError(
                f"With the prompt {prompt!r} the chat template has {count} video tokens (id "
                f"{config.video_token_id}); exactly one is needed, and the prompt itself must not contain it."
            )
        place = ids.index(config.video_token_id)
        return ids[:place], ids[place + 1 :]


def _token_info(
    ids: Tensor, mask: Tensor, video_id: int, clips: Sequence[PackedClip], packing: PixelPacking
) -> TokenInfo:
    video = (ids == video_id) & mask.bool()
    places = {name: torch.full_like(ids, -1) for name in ("frame", "row", "column")}
    for i, clip in enumerate(clips):
        t, h, w = clip.grid[0], clip.grid[1] // packing.merge_size, clip.grid[2] // packing.merge_size
        steps, rows, columns = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
        places["frame"][i, video[i]] = steps.flatten() * packing.temporal_patch_size
        places["row"][i, video[i]] = rows.flatten()
        places["column"][i, video[i]] = columns.flatten()
    return TokenInfo(mask.bool(), video, frames_per_token=packing.temporal_patch_size, **places)


register("qwen2_vl", QwenVLAdapter())
