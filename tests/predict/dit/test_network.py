import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.predict.dit.attention import rope_angles
from worldsim.predict.dit.blocks import Block, Patchify, Timesteps, modulate, modulation, unpatchify
from worldsim.predict.dit.network import DiffusionTransformer, DiffusionTransformerConfig

CONFIG = DiffusionTransformerConfig(
    in_channels=5, out_channels=4, width=48, heads=3, depth=2, mlp_ratio=2.0, adaln_lora_dim=4, condition_dim=3
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shaken(config: DiffusionTransformerConfig, std: float = 0.2) -> DiffusionTransformer:
    torch.manual_seed(0)
    net = DiffusionTransformer(config).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(torch.randn_like(parameter) * std)
    return net


def run(net: DiffusionTransformer, batch: int = 2, seed: int = 0, **change: Tensor) -> Tensor:
    inputs = {
        "x": noise(batch, 5, 3, 8, 6, seed=seed),
        "time_BT": noise(batch, 3, seed=seed + 1).sigmoid(),
        "condition_BTA": noise(batch, 3, 3, seed=seed + 2),
        **change,
    }
    return net(inputs.pop("x"), inputs.pop("time_BT"), **inputs)


def test_the_low_rank_path_starts_at_exactly_zero() -> None:
    embedded = noise(2, 3, 48)
    for chunks in (2, 3):
        assert modulation(48, 4, chunks=chunks)(embedded).abs().max() == 0
    torch.manual_seed(0)
    net = DiffusionTransformer(CONFIG)
    before = run(net)
    for block in net.blocks:
        nn.init.normal_(block.adaln_modulation_mlp[1].weight)
        nn.init.normal_(block.adaln_modulation_self_attn[1].weight)
    assert torch.equal(run(net), before)  # what leads into a zero matrix does not matter
    nn.init.normal_(net.blocks[0].adaln_modulation_mlp[2].weight)
    assert not torch.allclose(run(net), before)


def test_at_the_start_the_shared_vector_alone_modulates() -> None:
    torch.manual_seed(0)
    block = Block(48, heads=3, hidden=96, rank=4)
    x, embedded, shared = noise(1, 2, 6, 48), noise(1, 2, 48, seed=1), noise(1, 2, 144, seed=2)
    shift, scale, gate = shared.chunk(3, dim=-1)
    turn = rope_angles((2, 2, 3), head_dim=16)
    mixed = block.self_attn(modulate(x, shift, scale).flatten(1, 2), None, turn).unflatten(1, (2, 6))
    expected = x + gate[:, :, None] * mixed
    expected = expected + gate[:, :, None] * block.mlp(modulate(expected, shift, scale))
    assert torch.allclose(block(x, embedded, shared, turn), expected, atol=1e-5)
    assert torch.equal(block(x, embedded, torch.zeros_like(shared), turn), x)  # a gate of zero is no block at all


def test_modulation_is_a_layer_norm_with_each_frames_scale_and_shift() -> None:
    x = noise(1, 2, 6, 48) * 5 + 3
    shift, scale = noise(1, 2, 48, seed=1), noise(1, 2, 48, seed=2)
    frame = F.layer_norm(x[0, 1], (48,), eps=1e-6) * (1 + scale[0, 1]) + shift[0, 1]
    assert torch.allclose(modulate(x, shift, scale)[0, 1], frame, atol=1e-6)


def test_patches_are_cut_and_put_back() -> None:
    x = noise(2, 4, 3, 8, 6)
    cut = Patchify(2)(x)
    assert cut.shape == (2, 3, 4, 3, 16)
    assert torch.equal(cut[1, 2, 3, 0].view(4, 2, 2), x[1, :, 2, 6:8, 0:2])
    rows = cut.unflatten(4, (4, 2, 2)).permute(0, 1, 2, 3, 5, 6, 4).flatten(4)  # (row, column, channel)
    assert torch.equal(unpatchify(rows, 2), x)


def test_timesteps_are_cosines_then_sines() -> None:
    embedded = Timesteps(6)(torch.tensor([[0.0, 2.0]]))
    angle = torch.tensor([2.0, 2 * 10000 ** (-1 / 3), 2 * 10000 ** (-2 / 3)])
    assert embedded[0, 0].tolist() == [1, 1, 1, 0, 0, 0]
    assert torch.allclose(embedded[0, 1], torch.cat([angle.cos(), angle.sin()]))


def test_every_input_matters_and_rows_do_not_touch() -> None:
    net = shaken(CONFIG)
    y = run(net)
    assert y.shape == (2, 4, 3, 8, 6)
    assert torch.allclose(
        y[:1],
        net(noise(2, 5, 3, 8, 6)[:1], noise(2, 3, seed=1).sigmoid()[:1], condition_BTA=noise(2, 3, 3, seed=2)[:1]),
        atol=1e-5,
    )
    for name, shape in (("x", (2, 5, 3, 8, 6)), ("time_BT", (2, 3)), ("condition_BTA", (2, 3, 3))):
        assert not torch.allclose(run(net, **{name: noise(*shape, seed=9)}), y, atol=1e-3), name


def test_the_action_reaches_both_paths() -> None:
    """Adding it to the timestep after the norm, as one public network does, would leave the low-rank path deaf."""
    net = shaken(CONFIG)
    time, a, b = torch.full((1, 3), 0.5), noise(1, 3, 3), noise(1, 3, 3, seed=1)
    time_embedding_a, shared_a = net.embed_frames(time, a)
    time_embedding_b, shared_b = net.embed_frames(time, b)
    assert (time_embedding_a - time_embedding_b).abs().max() > 0.1 and (shared_a - shared_b).abs().max() > 0.1
    changed = a.clone()
    changed[:, 1] += 1
    time_embedding_c, shared_c = net.embed_frames(time, changed)
    for before, after in ((time_embedding_a, time_embedding_c), (shared_a, shared_c)):
        assert torch.equal(before[:, [0, 2]], after[:, [0, 2]]) and not torch.allclose(before[:, 1], after[:, 1])


def test_half_precision_runs_and_stays_close() -> None:
    net = shaken(CONFIG, std=0.02)
    single = run(net)
    half = run(net.bfloat16(), x=noise(2, 5, 3, 8, 6).bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - single).abs().mean() < 0.05 * single.abs().mean() + 0.02


def test_context_is_attended_to() -> None:
    net = shaken(dataclasses.replace(CONFIG, context_dim=7))
    context = noise(2, 5, 7)
    y = run(net, context_BLD=context)
    assert not torch.allclose(run(net, context_BLD=noise(2, 5, 7, seed=5)), y, atol=1e-3)
    assert torch.allclose(run(net, context_BLD=context[:, [4, 2, 0, 1, 3]]), y, atol=1e-5)  # a set, not a sequence


NAMES = (
    ("time_embed.t_embedder", "t_embedder.1"),
    ("time_embed.norm", "t_embedding_norm"),
    ("transformer_blocks", "blocks"),
    ("norm1.linear_", "adaln_modulation_self_attn."),
    ("norm2.linear_", "adaln_modulation_cross_attn."),
    ("norm3.linear_", "adaln_modulation_mlp."),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    ("to_q", "q_proj"),
    ("to_k", "k_proj"),
    ("to_v", "v_proj"),
    ("to_out.0", "output_proj"),
    ("norm_q", "q_norm"),
    ("norm_k", "k_norm"),
    ("ff.net.0.proj", "mlp.layer1"),
    ("ff.net.2", "mlp.layer2"),
    ("patch_embed.proj", "x_embedder.proj.1"),
    ("norm_out.linear_", "final_layer.adaln_modulation."),
    ("proj_out", "final_layer.linear"),
)
"""diffusers' names and the public checkpoints' own, which are ours."""


@pytest.mark.integration
@pytest.mark.parametrize("fps_hz", [None, 10])
def test_public_weights_fit_and_give_the_same_numbers(fps_hz: int | None) -> None:
    diffusers = pytest.importorskip("diffusers", reason="the reference implementation comes with the lerobot extra")
    torch.manual_seed(0)
    reference = diffusers.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=16,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 3.0),
        concat_padding_mask=False,
        extra_pos_embed_type=None,
    ).eval()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.3)
    weights = {}
    for name, value in reference.state_dict().items():
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        weights[name] = value
    config = DiffusionTransformerConfig(
        in_channels=4, out_channels=4, width=32, heads=2, depth=2, mlp_ratio=2.0, adaln_lora_dim=4, context_dim=16,
        rope_ratios=(2.0, 1.0, 3.0),
    )  # fmt: skip
    net = DiffusionTransformer(config).eval()
    net.load_state_dict(weights, strict=True)
    x, time, context = noise(2, 4, 3, 8, 6), noise(2, 3, seed=1).sigmoid(), noise(2, 5, 16, seed=2)
    with torch.no_grad():
        theirs_y = reference(x, time[:, None, :, None, None], context, fps=fps_hz).sample
        ours_y = net(x, time, context_BLD=context, fps_hz=fps_hz)
    assert torch.allclose(ours_y, theirs_y, atol=1e-4)


