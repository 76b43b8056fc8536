"""Words that this repository does not use, and what stands in their place: the field's own.

`python -m benchmarks.house --list words` prints where any is left; `tests/test_source_rules.py` holds their number.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

WORDS: Mapping[str, str] = {
    r"told": "given, said, reported",
    r"anew": "again, each time",
    r"whoever": "a caller that, users who",
    r"foret(?:ells?|elling|old)": "predict, estimate",
    r"fores(?:ee|ees|een|aw|ight)": "predict, estimate",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"beforehand": "first, in advance",
    r"coins?": "random-reward control",
    r"(?<!of )course": "replay, trajectory",
    r"waves?": "batch (of rollouts)",
    r"bench": "worker cache",
    r"hands": "passes, gives",
    r"standing(?! still)": "tally, corrected counts",
    r"doubts?": "uncertainty",
    r"opinions?": "estimate, answer, ensemble check",
    r"doors?": "protocol, interface",
    r"rooms(?! for)": "packages",
    r"(?:this|that|its|own|data|every|each|other) room": "package",
    r"(?<!benchmarks\.)(?<!benchmarks/)(?<!\")houses?(?!_source|_trace)": "repository, project",
    r"(?:higher|lower|ground|upper) floors?|floors(?= |,|\.)": "layer",
    r"trembl(?:e|es|ed|ing)": "action noise",
    r"(?<!Frame 1 is )whole(?! numbers?|\")": "all, entire, full",
    r"to and fro": "back and forth",
    r"midst": "an intermediate checkpoint, halfway",
    r"dear(?:er|est)": "most expensive, slower",
    r"nobody": "no caller, no one",
    r"by hand": "manually, explicitly",
    r"go(?:es)? by": "follow, depend on",
    r"hasten(?:s|ed)?": "use batched attention",
    r"bury|buried": "reap",
    r"blindfold(?:s|ed)?": "shuffled-frames control",
    r"strangers?": "shuffled frames, other episodes",
    r"sighted": "with video",
    r"lessons?": "training items",
    r"at one go": "at once",
}
"""Pattern -> plain replacement. A pattern matches a word of prose, or one part of a snake_case or CamelCase name.

Left out are names of this program and what is kept elsewhere: a key of benchmark files, the prompt of a trained task.
"""

_START = r"(?:(?<![A-Za-z])|(?-i:(?<=[a-z])(?=[A-Z])))"
_END = r"(?-i:(?![a-z]))"
_ANY = re.compile("|".join(f"(?P<w{i}>{_START}(?:{p}){_END})" for i, p in enumerate(WORDS)), re.IGNORECASE)
_READ = ("worldsim/**/*.py", "worldsim/**/*.jinja", "benchmarks/*.py", "tests/**/*.py", "docs/*.md", "*.md", ".ci/run")
_OWN = (*(f"benchmarks/{name}.py" for name in ("words", "house", "house_source")), "tests/benchmarks/test_house.py")


def found(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number from 1, what stands there, and what to write instead, of every word in a text."""
    replacement = list(WORDS.values())
    for number, line in enumerate(text.splitlines(), start=1):
        for match in _ANY.finditer(line):
            assert match.lastgroup is not None
            yield number, match.group(), replacement[int(match.lastgroup[1:])]


def left(root: Path) -> list[str]:
    """``file:line: word (replacement)`` for every such word in the sources, tests and documents below `root`."""
    paths = sorted({path for pattern in _READ for path in root.glob(pattern)})
    return [
        f"{name}:{number}: {word} ({instead})"
        for path in paths
        if (name := str(path.relative_to(root))) not in _OWN
        for number, word, instead in found(path.read_text(encoding="utf8"))
    ]
