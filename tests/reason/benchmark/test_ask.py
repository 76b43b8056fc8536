import json
import types

import pytest
import torch

from tests.reason.benchmark import quiz
from worldsim.errors import InvalidInputError, StorageError
from worldsim.reason.benchmark.ask import AskSettings, ask_all, dry_run
from worldsim.reason.benchmark.read import View, read_benchmark
from worldsim.reason.benchmark.tally import FILE, Ledger, Response, mean_of_datasets, table, tally


class Pupil:
    """Stands for a `VLM`: answers by what `rule` makes of an item."""

    def __init__(self, rule, broken=False):
        self.rule, self.broken, self.asked = rule, broken, 0
        self.model = torch.nn.Linear(1, 1).train()

    def generate(self, items, *, max_new_tokens, batch):
        assert not self.model.training
        self.asked += len(items)
        return [self.rule(i) for i in items]

    def option_logprobs(self, items):
        assert not self.model.training
        self.asked += len(items)
        best = [self.rule(i).split("<answer>")[1].split("</answer>")[0] for i in items]
        rows = [[-0.1 if o == b else -3.0 for o in i.options] for i, b in zip(items, best, strict=True)]
        most = max(map(len, rows))
        full = [[*r, *[float("-inf")] * (most - len(r))] for r in rows]
        return torch.tensor(full) * (float("nan") if self.broken else 1.0)


def reply(option):
    return f"<think>so</think><answer>{option}</answer>"


def looks(item):
    """Sees on which side the red square stands."""
    red = item.frames[0, :, :, 0].float() - item.frames[0, :, :, 2].float()
    half = red.shape[1] // 2
    return reply(item.options[int(red[:, half:].sum() > red[:, :half].sum())])


def written(folder, **sizes):
    for name, count in (sizes or {"robot": 8}).items():
        quiz.dataset(folder, name, count=count)
    return read_benchmark(folder).drawn(limit=None, seed=0)


def ledger(folder, **settings):
    return Ledger(folder, settings={"model": "m", **settings}, facts={"command": "worldsim reason eval"})


HOW = AskSettings(view=View(size=32), batch=3)


@pytest.mark.parametrize("fast", [False, True])
def test_who_looks_is_right_and_shuffled_frames_are_no_better(fast, tmp_path):
    questions = written(tmp_path)
    pupil = Pupil(looks)
    how = AskSettings(view=View(size=32), batch=3, fast=fast)
    seen = []
    done = ask_all(
        pupil, questions, how, ledger=ledger(tmp_path), progress=lambda stage, n, total, values: seen.append((n, total))
    )
    assert pupil.model.training, "it is left in the mode it was in"
    assert [a.name for a in done.responses] == [q.name for q in questions] and done.asked == 8 and not done.bad
    assert seen == [(3, 8), (6, 8), (8, 8)]
    all_of_them = tally(done.responses)[-1]
    assert all_of_them.accuracy == 1.0 and all_of_them.beats_chance and all_of_them.chance == 0.5
    by_name = {q.name: q for q in questions}
    for answer in done.responses:
        other = by_name[answer.blind_with]
        assert other.video != by_name[answer.name].video
        assert answer.blind == other.answer, "it answered what the other's frames show"
        assert (len(answer.logprobs) == 2 and not answer.reply) if fast else answer.reply.startswith("<think>")
        assert answer.frames == (0, 1, 2, 3, 4, 5)


def test_who_knows_the_wording_by_heart_is_as_good_with_shuffled_frames(tmp_path):
    entries = quiz.dataset(tmp_path, count=8)
    for number, entry in enumerate(entries):
        entry["qa_pairs"]["question"] = f"On which side is square {number}?"
    quiz.save(tmp_path, entries)
    knows = Pupil(lambda i: reply("AB"[int(i.prompt.split("square ")[1][0]) % 2]))
    line = tally(ask_all(knows, questions_in(tmp_path), HOW, ledger=ledger(tmp_path)).responses)[-1]
    assert line.accuracy == line.blind == 1.0


def questions_in(folder):
    return read_benchmark(folder).drawn(limit=None, seed=0)


