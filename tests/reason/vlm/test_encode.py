"""Clips shown as one real video: the same tensors as the families' own processors make, with times that are given."""

import dataclasses

import pytest
import torch
from PIL import Image

from tests.reason.toy import attends_like_transformers, item, items, texts
from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.reason.items.video import Provenance
from worldsim.reason.vlm.encode import ItemEncoder, video_patches
from worldsim.reason.vlm.model import IGNORED, VLM, score_options
from worldsim.reason.vlm.tiny import TinyConfig

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "cosmos3_omni")


def clip(number, *, frames=4, rate_hz=10.0, taken=None, size=32):
    """A toy item that is a clip: every second frame from the third on."""
    taken = tuple(range(2, 2 + 2 * frames, 2)) if taken is None else taken
    origin = Provenance(kind="file", episode=f"{number}.mp4", rate_hz=rate_hz)
    return dataclasses.replace(item(number, frames=frames, size=size), clip=True, taken=taken, provenance=origin)


@pytest.fixture(scope="module")
def vlms():
    return {f: VLM.tiny(texts(items(40)), TinyConfig(family=f), seed=3, shown="video") for f in FAMILIES}


@pytest.fixture(scope="module")
def vlm(vlms):
    return vlms["qwen3_vl"]


def processed(vlm, asked, **facts):
    """What transformers makes of a clip by itself."""
    text = vlm.processor.apply_chat_template(vlm.messages(asked), tokenize=False, add_generation_prompt=True)
    metadata = {
        "fps": asked.provenance.rate_hz,
        "frames_indices": [abs(n - asked.taken[0]) for n in asked.taken],
        **facts,
    }
    return vlm.processor(
        text=[text],
        videos=[asked.frames.movedim(-1, 1)],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("frames", [2, 4, 5])
def test_a_clip_is_what_the_processor_makes_of_it(vlms, family, frames):
    vlm = vlms[family]
    asked = clip(1, frames=frames)
    theirs = processed(vlm, asked, total_num_frames=2 * frames)
    ours = vlm.encode([asked])
    assert theirs.keys() == ours.keys() and "pixel_values" not in ours
    assert ours["video_grid_thw"][0, 0] == (frames + 1) // 2
    for key in ours:
        assert torch.equal(ours[key], torch.as_tensor(theirs[key]).to(ours[key].dtype)), key
    with torch.no_grad():
        torch.testing.assert_close(vlm.model(**theirs).logits, vlm.model(**ours).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "shown", "changes"),
    [
        (64, 64, {}),
        (64, 32, {}),
        (32, 50, {}),
        (32, 32, {"size": {"shortest_edge": 256, "longest_edge": 2 * 32 * 32}}),  # too large together
        (32, 32, {"size": {"shortest_edge": 256, "longest_edge": 65536}, "max_video_tokens": 1}),  # and by its cap
    ],
)
def test_video_patches_equal_the_processors_bit_for_bit(size, shown, changes):
    for family in ("qwen3_vl", "qwen2_5_vl"):
        processor = VLM.tiny(texts(items(4)), TinyConfig(size=size, family=family)).processor.video_processor
        processor.cap_pixels_per_frame = "max_video_tokens" in changes
        for name, value in changes.items():
            setattr(processor, name, value)
        films = torch.stack([clip(n, size=shown, frames=3).frames for n in range(2)])
        theirs = processor(videos=list(films.movedim(-1, 2)), do_sample_frames=False, return_tensors="pt")
        pixels, grid = video_patches(films, processor)
        assert torch.equal(pixels, theirs["pixel_values_videos"]) and torch.equal(grid, theirs["video_grid_thw"])


def test_times_are_given_and_say_nothing_of_direction(vlm):
    forward = clip(1)
    backward = dataclasses.replace(forward, taken=forward.taken[::-1], frames=forward.frames.flip(0))
    assert forward.times_s == backward.times_s == pytest.approx((0.0, 0.2, 0.4, 0.6))
    prompts, pixels, _ = vlm.encoder.encode([forward, backward])
    assert prompts[0] == prompts[1] and pixels["video_grid_thw"].tolist() == [[2, 4, 4]] * 2
    words = vlm.tokenizer.decode(prompts[0])
    assert "<0.1 seconds><|vision_start|><|video_pad|>" in words and "<0.5 seconds><|vision_start|>" in words
    slow = vlm.encoder.encode([clip(1, rate_hz=2.0)])[0]
    assert "<2.5 seconds>" in vlm.tokenizer.decode(slow[0])


def test_two_clips_that_differ_in_pace_differ_for_every_family(vlms):
    for vlm in vlms.values():
        fast, slow = vlm.option_logprobs([clip(1), clip(1, rate_hz=1.0)])
        assert not torch.allclose(fast[:2], slow[:2], atol=1e-5)


def test_an_unknown_rate_is_not_guessed(vlms):
    for vlm in vlms.values():
        with pytest.raises(InvalidInputError, match=r"Item 7 of side: the frame rate of video 7\.mp4 is not known"):
            vlm.encode([clip(1), clip(7, rate_hz=0.0)])


