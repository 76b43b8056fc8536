"""Folders of other people that try to run code when they are read: each plants a file where its code would; none may be there."""

import contextlib
import json
import os
import pickle
import shutil
import sqlite3
import struct
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.append(str(Path(__file__).parent))
from hub_cache import cached_model, edit, tiny_tokenizer

from benchmarks.toy import ToyWorld, load_toy, toy_refs
from tests.data import toys
from worldsim import storage
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import WorldsimError
from worldsim.evaluate.policies import SHIPPED_FOLDER, discover, load_policy, load_ref
from worldsim.evaluate.triage import prepare, report_of
from worldsim.reason.critic import SHIPPED, ReasonCritic
from worldsim.triage.engine.store import DATABASE
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import read_results, run
from worldsim.video import decode_image, encode_png
from worldsim.worlds import load_world, world_folder

WAYS = {}
REFUSED, HARMLESS = True, False


def way(refused):
    """A way to try it: from an empty folder, the marker and fixtures to the call that reads the folder."""

    def register(function):
        WAYS[function.__name__] = (function, refused)
        return function

    return register


class Payload:
    """Runs code where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def code(marker):
    """A module that plants the marker, and has every name that somebody might ask it for."""
    return f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Evil:\n    def __init__(self, *a, **k): pass\nmake = Evil\n"


def reseal(folder, *names):
    """Make a manifest's digests fit what was edited."""
    manifest = storage.read_json(folder / storage.MANIFEST)
    for name in names:
        manifest["sha256"][name] = storage.digest_file(folder / name)
    storage.write_json(folder / storage.MANIFEST, manifest)


@pytest.fixture(scope="module")
def act(tmp_path_factory):
    """A LeRobot checkpoint."""
    pytest.importorskip("lerobot", reason="the lerobot extra is not installed")
    pytest.importorskip("diffusers", reason="the lerobot extra is not installed")
    from test_lerobot_policies import build

    folder = tmp_path_factory.mktemp("foreign") / "pretrained_model"
    build(folder, "act")
    return folder


@pytest.fixture
def checkpoint(act, tmp_path):
    return shutil.copytree(act, tmp_path / "foreign" / "run" / "pretrained_model")


def with_step(folder, kind, marker, **settings):
    """Put a processor step first that names this folder, which holds code."""
    (folder / "processing_evil.py").write_text(code(marker))
    for name in ("processor_config.json", "tokenizer_config.json"):
        auto = {
            "AutoProcessor": "processing_evil.Evil",
            "AutoTokenizer": ["processing_evil.Evil", "processing_evil.Evil"],
        }
        (folder / name).write_text(json.dumps({"auto_map": auto}))
    step = {"registry_name": kind, "config": settings}
    edit(folder / "policy_preprocessor.json", lambda c: c["steps"].insert(0, step))
    return lambda: load_policy(str(folder))


@way(REFUSED)
def processor_step_that_trusts_remote_code(checkpoint, marker, monkeypatch):
    return with_step(
        checkpoint, "action_tokenizer_processor", marker, action_tokenizer_name=str(checkpoint), trust_remote_code=True
    )


@way(REFUSED)
def tokenizer_in_a_local_folder(checkpoint, marker, monkeypatch):
    return with_step(checkpoint, "tokenizer_processor", marker, tokenizer_name=str(checkpoint))


@way(REFUSED)
def tokenizer_in_the_cache_with_auto_map(checkpoint, marker, monkeypatch):
    pytest.importorskip("transformers", reason="the reason extra is not installed")

    def fill(folder):
        tiny_tokenizer(folder)
        (folder / "evil.py").write_text(code(marker))
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate/generate.py").write_text(code(marker))
        edit(
            folder / "tokenizer_config.json", lambda c: c.update(auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
        )

    cached_model(checkpoint.parents[1] / "cache", "evil/tokens", fill)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(checkpoint.parents[1] / "cache"))
    return with_step(checkpoint, "tokenizer_processor", marker, tokenizer_name="evil/tokens")


