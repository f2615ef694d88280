import pytest
import torch
from scipy.linalg import expm

from hippo import discretize
from hippo.kernels.legs.naive import Semiseparable, legs_dilation, legs_step, legs_transition
from hippo.measures import LegS

pytestmark = pytest.mark.usefixtures("float64")


def matrices(advance, order, batch=()):
    """The matrix [Ā | B̄] of an affine step (c, f) ↦ Ā c + B̄ f, column by column: (*batch, N, N + 1)."""
    inputs = torch.eye(order + 1).view(order + 1, *(1 for _ in batch), order + 1).expand(-1, *batch, -1)
    return advance(inputs[..., :-1], inputs[..., -1]).movedim(0, -1)


def dense(order, step, alpha):
    A_bar, B_bar = discretize.gbt(*LegS().dynamics(order), step, alpha)
    return torch.cat([A_bar, B_bar.unsqueeze(-1)], dim=-1)


def fast_and_plain(step, order, alpha):
    yield legs_transition(order, step, alpha)
    yield lambda c, f: legs_step(c, f, step, alpha)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2, 31, 32, 33, 64, 512])
def test_sweep_and_semiseparable_step_equal_the_dense_transform(order, alpha, relative_error):
    for t in (1, 2, 7, 784, 10**6):
        expected = dense(order, 1 / t, alpha)
        for advance in fast_and_plain(torch.tensor(1 / t), order, alpha):
            assert relative_error(matrices(advance, order), expected) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_an_order_of_three_levels_of_blocks_equals_the_dense_transform(alpha, relative_error):
    order = 1100
    assert depth(legs_transition(order, torch.tensor(0.5)).A) == 3
    for t in (2, 784):
        expected = dense(order, 1 / t, alpha)
        for advance in fast_and_plain(torch.tensor(1 / t), order, alpha):
            assert relative_error(matrices(advance, order), expected) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("order", [5, 70])
def test_every_sample_of_a_batch_has_its_own_step(order, alpha, relative_error):
    step = torch.tensor([[1.0, 0.5, 0.0], [0.01, 0.3, 1e-5]])
    expected = dense(order, step, alpha)
    for advance in fast_and_plain(step, order, alpha):
        assert relative_error(matrices(advance, order, batch=(2, 3)), expected) < 1e-12


def test_a_stack_of_steps_is_unbound_in_order(relative_error):
    steps = 1 / torch.arange(1.0, 6.0)
    for step, transition in zip(steps, legs_transition(70, steps).unbind(), strict=True):
        assert relative_error(matrices(transition, 70), dense(70, step, 0.5)) < 1e-12


@pytest.mark.parametrize("order", [5, 70])
def test_the_semiseparable_step_has_the_dense_gradients(order, relative_error):
    step = torch.tensor([0.5, 0.01])
    transition, expected = legs_transition(order, step), dense(order, step, 0.5)
    c, f, upstream = (
        torch.randn(2, order, requires_grad=True),
        torch.randn(2, requires_grad=True),
        torch.randn(2, order),
    )
    for_c, for_f = torch.autograd.grad(transition(c, f), (c, f), upstream)
    by_hand = torch.einsum("bnj,bn->bj", expected, upstream)
    assert relative_error(torch.cat([for_c, for_f.unsqueeze(-1)], dim=-1), by_hand) < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", [1, 40])
def test_a_constant_past_stays_as_it_is_under_the_same_input(order, alpha):
    c = torch.zeros(order)
    c[0] = 2.5
    for t in (1, 2, 100):
        for advance in fast_and_plain(torch.tensor(1 / t), order, alpha):
            torch.testing.assert_close(advance(c, torch.tensor(2.5)), c, rtol=0, atol=1e-14)


def test_float32_steps_keep_float32_precision(relative_error):
    for order, t in ((64, 2), (512, 784)):
        transition = legs_transition(order, torch.tensor(1 / t), dtype=torch.float32)
        assert transition.A.blocks.dtype == transition.B.dtype == torch.float32
        c, f = torch.randn(9, order), torch.randn(9)
        expected = c @ dense(order, 1 / t, 0.5)[:, :-1].mT + f.unsqueeze(-1) * dense(order, 1 / t, 0.5)[:, -1]
        assert relative_error(transition(c.float(), f.float()), expected) < 3e-7


def depth(matrix):
    return 1 if matrix.carry is None else 1 + depth(matrix.carry)