@pytest.mark.parametrize("family", FAMILIES)
def test_clips_and_other_items_share_a_batch(vlms, family):
    vlm = vlms[family]
    puzzle = item(4)
    assert not puzzle.clip and not vlm.encoder.is_video(puzzle), "quarters of a frame are no clip"
    asked = [clip(1), puzzle, clip(2, frames=5), clip(3, size=64), dataclasses.replace(clip(6, frames=1), number=8)]
    batch = vlm.encode(asked, [i.completion for i in asked])
    assert len(batch["video_grid_thw"]) == 3 and len(batch["image_grid_thw"]) == 4 + 1, "a single frame is a picture"
    del batch["labels"]
    with torch.no_grad():
        given = vlm.model(**batch).logits
        del batch["position_ids"]  # so that the model works them out itself
        torch.testing.assert_close(vlm.model(**batch).logits, given, rtol=0, atol=1e-4)
    together = vlm.option_logprobs(asked)
    alone = torch.cat([vlm.option_logprobs([i]) for i in asked])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)
    said = vlm.generate(asked, max_new_tokens=5)
    assert said == [vlm.generate([i], max_new_tokens=5)[0] for i in asked]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_options_of_a_clip_in_one_pass_as_each_alone(vlms, family):
    vlm, one = vlms[family], clip(2, frames=5)
    found = vlm.option_logprobs([one], thinks=[one.think])
    for column, option in enumerate(one.options):
        batch = vlm.encode([one], [f"<think>{one.think}</think><answer>{option}</answer>"])
        said = (batch.pop("labels")[0] != IGNORED).nonzero()[:, 0]
        start = len(vlm.tokenizer(f"<think>{one.think}</think><answer>")["input_ids"])
        with torch.no_grad():
            logits = vlm.model(**batch).logits[0].log_softmax(-1)
        alone = sum(logits[i - 1, batch["input_ids"][0, i]] for i in said[start:-1].tolist())
        assert float(found[0, column]) == pytest.approx(float(alone), abs=2e-4)


def test_questions_about_one_clip_share_its_look(vlms):
    for vlm in vlms.values():
        one = clip(2, frames=5)
        other = dataclasses.replace(clip(2, frames=5), prompt=item(2, task="half", frames=5).prompt)
        together = score_options(vlm, [[one, other]])
        alone = torch.cat([vlm.option_logprobs([one]), vlm.option_logprobs([other])])
        torch.testing.assert_close(torch.cat(together), alone, rtol=0, atol=1e-4)
        for unlike in (dataclasses.replace(other, clip=False), dataclasses.replace(other, taken=(0, 1, 2, 3, 4))):
            with pytest.raises(InvalidInputError, match="same frames"):
                score_options(vlm, [[one, unlike]])


def test_the_towers_attention_of_a_video_equals_that_of_transformers(vlms):
    for vlm in vlms.values():
        attends_like_transformers(vlm, [clip(1), clip(2, frames=2)])


def test_a_folder_remembers_how_its_model_was_shown_clips(vlm, tmp_path):
    vlm.save_pretrained(tmp_path / "critic")
    again = VLM.from_pretrained(tmp_path / "critic")
    assert again.encoder.shown == "video"
    assert torch.equal(again.option_logprobs([clip(1)]), vlm.option_logprobs([clip(1)]))
    other = VLM.from_pretrained(tmp_path / "critic", shown="images")
    assert "pixel_values" in other.encode([clip(1)])
    vlm.model.save_pretrained(tmp_path / "plain")
    vlm.processor.save_pretrained(tmp_path / "plain")
    assert VLM.from_pretrained(tmp_path / "plain").encoder.shown == "images"


def test_pictures_stay_what_they_were(vlm):
    still = ItemEncoder(vlm.processor).messages(clip(1))[0]["content"]
    assert [p["type"] for p in still] == ["text", "image"] * 4 + ["text"] and still[2]["text"] == "2"
    theirs = vlm.processor.image_processor(
        images=[Image.fromarray(f) for f in item(1).frames.numpy()], return_tensors="pt"
    )
    assert torch.equal(vlm.encode([item(1)])["pixel_values"], theirs["pixel_values"])


def test_bad_displays_and_clips(vlm):
    class Blind:
        video_processor = None
        model_input_names = ()

    with pytest.raises(UnknownNameError, match="video"):
        ItemEncoder(vlm.processor, shown="vidoe")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="without video processor"):
        ItemEncoder(Blind(), shown="video")
    for wrong in ((0, 2, 1, 3), (0, 1, 2)):
        with pytest.raises(InvalidInputError, match="Item 1 of side: 4 frames.*no clip in order of time"):
            clip(1, taken=wrong)
    assert clip(1, taken=(5, 5, 5, 5)).times_s == (0.0,) * 4
    with pytest.raises(InvalidInputError, match=r"Item 3 of side: frames must be uint8 .* got torch.float32"):
        dataclasses.replace(item(3), frames=torch.zeros(4, 8, 8, 3))
    with pytest.raises(InvalidInputError, match=r"got torch.uint8 \(0, 8, 8, 3\)"):
        dataclasses.replace(item(3), frames=torch.zeros(0, 8, 8, 3, dtype=torch.uint8))
