"""The wavefront against the step as written, in float64, and against the dense memory through `HiPPO.remember`."""

import signal as signals
import threading
from time import perf_counter

import pytest
import torch

from hippo import HiPPO, State, kernels
from hippo.kernels.common import native
from hippo.kernels.legs import wavefront
from hippo.kernels.legs.naive import legs_step

pytestmark = pytest.mark.skipif(not kernels.compiled(), reason="numba is not installed")


def signal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def denormals() -> bool:
    return (torch.tensor([1e-30]) * 1e-9).item() > 0


def step_by_step(c: torch.Tensor, f: torch.Tensor, time: int, power: float = 0.0) -> torch.Tensor:
    for i, sample in enumerate(f.unbind(-1)):
        c = legs_step(c, sample, torch.tensor(1 / (time + i + 1), dtype=torch.float64), power=power)
    return c


@pytest.mark.parametrize("power", [0.0, -0.5, 3.5])
@pytest.mark.parametrize(
    ("order", "length", "time"), [(1, 1, 0), (1, 200, 0), (3, 64, 1), (5, 63, 0), (37, 300, 10**6), (256, 130, 7)]
)
def test_it_is_the_reference_step_by_step_and_so_are_its_gradients(order, length, time, power):
    c, f, weight = (
        signal(3, order).requires_grad_(),
        signal(3, length, seed=1).requires_grad_(),
        signal(3, order, seed=2),
    )
    whole, reference = wavefront.remember(c, f, time, power), step_by_step(c, f, time, power)
    for one, other in zip(
        [whole, *torch.autograd.grad((whole * weight).sum(), (c, f))],
        [reference, *torch.autograd.grad((reference * weight).sum(), (c, f))],
        strict=True,
    ):
        assert (one - other).abs().max() <= 1e-13 * reference.abs().max()


@pytest.mark.parametrize(("vector", "count"), [(2, 1), (4, 3), (8, 2)])
def test_every_width_of_a_wavefront_is_the_same(monkeypatch, vector, count):
    c, f = signal(2, 19), signal(2, 103, seed=1)
    expected = wavefront.remember(c, f, 3.0)
    monkeypatch.setattr(wavefront, "_registers", lambda dtype: (vector, count))
    torch.testing.assert_close(wavefront.remember(c, f, 3.0), expected, rtol=1e-13, atol=1e-13)


def test_gradients_that_fade_do_so_without_denormal_numbers_which_the_thread_still_has():
    c, f = signal(1, 256, dtype=torch.float32).requires_grad_(), signal(1, 500, seed=1, dtype=torch.float32)
    (grad,) = torch.autograd.grad(wavefront.remember(c, f, 20.0).sum(), c)
    assert (grad.abs() < 1e-30).any()
    assert ((grad == 0) | (grad.abs() >= torch.finfo(torch.float32).smallest_normal)).all()
    had_them = denormals()
    try:
        for has_them in (False, True):
            torch.set_flush_denormal(not has_them)
            wavefront.remember(c, f, 20.0)
            assert denormals() == has_them
    finally:
        torch.set_flush_denormal(not had_them)


@pytest.mark.parametrize("power", [0.0, 1.5])
def test_its_gradients_are_those_of_finite_differences(power):
    c, f = signal(2, 4).requires_grad_(), signal(2, 70, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda c, f: wavefront.remember(c, f, 2.0, power), (c, f))


