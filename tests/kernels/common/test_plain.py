"""Where no kernel may read a tensor, the reference serves: nothing raises, and nothing goes unseen."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from hippo import HiPPO
from hippo.kernels import legs
from hippo.kernels.common import gpus, plain

SAMPLES = torch.linspace(-1, 1, 6, dtype=torch.float64).unsqueeze(0)  # (1, L)


def last(f: torch.Tensor) -> torch.Tensor:
    """Coefficients (1, 4) after samples (1, L), for which there is a compiled loop."""
    step = 1 / torch.arange(1, 7, dtype=torch.float64).unsqueeze(1)
    return legs.sequence(f.new_zeros(1, 4), f, step, 0.5, every=False)


def test_a_plain_tensor_may_be_read():
    assert plain.refusal(SAMPLES) is None
    assert plain.refusal(torch.nn.Parameter(SAMPLES)) is None


def test_function_transforms_and_forward_mode_reach_the_reference():
    memory, signal = HiPPO("legs", 4), torch.rand(1, 6, dtype=torch.float64)
    last = lambda f: memory(f)[1].coefficients  # noqa: E731
    expected = torch.autograd.functional.jacobian(last, signal)
    torch.testing.assert_close(torch.func.jacrev(last)(signal), expected)
    torch.testing.assert_close(torch.func.jacfwd(last)(signal), expected)
    _, tangent = torch.autograd.functional.jvp(last, signal, torch.ones_like(signal))
    with forward_ad.dual_level():
        dual = last(forward_ad.make_dual(signal, torch.ones_like(signal)))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, tangent)


def test_grad_reaches_the_reference():
    leaf = SAMPLES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(last(leaf).sum(), leaf)
    torch.testing.assert_close(torch.func.grad(lambda f: last(f).sum())(SAMPLES), expected)


def test_vmap_reaches_the_reference_with_what_it_has_wrapped_and_with_what_it_has_not():
    many = torch.stack([SAMPLES, 2 * SAMPLES])
    expected = torch.stack([last(SAMPLES), 2 * last(SAMPLES)])
    torch.testing.assert_close(torch.func.vmap(last)(many), expected)
    torch.testing.assert_close(torch.func.vmap(lambda f: 0 * f.sum() + last(SAMPLES))(many)[1], last(SAMPLES))


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_what_is_traced_to_a_graph_is_no_constant(mode):
    traced = make_fx(last, tracing_mode=mode)(SAMPLES)
    torch.testing.assert_close(traced(SAMPLES.cos()), last(SAMPLES.cos()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_what_torch_jit_traces_is_operations():
    traced = torch.jit.trace(last, (SAMPLES,), check_trace=False)
    assert "^" not in str(traced.graph)  # which marks a call of our code: it could not be saved
    torch.testing.assert_close(traced(SAMPLES.cos()), last(SAMPLES.cos()))


def test_a_dispatch_mode_sees_every_step():
    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function in (torch.ops.aten.mul.Tensor, torch.ops.aten.mm.default)
            return function(*args, **(kwargs or {}))

    with Products() as products:
        last(SAMPLES)
    assert products.count >= SAMPLES.shape[1]


def test_a_tensor_without_numbers_reaches_the_reference():
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(SAMPLES)
    assert last(fake).shape == (1, 4)


def test_kernels_of_a_gpu_refuse_the_same(monkeypatch):
    monkeypatch.setattr(gpus, "works", lambda device: True)
    tensor = SimpleNamespace(is_cuda=True, dtype=torch.float32, device=torch.device("cuda"))
    assert not gpus.serves(tensor)
    monkeypatch.setattr(plain, "refusal", lambda tensor: None)
    assert gpus.serves(tensor)
