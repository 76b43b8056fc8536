import dataclasses

import pytest
import torch

from tests.reason.toy import item, items, texts
from worldsim.errors import InvalidInputError
from worldsim.reason.exam import Exam, examine, strangers
from worldsim.reason.seen import UNKNOWN, heads, per_frame, targets
from worldsim.reason.tiny import TinyConfig
from worldsim.reason.vlm import VLM


def test_figures_by_task_and_kind():
    asked = tuple(items(4))
    yes, no = (True,) * 4, (False,) * 4
    found = Exam(items=asked, right=(True, False, True, True), formatted=yes, fast=no, blind=no).figures()
    assert found["accuracy/side"] == 1.0 and found["accuracy/half"] == 0.5 and found["items/half"] == 2
    assert found["fast/half"] == 0.0 and found["format/side"] == 1.0
    assert "accuracy/side/even" not in found, "one kind only is the task itself"


def test_a_model_that_only_repeats_one_answer_is_seen_through():
    class Repeater(VLM):
        def replies(self, items, **options):
            return [f"<think></think><answer>{i.options[0]}</answer>" for i in items]

        def option_logprobs(self, items, **options):
            return torch.tensor([[0.0, -1.0, -2.0]] * len(items))

    asked = items(24)
    made = VLM.tiny(texts(asked), TinyConfig())
    figures = examine(Repeater(made.model, made.processor), asked).figures()
    for task in ("side", "half"):
        share = sum(i.answer == i.options[0] for i in asked if i.task == task) / figures[f"items/{task}"]
        for name in ("accuracy", "blind", "fast"):
            assert figures[f"{name}/{task}"] == pytest.approx(share, abs=1e-4)
        assert figures[f"format/{task}"] == 1.0
    with pytest.raises(InvalidInputError, match="needs items"):
        examine(made, [])


def test_strangers_keep_the_question_and_change_the_frames():
    asked = items(20)
    for own, other in zip(asked, strangers(asked), strict=True):
        assert (own.prompt, own.answer, own.frames.shape) == (other.prompt, other.answer, other.frames.shape)
        assert not torch.equal(own.frames, other.frames)
    alone = [item(1)]
    assert torch.equal(strangers(alone)[0].frames, alone[0].frames)


def test_what_a_readout_says_of_frames_is_read_off():
    base = item(1, frames=4)
    said = {
        "colour red blue red green": [{"colour": "red"}, {"colour": "blue"}],
        "there hidden hidden other": [{"": "there"}, {"": "hidden"}],
        "2 top left; 4 bottom right; 9 beyond": [{}, {"": "top left"}],
        "nothing of the kind at all": [{}, {}],
        "": [{}, {}],
    }
    made = [dataclasses.replace(base, readout=readout) for readout in said]
    for one, first in zip(made, said.values(), strict=True):
        assert per_frame(one)[:2] == first
    known = heads(made)
    assert [h.name for h in known] == ["", "colour"]
    assert known[0].classes == ("bottom right", "hidden", "other", "there", "top left")
    found = targets(made, known)
    assert found.shape == (20, 2)
    assert found[0].tolist() == [UNKNOWN, 2] and found[5].tolist() == [1, UNKNOWN]
    assert targets(made, ()).shape == (20, 0)
    assert heads([made[-1]]) == ()
