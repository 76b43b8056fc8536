import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError, StorageError
from worldsim.evaluate.policies import load_policy, policy_digest
from worldsim.policies.discovery import adapter_base, discover, folder_kind, left_out, natural, short_names
from worldsim.policies.pixel import PixelPolicy


def lerobot(folder, kind="act"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"type": kind}))
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


@pytest.fixture
def outputs(tmp_path):
    """Two LeRobot runs with a `last` link each, as LeRobot lays them out, and one folder of ours."""
    made = []
    for run in ("b_run", "a_run"):
        for step in ("1000", "900", "020000"):
            made.append(lerobot(tmp_path / run / "checkpoints" / step / "pretrained_model"))
            (tmp_path / run / "checkpoints" / step / "training_state").mkdir()
        (tmp_path / run / "checkpoints" / "last").symlink_to("020000")
    return tmp_path


def relative(refs, root):
    return [ref.removeprefix(f"{root}/") for ref in refs]


EXPECTED = [
    f"{run}/checkpoints/{step}/pretrained_model" for run in ("a_run", "b_run") for step in ("900", "1000", "020000")
]


def test_a_folder_of_runs(outputs):
    assert relative(discover([outputs]), outputs) == EXPECTED
    assert relative(discover(str(outputs)), outputs) == EXPECTED


@pytest.mark.parametrize("pattern", ["**/checkpoints/*/pretrained_model", "*_run", "*/checkpoints", "*/checkpoints/*"])
def test_globs(outputs, pattern):
    assert relative(discover([f"{outputs}/{pattern}"]), outputs) == EXPECTED


def test_last_alone_is_kept_and_never_counts_twice(outputs):
    last = str(outputs / "a_run/checkpoints/last/pretrained_model")
    assert discover([last]) == [last]
    both = discover([last, outputs / "a_run"])
    assert relative(both, outputs) == EXPECTED[:3]


def test_worldsim_folders_mixed_with_functions_and_lerobot(outputs, make_pixel):
    for step in (5, 10):
        make_pixel().save_pretrained(outputs / f"bank/s{step}")
    found = discover(["my.module:policy", outputs / "bank", outputs / "a_run"])
    assert relative(found, outputs) == ["my.module:policy", "bank/s5", "bank/s10", *EXPECTED[:3]]


def test_half_written_folders_are_ignored(tmp_path, make_pixel):
    make_pixel().save_pretrained(tmp_path / "bank/good")
    make_pixel().save_pretrained(tmp_path / "bank/.good.123.tmp")
    assert relative(discover([tmp_path]), tmp_path) == ["bank/good"]


def test_link_loops_end(tmp_path, make_pixel):
    make_pixel().save_pretrained(tmp_path / "bank/good")
    (tmp_path / "bank/loop").symlink_to(tmp_path)
    assert relative(discover([tmp_path]), tmp_path) == ["bank/good"]


def test_nothing_found_says_why(tmp_path, outputs):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text('{"type": "act"}')
    for path, match in [
        ("a_rum", "a_run"),
        ("empty", "neither"),
        ("nothing/*", "glob"),
        ("half", "no model.safetensors"),
    ]:
        with pytest.raises(StorageError, match=match):
            discover([tmp_path / path])
    with pytest.raises(StorageError, match=r"a_rum.*empty"):
        discover([tmp_path / "a_rum", tmp_path / "a_run", tmp_path / "empty"])
    with pytest.raises(InvalidInputError, match="No policy was named"):
        discover([])


def test_other_folders_are_not_policies(tmp_path):
    for name, manifest in [("world", {"kind": "world"}), ("list", [1])]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        (tmp_path / name / "config.json").write_text('{"model_type": "bert"}')
        (tmp_path / name / "model.safetensors").write_bytes(b"")
        assert folder_kind(tmp_path / name) is None


def test_loading_a_folder_of_many_names_one(outputs):
    with pytest.raises(StorageError, match=r"6 policies.*900"):
        load_policy(str(outputs))


