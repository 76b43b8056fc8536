import dataclasses
import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.reason.toy import attends_like_transformers, item, items, texts
from worldsim.errors import InvalidInputError, StorageError
from worldsim.reason.vlm.model import IGNORED, VLM, KeyedSampler, score_options
from worldsim.reason.vlm.option_tree import OptionTree
from worldsim.reason.vlm.tiny import TAGS, TinyConfig

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "cosmos3_omni")


@pytest.fixture(scope="module")
def vlms():
    return {f: VLM.tiny(texts(items(40)), TinyConfig(family=f), seed=3) for f in FAMILIES}


@pytest.fixture(scope="module")
def vlm(vlms):
    return vlms["qwen3_vl"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_of_each_family_is_saved_and_loaded_offline(vlms, family, tmp_path):
    before, asked = vlms[family], items(5)
    before.save_pretrained(tmp_path / "critic", manifest={"figures": {"accuracy": 1.0}})
    after = VLM.from_pretrained(tmp_path / "critic")
    assert after.model.config.model_type == family
    assert torch.equal(before.option_logprobs(asked), after.option_logprobs(asked))
    assert before.generate(asked, max_new_tokens=6) == after.generate(asked, max_new_tokens=6)
    manifest = json.loads((tmp_path / "critic/manifest.json").read_text())
    assert manifest["kind"] == "vlm" and manifest["figures"] and "model.safetensors" in manifest["sha256"]


def test_a_folder_that_only_transformers_wrote_is_loaded_too(vlm, tmp_path):
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    assert torch.equal(VLM.from_pretrained(tmp_path).option_logprobs(items(2)), vlm.option_logprobs(items(2)))


def test_transformers_reads_what_is_saved_and_gives_the_same_logits(vlm, tmp_path):
    vlm.save_pretrained(tmp_path / "critic")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "critic").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "critic")
    asked = item(1)
    text = processor.apply_chat_template(vlm.messages(asked), tokenize=False, add_generation_prompt=True)
    theirs = processor(text=[text], images=[Image.fromarray(f) for f in asked.frames.numpy()], return_tensors="pt")
    ours = vlm.encode([asked])
    assert theirs.keys() == ours.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key].to(ours[key].dtype)), key
    with torch.no_grad():
        torch.testing.assert_close(model(**theirs).logits, vlm.model(**ours).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("size", "shown"), [(32, 32), (64, 64), (64, 32), (32, 50)])
def test_patches_equal_the_processors_bit_for_bit(size, shown):
    vlm = VLM.tiny(texts(items(4)), TinyConfig(size=size))
    asked = item(1, size=shown)
    theirs = vlm.processor.image_processor(
        images=[Image.fromarray(f) for f in asked.frames.numpy()], return_tensors="pt"
    )
    ours = vlm.encode([asked])
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])
    assert torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])