def elements(matrix):
    own = sum(v.numel() for v in (matrix.blocks, matrix.inward, matrix.outward))
    return own if matrix.carry is None else own + elements(matrix.carry)


def from_definition(diagonal, mix, gate, weight):
    """T_nj = mix_n (∏_{j<l<n} gate_l) weight_j below the diagonal, entry by entry."""
    T = torch.diag_embed(diagonal)
    order = diagonal.shape[-1]
    for n in range(order):
        for j in range(n):
            T[..., n, j] = mix[..., n] * gate[..., j + 1 : n].prod(-1) * weight[..., j]
    return T


@pytest.mark.parametrize(
    ("order", "levels"), [(1, 1), (2, 1), (4, 1), (5, 2), (8, 2), (16, 2), (17, 3), (31, 3), (64, 3), (70, 4)]
)
def test_a_semiseparable_matrix_equals_its_definition(order, levels, relative_error):
    parts = torch.randn(4, 3, order)
    parts[2, 0, order // 2] = 0.0  # a gate may be 0, as Euler-like steps have: nothing may divide by it
    matrix, expected = Semiseparable.build(*parts, block=4), from_definition(*parts)
    assert depth(matrix) == levels
    columns = matrix @ torch.eye(order).unsqueeze(1)
    assert relative_error(columns.movedim(0, -1), expected) < 1e-13
    x = torch.randn(3, order)
    assert relative_error(matrix @ x, torch.einsum("bnj,bj->bn", expected, x)) < 1e-13
    for each, x_b, T in zip(matrix.unbind(), x, expected, strict=True):
        assert relative_error(each @ x_b, T @ x_b) < 1e-13


def test_the_memory_of_a_step_grows_in_proportion_to_the_order():
    small, large = (elements(legs_transition(order, torch.tensor(0.1)).A) for order in (512, 8192))
    assert large / small == pytest.approx(16, rel=0.02)
    assert large < 8192**2 / 200


@pytest.mark.parametrize("order", [1, 2, 8, 32])
@pytest.mark.parametrize("r", [0.999, 0.9, 0.5, 0.1])
def test_the_dilation_is_the_zero_order_hold_in_logarithmic_time(order, r, relative_error):
    """Where torch.linalg.matrix_exp is exact, `discretize.zoh` too; SciPy's exponential is the judge for the rest."""
    A, B = LegS().dynamics(order)
    augmented = torch.zeros(order + 1, order + 1)
    augmented[:order, :order], augmented[:order, order] = A, B
    exact = torch.from_numpy(expm(torch.log(1 / torch.tensor(r)).numpy() * augmented.numpy()))[:order]
    assert relative_error(matrices(legs_dilation(order, torch.tensor(1 - r)), order), exact) < 1e-12
    if r < 0.99:
        A_bar, B_bar = discretize.zoh(A, B, torch.log(1 / torch.tensor(r)))
        assert relative_error(torch.cat([A_bar, B_bar.unsqueeze(-1)], dim=-1), exact) < 1e-12


def test_dilations_compose_as_their_ratios_multiply(relative_error):
    """Reading [0, 1] as [0, 2] as [0, 6] is reading it as [0, 6]; the input held meanwhile is one interval."""
    twice, thrice, both = (legs_dilation(24, torch.tensor(1 - r)) for r in (1 / 2, 1 / 3, 1 / 6))
    c, f = torch.randn(24), torch.randn(())
    assert relative_error(thrice(twice(c, f), f), both(c, f)) < 1e-12


def test_a_dilation_from_time_zero_forgets_all_that_was():
    c, f = torch.randn(2, 16), torch.randn(2)
    after = legs_dilation(16, torch.tensor([1.0, 1.0]))(c, f)
    torch.testing.assert_close(after, torch.nn.functional.pad(f[:, None], (0, 15)), rtol=0, atol=1e-14)


def test_every_sample_of_a_batch_has_its_own_dilation(relative_error):
    step, c, f = torch.tensor([0.5, 0.0, 0.01]), torch.randn(3, 9), torch.randn(3)
    together = legs_dilation(9, step)(c, f)
    for k in range(3):
        assert relative_error(together[k], legs_dilation(9, step[k])(c[k], f[k])) < 1e-13
    torch.testing.assert_close(together[1], c[1], rtol=1e-13, atol=1e-13)
