import dataclasses
import io

import numpy as np
from PIL import Image

from worldsim.triage.report import ReportData, draw_picture


def test_a_picture_shows_ranking_agreement_and_frames(sample: ReportData) -> None:
    image = np.asarray(Image.open(io.BytesIO(draw_picture(sample))).convert("RGB")).astype(int)
    assert image.shape[1] == 2000 and 1000 < image.shape[0] < 1400
    assert (image[:5] > 240).all()  # white margin
    red = (image[..., 0] > 180) & (image[..., 1] < 90) & (image[..., 2] < 90)
    rows = np.flatnonzero(red.any(axis=1))
    assert rows.min() > 700  # the red block is seen in the strip only
    accent = (abs(image - np.array([0x1F, 0x5F, 0xBF])).max(axis=2) < 8)[:700]
    assert accent[:, :1200].any() and accent[:, 1300:].any()  # winners, left and right


def test_parts_without_data_are_left_out(sample: ReportData) -> None:
    alone = dataclasses.replace(sample, truth=None, clips=())
    image = Image.open(io.BytesIO(draw_picture(alone)))
    assert image.size == (2000, 720)
    half = dataclasses.replace(sample, clips=tuple(dataclasses.replace(c, truth=None) for c in sample.clips[:1]))
    assert 720 < Image.open(io.BytesIO(draw_picture(half))).size[1] < 1000


def test_equal_data_gives_equal_pictures(sample: ReportData) -> None:
    data = dataclasses.replace(sample, clips=())
    assert draw_picture(data) == draw_picture(data)
