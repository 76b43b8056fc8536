import shutil
from pathlib import Path

import pytest
import torch

from tests.reason.benchmark import quiz
from tests.reason.toy import items
from worldsim.errors import InvalidInputError, StorageError, UnknownNameError
from worldsim.reason.benchmark.format import Option, match_option, read_reply
from worldsim.reason.benchmark.read import QuestionItems, View, read_benchmark
from worldsim.reason.benchmark.write import SHEET, write_items
from worldsim.reason.items.item import FORMAT, PLACEHOLDER
from worldsim.reason.train.rewards import format_reward

YES_NO = (Option(letter="A", text="Yes"), Option(letter="B", text="No, it fell."))
CROSSED = (Option(letter="A", text="B"), Option(letter="B", text="A"))


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("A", "A"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        (" A) ", "A"),
        ("yes", "A"),
        ("No,  it FELL", "B"),
        ("(A) yes", "A"),
        ("B: no, it fell.", "B"),
        ("A. No, it fell", None),  # letter and text disagree
        ("A or B", None),
        ("No", None),  # never a part
        ("yes it is", None),
        ("C", None),
        ("", None),
        ("Response: A", None),
    ],
)
def test_an_option_is_named_by_letter_or_full_text(said, letter):
    assert match_option(said, YES_NO, letters_first=True) == letter
    assert match_option(said, YES_NO, letters_first=False) == letter


def test_where_one_options_letter_is_anothers_text_the_wording_decides():
    assert match_option("A", CROSSED, letters_first=True) == "A"
    assert match_option("A", CROSSED, letters_first=False) == "B"


def test_a_reply_is_one_thought_and_one_answer():
    assert read_reply("<think>hm</think> <answer>(b)</answer>", YES_NO, letters_first=True) == "B"
    for reply in ("B", "<answer>B</answer>", "<think>A</think><answer>B</answer><answer>A</answer>"):
        assert read_reply(reply, YES_NO, letters_first=True) is None


def test_the_public_layout_and_its_relatives_are_read(tmp_path):
    quiz.dataset(tmp_path, "robovqa", count=4)
    quiz.dataset(tmp_path, "av", count=2, clips="")  # beside the file
    quiz.clip(tmp_path / "clips/far.mp4")  # a folder of clips one level up
    two = [
        quiz.pair(0, task="space"),
        quiz.pair(0, question="And now?", answer="left", index2ans={"A": "left", "B": "right", "C": None}),
    ]
    old = quiz.pair(1)
    old["correct_answer"] = old.pop("answer")
    entries = [{"video": "clips/far.mp4", "qa_pairs": two, "task": "time"}, {"video": "far.mp4", "qa_pairs": old}]
    quiz.save(tmp_path, entries, "holo", ending="_rl_qa_pairs.json")
    found = read_benchmark(tmp_path)
    assert sorted({q.dataset for q in found.questions}) == ["av", "holo", "robovqa"]
    assert not found.bad and len(found.questions) == 9 and set(found.digests) == {"av", "holo", "robovqa"}
    by_name = {q.name: q for q in found.questions}
    assert by_name["robovqa/3"].answer == "B" and by_name["robovqa/3"].task == "robovqa"
    assert by_name["holo/0.1"].answer == "A" and len(by_name["holo/0.1"].options) == 2  # null is no option
    assert by_name["holo/1"].answer == "B" and by_name["holo/1"].video == tmp_path / "clips/far.mp4"
    assert [q.dataset for q in read_benchmark(tmp_path, datasets=["av"]).questions] == ["av"] * 2
    alone = read_benchmark(tmp_path / "av")  # a dataset's own folder
    assert [q.name for q in alone.questions] == ["av/0", "av/1"]
    with pytest.raises(UnknownNameError, match="robovqa"):
        read_benchmark(tmp_path, datasets=["robovqs"])


def test_tasks_are_kinds_unless_hardly_two_questions_share_one(tmp_path):
    entries = quiz.dataset(tmp_path, count=6)
    for number, entry in enumerate(entries):
        entry["qa_pairs"]["task"] = f"kind {number % 2}"
    quiz.save(tmp_path, entries)
    assert {q.task for q in read_benchmark(tmp_path).questions} == {"kind 0", "kind 1"}
    for number, entry in enumerate(entries):
        entry["qa_pairs"]["task"] = f"pick up object {number}"
    quiz.save(tmp_path, entries)
    assert {q.task for q in read_benchmark(tmp_path).questions} == {"robot"}


