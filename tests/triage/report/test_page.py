import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from worldsim.errors import StorageError
from worldsim.triage.report import Manifest, ReportData, render, write_report
from worldsim.triage.report.data import Round

VOID = {"meta", "link", "br", "img", "wbr", "path", "use", "rect"}


class Reader(HTMLParser):
    """Collects text, attributes and tags; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.tags, self.attributes, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def still(page: str) -> str:
    """The page without its films, whose bytes are the codec's affair."""
    return re.sub(r"data:video/mp4;base64,[^\"]+", "", page)


def bare(data: ReportData) -> ReportData:
    """A run of which nothing but the ranking is known."""
    return dataclasses.replace(
        data,
        truth=None,
        clips=(),
        rounds=(),
        round_trip=(),
        ranking=dataclasses.replace(data.ranking, policies=data.alive),
        manifest=Manifest(command="worldsim triage", made="today"),
    )


@pytest.fixture(scope="module")
def page(sample: ReportData) -> str:
    return render(sample)


def test_says_who_won_how_sure_and_what_it_does_not_know(sample: ReportData, page: str) -> None:
    text = Reader(page).text
    assert "Try these 5 of 24 checkpoints first." in text
    for line in sample.ranking.policies:
        assert sample.labels[line.policy] in text
    assert "The probability that each belongs to the best 5 in this world is between" in text
    assert "Nothing here was measured on a robot: the yardstick was worldsim/Push-v0." in text
    assert "raised RuntimeError: size mismatch for head.weight" in text


def test_every_number_of_the_ranking_is_on_the_page(sample: ReportData, page: str) -> None:
    text = Reader(page).text
    for line in sample.alive:
        shown = line.shown
        assert shown.success is not None
        assert f"{100 * shown.success:.1f} %" in text
        for span in (shown.success_exact, shown.success_anytime):
            assert f"[{100 * span.low:.0f}, {100 * span.high:.0f}]" in text
    assert f"{sample.alive[0].triage.rollouts} + 120" in text
    assert "9 200 matched episodes" in text and "93.2 %" in text


def test_no_chance_is_shown_where_there_is_nothing_to_choose_from(sample: ReportData, page: str) -> None:
    def chances(page: str, k: int) -> list[str]:
        return re.findall(rf'data-label="P\(best {k}\)">([^<]*)</td>', page)

    assert any("%" in chance for chance in chances(page, 5))
    every = render(dataclasses.replace(sample, ranking=dataclasses.replace(sample.ranking, k=23)))
    assert {*chances(every, 23)} == {"–"} and "<span>P(best 23)" not in every


def test_one_file_that_needs_nothing(page: str) -> None:
    reader = Reader(page)
    links = [v for k, v in reader.attributes if k in ("src", "href", "poster", "xlink:href", "srcset", "action")]
    assert links and all(v and v.startswith(("data:", "#")) for v in links)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page
    assert len(page) < 8_000_000
    assert reader.tags.count("video") == len(re.findall(r"data:video/mp4", page)) >= 8
    for needed in ("muted", "loop", "playsinline", "controls", "poster"):
        assert sum(k == needed for k, _ in reader.attributes) == reader.tags.count("video")


def test_equal_data_gives_equal_pages_whatever_the_users_matplotlib_settings(sample: ReportData, page: str) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert still(render(sample)) == still(page)
        assert mpl.rcParams["font.size"] == 30


def test_figures_take_their_colours_from_the_page(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 8
    for drawing in drawings:
        assert not re.search(r"#0([1-6])(0\1){2}\b", drawing)
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)) <= {
            *(f"var(--{name})" for name in ("ink", "muted", "faint", "accent", "other", "fresh")),
            "none",
        }
    ids = [re.findall(r'id="([^"]+)"', drawing) for drawing in drawings]
    assert not set(ids[0]) & set(ids[1])


def test_sections_without_data_say_so(sample: ReportData) -> None:
    reader = Reader(render(bare(sample)))
    for sentence in (
        "No ground truth was given, so agreement could not be measured.",
        "No episodes were filmed.",
        "No record of rounds was given.",
        "The round trip was not measured",
        "How these policies fare outside the world was not measured",
        "None.",
        "not recorded",
    ):
        assert sentence in reader.text
    assert "video" not in reader.tags and "script" not in reader.tags


def test_a_measure_that_does_not_exist_says_why(sample: ReportData) -> None:
    assert sample.truth is not None
    old = sample.truth.success
    none = tuple(
        dataclasses.replace(e, value=None, low=None, high=None, undefined="all are equal") for e in old.estimates
    )
    truth = dataclasses.replace(
        sample.truth, success=dataclasses.replace(old, estimates=none), progress=None, policies=()
    )
    text = Reader(render(dataclasses.replace(bare(sample), truth=truth))).text
    assert "Pearson r–undefined: all are equal" in text
    assert "It cannot be said: all are equal." in text


def test_nothing_a_user_named_becomes_markup(hostile: ReportData) -> None:
    reader = Reader(render(hostile))
    assert reader.tags.count("script") == 1  # our own
    assert "img" not in reader.tags
    assert not any(k.startswith("on") for k, _ in reader.attributes)
    assert "<script>window.pwned=1</script>" in "".join(reader.words)
    assert "{{ 7*7 }} {% raw %}" in reader.text and "$x_1^2$" in reader.text
    assert not re.search("[\u202e\x00\x07\udc00-\udfff]", "".join(reader.words))


def test_thousands_of_policies_stay_small(sample: ReportData) -> None:
    many = tuple(
        dataclasses.replace(sample.alive[i % len(sample.alive)], rank=i + 1, policy=i, name=f"run/{i}", letters="")
        for i in range(3000)
    )
    data = dataclasses.replace(
        sample,
        ranking=dataclasses.replace(sample.ranking, policies=many),
        rounds=(Round(label="round 1", rollouts=(10,) * 3000),),
        truth=None,
        round_trip=(),
        clips=(),
    )
    page = render(data)
    assert len(page) < 6_000_000
    assert "The first 300 of 3 000 are listed" in Reader(page).text


def test_a_run_in_which_no_policy_ran(sample: ReportData) -> None:
    crashed = tuple(dataclasses.replace(p, failed="no") for p in sample.ranking.policies)
    data = dataclasses.replace(
        sample, ranking=dataclasses.replace(sample.ranking, policies=crashed), truth=None, round_trip=(), clips=()
    )
    assert "None of the 24 checkpoints could be tried." in Reader(render(data)).text


def test_written_completely_or_not_at_all(sample: ReportData, tmp_path: Path) -> None:
    data, path = bare(sample), tmp_path / "new" / "report.html"
    write_report(path, data)
    assert path.read_text(encoding="utf8") == render(data)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Could not write"):
        write_report(tmp_path / "file" / "report.html", data)
