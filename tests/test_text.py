import hypothesis.strategies as st
from hypothesis import given

from worldsim.text import printable, shorten, strip_common_parts

PATHS = st.lists(st.text("ab/é", min_size=1, max_size=12), min_size=1, max_size=8, unique=True)


def test_what_all_paths_share_is_dropped() -> None:
    names = [f"out/{run}/checkpoints/{step}/pretrained_model" for run in "ab" for step in (100, 200)]
    assert strip_common_parts(names) == ("a/100", "a/200", "b/100", "b/200")
    assert strip_common_parts(["x/a/last", "x/b/c/last"]) == ("a", "b/c")
    assert strip_common_parts(["only/one"]) == ("only/one",)
    assert strip_common_parts(["same", "same"]) == ("same", "same")
    assert strip_common_parts(["a", "a/b"]) == ("a", "a/b")
    assert strip_common_parts([]) == ()


@given(PATHS)
def test_different_names_keep_different_labels(names: list[str]) -> None:
    found = strip_common_parts(names)
    assert len(set(found)) == len(names)
    assert all(found) or len(names) == 1 or any(not part for name in names for part in name.split("/"))


def test_unprintable_characters_are_replaced() -> None:
    assert printable("a\x00b\u202ec\udcffd\ne\u202ff") == "a\ufffdb\ufffdc\ufffdd e\u202ff"
    assert printable("模型 é") == "模型 é"
    assert printable("\x1b[31mred\x1b[0m [/y]") == "\ufffd[31mred\ufffd[0m [/y]"
    assert printable("a\nb\x07", lines=True) == "a\nb\ufffd"


@given(st.text(max_size=40), st.integers(1, 30))
def test_shortening_keeps_within_the_width_and_favours_the_end(text: str, width: int) -> None:
    short = shorten(text, width=width)
    assert len(short) <= max(width, 1)
    assert (short == text) == (len(text) <= width) or "…" in text
    if 4 <= width < len(text):
        assert short[-1] == text[-1]