def test_frames_of_several_sizes_share_a_batch(vlm):
    asked = [item(1), item(2, size=64), item(3)]
    together = vlm.option_logprobs(asked)
    alone = torch.cat([vlm.option_logprobs([i]) for i in asked])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_options_in_one_pass_as_each_alone(vlms, family):
    vlm, asked = vlms[family], items(6)
    thinks = [i.think if i.number % 2 else "" for i in asked]
    found = vlm.option_logprobs(asked, thinks=thinks)
    assert found.shape == (6, 3) and found[0, 2] == float("-inf")
    for row, (one, think) in enumerate(zip(asked, thinks, strict=True)):
        for column, option in enumerate(one.options):
            reply = f"<think>{think}</think><answer>{option}</answer>"
            batch = vlm.encode([one], [reply])
            said = (batch.pop("labels")[0] != IGNORED).nonzero()[:, 0]
            start = len(vlm.tokenizer(f"<think>{think}</think><answer>")["input_ids"])
            del batch["position_ids"]  # so that the model works them out itself
            with torch.no_grad():
                logits = vlm.model(**batch).logits[0].log_softmax(-1)
            alone = sum(logits[i - 1, batch["input_ids"][0, i]] for i in said[start:-1].tolist())
            assert float(found[row, column]) == pytest.approx(float(alone), abs=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_questions_about_the_same_frames_in_one_pass_as_each_alone(vlms, family):
    vlm, first = vlms[family], items(6)
    other = {"side": item(0, task="half"), "half": item(0)}
    second = [dataclasses.replace(other[i.task], frames=i.frames) for i in first]
    together = score_options(vlm, list(zip(first, second, strict=True)))
    for questions, found in zip((first, second), together, strict=True):
        torch.testing.assert_close(found, vlm.option_logprobs(questions), rtol=0, atol=1e-4)
    with pytest.raises(InvalidInputError, match="same frames"):
        score_options(vlm, [[first[0], first[3]]])
    with pytest.raises(InvalidInputError, match="same number of questions"):
        score_options(vlm, [[first[0], second[0]], [first[1]]])


def test_only_the_reply_and_its_end_are_learned(vlm):
    asked = items(4)
    batch = vlm.encode(asked, [i.completion for i in asked])
    for row, one in enumerate(asked):
        said = batch["input_ids"][row][batch["labels"][row] != IGNORED]
        assert vlm.tokenizer.decode(said) == one.completion + "<|im_end|>"
    assert vlm.tokenizer.decode(said, skip_special_tokens=True) == one.completion  # the tags stay, as rewards need them
    assert vlm.tokenizer.pad_token_id != vlm.tokenizer.eos_token_id == vlm.model.generation_config.eos_token_id
    assert all(len(vlm.tokenizer(tag)["input_ids"]) == 1 for tag in TAGS)


def test_what_is_drawn_depends_on_the_key_and_not_on_the_batch(vlm):
    asked, keys = items(6), torch.arange(100, 106)
    together = vlm.generate(asked, max_new_tokens=6, temperature=1.0, keys=keys)
    assert together == vlm.generate(asked, max_new_tokens=6, temperature=1.0, keys=keys, batch=2)
    assert together[3:4] == vlm.generate(asked[3:4], max_new_tokens=6, temperature=1.0, keys=keys[3:4])
    assert together != vlm.generate(asked, max_new_tokens=6, temperature=1.0, keys=keys + 50)


def test_draws_follow_the_models_distribution(vlm):
    scores = torch.tensor([[0.0, 1.0, -1.0]]).expand(20000, 3)
    drawn = KeyedSampler(torch.arange(20000), 0, 1.0)(torch.zeros(20000, 0), scores).argmax(1)
    shares = torch.bincount(drawn, minlength=3) / 20000
    torch.testing.assert_close(shares, scores[0].softmax(0), atol=0.015, rtol=0)


def test_the_towers_attention_equals_that_of_transformers(vlm, vlms):
    for made in vlms.values():
        attends_like_transformers(made, items(3))


def test_a_tree_shares_the_common_prefix_and_keeps_one_token_to_score():
    found = OptionTree.of([[1, 2, 3, 9], [1, 2, 4, 5, 9], [1, 2, 4, 6, 9]])
    assert found.stem == (1, 2) and found.leaves == (3, 4, 5, 6)
    assert found.parent == (0, 0, 2, 2) and found.depth == (0, 0, 1, 1)
    assert found.steps == ((0, 3, 0), (1, 9, 0), (0, 4, 1), (2, 5, 1), (3, 9, 1), (0, 4, 2), (2, 6, 2), (4, 9, 2))
    assert found.mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 1, 0, 1],
    ]
    tree = OptionTree.of([[1, 2, 3, 9], [1, 4, 5, 9]], given=[2, 3])
    assert tree.steps == ((1, 3, 0), (2, 9, 0), (4, 9, 1))
    assert OptionTree.of([[1, 2]]).stem == (1,)
    with pytest.raises(InvalidInputError, match="same tokens"):
        OptionTree.of([[1, 2], [1, 2]])


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("config.json", "lacks config.json"),
        ("model.safetensors", "lacks its weights"),
        ("processor_config.json", "lacks its image processor"),
        ("tokenizer.json", "lacks its tokenizer"),
    ],
)
def test_a_part_that_is_missing_is_named(vlm, tmp_path, gone, message):
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(StorageError, match=message):
        VLM.from_pretrained(tmp_path)


def test_weights_that_do_not_fill_the_model_are_named(vlm, tmp_path):
    from safetensors.torch import load_file, save_file

    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(k for k in weights if "q_proj" in k)
    save_file(
        {k: v for k, v in weights.items() if k != name}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(StorageError, match="q_proj"):
        VLM.from_pretrained(tmp_path)
    weights[name] = weights[name][:8]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StorageError, match="another shape.*q_proj"):
        VLM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(StorageError, match="model .* could not be read"):
        VLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_mean", "../../x"),
        ("image_std", [0.5]),
        ("do_rescale", []),
        ("size", {"longest_edge": "", "shortest_edge": 64}),
        ("size", {"longest_edge": 10**30, "shortest_edge": 10**30}),
        ("patch_size", 10**9),
        ("rescale_factor", -1),
    ],
)
def test_processors_of_wrong_values_are_named(vlm, tmp_path, name, value):
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"][name] = value
    path.write_text(json.dumps(config))
    with pytest.raises(StorageError, match="processor in"):
        VLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("image_token_id", 0), ("use_cache", -1)])
def test_models_of_wrong_values_are_named(vlm, tmp_path, name, value):
    vlm.model.save_pretrained(tmp_path)
    vlm.processor.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    (config if name in config else config["text_config"])[name] = value
    path.write_text(json.dumps(config))
    with pytest.raises(StorageError, match="image_token_id|model in"):
        VLM.from_pretrained(tmp_path)


def test_folders_that_are_none(vlm, tmp_path):
    with pytest.raises(StorageError, match="nothing is downloaded"):
        VLM.from_pretrained(tmp_path / "nowhere")
    vlm.save_pretrained(tmp_path / "critic")
    with (tmp_path / "critic/chat_template.jinja").open("a") as file:
        file.write(" ")
    with pytest.raises(StorageError, match="corrupt or was edited"):
        VLM.from_pretrained(tmp_path / "critic")


def test_bad_questions(vlm):
    for call in (
        lambda: vlm.encode([]),
        lambda: vlm.encode(items(2), ["one"]),
        lambda: vlm.option_logprobs([]),
        lambda: vlm.option_logprobs(items(2), thinks=["a"]),
        lambda: vlm.generate(items(2), temperature=-1.0),
        lambda: vlm.generate(items(2), keys=torch.arange(3)),
        lambda: TinyConfig(size=48),
        lambda: TinyConfig(hidden=40),
    ):
        with pytest.raises(InvalidInputError):
            call()
