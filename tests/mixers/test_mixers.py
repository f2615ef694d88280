"""What every mixer promises, whatever it is."""

import pytest
import torch

from hippo.mixers import LMU, LRU, LSSL, RTF, S4, S4D, S5, ScaleConvolution, TimeInvariant, by_steps, spectra, uniform

pytestmark = pytest.mark.usefixtures("float64")

MIXERS = {
    "lru": lambda features: LRU(features, state_size=5),
    "s5": lambda features: S5(features, state_size=8, blocks=2),
    "s5-bilinear": lambda features: S5(features, state_size=8, discretization="bilinear"),
    "s4d-lin": lambda features: S4D(features, state_size=6, initialization="lin"),
    "s4d-inv-bilinear": lambda features: S4D(features, state_size=6, initialization="inv", discretization="bilinear"),
    "s4d-legs": lambda features: S4D(features, state_size=6, initialization="legs"),
    "s4d-real": lambda features: S4D(features, state_size=6, initialization="real"),
    "lssl": lambda features: LSSL(features, state_size=6),
    "lmu": lambda features: LMU(features, memory_order=7, length=9.0, channels=2),
    "rtf": lambda features: RTF(features, state_size=5, length=32),
    "rtf-beyond-its-length": lambda features: RTF(features, state_size=5, length=13),
    "s4-legs": lambda features: S4(features, state_size=6, length=32),
    "s4-legt": lambda features: S4(features, state_size=6, measure="legt", length=32),
    "scale": lambda features: ScaleConvolution(features, order=6),
    "scale-zoh-recent": lambda features: ScaleConvolution(features, order=6, power=0.7, discretization="zoh"),
    "scale-dense": lambda features: ScaleConvolution(features, order=6, power=0.7, channels=2),
    "s4-fout": lambda features: S4(features, state_size=6, measure="fout", length=15),
}
every_mixer = pytest.mark.parametrize("make", MIXERS.values(), ids=MIXERS.keys())
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def rates_of(mixer):
    """Rates that the mixer has rules for: 1, another, gaps that are whole numbers of one step, and any gaps."""
    yield 1.0
    if mixer.takes_rate:
        yield 1.7
    if mixer.takes_gaps:
        yield torch.randint(0, 4, (3, 21)).double()
        yield torch.rand(3, 21) + 0.1


@every_mixer
def test_a_sequence_is_its_steps_and_its_parts_whatever_the_rate(make):
    mixer, x = make(4), torch.randn(3, 21, 4)
    for rate in rates_of(mixer):
        whole = mixer(x, rate=rate)[0]
        steps, after = by_steps(mixer, x, None, rate)
        torch.testing.assert_close(whole, steps, **CLOSE)
        state, parts = mixer.initial_state(3, x), []
        for part in (slice(0, 1), slice(1, 9), slice(9, 21)):
            y, state = mixer(x[:, part], state, rate[:, part] if isinstance(rate, torch.Tensor) else rate)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, **CLOSE)
        torch.testing.assert_close(state, after, **CLOSE)


@every_mixer
def test_gradients_are_those_of_the_steps(make):
    mixer, x = make(3), torch.randn(2, 21, 3, requires_grad=True)
    weight = torch.randn(2, 21, 3)
    wanted = [x, *mixer.parameters()]
    for rate in rates_of(mixer):
        rate = rate[:2] if isinstance(rate, torch.Tensor) else rate
        actual = torch.autograd.grad((mixer(x, rate=rate)[0] * weight).sum(), wanted)
        expected = torch.autograd.grad((by_steps(mixer, x, None, rate)[0] * weight).sum(), wanted)
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


@every_mixer
def test_no_output_depends_on_later_samples_or_on_batch_mates(make):
    mixer, x = make(4), torch.randn(3, 16, 4)
    for rate in rates_of(mixer):
        rate = rate[:, :16] if isinstance(rate, torch.Tensor) else rate
        together = mixer(x, rate=rate)[0]
        alone = mixer(x[1:2, :9], rate=rate[1:2, :9] if isinstance(rate, torch.Tensor) else rate)[0]
        torch.testing.assert_close(together[1:2, :9], alone, **CLOSE)


@every_mixer
def test_the_kernel_is_the_response_to_an_impulse_where_features_do_not_mix(make):
    mixer, impulse = make(4), torch.zeros(1, 30, 4)
    impulse[:, 0, 0] = 1.0
    reached = by_steps(mixer, impulse, None)[0][0].abs().amax(0) > 0
    own = isinstance(mixer, TimeInvariant) or (isinstance(mixer, ScaleConvolution) and mixer.write is None)
    assert reached.tolist() == [True, *[not own] * 3]
    if not isinstance(mixer, TimeInvariant):  # a kernel for each feature, and for all times, would not be enough
        return
    impulse[:, 0] = 1.0
    for rate in [1.0] + [2.5] * mixer.takes_rate:
        torch.testing.assert_close(mixer.kernel(30, rate), by_steps(mixer, impulse, None, rate)[0][0].mT, **CLOSE)


