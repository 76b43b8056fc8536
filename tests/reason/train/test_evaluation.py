import dataclasses

import pytest
import torch

from tests.reason.toy import item, items, texts
from worldsim.errors import InvalidInputError
from worldsim.reason.items.item import FrameFacts
from worldsim.reason.train.evaluation import Evaluation, evaluate_items, shuffle_frames
from worldsim.reason.train.warmup import UNKNOWN, label_classes, label_targets
from worldsim.reason.vlm.model import VLM
from worldsim.reason.vlm.tiny import TinyConfig


def test_figures_by_task_and_kind():
    asked = tuple(items(4))
    yes, no = (True,) * 4, (False,) * 4
    found = Evaluation(items=asked, right=(True, False, True, True), formatted=yes, fast=no, blind=no).figures()
    assert found["accuracy/side"] == 1.0 and found["accuracy/half"] == 0.5 and found["items/half"] == 2
    assert found["fast/half"] == 0.0 and found["format/side"] == 1.0
    assert "accuracy/side/even" not in found, "one kind only is the task itself"


def test_a_model_that_only_repeats_one_answer_is_seen_through():
    class Repeater(VLM):
        def generate(self, items, **options):
            return [f"<think></think><answer>{i.options[0]}</answer>" for i in items]

        def option_logprobs(self, items, **options):
            return torch.tensor([[0.0, -1.0, -2.0]] * len(items))

    asked = items(24)
    made = VLM.tiny(texts(asked), TinyConfig())
    figures = evaluate_items(Repeater(made.model, made.processor), asked).figures()
    for task in ("side", "half"):
        share = sum(i.answer == i.options[0] for i in asked if i.task == task) / figures[f"items/{task}"]
        for name in ("accuracy", "blind", "fast"):
            assert figures[f"{name}/{task}"] == pytest.approx(share, abs=1e-4)
        assert figures[f"format/{task}"] == 1.0
    with pytest.raises(InvalidInputError, match="needs items"):
        evaluate_items(made, [])


def test_shuffled_frames_keep_the_question_and_change_the_frames():
    asked = items(20)
    for own, other in zip(asked, shuffle_frames(asked), strict=True):
        assert (own.prompt, own.answer, own.frames.shape) == (other.prompt, other.answer, other.frames.shape)
        assert not torch.equal(own.frames, other.frames)
    alone = [item(1)]
    assert torch.equal(shuffle_frames(alone)[0].frames, alone[0].frames)


def test_labels_of_frames_become_classes():
    base = item(1, frames=4)
    known = [("there", "hidden", "hidden", "other"), (None, "top left", None, "bottom right"), ()]
    numbers = torch.zeros(4, 2)
    made = [dataclasses.replace(base, frame_facts=FrameFacts(labels=k, numbers=numbers)) for k in known] + [base]
    classes = label_classes(made)
    assert classes == ("bottom right", "hidden", "other", "there", "top left")
    assert label_targets(made, classes).tolist() == [3, 1, 1, 2, UNKNOWN, 4, UNKNOWN, 0] + [UNKNOWN] * 8
    assert label_targets(made, classes[:3]).tolist()[:4] == [UNKNOWN, 1, 1, 2]
    assert label_classes([base]) == ()


def test_facts_must_fit_the_frames():
    base = item(1, frames=4)
    with pytest.raises(InvalidInputError, match="facts of 3 frames are given for 4"):
        dataclasses.replace(base, frame_facts=FrameFacts(labels=("a", "b", "c")))
    with pytest.raises(InvalidInputError, match="for 2 labelled frames"):
        FrameFacts(labels=("a", "b"), numbers=torch.zeros(3, 2))
    with pytest.raises(InvalidInputError, match="neither"):
        FrameFacts()
