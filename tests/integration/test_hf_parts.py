"""Parts of the embedded engine: its store of keys and values, its products, stop strings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from grpo_core.sampling.base import cut_at_stop
from grpo_core.sampling.hf.columns import Columns, LayerStates, order_without
from grpo_core.sampling.hf.products import Linear, LowRank, Product, can_pack
from grpo_core.sampling.hf.stops import StopWatch
from tiny_model import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
HEADS, SIZE, VALUE_SIZE = 2, 3, 2


def states_of(rows: list[list[float]]) -> list[LayerStates]:
    """Two layers whose keys and values are the tokens' numbers, aligned at the end."""
    width = max(map(len, rows))
    table = torch.tensor([[-1.0] * (width - len(row)) + row for row in rows])
    keys = table[:, None, :, None].expand(-1, HEADS, -1, SIZE)
    values = -table[:, None, :, None].expand(-1, HEADS, -1, VALUE_SIZE)
    return [LayerStates(keys, values), LayerStates(keys + 0.5, values)]


class Naive:
    """A store as lists, checked against `Columns` after every change."""

    def __init__(self, slots: int) -> None:
        self.columns = Columns(slots, 10_000)
        self.rows: list[list[float]] = []
        self.names = iter(range(1, 10**6))

    def join(self, lengths: list[int]) -> None:
        new = [[float(next(self.names)) for _ in range(length)] for length in lengths]
        order = torch.arange(len(new)).flip(0)
        self.columns.join(states_of(new[::-1]), order, lengths)
        self.rows += new

    def grow(self) -> None:
        new = [float(next(self.names)) for _ in self.rows]
        self.columns.grow()
        token = torch.tensor(new)[:, None, None]
        keys, values = token.expand(-1, HEADS, SIZE), -token.expand(-1, HEADS, VALUE_SIZE)
        self.columns.write(0, keys, values)
        self.columns.write(1, keys + 0.5, values)
        self.rows = [[*row, number] for row, number in zip(self.rows, new, strict=True)]

    def leave(self, gone: list[int]) -> None:
        self.rows = [self.rows[row] for row in self.columns.leave(gone)]

    def check(self) -> None:
        assert self.columns.spans == [len(row) for row in self.rows]
        if not self.rows:
            return
        mask = self.columns.mask(torch.device("cpu"))
        if mask is None:
            mask = torch.ones(len(self.rows), self.columns.width, dtype=torch.bool)
        for layer, shift in ((0, 0.0), (1, 0.5)):
            found = self.columns.read(layer)
            for row, numbers in enumerate(self.rows):
                assert mask[row].sum() == len(numbers)
                keys = found.keys[row][:, mask[row]]
                assert (keys == torch.tensor(numbers)[None, :, None] + shift).all()
                values = found.values[row][:, mask[row]]
                assert (values == -torch.tensor(numbers)[None, :, None]).all()


@given(st.data(), st.booleans())
def test_a_store_holds_what_was_put_into_it(data: st.DataObject, empty: bool) -> None:
    store = Naive(slots=6)
    longest = 0 if empty else 150
    for _ in range(data.draw(st.integers(1, 12))):
        live = len(store.rows)
        if live < 6 and (not live or data.draw(st.booleans())):
            most = max([store.columns.width, *([] if live else [longest])])
            sizes = st.integers(0 if empty else 1, max(most, 0 if empty else 1))
            store.join(data.draw(st.lists(sizes, min_size=1, max_size=6 - live)))
        elif data.draw(st.booleans()):
            for _ in range(data.draw(st.integers(1, 90))):
                store.grow()
        else:
            store.leave(data.draw(st.lists(st.integers(0, live - 1), unique=True)))
        store.check()


def test_a_store_does_not_grow_with_what_has_left() -> None:
    store = Naive(slots=2)
    store.join([30, 20])
    for _ in range(50):
        for _ in range(20):
            store.grow()
        store.leave([1 if len(store.rows[0]) < len(store.rows[1]) else 0])
        store.join([20])
        store.leave([0])
        store.join([20])
        store.check()
    assert store.columns._capacity < 300