@every_mixer
def test_where_it_has_a_rule_rate_two_at_every_second_sample_comes_near_and_nearer_as_steps_shrink(make):
    mixer = make(2)
    if not mixer.takes_rate:
        with pytest.raises(ValueError, match="no rate but 1"):
            mixer(torch.zeros(1, 4, 2), rate=2.0)
        return
    errors = []
    for samples in (200, 400, 800):
        time = torch.arange(1, samples + 1) / samples
        x = torch.stack([torch.sin(5 * time) * time, 1 - torch.cos(3 * time)], dim=-1).unsqueeze(0)
        rate = 100 / samples
        fine = mixer(x, rate=rate)[0][:, 1::2]
        errors.append((mixer(x[:, 1::2], rate=2 * rate)[0] - fine).abs().max().item())
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


@every_mixer
def test_a_rate_that_is_no_rate_is_refused(make):
    mixer, x = make(2), torch.zeros(1, 4, 2)
    for rate in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="rate"):
            mixer(x, rate=rate)
    if not mixer.takes_gaps:
        with pytest.raises(ValueError, match="no rate for each sample"):
            mixer(x, rate=torch.tensor([[1.0, 2.0, 1.0, 1.0]]))


@every_mixer
def test_steps_follow_the_weights(make):
    """What a step keeps between calls is made again after an optimizer's step."""
    mixer, x = make(2), torch.randn(1, 2)
    with torch.no_grad():
        before = mixer.step(x)[0]
        assert torch.equal(mixer.step(x)[0], before)
        for parameter in mixer.parameters():
            parameter.add_(0.1)
        after = mixer.step(x)[0]
        torch.testing.assert_close(after, mixer(x.unsqueeze(1))[0].squeeze(1), **CLOSE)
    assert not torch.allclose(after, before)


@pytest.mark.parametrize("name", ["s4-legs", "s4d-lin", "rtf", "lru"])
def test_a_step_that_somebody_compiles_follows_the_weights(name):
    mixer, x = MIXERS[name](2), torch.randn(1, 2)
    with torch.no_grad():
        _, state = mixer.step(x)
        step = torch.compile(mixer.step, backend="eager")
        step(x, state)
        for parameter in mixer.parameters():
            parameter.add_(0.1)
        torch.testing.assert_close(step(x, state), mixer.step(x, state), **CLOSE)
    torch._dynamo.reset()


@every_mixer
def test_a_mixer_made_in_inference_mode_takes_steps(make):
    with torch.inference_mode():
        mixer, x = make(2), torch.randn(1, 4, 2)
        state = None
        for x_k in x.unbind(1):
            y, state = mixer.step(x_k, state)
        torch.testing.assert_close(y, mixer(x)[0][:, -1], **CLOSE)


@pytest.mark.parametrize("name", MIXERS)
def test_what_was_made_in_inference_mode_is_not_kept_for_training(name):
    spectra._decompose.cache_clear()
    with torch.inference_mode():
        MIXERS[name](2)
    mixer = MIXERS[name](2)
    assert not any(parameter.is_inference() for parameter in mixer.parameters())
    mixer(torch.randn(1, 9, 2))[0].sum().backward()


@every_mixer
def test_a_chunk_and_steps_go_together_where_no_gradient_is_wanted(make):
    """What a chunk keeps between calls is not what a step keeps."""
    mixer, x = make(2), torch.randn(1, 9, 2)
    with torch.no_grad():
        y, state = mixer(x[:, :4], mixer.initial_state(1, x))
        for k in (4, 5):
            later, state = mixer.step(x[:, k], state)
        torch.testing.assert_close(later, mixer(x[:, :6])[0][:, -1], **CLOSE)
        y, state = mixer(x[:, 6:], state)
        torch.testing.assert_close(y, mixer(x)[0][:, 6:], **CLOSE)


@every_mixer
def test_names_of_the_dynamics_are_parameters(make):
    mixer = make(2)
    assert set(mixer.dynamics) <= dict(mixer.named_parameters()).keys()
    assert mixer.rate_rule.endswith(".")


def test_uniform_rates_are_one_number():
    assert uniform(torch.full((2, 3), 1.5)) == 1.5
    assert uniform(2.0) == 2.0
    assert isinstance(uniform(torch.tensor([[1.0, 2.0]])), torch.Tensor)
    assert isinstance(uniform(torch.zeros(1, 2)), torch.Tensor)