BAD = {
    "no object": ("just a text", "entry must be an object"),
    "no questions": ({"video": "clips/0.mp4"}, "qa_pairs must be an object"),
    "no question": ({"video": "clips/0.mp4", "qa_pairs": quiz.pair(0, question=" ")}, "question must be a text"),
    "options in a list": ({"video": "clips/0.mp4", "qa_pairs": quiz.pair(0, index2ans=["a", "b"])}, "must map letters"),
    "one option": ({"video": "clips/0.mp4", "qa_pairs": quiz.pair(0, index2ans={"A": "x", "B": None})}, "at least two"),
    "an empty option": ({"video": "clips/0.mp4", "qa_pairs": quiz.pair(0, index2ans={"A": "", "B": "x"})}, "option A"),
    "twice the same": ({"video": "clips/0.mp4", "qa_pairs": quiz.pair(0, index2ans={"A": "x", "B": "X."})}, "differ in their text"),
    "no answer": ({"video": "clips/0.mp4", "qa_pairs": quiz.pair(0, answer=None)}, "answer None is none of"),
    "answer that is no option": ({"video": "clips/0.mp4", "qa_pairs": quiz.pair(0, answer="C")}, r"'C' is none of .* B \(right\)"),
    "tokens of the model": ({"video": "clips/0.mp4", "qa_pairs": quiz.pair(0, question="<|image_pad|> left?")}, "image_pad"),
    "parts of a reply": ({"video": "clips/0.mp4", "qa_pairs": quiz.pair(0, index2ans={"A": "left", "B": "</answer>"})}, "</answer>"),
    "half a character": ({"video": "clips/0.mp4", "qa_pairs": quiz.pair(0, question="left \ud800?")}, "half a character"),
    "no video": ({"qa_pairs": quiz.pair(0)}, "video must be a path"),
    "missing file": ({"video": "clips/9.mp4", "qa_pairs": quiz.pair(0)}, "clips/9.mp4' is not in"),
    "way out": ({"video": "../secret/0.mp4", "qa_pairs": quiz.pair(0)}, "lies outside"),
    "hidden way out": ({"video": "clips/../../secret/0.mp4", "qa_pairs": quiz.pair(0)}, "lies outside"),
    "absolute": ({"video": "/etc/passwd", "qa_pairs": quiz.pair(0)}, "lies outside"),
    "another system": ({"video": "C:\\clips\\0.mp4", "qa_pairs": quiz.pair(0)}, "lies outside"),
    "way out of another system": ({"video": "clips\\..\\..\\0.mp4", "qa_pairs": quiz.pair(0)}, "lies outside"),
    "no byte of a name": ({"video": "clips/\0.mp4", "qa_pairs": quiz.pair(0)}, "is not in"),
    "too long a name": ({"video": "x" * 5000, "qa_pairs": quiz.pair(0)}, "cannot be looked up"),
    "a folder": ({"video": "clips", "qa_pairs": quiz.pair(0)}, "is not in"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_question_is_named_skipped_and_counted(name, tmp_path):
    entry, message = BAD[name]
    quiz.clip(tmp_path / "secret/0.mp4")
    entries = quiz.dataset(tmp_path, count=6)
    quiz.save(tmp_path, [*entries, entry])
    found = read_benchmark(tmp_path, bad_share=0.2)
    assert len(found.questions) == 6 and list(found.bad) == ["robot/6"]
    with pytest.raises(InvalidInputError, match=f"(?s)1 of 7 questions are bad .1 of robot.*robot/6.*{message}"):
        read_benchmark(tmp_path, bad_share=0.1)


def test_too_many_bad_questions_stop_it_and_say_what_to_do(tmp_path):
    quiz.dataset(tmp_path, "robovqa", count=4)
    quiz.dataset(tmp_path, "agibot", count=3)
    shutil.rmtree(tmp_path / "agibot/clips")
    (tmp_path / "agibot/clips.tar.gz").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"(?s)3 of 7 .*3 of agibot.*agibot/0.*Unpack clips\.tar\.gz"):
        read_benchmark(tmp_path)
    (tmp_path / "agibot/clips.tar.gz").unlink()
    with pytest.raises(InvalidInputError, match="leave the dataset out"):
        read_benchmark(tmp_path)
    assert len(read_benchmark(tmp_path, datasets=["robovqa"]).questions) == 4
    with pytest.raises(InvalidInputError, match="3 of 3"):
        read_benchmark(tmp_path, datasets=["agibot"], bad_share=1.0)  # nothing is left to ask
    with pytest.raises(InvalidInputError, match=r"0\.\.1"):
        read_benchmark(tmp_path, bad_share=1.5)


def test_folders_that_hold_no_questions(tmp_path):
    with pytest.raises(StorageError, match="no folder"):
        read_benchmark(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="holds no questions"):
        read_benchmark(tmp_path)
    for text, message in (
        ("[", "not valid JSON"),
        ("{}", "must hold a list"),
        ("[]", "must hold a list"),
        ("[" * 200_000, "JSON|deep"),
    ):
        (tmp_path / "x_qa_pairs.json").write_text(text)
        with pytest.raises(StorageError, match=message):
            read_benchmark(tmp_path)


def test_names_that_two_files_share_are_kept_apart(tmp_path):
    quiz.dataset(tmp_path, "robot", count=2)
    shutil.copytree(tmp_path / "robot", tmp_path / "again")
    assert set(read_benchmark(tmp_path).digests) == {"robot/robot_benchmark_qa_pairs", "again/robot_benchmark_qa_pairs"}


def test_fewer_questions_are_the_beginning_of_more(tmp_path):
    quiz.dataset(tmp_path, "a", count=6)
    quiz.dataset(tmp_path, "b", count=6)
    benchmark = read_benchmark(tmp_path)
    names = [[q.name for q in benchmark.drawn(limit=n, seed=0)] for n in (2, 4, None)]
    assert [len(n) for n in names] == [4, 8, 12]
    assert set(names[0]) < set(names[1]) < set(names[2])
    assert [q.name for q in benchmark.drawn(limit=None, seed=1)] != names[2]
    assert [q.dataset for q in benchmark.drawn(limit=None, seed=1)] == ["a"] * 6 + ["b"] * 6
    with pytest.raises(InvalidInputError, match="limit"):
        benchmark.drawn(limit=0, seed=0)


@pytest.mark.parametrize("wording", ["letters", "words"])
def test_a_literal_follower_of_the_prompt_is_read(wording, tmp_path):
    quiz.dataset(tmp_path, count=2)
    one = read_benchmark(tmp_path).questions[1]
    item = QuestionItems(View(frames=3, size=16, wording=wording)).item(one)
    assert item.frames.shape == (3, 16, 16, 3) and item.taken == (0, 2, 5)
    assert item.options == (("A", "B") if wording == "letters" else ("left", "right"))
    assert ("(B) right" in item.prompt) == (wording == "letters")
    reply = item.prompt.splitlines()[-1].replace(PLACEHOLDER, item.answer)
    assert item.prompt.endswith(FORMAT) and format_reward([reply]) == [1.0]
    assert read_reply(reply, one.options, letters_first=wording == "letters") == one.answer == "B"


def test_what_is_asked_has_one_digest(tmp_path):
    entries = quiz.dataset(tmp_path, count=2)

    def digests():
        return [QuestionItems(View(size=32)).digest(q) for q in read_benchmark(tmp_path).questions]

    before = digests()
    assert before == digests() and len(set(before)) == 2
    quiz.clip(tmp_path / "robot/clips/0.mp4", number=60)
    assert digests()[0] != before[0] and digests()[1] == before[1]
    entries[1]["qa_pairs"]["answer"] = "A"
    quiz.save(tmp_path, entries)
    assert digests()[1] != before[1]


def test_items_come_back_as_they_were_but_for_the_codec(tmp_path):
    made = items(6)
    write_items(made, tmp_path / "out", origin={"data": "toys"})
    assert (tmp_path / "out" / SHEET).read_bytes().startswith(b"\x89PNG")
    found = read_benchmark(tmp_path / "out")
    assert set(found.digests) == {"side", "half"} and not found.bad
    clips = QuestionItems(View(frames=2, size=32, wording="words"))
    for task in found.digests:
        own = [i for i in made if i.task == task]
        for old, one in zip(own, [q for q in found.questions if q.dataset == task], strict=True):
            new = clips.item(one)
            assert (new.task, new.group, new.prompt, new.options, new.answer, new.difficulty) == (
                old.task, old.group, old.prompt, old.options, old.answer, old.difficulty,
            )  # fmt: skip
            assert new.frames.shape == old.frames.shape, "they are shown with all frames"
            assert (new.frames.float() - old.frames.float()).abs().mean() < 3
    write_items(made[:1], tmp_path / "out")  # its own folder is replaced
    assert [q.name for q in read_benchmark(tmp_path / "out").questions] == ["side/0"]


def test_what_is_not_ours_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(StorageError, match="something else than items"):
            write_items(items(1), place)
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"
    with pytest.raises(InvalidInputError, match="no items"):
        write_items([], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"prompt": "left or right?"}, "worded by"), ({"task": "../up"}, "plain name"), ({"options": ("left",), "answer": "left"}, "2 to 26")],
)  # fmt: skip
def test_items_that_do_not_fit_the_layout_are_named(change, message, tmp_path):
    import dataclasses

    odd = dataclasses.replace(items(1)[0], **change)
    with pytest.raises(InvalidInputError, match=f"item 0: .*{message}"):
        write_items([odd], tmp_path / "out")
    assert not list(Path(tmp_path).rglob("*.json"))


def test_an_unreadable_clip_is_reported_by_its_question(tmp_path):
    quiz.dataset(tmp_path, count=2)
    (tmp_path / "robot/clips/1.mp4").write_bytes(b"no video")
    clips = QuestionItems(View(size=16))
    one = read_benchmark(tmp_path).questions[1]
    for _ in range(2):
        with pytest.raises(StorageError, match=r"robot/1: .*1\.mp4 cannot be read"):
            clips.item(one)
    with pytest.raises(InvalidInputError, match="size"):
        View(size=4)
    with pytest.raises(UnknownNameError, match="letters"):
        View(wording="letter")


def test_memory_for_clips_is_bounded(tmp_path):
    quiz.dataset(tmp_path, count=4)
    questions = read_benchmark(tmp_path).questions
    clips = QuestionItems(View(frames=6, size=256), cache_mb=2)
    first = clips.item(questions[0]).frames.clone()
    for one in questions:
        clips.item(one)
    assert len(clips._kept) == 1
    assert torch.equal(clips.item(questions[0]).frames, first)
