import mujoco
import numpy as np
import pytest

from worldsim.envs.render.renderer import RayRenderer
from worldsim.envs.render.static_cache import movable_pixels
from worldsim.errors import InvalidInputError, UnknownNameError

CAMERA = '<camera name="eye" pos="0 0 2" fovy="40"/>'


def scene(
    body: str, *, camera: str = CAMERA, visual: str = '<headlight active="0"/>'
) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><visual>{visual}</visual><worldbody>{camera}{body}</worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def unit_rays(size: int, fovy_deg: float) -> np.ndarray:
    """Rays of a camera that looks down, by the definition of the field of view."""
    half = np.tan(np.radians(fovy_deg) / 2)
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis * half, -axis * half)
    ray = np.stack([x, y, -np.ones_like(x)], axis=-1)
    return ray / np.linalg.norm(ray, axis=-1, keepdims=True)


def test_depth_and_segmentation_of_a_sphere_are_the_formula() -> None:
    centre, radius = np.array([0.1, -0.2, 0.3]), 0.4
    model, data = scene(f'<geom name="ball" type="sphere" pos="0.1 -0.2 0.3" size="{radius}"/>')
    renderer = RayRenderer(model, "eye", 48, 48)
    ray = unit_rays(48, 40)
    to_centre = centre - np.array([0, 0, 2.0])
    along = ray @ to_centre
    inside = radius**2 - (to_centre @ to_centre - along**2)
    expected = np.where(inside > 0, (along - np.sqrt(np.maximum(inside, 0))) * -ray[..., 2], np.inf)
    np.testing.assert_allclose(renderer.depth(data), expected, atol=1e-5)
    np.testing.assert_array_equal(renderer.segmentation(data), np.where(inside > 0, 0, -1))


def test_depth_of_planes_and_boxes_runs_along_the_axis() -> None:
    box = '<geom name="box" type="box" pos="0 0 0.1" size="0.2 0.1 0.1"/>'
    model, data = scene('<geom name="floor" type="plane" size="5 5 1"/>' + box)
    renderer = RayRenderer(model, 0, 40, 60)
    depth, seen = renderer.depth(data), renderer.segmentation(data)
    assert set(np.unique(seen)) == {0, 1}
    np.testing.assert_allclose(depth[seen == 0], 2.0, atol=1e-6)  # not the distance, which grows to the sides
    top = seen == 1
    assert np.isclose(depth[top], 1.8, atol=1e-6).all()
    focal = 20 / np.tan(np.radians(20))
    assert top.sum() == pytest.approx(0.4 * 0.2 * (focal / 1.8) ** 2, rel=0.05)


def test_colours_follow_lambert_and_background_stays_unlit() -> None:
    light = '<light directional="true" dir="{}" diffuse="0.8 0.8 0.8" ambient="0.1 0.1 0.1" specular="0 0 0"/>'
    floor = '<geom type="plane" size="0.3 0.3 1" rgba="1 0.5 0 1"/>'
    for direction, cosine in (("0 0 -1", 1.0), ("0 1 -1", np.sqrt(0.5)), ("0 0 1", 0.0)):
        model, data = scene(floor + light.format(direction))
        frame = RayRenderer(model, "eye", 32, 32, background=(1, 2, 3)).render(data)
        level = 255 * (0.1 + 0.8 * cosine)
        np.testing.assert_allclose(frame[16, 16], [level, level / 2, 0], atol=1)
        assert tuple(frame[0, 0]) == (1, 2, 3)


def test_lamps_at_a_place_shine_from_there_and_the_headlight_from_the_eye() -> None:
    lamp = '<light pos="0 0 1" dir="0 0 -1" diffuse="1 1 1" specular="0 0 0" cutoff="180"/>'
    model, data = scene('<geom type="plane" size="5 5 1" rgba="1 1 1 1"/>' + lamp)
    row = RayRenderer(model, "eye", 65, 65).render(data)[32, :, 0].astype(float)
    x = (np.arange(65) - 32) / 32.5 * 2 * np.tan(np.radians(20))
    np.testing.assert_allclose(row, 255 / np.sqrt(1 + x**2), atol=1.5)
    model, data = scene(
        '<geom type="plane" size="5 5 1" rgba="1 1 1 1"/>', visual='<headlight ambient="0 0 0" diffuse=".5 .5 .5"/>'
    )
    assert abs(int(RayRenderer(model, "eye", 8, 8).render(data)[4, 4, 0]) - 127.5) <= 1