@way(REFUSED)
def processor_step_by_import_path(checkpoint, marker, monkeypatch):
    monkeypatch.syspath_prepend(str(checkpoint))
    (checkpoint / "evil_step.py").write_text(code(marker))
    edit(
        checkpoint / "policy_postprocessor.json", lambda c: c["steps"].append({"class": "evil_step.Evil", "config": {}})
    )
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def policy_type_with_dots(checkpoint, marker, monkeypatch):
    monkeypatch.syspath_prepend(str(checkpoint))
    (checkpoint / "evil_type.py").write_text(code(marker))
    edit(checkpoint / "config.json", lambda c: c.update(type="evil_type.Evil"))
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def type_whose_network_trusts_remote_code(checkpoint, marker, monkeypatch):
    (checkpoint / "evil_model.py").write_text(code(marker))
    auto = {"AutoConfig": "evil_model.Evil", "AutoModel": "evil_model.Evil"}
    edit(
        checkpoint / "config.json",
        lambda c: c.update(
            type="gaussian_actor", vision_encoder_name=str(checkpoint), auto_map=auto, model_type="evil"
        ),
    )
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def targets_and_resolvers_in_a_config(checkpoint, marker, monkeypatch):
    call = {"_target_": "pathlib.Path.touch", "_args_": [str(marker)]}
    edit(
        checkpoint / "config.json",
        lambda c: c.update(optimizer_lr=call, vision_backbone="${oc.env:HOME}", _target_="os.system"),
    )
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def auto_map_in_a_policys_config(checkpoint, marker, monkeypatch):
    (checkpoint / "evil_map.py").write_text(code(marker))
    edit(checkpoint / "config.json", lambda c: c.update(auto_map={"AutoConfig": "evil_map.Evil"}))
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def pickle_called_safetensors(checkpoint, marker, monkeypatch):
    (checkpoint / "model.safetensors").write_bytes(pickle.dumps(Payload(marker)))
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def pickled_statistics(checkpoint, marker, monkeypatch):
    state = next(checkpoint.glob("policy_preprocessor_*.safetensors"))
    state.write_bytes(pickle.dumps(Payload(marker)))
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def pickles_beside_the_weights(checkpoint, marker, monkeypatch):
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.pkl"):
        (checkpoint / name).write_bytes(pickle.dumps(Payload(marker)))
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def weights_that_are_a_link_to_a_module(checkpoint, marker, monkeypatch):
    (checkpoint / "evil_link.py").write_text(code(marker))
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").symlink_to("evil_link.py")
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def weights_outside_the_folder(checkpoint, marker, monkeypatch):
    (checkpoint.parent / "state.safetensors").write_bytes(pickle.dumps(Payload(marker)))

    def aim(content):
        for step in content["steps"]:
            if "state_file" in step:
                step["state_file"] = "../state.safetensors"

    edit(checkpoint / "policy_preprocessor.json", aim)
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def adapter_that_names_modules(checkpoint, marker, monkeypatch):
    base = shutil.copytree(checkpoint, checkpoint.parents[1] / "base")
    monkeypatch.syspath_prepend(str(checkpoint))
    (checkpoint / "evil_core.py").write_text(code(marker))
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "auto_mapping": {"base_model_class": "Evil", "parent_library": "evil_core"},
        "megatron_config": {"a": 1},
        "megatron_core": "evil_core",
        "target_modules": "all-linear",
    }
    (checkpoint / "adapter_config.json").write_text(json.dumps(settings))
    return lambda: load_policy(str(checkpoint))


@way(HARMLESS)
def modules_and_settings_beside_the_files(checkpoint, marker, monkeypatch):
    monkeypatch.chdir(checkpoint)
    names = ("sitecustomize", "usercustomize", "conftest", "torch", "lerobot", "safetensors", "modeling_act", "setup")
    for name in names:
        (checkpoint / f"{name}.py").write_text(code(marker))
    (checkpoint / "lerobot_policy_evil").mkdir()
    (checkpoint / "lerobot_policy_evil/__init__.py").write_text(code(marker))
    (checkpoint / "train_config.yaml").write_text(f"!!python/object/apply:os.system ['touch {marker}']\n")
    (checkpoint / "pyproject.toml").write_text('[project.entry-points."worldsim.policies"]\nevil = "torch:make"\n')
    (checkpoint / "evil_path.start").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()\n")
    return lambda: load_policy(discover([checkpoint.parent])[0])