def test_a_store_is_little_larger_than_its_longest_row_can_be() -> None:
    columns = Columns(3, longest=12)
    columns.join(states_of([[1.0] * 10]), torch.tensor([0, 0]), [10, 10])
    assert columns._capacity == 15
    assert columns.read(0).keys.shape == (2, HEADS, 10, SIZE)


@given(st.sets(st.integers(0, 9)), st.integers(10, 14))
def test_holes_are_filled_from_the_end(gone: set[int], count: int) -> None:
    order = order_without(sorted(gone), count)
    assert sorted(order) == [row for row in range(count) if row not in gone]
    assert all(row == slot or slot in gone for slot, row in enumerate(order))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("has_adapter", [False, True])
def test_products_are_those_of_the_layers(
    dtype: torch.dtype, has_bias: bool, has_adapter: bool
) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def layer(size: int) -> Linear:
        low = (LowRank(random(3, 17), random(size, 3), 0.5),) if has_adapter else ()
        return Linear(random(size, 17), random(size) if has_bias else None, low)

    def expected(x: torch.Tensor, linear: Linear) -> torch.Tensor:
        x, bias = x.double(), None if linear.bias is None else linear.bias.double()
        total = F.linear(x, linear.weight.double(), bias)
        for low in linear.adapters:
            total = total + F.linear(F.linear(x, low.a.double()), low.b.double()) * low.scaling
        return total

    layers = [layer(12), layer(5)]
    only = Product(layers[:1])
    for rows in (1, 3, 70):
        x, other = random(rows, 17), random(rows, 12)
        wanted = [expected(x, linear) for linear in layers]
        both = torch.cat(wanted, dim=-1)
        unbiased = Product([layers[0], Linear(layers[1].weight)])(x)[:, :12]
        results: dict[str, Any] = {
            "side by side": (Product(layers)(x), both),
            "bias of one alone": (unbiased, wanted[0]),
            "silu": (only.silu(x), F.silu(wanted[0])),
            "plus": (only.plus(x, other), wanted[0] + other.double()),
            "times": (only.times(x, other), wanted[0] * other.double()),
        }
        tolerance = 0.2 if dtype is torch.bfloat16 else 1e-4
        for name, (found, right) in results.items():
            assert found.dtype == dtype
            assert (found.double() - right).abs().max() < tolerance, name


def test_packing_is_for_weights_on_the_cpu_alone() -> None:
    assert not can_pack(torch.zeros(2, 2, dtype=torch.float64))
    assert not can_pack(torch.zeros(2, 2, device="meta"))


pieces = st.one_of(
    st.sampled_from(["ab", "#", "##", "é", "€", "😀", "a", "b", " ", "\n"]).map(
        lambda text: TOKENIZER(text)["input_ids"]
    ),
    st.integers(0, len(TOKENIZER) - 1).map(lambda token: [token]),
)


@given(
    st.lists(pieces, max_size=40),
    st.lists(st.sampled_from(["##", "ab", "é", "€#", "😀", "a b", "\n\n"]), min_size=1, max_size=3),
)
def test_a_stop_string_is_found_at_its_last_token(parts: list[list[int]], stop: list[str]) -> None:
    watch = StopWatch(TOKENIZER, stop)
    token_ids: list[int] = []
    for token in (token for part in parts for token in part):
        token_ids.append(token)
        text = TOKENIZER.decode(token_ids, skip_special_tokens=True)
        assert watch.is_complete(token_ids) == (cut_at_stop(text, stop) is not None)
        if cut_at_stop(text, stop) is not None:
            return


def test_the_text_is_not_decoded_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 0
    watch = StopWatch(TOKENIZER, ["</answer>"])
    decode = watch._decode

    def counted(token_ids: list[int], start: int) -> str:
        nonlocal longest
        longest = max(longest, len(token_ids) - start)
        return decode(token_ids, start)

    monkeypatch.setattr(watch, "_decode", counted)
    token_ids: list[int] = []
    for token in TOKENIZER("all work and no play " * 20)["input_ids"]:
        token_ids.append(token)
        assert not watch.is_complete(token_ids)
    assert longest < 80 < len(token_ids)