def test_colours_come_from_materials_where_geoms_have_none() -> None:
    xml = """<mujoco><asset><material name="m" rgba="0 1 0 1"/></asset><visual><headlight ambient="1 1 1"/></visual><worldbody>
    <camera pos="0 0 2"/><geom type="sphere" size=".3" pos="-.4 0 0" material="m"/>
    <geom type="sphere" size=".3" pos=".4 0 0" material="m" rgba="1 0 0 1"/></worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    frame = RayRenderer(model, 0, 32, 32).render(data)
    assert tuple(frame[16, 8]) == (0, 255, 0)
    assert tuple(frame[16, 24]) == (255, 0, 0)


MOVER = """<light directional="true" dir="0.1 0.2 -1"/><geom name="floor" type="plane" size="3 3 1" rgba=".8 .8 .8 1"/>
<geom name="post" type="cylinder" size="0.1 0.1" pos=".3 .3 .1" rgba="0 .6 0 1"/>
<body name="mover" pos="0 0 0.1"><joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/><joint type="hinge" axis="0 0 1"/>
<geom type="box" size=".25 .08 .1" rgba=".8 .1 .1 1"/></body>"""


def test_a_pose_can_be_read_to_a_tenth_of_a_pixel() -> None:
    flat = '<camera name="eye" pos="0 0 50" fovy="1.4"/>'
    model, data = scene(MOVER.replace('pos=".3 .3 .1"', 'pos="3 3 .1"'), camera=flat)
    renderer = RayRenderer(model, "eye", 64, 64)
    column, row = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    metres_per_px = 2 * 49.8 * np.tan(np.radians(0.7)) / 64
    errors = []
    for x, y, yaw in np.random.default_rng(0).uniform([-0.2, -0.2, -3], [0.2, 0.2, 3], (40, 3)):
        upright = len(errors) % 2 == 0
        data.qpos[:] = x, y, 0.0 if upright else yaw
        mujoco.mj_forward(model, data)
        frame = renderer.render(data).astype(float)
        cover = np.clip((frame[0, 0, 1] - frame[..., 1]) / (frame[0, 0, 1] - frame[..., 1].min()), 0, 1)
        at = (cover * column).sum() / cover.sum(), (cover * row).sum() / cover.sum()
        errors += [at[0] - 32 - x / metres_per_px, at[1] - 32 + y / metres_per_px]
    assert np.abs(errors).max() < 0.1
    assert np.sqrt(np.mean(np.square(errors))) < 0.03


def test_redrawing_only_what_moves_gives_the_same_bits() -> None:
    model, data = scene(MOVER)
    kept = RayRenderer(model, "eye", 48, 64)
    for number, pose in enumerate(np.random.default_rng(1).uniform(-1, 1, (25, 3))):
        data.qpos[:] = pose
        if number == 10:
            model.geom_rgba[1] = [0, 0, 1, 1]
        if number == 15:
            model.light_diffuse[0] = 0.3
        if number == 20:
            model.cam_pos[0] = [0.2, 0, 2.5]
        mujoco.mj_forward(model, data)
        np.testing.assert_array_equal(kept.render(data), RayRenderer(model, "eye", 48, 64).render(data))


def test_the_window_of_what_moves_holds_all_of_it() -> None:
    model, data = scene(MOVER)
    renderer = RayRenderer(model, "eye", 64, 64)
    mover = np.array([2])
    for pose in np.random.default_rng(2).uniform(-1.5, 1.5, (30, 3)):
        data.qpos[:] = pose
        mujoco.mj_forward(model, data)
        window = movable_pixels(model, data, 0, mover, renderer._focal_px(), (64, 64))
        assert window is not None
        assert window[renderer.segmentation(data) == 2].all()
    data.qpos[:] = 0
    near, near_data = scene(MOVER, camera='<camera name="eye" pos="0 0 0.15"/>')
    assert movable_pixels(near, near_data, 0, mover, renderer._focal_px(), (64, 64)) is None


def test_stated_intrinsics_draw_what_the_same_fovy_draws() -> None:
    sensor = '<camera name="eye" pos="0 0 2" sensorsize="0.02 0.02" resolution="64 64" focal="{0} {0}"/>'
    focal = 0.01 / np.tan(np.radians(20))
    one = RayRenderer(scene(MOVER)[0], "eye").render(scene(MOVER)[1])
    model, data = scene(MOVER, camera=sensor.format(focal))
    assert (one != RayRenderer(model, "eye").render(data)).mean() < 0.005


def test_no_ray_overlooks_a_geom() -> None:
    model, data = scene(MOVER + '<geom type="ellipsoid" size=".1 .2 .1" pos="-.4 .4 .1"/>')
    renderer = RayRenderer(model, "eye", 48, 48)
    found, one, normal = renderer.segmentation(data).ravel(), np.zeros(1, np.int32), np.zeros(3)
    for ray, geom in zip(unit_rays(48, 40).reshape(-1, 3), found, strict=True):
        mujoco.mj_ray(model, data, data.cam_xpos[0], ray, None, 1, -1, one, normal)
        assert one[0] == geom


def test_hidden_groups_are_not_drawn() -> None:
    model, data = scene('<geom type="sphere" size=".3" group="4"/>')
    assert (RayRenderer(model, "eye").segmentation(data) == -1).all()
    assert (RayRenderer(model, "eye", groups=(4,)).segmentation(data) == 0).any()


def test_bad_requests_are_answered() -> None:
    model, _ = scene(MOVER)
    with pytest.raises(UnknownNameError, match="Did you mean 'eye'"):
        RayRenderer(model, "eyes")
    with pytest.raises(InvalidInputError, match="the scene has 1"):
        RayRenderer(model, 3)
    with pytest.raises(InvalidInputError, match="at least 1"):
        RayRenderer(model, "eye", 0, 64)
    model, _ = scene(MOVER, camera='<camera name="eye" pos="0 0 2" projection="orthographic"/>')
    with pytest.raises(InvalidInputError, match="narrow fovy"):
        RayRenderer(model, "eye")