@pytest.mark.parametrize("shape", [(2, 150), (2, 150, 3)])
def test_remember_has_what_forward_has_at_the_end(shape, monkeypatch):
    memory, f = HiPPO("legs", 12), signal(*shape)
    outputs, state = memory(f)
    remembered = memory.remember(f)
    torch.testing.assert_close(remembered.coefficients, outputs[:, -1], rtol=1e-12, atol=1e-13)
    assert remembered.time == state.time
    monkeypatch.setattr(native, "refusal", lambda tensor: "so the test wants it")
    torch.testing.assert_close(memory.remember(f).coefficients, outputs[:, -1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sizes", [(1, 149), (64, 1, 85), (7,) * 21 + (3,)])
def test_chunks_are_the_whole(sizes):
    memory, f = HiPPO("legs", 33), signal(2, 150)
    state = None
    for chunk in f.split(sizes, dim=1):
        state = memory.remember(chunk, state=state)
    whole = memory.remember(f)
    assert isinstance(state, State)
    assert state.time == whole.time
    torch.testing.assert_close(state.coefficients, whole.coefficients, rtol=1e-12, atol=1e-13)


def test_more_samples_than_share_a_table(monkeypatch):
    monkeypatch.setattr(wavefront, "_CHUNK", 130)  # not a whole number of wavefronts
    memory, f = HiPPO("legs", 8), signal(1, 700).requires_grad_()
    c = memory.remember(f).coefficients
    expected = step_by_step(torch.nn.functional.pad(f[:, :1], (0, 7)), f[:, 1:], 0)
    torch.testing.assert_close(c, expected, rtol=1e-11, atol=1e-13)
    weight = signal(1, 8, seed=1)
    one, other = (torch.autograd.grad((v * weight).sum(), f)[0] for v in (c, expected))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("limit", [1, 3000, 1 << 30])
def test_pieces_between_which_it_can_be_interrupted_change_nothing(monkeypatch, limit):
    c = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    f = torch.randn(3, 700, dtype=torch.float64, requires_grad=True)
    expected = wavefront.remember(c, f, 5.0)
    gradients = torch.autograd.grad(expected.square().sum(), (c, f))
    monkeypatch.setattr(wavefront, "_UNINTERRUPTED", limit)
    got = wavefront.remember(c, f, 5.0)
    assert torch.equal(got, expected)
    for one, other in zip(torch.autograd.grad(got.square().sum(), (c, f)), gradients, strict=True):
        assert torch.equal(one, other)


def test_ctrl_c_is_answered_within_a_second():
    memory, samples = HiPPO("legs", 256), torch.zeros(1, 30_000_000)
    memory.remember(samples[:, :100_000])  # compiled
    timer = threading.Timer(0.2, signals.raise_signal, [signals.SIGINT])
    begin = perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        [memory.remember(samples) for _ in range(20)]
    assert perf_counter() - begin < 1.2


def test_a_constant_stays_to_the_last_bit_and_single_precision_holds_over_a_million_steps():
    memory = HiPPO("legs", 16)
    constant = memory.remember(torch.full((1, 10**6), 0.7)).coefficients
    assert torch.equal(constant, torch.nn.functional.pad(torch.tensor([[0.7]]), (0, 15)))
    f = torch.sin(torch.arange(10**6, dtype=torch.float64) / 30_000)[None]
    exact, single = memory.remember(f).coefficients, memory.remember(f.float()).coefficients
    assert (single - exact).abs().max() <= 1e-4 * exact.abs().max()


def test_any_layout_and_memory_that_may_not_be_written_to():
    memory, f = HiPPO("legs", 9), signal(3, 200)
    expected = memory.remember(f).coefficients
    assert torch.equal(memory.remember(f.mT.contiguous().mT).coefficients, expected)
    assert torch.equal(memory.remember(f.flip(0)).coefficients.flip(0), expected)
    read_only = f.numpy().copy()
    read_only.flags.writeable = False
    with pytest.warns(UserWarning, match="not writable"):
        shared = torch.from_numpy(read_only)
    assert torch.equal(memory.remember(shared).coefficients, expected)
    state = memory.remember(f[:, :50])
    before = state.coefficients.clone()
    memory.remember(f[:, 50:], state=state)
    assert torch.equal(state.coefficients, before)


def test_threads_share_the_rows_and_several_callers_do_not_meet():
    memory, f = HiPPO("legs", 64), signal(5, 5000)
    expected = memory.remember(f).coefficients
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(memory.remember(f).coefficients, expected)
    finally:
        torch.set_num_threads(threads)
    found: dict[int, torch.Tensor] = {}
    callers = [
        threading.Thread(target=lambda i=i: found.update({i: memory.remember(f[i : i + 1]).coefficients}))
        for i in range(5)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert torch.equal(torch.cat([found[i] for i in range(5)]), expected)


def test_denormal_numbers_and_large_orders():
    tiny = torch.full((1, 100), 1e-310, dtype=torch.float64)
    assert torch.isfinite(HiPPO("legs", 8).remember(tiny).coefficients).all()
    c, f = torch.zeros(1, 1024, dtype=torch.float64), signal(1, 40)
    torch.testing.assert_close(wavefront.remember(c, f, 5.0), step_by_step(c, f, 5), rtol=1e-11, atol=1e-13)


def test_second_gradients_are_those_of_finite_differences():
    c, f = signal(2, 3).requires_grad_(), signal(2, 9, seed=1).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda c, f: wavefront.remember(c, f, 2.0).square(), (c, f))


def test_what_would_be_read_wrongly_is_refused():
    c, f = signal(2, 4), signal(2, 9)
    for wrong in (f[:1], f.float(), f[0], torch.zeros(2, 9, dtype=torch.float64, device="meta")):
        with pytest.raises(ValueError, match="must be"):
            wavefront.remember(c, wrong, 0.0)
    memory = HiPPO("legs", 4)
    state = memory.remember(f)
    with pytest.raises(ValueError, match="convert one"):
        memory.remember(f.float(), state=state)
    for time in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite and at least 0"):
            memory.remember(f, state=state._replace(time=time))
    with pytest.raises(ValueError, match="B, L, C ≥ 1"):
        memory.remember(torch.zeros(0, 5))


def test_it_works_under_another_default_device_and_inside_what_is_compiled():
    memory, f = HiPPO("legs", 8), signal(2, 200)
    expected = memory.remember(f).coefficients
    with torch.device("meta"):
        assert torch.equal(memory.remember(f).coefficients, expected)
    compiled = torch.compile(lambda f: memory.remember(f).coefficients * 1.0, backend="eager")
    assert torch.equal(compiled(f), expected)


def test_what_it_returns_may_be_viewed_and_written_to():
    state = HiPPO("legs", 8).remember(signal(2, 200).requires_grad_())
    assert state.coefficients.view(-1).shape == (16,)
    state.coefficients[0] = 0  # forgets one series
    assert state.coefficients.untyped_storage().nbytes() == 16 * 8


def test_one_sample_and_one_coefficient():
    f = signal(2, 1)
    assert torch.equal(HiPPO("legs", 5).remember(f).coefficients, torch.nn.functional.pad(f, (0, 4)))
    means = HiPPO("legs", 1).remember(signal(1, 500)).coefficients
    torch.testing.assert_close(means, HiPPO("legs", 9).remember(signal(1, 500)).coefficients[:, :1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("order", "length", "place"), [(8, 100, 57), (1, 1, 0), (1, 9, 0), (300, 20_000, 1), (5, 90, 0), (5, 90, 89)]
)
def test_what_is_not_finite_is_refused(order, length, place, dtype, bad):
    f = signal(3, length).to(dtype)
    f[1, place] = bad
    with pytest.raises(ValueError, match="finite"):
        HiPPO("legs", order).remember(f)