def test_replies_that_name_no_option_are_counted(tmp_path):
    answers = iter(["no tags", reply("maybe"), *[reply("left")] * 6])
    done = ask_all(
        Pupil(lambda i: next(answers)),
        written(tmp_path),
        AskSettings(view=View(size=32), blind=False),
        ledger=ledger(tmp_path),
    )
    line = tally(done.responses)[-1]
    assert line.unparsable == 0.25 and line.blind is None
    assert sum(a.given == "A" for a in done.responses) == 6, "an option's text is as good as its letter"


def test_shuffled_frames_come_from_another_clip_of_the_same_kind_where_there_is_one(tmp_path):
    entries = quiz.dataset(tmp_path, "a", count=4)
    for number, entry in enumerate(entries):
        entry["qa_pairs"] = [quiz.pair(number, task="one" if number < 2 else "two")] * 2
    quiz.save(tmp_path, entries, "a")
    quiz.dataset(tmp_path, "b", count=1)
    done = ask_all(Pupil(looks), questions_in(tmp_path), HOW, ledger=ledger(tmp_path))
    task, clip = ({a.name: f(a) for a in done.responses} for f in (lambda a: a.task, lambda a: a.name.split(".")[0]))
    for answer in done.responses:
        assert clip[answer.blind_with] != clip[answer.name]
        if answer.dataset == "a":
            assert task[answer.blind_with] == answer.task
    alone = [q for q in questions_in(tmp_path) if q.dataset == "b"]
    assert ask_all(Pupil(looks), alone, HOW, ledger=ledger(tmp_path / "x")).responses[0].blind_with == ""


def test_unreadable_clips_are_skipped_up_to_a_share(tmp_path):
    questions = written(tmp_path)
    for number in (2, 5):
        (tmp_path / f"robot/clips/{number}.mp4").write_bytes(b"torn")
    loose = AskSettings(view=View(size=32), batch=3, bad_share=0.25)
    done = ask_all(Pupil(looks), questions, loose, ledger=ledger(tmp_path), bad={"robot/9": "robot/9: odd."})
    assert set(done.bad) == {"robot/2", "robot/5", "robot/9"} and len(done.responses) == 6
    assert not {"robot/2", "robot/5"} & {a.blind_with for a in done.responses}
    saved = json.loads((tmp_path / FILE).read_text())
    assert set(saved["skipped"]) == set(done.bad) and saved["complete"] is True
    stopped = Pupil(looks)
    with pytest.raises(InvalidInputError, match=r"1 of 8 .*1 of robot.*robot/[25]: .*cannot be read"):
        ask_all(stopped, questions, HOW, ledger=ledger(tmp_path / "x"))
    assert stopped.asked < 12, "it stops at once and not in the end"
    with pytest.raises(InvalidInputError, match="no questions"):
        ask_all(Pupil(looks), [], HOW, ledger=ledger(tmp_path))


def test_nothing_is_asked_twice(tmp_path, monkeypatch):
    questions = written(tmp_path)
    monkeypatch.setattr(Ledger, "due", True)

    class Stopped(Exception):
        pass

    def stop(stage, done, total, values):
        if done >= 6:
            raise Stopped

    first = Pupil(looks)
    with pytest.raises(Stopped):
        ask_all(first, questions, HOW, ledger=ledger(tmp_path), progress=stop)
    second = Pupil(looks)
    done = ask_all(second, questions, HOW, ledger=ledger(tmp_path))
    assert (first.asked, second.asked, done.asked) == (12, 4, 2)  # each once, and once with shuffled frames
    complete = ask_all(Pupil(looks), questions, HOW, ledger=ledger(tmp_path / "straight"))
    assert done.responses == complete.responses, "as if it had not been stopped"
    quiz.clip(tmp_path / "robot/clips/3.mp4", number=3, side="left")
    changed = ask_all(Pupil(looks), questions, HOW, ledger=ledger(tmp_path))
    assert changed.asked == 1, "a clip that changed is another question"
    assert {a.name: a.given for a in changed.responses}["robot/3"] == "A"


def test_a_larger_limit_continues(tmp_path):
    written(tmp_path)
    part, complete = (read_benchmark(tmp_path).drawn(limit=n, seed=0) for n in (3, None))
    assert ask_all(Pupil(looks), part, HOW, ledger=ledger(tmp_path)).asked == 3
    done = ask_all(Pupil(looks), complete, HOW, ledger=ledger(tmp_path))
    assert done.asked == 5 and len(done.responses) == 8
    assert len(ask_all(Pupil(looks), part, HOW, ledger=ledger(tmp_path)).responses) == 3
    saved = json.loads((tmp_path / FILE).read_text())
    assert len(saved["answers"]) == 8 and saved["figures"][-1]["items"] == 3, "what is known is kept"