def test_golden_values() -> None:
    net = DiffusionTransformer(CONFIG).eval().requires_grad_(False)
    for i, parameter in enumerate(net.parameters()):
        parameter.copy_(0.3 * (torch.arange(parameter.numel()).view(parameter.shape) * 0.7 + i).sin())
    x = (torch.arange(5 * 2 * 4 * 4).view(1, 5, 2, 4, 4) * 0.3).sin()
    y = net(x, torch.tensor([[0.0, 700.0]]), condition_BTA=torch.tensor([[[0.1, 0.2, 0.3], [-0.5, 0.4, 0.0]]]))
    assert y[0, :, 1, 2, 3].tolist() == pytest.approx(GOLDEN, abs=1e-3)


GOLDEN = [-1.564788, 2.014802, -0.754472, -1.146307]


def test_misuse_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="multiple of heads"):
        DiffusionTransformer(dataclasses.replace(CONFIG, heads=5))
    with pytest.raises(InvalidInputError, match="at least 6"):
        DiffusionTransformer(dataclasses.replace(CONFIG, heads=12))
    net = DiffusionTransformer(CONFIG)
    with pytest.raises(InvalidInputError, match="no multiple of patch=2"):
        net(noise(1, 5, 3, 7, 6), noise(1, 3), condition_BTA=noise(1, 3, 3))
    with pytest.raises(InvalidInputError, match="condition of width 3"):
        net(noise(1, 5, 3, 8, 6), noise(1, 3))
