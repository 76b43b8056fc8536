"""What a start must know for rewards to teach it more."""

import pytest

from tests.reason.toy import items
from worldsim.reason.train.rewards import unteachable


@pytest.mark.parametrize(
    ("right", "form", "word"),
    [
        (0.99, 1.0, "little left to teach"),
        (0.52, 1.0, "by chance"),
        (0.1, 1.0, "by chance"),
        (0.75, 1.0, None),
        (0.0, 0.1, None),  # what is missing is the form, which a reward can teach
    ],
)
def test_what_is_known_or_guessed_is_told_beforehand(right, form, word):
    asked = [i for i in items(128) if i.task == "side"]
    assert len(asked) == 64 and {len(i.options) for i in asked} == {2}
    told = unteachable({"accuracy/side": right, "format/side": form}, asked)
    assert len(told) == (word is not None) and all(word in text and "side" in text for text in told)
