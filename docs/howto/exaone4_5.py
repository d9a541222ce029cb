"""EXAONE 4.5: patches of two frames, merged two by two, in front of a decoder that mixes sliding and full attention."""

import torch

from headprobe.errors import InputError
from headprobe.models._pixels import PixelPacking, pack
from headprobe.models.adapter import register
from headprobe.models.video_adapter import EncodedClip, VideoAdapter, grid_places


class Exaone45Adapter(VideoAdapter):
    """Feeds a clip and a question to EXAONE 4.5."""

    name = "exaone4_5"

    def settings(self, model):
        """What of the preprocessor configuration shapes the inputs, checked against the model."""
        packing = PixelPacking.from_config(super().settings(model))
        vision = model.config.vision_config
        if (packing.patch_size, packing.merge_size) != (vision.patch_size, vision.spatial_merge_size):
            raise InputError(f"The patches of the preprocessor configuration are not those of {model.name}.")
        return vars(packing)

    def encode_clip(self, clip, model):
        """Cut a clip into patches; the text in its place is one video token per four of them."""
        packing = PixelPacking(**self.settings(model))
        packed = pack(clip.pixels, packing)
        steps, rows, columns = packed.grid
        places = grid_places(
            steps, rows // packing.merge_size, columns // packing.merge_size, packing.temporal_patch_size
        )
        return EncodedClip(
            inputs={"pixel_values_videos": packed.patches, "video_grid_thw": torch.tensor([packed.grid])},
            text=self.placeholder(model) * len(places),
            places=places,
            frames_per_token=packing.temporal_patch_size,
        )


register(Exaone45Adapter.name, Exaone45Adapter())
