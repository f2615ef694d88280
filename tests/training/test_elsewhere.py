"""A trained model on other data, and what it is not to be tested on."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import hippo
from hippo.data import DataError
from hippo.training.config import ConfigError
from hippo.training.elsewhere import changed, results
from hippo.training.trained import LoadError

from .conftest import CONFIGS


def test_a_model_is_tested_under_other_settings_or_on_another_dataset(trained):
    before = (trained / "record.json").read_bytes()
    model = hippo.load(trained)
    same = {name: metrics for name, _, metrics in results(model, changed(model, [], CONFIGS))}
    assert same["test"] == pytest.approx(model.record["metrics"]["best"]["test"])
    assert same["validation"] == pytest.approx(model.record["metrics"]["best"]["validation"])
    other = changed(model, ["dataset=digits", "dataset.permutation=none"], CONFIGS)
    (_, (_, count, tested)) = results(model, other)
    assert count == 270
    assert tested["loss"] != pytest.approx(same["test"]["loss"])
    assert tested == model.metrics(changed(model, ["dataset.permutation=none"], CONFIGS).test)
    assert (trained / "record.json").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("dataset.permutatoin=none", "Digits has no permutatoin; did you mean permutation"),
        ("dataset.split_seed=1", "would test the model on what it was trained on"),
        ("model.hidden_size=3", "only the data can be changed"),
        ("dataset.permutation=none,random", "only the data can be changed"),
        ("dataset.permutation.x=1", "there is nothing below permutation"),
        ("dataset.permutation=nine", "dataset.permutation='nine' "),
    ],
)
def test_what_cannot_be_changed_is_said(trained, override, complaint):
    with pytest.raises(ConfigError, match=complaint):
        changed(hippo.load(trained), [override], CONFIGS)


def test_data_that_the_model_cannot_read_are_refused(trained, tmp_path):
    images, digits = load_digits(return_X_y=True)
    model = hippo.load(trained, data=tmp_path)
    for x, y, complaint in (
        (images[..., None].repeat(2, 2), digits, "it has 2 channel.s., and the model reads 1"),
        (images, digits + 1, "its classes are 1, 2, .*; those of the model are 0, 1, "),
        (images, digits, "its own training split says how it is standardised"),
    ):
        np.savez(tmp_path / "x.npz", x=x, y=y)
        with pytest.raises(ConfigError, match=complaint):
            changed(model, ["dataset=arrays", "dataset.file=x.npz"], CONFIGS)


def test_a_file_of_raw_sequences_is_read_as_the_training_was(trained, tmp_path):
    images, digits = load_digits(return_X_y=True)
    model = hippo.load(trained)
    np.savez(tmp_path / "x.npz", x=images, y=digits)
    right = model.predict(images[..., None]) == digits.astype(str)
    assert model.metrics(model.read(tmp_path / "x.npz"))["accuracy"] == pytest.approx(right.mean())
    np.savez(tmp_path / "x.npz", x=images, y=digits + 1)
    with pytest.raises(DataError, match="there is a class 10, which is none of those trained on"):
        model.read(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", x=images[:, :9], y=digits)
    with pytest.raises(LoadError, match=r"x.npz: an image is \(64, 1\)"):
        model.read(tmp_path / "x.npz")