def test_load_and_digest_of_our_folder(tmp_path, make_pixel):
    for seed, name in [(0, "a"), (0, "b"), (1, "c")]:
        make_pixel(seed).save_pretrained(tmp_path / name, manifest={"name": name})
    assert isinstance(load_policy(str(tmp_path / "a")), PixelPolicy)
    digests = [policy_digest(str(tmp_path / name)) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_corrupt_weights_are_noticed(tmp_path, make_pixel):
    make_pixel().save_pretrained(tmp_path / "p")
    data = bytearray((tmp_path / "p/model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "p/model.safetensors").write_bytes(data)
    with pytest.raises(StorageError, match="sha256"):
        load_policy(str(tmp_path / "p"))


def test_short_names():
    refs = ["out/a/checkpoints/0100/pretrained_model", "out/b/checkpoints/0100/pretrained_model", "bank/s5", "m.n:f"]
    assert short_names(refs) == ["a/0100", "b/0100", "s5", "m.n:f"]
    assert short_names(["x/p", "p"]) == ["x/p", "p"]
    assert short_names(["/only"]) == ["only"]


@given(st.lists(st.text("ab/12", min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
def test_short_names_are_always_unique(refs):
    assert len(set(short_names(refs))) == len(refs)


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_numeric(numbers):
    assert sorted((f"run/{n}/x" for n in numbers), key=natural) == [f"run/{n}/x" for n in sorted(numbers)]


def test_what_is_left_out_is_listed_with_the_reason(outputs):
    lora, half = outputs / "a_run/lora", outputs / "a_run/half"
    for folder in (lora, half, outputs / "a_run/logs"):
        folder.mkdir()
    (lora / "adapter_config.json").write_text("{}")
    (half / "config.json").write_text(json.dumps({"type": "act"}))
    (outputs / "a_run/logs" / "config.json").write_text("{}")
    found = left_out([outputs, "module:name"])
    link = "a link to a checkpoint that stands beside it"
    assert [(f.removeprefix(f"{outputs}/"), reason.split(":")[0].split(" without")[0]) for f, reason in found] == [
        ("a_run/checkpoints/last", link),
        ("a_run/half", "half-written"),
        ("a_run/lora", "a LoRA adapter"),
        ("b_run/checkpoints/last", link),
    ]
    assert relative(discover([outputs]), outputs) == EXPECTED


def test_what_kinds_of_folders_are_left_out_and_why(tmp_path):
    made = {name: tmp_path / "run" / name for name in ("lora", "merged", "sharded", "pickled", "strange", "torn")}
    for name, folder in made.items():
        lerobot(folder, kind="akt" if name == "strange" else "act")
    for name in ("lora", "merged"):
        (made[name] / "model.safetensors").rename(made[name] / "adapter_model.safetensors")
        base = str(tmp_path / "base") if name == "merged" else "someone/base"
        (made[name] / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    lerobot(tmp_path / "base")
    (made["sharded"] / "model.safetensors").rename(made["sharded"] / "model-00001-of-00002.safetensors")
    (made["pickled"] / "model.safetensors").rename(made["pickled"] / "pytorch_model.bin")
    (made["torn"] / "config.json").write_text("{")
    found = {folder.rsplit("/", 1)[1]: reason for folder, reason in left_out([tmp_path / "run"])}
    for name, match in [
        ("lora", "someone/base"),
        ("sharded", "several files"),
        ("pickled", "pytorch_model.bin"),
        ("strange", "'akt'"),
        ("torn", "cannot be read"),
    ]:
        assert match in found.pop(name)
    assert not found and relative(discover([tmp_path / "run"]), tmp_path) == ["run/merged"]  # its base is at hand
    with pytest.raises(StorageError, match=r"sharded.*several files"):
        discover([made["sharded"]])


def test_a_base_is_found_beside_its_adapter_and_must_be_complete(tmp_path):
    for kind, base, match in [
        ("act", "../base", ""),
        ("diffusion", "../base", "same type|of the type"),
        ("act", ".", "complete"),
    ]:
        folder = tmp_path / f"{kind}{len(base)}"
        lerobot(folder, kind)
        (folder / "adapter_model.safetensors").write_bytes(b"")
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        (tmp_path / "base").exists() or lerobot(tmp_path / "base")
        if match:
            with pytest.raises(StorageError, match=match):
                adapter_base(folder)
            assert folder_kind(folder) is None
        else:
            assert adapter_base(folder).samefile(tmp_path / "base")
            before = policy_digest(str(folder))
            (tmp_path / "base" / "model.safetensors").write_bytes(b"x")
            assert policy_digest(str(folder)) != before  # another base is another policy
