"""The compiled passes against the plain functions, and how the library is built."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from grpo_core.kernels import native, native_build
from grpo_core.kernels.packed_attention import packed_attention
from grpo_core.kernels.rms_norm import rms_norm
from grpo_core.kernels.rotary import rotate
from grpo_core.kernels.swiglu import swiglu
from grpo_core.kernels.tiles import Segment, cut

seeds = st.integers(0, 2**31)
sizes = st.sampled_from([1, 2, 15, 16, 17, 64, 65, 130])
needs_library = pytest.mark.skipif(
    native_build.load_native().library is None,
    reason=f"no compiled passes here: {native_build.load_native().reason}",
)


@contextmanager
def compiled(on: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_WORTH_IT", 1 if on else 1 << 60)
        yield


def numbers(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * scale).bfloat16()


def results(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value, and the gradients of all inputs for one gradient from above."""
    inputs = tuple(tensor.detach().requires_grad_() for tensor in inputs)
    value = function(*inputs)
    upstream = numbers(7, *value.shape).to(value.dtype)
    return [value.detach(), *torch.autograd.grad(value, inputs, upstream)]


def agrees(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Compiled values equal plain ones; compiled gradients are as near to exact ones as plain."""
    exact = results(function, *(tensor.double() for tensor in inputs))
    with compiled(False):
        plain = results(function, *inputs)
    with compiled(True):
        got = results(function, *inputs)
    # Sums in another order may tip a rounding: the last of bfloat16's eight bits.
    assert_close(got[0], plain[0], rtol=2**-7, atol=1e-30)
    for mine, theirs, true in zip(got, plain, exact, strict=True):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
        size = true.norm().clamp(min=1e-30)
        allowed = 1.1 * (theirs.double() - true).norm() / size + 2**-8
        assert (mine.double() - true).norm() / size <= allowed


@needs_library
@given(seeds, sizes, st.sampled_from([8, 15, 16, 17, 65]), st.sampled_from([1e-3, 1.0, 100.0]))
def test_rms_norm(seed: int, rows: int, size: int, scale: float) -> None:
    x, weight = numbers(seed, 1, rows, size, scale=scale), numbers(seed + 1, size)
    agrees(lambda x, weight: rms_norm(x, weight, 1e-5), x, weight)


@needs_library
@given(seeds, sizes, sizes, st.sampled_from([0.1, 1.0, 20.0]))
def test_swiglu(seed: int, rows: int, size: int, scale: float) -> None:
    agrees(swiglu, numbers(seed, rows, size, scale=scale), numbers(seed + 1, rows, size))


@needs_library
@given(seeds, sizes, st.integers(1, 3), st.sampled_from([2, 30, 64]))
def test_rotate(seed: int, rows: int, heads: int, size: int) -> None:
    angles = torch.rand(rows, size // 2, generator=torch.Generator().manual_seed(seed)) * 100
    angles = torch.cat([angles, angles], -1)

    def turned(x: Tensor) -> Tensor:
        return rotate(x, angles.cos().bfloat16().to(x.dtype), angles.sin().bfloat16().to(x.dtype))

    agrees(turned, numbers(seed, rows, heads, size))


@needs_library
@given(seeds, st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 20))
def test_attention(seed: int, lengths: list[int], prompt: int) -> None:
    segments, start = [Segment(0, prompt)], prompt
    for length in lengths:
        segments.append(Segment(start, length, 0, prompt))
        start += length
    tiles = cut(segments, start)
    agrees(
        lambda query, key, value: packed_attention(query, key, value, tiles, 0.35),
        *(numbers(seed + n, start, heads, 8) for n, heads in enumerate((6, 2, 2))),
    )


@needs_library
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38, 1e-40])
def test_what_is_no_number_stays_none(value: float) -> None:
    gate, up = numbers(0, 3, 16), numbers(1, 3, 16)
    gate[1, 2] = value
    with compiled(False):
        plain = swiglu(gate, up)
    with compiled(True):
        got = swiglu(gate, up)
    finite = plain.isfinite()
    assert torch.equal(got.isfinite(), finite)
    assert torch.equal(got[finite], plain[finite])


@needs_library
def test_any_layout_of_inputs() -> None:
    gate, up = (numbers(seed, 20, 12).T for seed in (0, 1))
    with compiled(True):
        assert torch.equal(swiglu(gate, up), swiglu(gate.contiguous(), up.contiguous()))


@needs_library
def test_results_do_not_depend_on_threads() -> None:
    x, weight = numbers(0, 150, 33), numbers(1, 33)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with compiled(True):
                normed = results(lambda x, weight: rms_norm(x, weight, 1e-5), x, weight)
                found.append([*normed, *results(swiglu, x, x.flip(0))])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@needs_library
def test_threads_of_python_may_call_at_once() -> None:
    inputs = [(numbers(seed, 300, 64), numbers(seed + 50, 300, 64)) for seed in range(8)]
    with compiled(True):
        expected = [swiglu(*pair) for pair in inputs]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda pair: swiglu(*pair), inputs))
    assert all(map(torch.equal, got, expected))


@needs_library
def test_a_frozen_weight_gets_no_gradient() -> None:
    x, weight = numbers(0, 3, 8).requires_grad_(), torch.ones(8).bfloat16()
    with compiled(True):
        loss = rms_norm(x, weight, 1e-5).sum()
        (grad,) = torch.autograd.grad(loss, [x])
    assert grad.shape == x.shape


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_other_dtypes_are_computed_the_plain_way(dtype: torch.dtype) -> None:
    x, weight = numbers(0, 3, 8).to(dtype), numbers(1, 8)
    with compiled(True):
        assert native.serves(weight)
        assert not native.serves(x) and not native.serves(weight, x)
        assert not native.serves(torch.empty(9, dtype=torch.bfloat16, device="meta"))


def test_small_tensors_build_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> None:
        raise AssertionError("built")

    monkeypatch.setattr(native, "_library", build)
    assert not native.serves(numbers(0, 32, 32))


# ---- building


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """As at the start of a process with an empty cache."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("needs Linux and gcc")
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GRPO_NATIVE", raising=False)
    native_build._load.cache_clear()
    yield tmp_path / "cache" / "native"
    native_build._load.cache_clear()


def test_can_be_switched_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPO_NATIVE", "0")
    assert native.describe() == "no compiled passes (GRPO_NATIVE=0)"
    assert not fresh.exists()


def test_says_that_there_is_no_compiler(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.describe() == "no compiled passes (there is no gcc)"


def test_a_library_is_built_once_and_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native_build.load_native().reason == "built by gcc"
    (library,) = fresh.iterdir()

    def build(compiler: str, scratch: Path) -> None:
        raise AssertionError("built again")

    native_build._load.cache_clear()
    monkeypatch.setattr(native_build, "_compile", build)
    assert native_build.load_native().library is not None
    assert list(fresh.iterdir()) == [library]


def test_other_processors_and_flags_get_a_library_of_their_own(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gcc = shutil.which("gcc")
    assert gcc is not None
    prints = {native_build._fingerprint(gcc)}
    monkeypatch.setattr(native_build, "_processor", lambda: b"another")
    prints.add(native_build._fingerprint(gcc))
    monkeypatch.setattr(native_build, "_FLAGS", ("-O1",))
    prints.add(native_build._fingerprint(gcc))
    assert len(prints) == 3


def test_many_may_build_at_once(fresh: Path) -> None:
    gcc = shutil.which("gcc")
    assert gcc is not None
    with ThreadPoolExecutor(3) as pool:
        libraries = list(pool.map(native_build._built, [gcc] * 3, [fresh] * 3))
    assert all(library.swiglu for library in libraries)
    assert len(list(fresh.iterdir())) == 1


def test_where_nothing_can_be_kept_it_is_built_for_the_process(fresh: Path) -> None:
    fresh.parent.write_text("a file where the folder should be")
    library, reason = native_build.load_native()
    assert library is not None and reason == "built by gcc, not kept"


def test_without_any_folder_to_write_it_says_so(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.parent.write_text("a file where the folder should be")

    def nowhere(*_: object, **__: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", nowhere)
    assert native_build.load_native() == (None, "FileNotFoundError: no usable temporary directory")


def test_says_why_the_compiler_failed(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "_FLAGS", ("-no-such-flag",))
    library, reason = native_build.load_native()
    assert library is None and reason.startswith("gcc failed: ") and "no-such-flag" in reason
    assert not list(fresh.iterdir())