@way(REFUSED)
def path_file_beside_the_weights(checkpoint, marker, monkeypatch):
    (checkpoint / "evil.pth").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()\n")
    return lambda: load_policy(str(checkpoint))


@way(REFUSED)
def class_path_in_a_worldsim_policy(foreign, marker, monkeypatch):
    folder = shutil.copytree(next(SHIPPED_FOLDER.glob("*/*")), foreign / "policy")
    monkeypatch.syspath_prepend(str(folder))
    (folder / "evil_policy.py").write_text(code(marker))
    edit(folder / "config.json", lambda c: c.update(policy="evil_policy:Evil", _target_="evil_policy.Evil"))
    reseal(folder, "config.json")
    return lambda: load_policy(str(folder))


@way(REFUSED)
def class_path_in_a_world(foreign, marker, monkeypatch):
    folder = shutil.copytree(world_folder("push_state"), foreign / "world")
    monkeypatch.syspath_prepend(str(folder))
    (folder / "evil_world.py").write_text(code(marker))
    edit(folder / "config.json", lambda c: c.update(predictor="evil_world.Evil", tokenizer="evil_world:Evil"))
    reseal(folder, "config.json")
    return lambda: load_world(folder)


@way(REFUSED)
def world_whose_manifest_leaves_its_folder(foreign, marker, monkeypatch):
    folder = shutil.copytree(world_folder("push_state"), foreign / "world")
    (foreign / "evil.safetensors").write_bytes(pickle.dumps(Payload(marker)))
    edit(folder / "manifest.json", lambda c: c["sha256"].update({"../evil.safetensors": "0" * 64}))
    return lambda: load_world(folder)


@way(REFUSED)
def world_with_pickled_weights(foreign, marker, monkeypatch):
    folder = shutil.copytree(world_folder("push_state"), foreign / "world")
    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(marker)))
    reseal(folder, "model.safetensors")
    return lambda: load_world(folder)


@way(REFUSED)
def task_of_a_world_that_is_code(foreign, marker, monkeypatch):
    folder = shutil.copytree(world_folder("push_state"), foreign / "world")
    monkeypatch.syspath_prepend(str(folder))
    (folder / "evil_task.py").write_text(code(marker))
    edit(folder / "config.json", lambda c: c["spec"].update(task_id="evil_task:make"))
    reseal(folder, "config.json")
    return lambda: prepare([], world=str(folder), truth=3)


def critic(foreign, **changes):
    """A copy of the shipped critic with other settings in its files."""
    pytest.importorskip("transformers", reason="the reason extra is not installed")
    folder = shutil.copytree(SHIPPED, foreign / "critic")
    for file, content in changes.items():
        edit(folder / f"{file}.json", lambda c, content=content: c.update(content))
        reseal(folder, f"{file}.json")
    return folder


