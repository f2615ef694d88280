"""The Transformer: attention both ways, an average at the end."""

import pytest
import torch

from hippo.models import Transformer

pytestmark = pytest.mark.usefixtures("float64")


def test_every_step_sees_every_other():
    model, x = Transformer(2, 8, layers=1, heads=2, dropout=0.0), torch.randn(1, 6, 2, requires_grad=True)
    model(x).sum().backward()
    assert (x.grad.abs().amax(-1) > 0).all()


def test_order_matters_through_positions_alone(relative_error):
    model, x = Transformer(2, 8, layers=2, heads=2, dropout=0.0), torch.randn(3, 6, 2)
    assert relative_error(model(x.flip(1)), model(x)) > 1e-3
    model._positions = lambda x: torch.zeros(x.shape[1], 8)
    assert relative_error(model(x.flip(1)), model(x)) < 1e-12


def test_positions_are_sines_and_cosines_of_geometric_frequencies():
    positions = Transformer(1, 6, heads=1)._positions(torch.zeros(1, 50, 1))
    assert positions.shape == (50, 6)
    frequency = 10_000.0 ** (-torch.arange(3) / 3)
    angle = torch.arange(50.0).unsqueeze(1) * frequency
    torch.testing.assert_close(positions, torch.cat([torch.sin(angle), torch.cos(angle)], -1), rtol=0, atol=1e-12)


def test_dropout_is_of_training_only():
    model, x = Transformer(1, 8, heads=2, dropout=0.5), torch.randn(2, 5, 1)
    assert not torch.equal(model(x), model(x))
    model.eval()
    torch.testing.assert_close(model(x), model(x))


def test_padding_is_left_out_in_evaluation_too(relative_error):
    """Where the framework takes another path."""
    model, x = Transformer(2, 8, heads=2).eval(), torch.randn(3, 6, 2)
    with torch.no_grad():
        padded = model(torch.cat([x, torch.randn(3, 4, 2)], dim=1), lengths=torch.tensor([6, 6, 6]))
        assert relative_error(padded, model(x)) < 1e-12


def test_a_feedforward_network_has_a_size():
    with pytest.raises(ValueError, match="feedforward_size must be at least 1"):
        Transformer(1, 8, feedforward_size=-1)


@pytest.mark.parametrize(("hidden", "heads"), [(9, 2), (7, 7), (10, 4)])
def test_a_hidden_size_that_does_not_divide_is_refused(hidden, heads):
    with pytest.raises(ValueError, match="must be even and a multiple of heads"):
        Transformer(1, hidden, heads=heads)