def test_a_folder_of_another_run_is_refused(tmp_path):
    ask_all(Pupil(looks), written(tmp_path), HOW, ledger=ledger(tmp_path, size=32))
    with pytest.raises(InvalidInputError, match="size: was 32, now 64"):
        ledger(tmp_path, size=64)
    for text, message in (
        ('{"settings": {"model": "m"}, "answers": []}', "not the result of a benchmark"),
        ("[", "not valid JSON"),
        ('{"kind": "reason eval", "settings": {"model": "m"}, "answers": [{}]}', "damaged"),
        ('{"kind": "reason eval", "settings": {"model": "m"}}', "damaged"),
    ):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(StorageError, match=message):
            ledger(tmp_path)


def test_a_model_whose_figures_are_no_numbers_is_reported(tmp_path):
    fast = AskSettings(view=View(size=32), fast=True)
    with pytest.raises(InvalidInputError, match="robot/.*damaged"):
        ask_all(Pupil(looks, broken=True), written(tmp_path), fast, ledger=ledger(tmp_path))


def test_too_large_a_batch_is_reported(tmp_path):
    def full(item):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(InvalidInputError, match="Lower batch"):
        ask_all(Pupil(full), written(tmp_path), HOW, ledger=ledger(tmp_path))


def test_a_rehearsal_opens_every_clip_and_keeps_nothing(tmp_path):
    questions = written(tmp_path)
    (tmp_path / "robot/clips/2.mp4").write_bytes(b"torn")
    pupil = Pupil(looks)
    seconds, bad = dry_run(pupil, questions, AskSettings(view=View(size=32), bad_share=0.2))
    assert seconds > 0 and list(bad) == ["robot/2"] and pupil.asked == 2
    with pytest.raises(InvalidInputError, match="1 of 8"):
        dry_run(pupil, questions, HOW)
    assert not (tmp_path / FILE).exists()


def answer(name, given, right="A", **changes):
    base = {"dataset": name.split("/")[0], "task": "t", "digest": "d", "options": 4, "answer": right, "given": given}
    return Response(name=name, **(base | changes))


def test_figures_are_exact():
    answers = [
        answer(f"x/{n}", "A" if n < 8 else None if n == 8 else "B", options=2 if n < 5 else 4) for n in range(10)
    ]
    answers += [answer("y/0", "A", task="u"), answer("y/1", "B", blind="A", blind_with="y/0")]
    x, y_u, y_t, y, every = tally(answers)
    assert (x.dataset, x.task, x.items, x.accuracy, x.unparsable) == ("x", "t", 10, 0.8, 0.1)
    assert (x.low, x.high) == pytest.approx((0.4439, 0.9748), abs=1e-4)  # Clopper and Pearson, 8 of 10
    assert x.chance == pytest.approx(0.375) and x.beats_chance
    assert (y_u.task, y_t.task, y.task, y.items) == ("u", "t", "", 2)
    assert y_u.blind is None and y.blind == 1.0 and y.blind_low == pytest.approx(0.025)
    assert (every.dataset, every.items) == ("", 12) and every.accuracy == pytest.approx(9 / 12)
    assert mean_of_datasets(answers) == pytest.approx((0.8 + 0.5) / 2)
    with pytest.raises(InvalidInputError, match="no answers"):
        tally([])


def test_the_table_fits_a_terminal_and_takes_names_as_they_are():
    from rich.console import Console

    console = Console(width=80, record=True, file=types.SimpleNamespace(write=lambda t: None, flush=lambda: None))
    console.print(table(tally([answer("x/0", "A", task="[red]odd"), answer("x/1", None, task="u" * 90)]), fast=False))
    text = console.export_text()
    assert "[red]odd" in text and "100.0%" in text and "2.5% .. 100.0%" in text and "x / all" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "..." in text and text.count("u") < 90, "a long name is cut"


def test_numbers_out_of_range():
    for bad in ({"batch": 0}, {"max_new_tokens": 0}, {"bad_share": 2.0}):
        with pytest.raises(InvalidInputError):
            AskSettings(**bad)
