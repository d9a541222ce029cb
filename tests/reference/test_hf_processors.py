"""Every family's inputs against those of transformers' own processor, pixels to rounding, where torchvision works.

The comparison runs in a process of its own, this file as a script: importing torchvision, with the operators
registered that it misses next to a CPU build of torch, would change what the other tests see. Without
torchvision, without a package that the family's processor needs, it is skipped.

The vision towers are compared with transformers' processors of PIL as well, which need no torchvision: to rounding
where nothing is resized, and to a grey level or two where something is.

By hand, for one family: ``python tests/reference/test_hf_processors.py qwen2_vl``.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parents[1]
# Height and width of the frames: as the tiny models have them, larger, smaller, and rounded to the token grid.
SIZES = ((32, 48), (150, 90), (9, 14), (97, 61))
ODD_PROMPT = 'Zwei Zeilen,\n"größer" als <b> & 3.5?'


def clip(n: int, height: int, width: int, times: str, seed: int):
    """Random frames with times, and what transformers calls them; times is none, even or uneven."""
    from headprobe import Frames

    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    if times == "none":
        return Frames(pixels), None
    # Every fifth frame of a video that was sampled to its end; uneven: the inner ones are moved.
    indices = 5 * np.arange(n)
    if times == "uneven":
        indices[1:-1] += rng.integers(-2, 3, max(n - 2, 0))
    fps = 29.97
    described = {
        "total_num_frames": 5 * n,
        "fps": fps,
        "duration": 5 * n / fps,
        "frames_indices": indices.tolist(),
        "height": height,
        "width": width,
    }
    return Frames(pixels, indices / fps), described


def reference_inputs(family, processor, clips, described, prompt):
    """What transformers makes of clips and a question."""
    import torch

    if family.reference is not None:
        return family.reference(processor, clips, prompt)
    content = [{"type": "video"}, {"type": "text", "text": prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    start = processor.tokenizer.bos_token
    videos = {"do_sample_frames": False}
    if described[0] is not None:
        videos["video_metadata"] = [dict(one) for one in described]
    return processor(
        text=[text] * len(clips),
        videos=[torch.from_numpy(one.pixels).permute(0, 3, 1, 2) for one in clips],
        text_kwargs={
            "padding": True,
            "padding_side": "left",
            # As the processor's own apply_chat_template decides.
            "add_special_tokens": not (start and text.startswith(start)),
        },
        videos_kwargs=videos,
        return_tensors="pt",
    )


def cases(family):
    """(number of frames, size, times, prompt) of the clips of one batch each."""
    counts = tuple(family.counts or [len(content) for content in family.contents(3)])
    prompts = (*family.prompts, ODD_PROMPT) if family.asked() else family.prompts
    for size, prompt in itertools.zip_longest(SIZES, prompts, fillvalue=family.prompts[0]):
        yield [(counts[0], size, "even", 0)], prompt
    yield [(n, SIZES[0], "even", i) for i, n in enumerate(counts)], prompts[len(prompts) // 3]
    yield [(n, SIZES[i % len(SIZES)], "uneven", i) for i, n in enumerate(counts)], family.prompts[0]
    yield [(counts[-1], SIZES[1], "none", 1)], family.prompts[0]


def variant_cases(family):
    """The cases in which other limits of the frame size matter."""
    for size in SIZES:
        for count in family.counts:
            yield [(count, size, "even", 0)], family.prompts[0]


def compare(family, few: bool = False) -> int:
    """Compare all cases of a family, or those with the sizes of a variant of its settings; the number of them."""
    import torch
    from equality import close, same

    model = family.load()
    processor = family.processor(family.tokenizer())
    compared = 0
    for clips, prompt in variant_cases(family) if few else cases(family):
        made = [clip(n, *size, times, seed) for n, size, times, seed in clips]
        change = family.extra.get("change", lambda frames: frames)
        frames, described = [change(one) for one, _ in made], [one for _, one in made]
        ours = model.adapter.prepare(frames, prompt, model).inputs
        theirs = dict(reference_inputs(family, processor, frames, described, prompt))
        theirs = {name: value for name, value in theirs.items() if name in model.accepts}
        ours.pop("position_ids", None)  # given to the model by headprobe, and by transformers within generate
        assert set(ours) == set(theirs), f"{clips}: {sorted(ours)} against {sorted(theirs)}"
        for name, expected in theirs.items():
            got = ours[name]
            expected = torch.as_tensor(expected)
            assert got.shape == expected.shape, f"{clips}: {name} {tuple(got.shape)}, not {tuple(expected.shape)}"
            if got.is_floating_point() or expected.is_floating_point():
                assert got.dtype == expected.dtype, f"{clips}: {name} {got.dtype}, not {expected.dtype}"
                equal = close(got, expected)
            else:
                equal = same(got, expected.to(got.dtype))
            assert equal, f"{clips}: {name} differs\n{got}\n{expected}"
        compared += 1
    return compared


def main(names: list[str]) -> None:
    """Print a JSON line (family, outcome, details) for every family with a processor."""
    for module in ("torchvision", "transformers"):
        assert module not in sys.modules
    if problem := import_torchvision():
        print(json.dumps(["*", "skip", problem]))
        return
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    from families import families

    warnings.simplefilter("ignore")
    for family in families():
        if family.processor is None or (names and family.name not in names):
            continue
        needed = (*family.needs, *family.extra.get("processor_needs", ()))
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            print(json.dumps([family.name, "skip", f"needs {', '.join(missing)}"]))
            continue
        try:
            compared = compare(family) + sum(compare(variant, True) for variant in family.extra.get("variants", ()))
            print(json.dumps([family.name, "equal", compared]))
        except Exception:  # handed to the test of the family
            print(json.dumps([family.name, "fail", traceback.format_exc()]))


def import_torchvision() -> str | None:
    """Import torchvision, if need be with the operators registered that a CPU build of torch lacks."""
    import torch

    try:
        import torchvision
    except Exception:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_library"] = library  # the operators live as long as this object
        try:
            import torchvision  # noqa: F401
        except Exception as error:
            return f"torchvision cannot be imported: {error!r}"
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
else:
    import torch
    import transformers
    from equality import close
    from families import families

    import headprobe

    NAMES = [family.name for family in families() if family.processor is not None]

    @pytest.fixture(scope="module")
    def outcomes():
        done = subprocess.run(
            [sys.executable, str(Path(__file__))],
            cwd=TESTS.parent,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        return {name: (outcome, details) for name, outcome, details in lines}

    @pytest.mark.parametrize("name", NAMES)
    def test_every_input_equals_that_of_transformers_processor_bit_for_bit(name, outcomes):
        outcome, details = outcomes["*"] if "*" in outcomes else outcomes[name]
        if outcome == "skip":
            pytest.skip(details)
        assert outcome == "equal", details
        assert details >= len(SIZES) + 3

    IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    SQUARE = {"size": {"height": 224, "width": 224}}
    CROPPED = {"crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "resample": 3}
    # Model, processor, what its preprocessor_config.json says (new and old ones), a size that needs no resizing.
    PUBLISHED = {
        "clip": ("CLIPVision", "clip.CLIP", IMAGENET | CROPPED | {"size": {"shortest_edge": 224}}, (224, 260)),
        "siglip": ("SiglipVision", "siglip.Siglip", HALVES | SQUARE | {"resample": 3}, (224, 224)),
        "vit": ("ViT", "vit.ViT", HALVES | SQUARE | {"resample": 2, "rescale_factor": 1 / 255}, (224, 224)),
        "vit, old": ("ViT", "vit.ViT", HALVES | {"size": 224}, (224, 224)),
        "deit": ("DeiT", "deit.DeiT", IMAGENET | CROPPED | {"size": {"height": 256, "width": 256}}, (256, 256)),
        "deit, old": ("DeiT", "deit.DeiT", IMAGENET | CROPPED | {"size": 256, "crop_size": 224}, (256, 256)),
        "dinov2": ("Dinov2", "bit.Bit", IMAGENET | CROPPED | {"size": {"shortest_edge": 256}}, (301, 256)),
    }

    @pytest.fixture(scope="module", params=PUBLISHED)
    def tower(request):
        """What headprobe and transformers' processor of PIL make of a picture, and the grey level as they scale it."""
        kind, processor, config, as_it_is = PUBLISHED[request.param]
        file, _, name = processor.partition(".")
        module = pytest.importorskip(f"transformers.models.{file}.image_processing_pil_{file}")
        theirs = getattr(module, f"{name}ImageProcessorPil")(**config)
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        settings = getattr(transformers, f"{kind}Config")(**sizes, image_size=224, patch_size=16)
        model = headprobe.load(getattr(transformers, f"{kind}Model")(settings), processor_config=config)

        def both(picture):
            made = theirs(images=[picture], return_tensors="pt")["pixel_values"][0]
            return model.adapter.encode(picture[None], "0", model).pixels, made

        return both, 1 / (255 * torch.tensor(config["image_std"])[:, None, None]), as_it_is

    def test_a_picture_that_needs_no_resizing_equals_that_of_pils_processor(tower):
        both, _, size = tower
        ours, theirs = both(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
        assert ours.shape == theirs.shape == (3, 224, 224)
        assert close(ours, theirs)

    @pytest.mark.parametrize("size", [(240, 320), (480, 360), (150, 90), (61, 301), (1080, 1920)], ids=str)
    def test_a_resized_picture_equals_that_of_pils_processor_to_two_grey_levels(tower, size):
        """Both round to whole levels along one side and then the other, with weights of 16 bits in torch and 22 in PIL.

        So a value near a half falls to either side, twice. torch begins with the rows, PIL with whichever side is
        cheaper; where bicubic weights overshoot black or white, which is cut off in between, the two orders end up to
        11 levels apart (noise of full contrast), so the noise is grey. Another filter, size or crop is far off.
        """
        both, level, _ = tower
        noise = np.random.default_rng(0).integers(64, 192, (*size, 3), dtype=np.uint8)
        down, across, colour = np.meshgrid(*(np.linspace(0, 6, n) for n in (*size, 3)), indexing="ij")
        for picture in (noise, (127 + 120 * np.sin(down + colour) * np.cos(2 * across)).astype(np.uint8)):
            ours, theirs = both(picture)
            off = (ours - theirs).abs() / level
            assert ours.shape == theirs.shape == (3, 224, 224)
            assert off.max() < 2.01
            assert off.mean() < 0.5