@way(REFUSED)
def auto_map_in_a_critic(foreign, marker, monkeypatch):
    auto = {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil", "AutoProcessor": "evil.Evil"}
    folder = critic(foreign, config={"auto_map": auto, "model_type": "evil"}, processor_config={"auto_map": auto})
    (folder / "evil.py").write_text(code(marker))
    return lambda: ReasonCritic.from_pretrained(folder)


@way(REFUSED)
def chat_template_that_leaves_its_sandbox(foreign, marker, monkeypatch):
    folder = critic(foreign)
    escape = "{{ cycler.__init__.__globals__.os.system('touch " + str(marker) + "') }}"
    (folder / "chat_template.jinja").write_text(escape)
    reseal(folder, "chat_template.jinja")

    def judge():
        vlm = ReasonCritic.from_pretrained(folder).vlm
        try:
            vlm.processor.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": "x"}]}])
        except Exception as error:
            raise WorldsimError(str(error)) from error

    return judge


@way(HARMLESS)
def dataset_with_a_builder_script(foreign, marker, monkeypatch):
    folder = toys.write(foreign / "data", 2)
    for name in ("data", "dataset_infos", "data/data", "conftest"):
        (folder / f"{name}.py").write_text(code(marker))
    (folder / "dataset_dict.json").write_text('{"builder_name": "evil"}')
    toys.edit_info(folder, builder_name="data", _target_="data.make", robot_type="!!python/object/apply:os.system")
    return lambda: open_dataset(folder).episode(0)


@way(HARMLESS)
def parquet_with_a_pickled_type(foreign, marker, monkeypatch):
    folder = toys.as_foreign(toys.write(foreign / "data", 2))
    for file in [*(folder / "data").rglob("*.parquet"), *(folder / "meta").rglob("*.parquet")]:
        table = pq.read_table(file)
        evil = {
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickle.dumps(Payload(marker)),
        }
        fields = [field.with_metadata(evil) for field in table.schema]
        metadata = {
            b"huggingface": b'{"info": {"features": {"x": {"_type": "evil.Evil"}}}}',
            b"pandas": b'{"creator": "evil"}',
        }
        pq.write_table(table.cast(pa.schema(fields, metadata=metadata)), file)
    return lambda: open_dataset(folder).episode(0)


@way(REFUSED)
def dataset_whose_files_lie_elsewhere(foreign, marker, monkeypatch):
    folder = toys.as_foreign(toys.write(foreign / "data", 2))
    (foreign / "evil.parquet").write_bytes(pickle.dumps(Payload(marker)))
    toys.edit_info(folder, data_path="../evil.parquet")
    return lambda: open_dataset(folder).episode(0)


@way(HARMLESS)
def picture_with_odd_metadata(foreign, marker, monkeypatch):
    raw = encode_png(toys.film(1, (16, 24), 3)[0])
    text = b"Raw profile type exif\0" + pickle.dumps(Payload(marker))
    chunk = b"tEXt" + text
    odd = raw[:33] + struct.pack(">I", len(text)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + raw[33:]
    return lambda: decode_image(odd, source="picture.png")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """A finished run of toys."""
    out = tmp_path_factory.mktemp("ranked") / "run"
    request = TriageRequest(
        policies=toy_refs(2), world=Ref(name="toy", digest="w"), budget=8, k=1, width=8, spare=1, audit=0.0
    )
    run(request, load_world=ToyWorld, load_policy=load_toy, out=out)
    return out


@way(HARMLESS)
def code_named_by_a_run_folder(ranked, foreign, marker, monkeypatch):
    out = shutil.copytree(ranked, foreign / "run")
    monkeypatch.syspath_prepend(str(out))
    (out / "evil_run.py").write_text(code(marker))
    text = (out / "plan.json").read_text()
    plan = json.loads(text)
    for ref in [*plan["request"]["policies"], plan["request"]["world"]]:
        ref["source"] = "evil_run:make"
    (out / "plan.json").write_text(json.dumps(plan))
    (out / "ranking.json").write_text(json.dumps({"_target_": "evil_run.make"}))
    monkeypatch.chdir(out)
    return lambda: report_of(read_results(out), load_policy=load_ref, videos=1)


@way(HARMLESS)
def pickled_results_of_a_run(ranked, foreign, marker, monkeypatch):
    out = shutil.copytree(ranked, foreign / "run")
    with contextlib.closing(sqlite3.connect(out / DATABASE)) as connection:
        connection.execute("create table evil (value blob)")
        connection.execute("insert into evil values (?)", (pickle.dumps(Payload(marker)),))
        connection.commit()
    return lambda: report_of(read_results(out), load_policy=load_ref, videos=0)


@pytest.fixture
def foreign(tmp_path):
    """An empty folder of somebody else."""
    folder = tmp_path / "foreign"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.integration
@pytest.mark.parametrize("name", WAYS)
def test_nothing_that_a_foreign_folder_brings_or_names_runs(name, tmp_path, monkeypatch, request):
    function, refused = WAYS[name]
    marker = tmp_path / "ran"
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    given = {"marker": marker, "monkeypatch": monkeypatch}
    attempt = function(**{key: given[key] if key in given else request.getfixturevalue(key) for key in wanted})
    if refused:
        with pytest.raises(WorldsimError):
            attempt()
    else:
        attempt()
    assert not marker.exists()


def test_there_are_at_least_twenty_ways_and_what_they_plant_would_run(tmp_path):
    assert len(WAYS) >= 20
    marker = tmp_path / "ran"
    for run_it in (lambda: exec(code(marker), {}), lambda: pickle.loads(pickle.dumps(Payload(marker)))):  # noqa: S102, S301
        run_it()
        assert marker.exists()
        os.remove(marker)
