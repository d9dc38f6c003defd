"""Attention of a packed row, cut into tiles, against plain attention with a mask."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from grpo_core.errors import ConfigError
from grpo_core.kernels import tiles as tiles_module
from grpo_core.kernels.fused_attention import fused_attention
from grpo_core.kernels.packed_attention import packed_attention
from grpo_core.kernels.tiles import Segment, Tile, cut
from grpo_core.training.packed_attention import attend

HEADS = st.sampled_from([(4, 4), (4, 2), (3, 1)])


@st.composite
def rows(draw: st.DrawFn) -> list[Segment]:
    """Prompts, each followed by some completions, as they lie in a packed row."""
    segments: list[Segment] = []
    at = 0
    for _ in range(draw(st.integers(1, 4))):
        prompt = Segment(at, draw(st.integers(1, 12)))
        segments.append(prompt)
        at += prompt.length
        for _ in range(draw(st.integers(0, 4))):
            length = draw(st.integers(1, 20))
            segments.append(Segment(at, length, prompt.start, prompt.length))
            at += length
    return segments


def length_of(segments: list[Segment]) -> int:
    return sum(segment.length for segment in segments)


def seen(segments: list[Segment]) -> Tensor:
    """[N, N] bool: who (row) may look at whom (column), place by place."""
    mask = torch.zeros(length_of(segments), length_of(segments), dtype=torch.bool)
    for segment in segments:
        for offset in range(segment.length):
            place = segment.start + offset
            mask[place, segment.start : place + 1] = True
            mask[place, segment.prompt_start : segment.prompt_start + segment.prompt_length] = True
    return mask


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(repeats, 1).transpose(0, 1) for t in (key, value))
    scores = query.transpose(0, 1) @ key.transpose(1, 2) * scaling
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return (weights @ value).transpose(0, 1)


def inputs(length: int, heads: tuple[int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    counts = (heads[0], heads[1], heads[1])
    made = (torch.randn(length, n, 8, generator=generator, dtype=torch.float64) for n in counts)
    return [tensor.to(dtype).requires_grad_() for tensor in made]


def assert_equals_plain(
    attention: Callable[..., Tensor],
    segments: list[Segment],
    heads: tuple[int, int],
    scaling: float,
) -> None:
    length = length_of(segments)
    given_tensors = inputs(length, heads)
    upstream = torch.randn(length, heads[0], 8, dtype=torch.float64)
    expected = plain(*given_tensors, seen(segments), scaling)
    got = attention(*given_tensors, cut(segments, length), scaling)
    assert_close(got, expected)
    wanted = torch.autograd.grad(expected, given_tensors, upstream)
    assert_close(torch.autograd.grad(got, given_tensors, upstream), wanted)


@pytest.mark.parametrize("most", [(1 << 16, 256), (64, 4)], ids=["few tiles", "many tiles"])
def test_equals_plain_attention_in_value_and_gradients(
    most: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles_module, "_TILE_SCORES", most[0])
    monkeypatch.setattr(tiles_module, "_TILE_QUERIES", most[1])

    @given(rows(), HEADS, st.sampled_from([0.3, 1.0]))
    def check(segments: list[Segment], heads: tuple[int, int], scaling: float) -> None:
        assert_equals_plain(packed_attention, segments, heads, scaling)

    check()


@given(rows())
def test_every_place_is_a_query_once_and_tiles_are_bounded(segments: list[Segment]) -> None:
    length = length_of(segments)
    found: list[int] = []
    for tile in cut(segments, length):
        count, width = tile.query_order.shape
        real = tile.results[tile.results < length].tolist()
        found.extend(real)
        assert count == 1 or count * width * tile.key_order.shape[1] <= 1 << 16
        assert len(real) >= 0.5 * count * width  # little padding
    assert sorted(found) == list(range(length))


def test_the_scores_of_long_segments_grow_linearly_tile_by_tile() -> None:
    """Memory is that of the largest tile, whose scores are a bounded number of queries times L."""
    for length in (1000, 4000):
        sizes = [
            tile.query_order.numel() * tile.key_order.shape[1]
            for tile in cut([Segment(0, length)], length)
        ]
        assert max(sizes) <= 256 * length


def test_bfloat16_is_as_exact_as_its_rounding() -> None:
    segments = [Segment(0, 30), *(Segment(30 + 20 * n, 20, 0, 30) for n in range(4))]
    exact = inputs(110, (4, 2))
    rounded = inputs(110, (4, 2), torch.bfloat16)
    upstream = torch.randn(110, 4, 8, dtype=torch.float64)
    expected = torch.autograd.grad(plain(*exact, seen(segments), 0.35), exact, upstream)
    got = torch.autograd.grad(
        packed_attention(*rounded, cut(segments, 110), 0.35), rounded, upstream.bfloat16()
    )
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine.double() - theirs).norm() < 0.02 * theirs.norm()


@given(rows(), HEADS, st.sampled_from([0.3, 1.0]))
def test_what_other_devices_compute_equals_plain_attention(
    segments: list[Segment], heads: tuple[int, int], scaling: float
) -> None:
    """What runs on GPUs, run on the CPU."""
    assert_equals_plain(fused_attention, segments, heads, scaling)


def test_a_shared_prompts_gradient_is_summed_in_float32_on_other_devices() -> None:
    """In bfloat16 the sum of 256 equal shares would stop growing at 256 times the first."""
    count = 300
    segments = [Segment(0, 1), *(Segment(1 + n, 1, 0, 1) for n in range(count))]
    query, key, value = inputs(count + 1, (1, 1), torch.bfloat16)
    got = fused_attention(query * 0, key, value, cut(segments, count + 1), 1.0)
    (found,) = torch.autograd.grad(got, value, torch.ones_like(got))
    assert_close(found[0], torch.full_like(found[0], 1 + count / 2))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sliding_window": 8}, "uses sliding_window"),
        ({"softcap": 30.0}, "uses softcap"),
        ({"packed_tiles": ()}, "was not told what the row holds"),
        ({"attention_mask": torch.zeros(1)}, "was not told"),
        ({"dropout": 0.1}, "was not told"),
    ],
)
def test_attention_of_another_kind_is_refused(asked: dict[str, object], message: str) -> None:
    query = torch.randn(1, 2, 3, 8)
    arguments: dict[str, object] = {"attention_mask": None, "packed_tiles": cut([Segment(0, 3)], 3)}
    with pytest.raises(ConfigError, match=message):
        attend(torch.nn.Identity(), query, query, query, **(arguments | asked))


def test_tiles_move_to_a_device() -> None:
    (tile,) = cut([Segment(0, 3)], 3)
    moved = tile.to(torch.device("meta"))
    assert {getattr(moved, name).device.type for name in Tile.__slots__} == {"meta"}
