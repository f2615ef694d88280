"""Trained models, loaded: they are what was tested, and take raw arrays."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import hippo
from hippo.data import CharacterTrajectories
from hippo.files import write_atomically
from hippo.training import records
from hippo.training.run import run
from hippo.training.trained import LoadError


def rewrite(folder: Path, **changes: object) -> None:
    """Change what a run's checkpoint holds."""
    path = folder / "checkpoints" / "best.ckpt"
    torch.save(torch.load(path, weights_only=True) | changes, path)


def test_a_trained_model_gives_its_recorded_accuracy(trained):
    for reading in ("best", "last"):
        model = hippo.load(trained, reading)
        assert model.metrics(model.splits().test) == pytest.approx(model.record["metrics"][reading]["test"])


def test_predictions_are_of_raw_arrays(trained):
    model = hippo.load(str(trained))
    images, digits = load_digits(return_X_y=True)
    right = model.predict(images[..., None]) == digits.astype(str)
    splits = model.splits()
    parts = [len(split) * model.metrics(split)["accuracy"] for split in splits[:3]]
    assert right.sum() == round(sum(parts))
    assert right.mean() > 0.2
    one = model.predict([torch.from_numpy(images[0, :, None])])
    assert one.tolist() == model.predict(images[:1, :, None].tolist()).tolist()
    shares = model.probabilities(images[:5, :, None])
    assert shares.shape == (5, 10)
    assert np.allclose(shares.sum(1), 1)


def test_loading_leaves_random_numbers_alone(trained):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    hippo.load(trained)
    assert torch.equal(torch.rand(1), expected)


def test_a_record_that_lies_elsewhere_finds_its_weights(trained, outputs, tmp_path):
    path = shutil.copy(trained / "record.json", tmp_path)
    record = records.read(Path(path))
    assert hippo.load(path, outputs=outputs).record["id"] == record["id"]
    with pytest.raises(LoadError, match=r"published without them; train them by: hippo train experiment=digits"):
        hippo.load(path, outputs=tmp_path)


def test_records_made_before_there_was_a_task_in_them_read_the_data(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "old")
    record = records.read(folder / "record.json")
    assert record.pop("task") == {"channels": 1, "numbers": 0, "scaling": None}
    records.write(folder / "record.json", record)
    assert hippo.load(folder).channels == 1


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda folder: (folder / "record.json").unlink(), "not complete: the same command goes on"),
        (lambda folder: (folder / "checkpoints" / "best.ckpt").unlink(), "best.ckpt is missing"),
        (lambda folder: write_atomically(folder / "checkpoints" / "best.ckpt", b"no"), "best.ckpt is damaged"),
        (lambda folder: rewrite(folder, epoch=7), "is not of epoch ., which the record has for best"),
        (lambda folder: rewrite(folder, state_dict={}), "has not the weights of the model"),
        (lambda folder: shutil.rmtree(folder), "neither the folder of a run, as outputs/NAME/ID, nor a record"),
    ],
)
def test_what_is_no_trained_model_is_said(trained, tmp_path, harm, complaint):
    folder = shutil.copytree(trained, tmp_path / "run")
    harm(folder)
    with pytest.raises(ValueError, match=complaint):
        hippo.load(folder)


def test_a_folder_of_runs_names_those_below_it(trained):
    with pytest.raises(LoadError, match=f"below it are .*{trained.name}"):
        hippo.load(trained.parent)
    with pytest.raises(LoadError, match=r"no weights best@clock; choose from best, last"):
        hippo.load(trained, "best@clock")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([np.zeros((2, 64, 2))], r"reads 1 channel\(s\), and these have 2"),
        ([np.zeros((64, 1))], r"sequence 0 is \(1,\). One sequence alone is \[x\]"),
        ([np.zeros((2, 63, 1))], "an image is"),
        ([[]], "no sequences"),
        ([np.full((2, 64, 1), np.nan)], "NaN"),
        ([[np.array(["a"])]], "array of numbers"),
        ([np.zeros((2, 64, 1)), np.zeros((2, 64))], "neither timestamps nor a mask"),
        ([np.zeros((2, 64, 1)), np.zeros((2, 63))], r"timestamps 0 must be \(L,\) of sequence 0, \(64, 1\), not \(63,"),
        ([np.zeros((2, 64, 1)), None, np.zeros((1, 64))], "mask must be one array for each of the 2 sequences, not 1"),
    ],
)
def test_what_the_model_cannot_take_is_said(trained, arguments, complaint):
    with pytest.raises(RuntimeError if "NaN" in complaint else LoadError, match=complaint):
        hippo.load(trained).predict(*arguments)


def test_a_model_of_numbers_predicts_numbers(compose, outputs):
    small = [
        "dataset.length=64",
        "dataset.cycles=4",
        "dataset.points=5",
        "dataset.sizes=[8,4,4]",
        "dataset.batch_size=4",
    ]
    config = compose(
        "dataset=white_noise", "model=gru", "model.hidden_size=4", "trainer=cpu", "trainer.max_epochs=1", "logger=none",
        "trainer.precision=64-true", *small, f"paths.outputs={outputs}"
    )  # fmt: skip
    record = run(config)
    model = hippo.load(next(outputs.glob("white_noise_gru/*")))
    test = model.splits().test
    assert model.metrics(test) == pytest.approx(record["metrics"]["best"]["test"])
    assert model.predict(test.everything.x).shape == (4, 5)
    with pytest.raises(LoadError, match="predicts numbers"):
        model.probabilities(test.everything.x)


@pytest.mark.parametrize("settings", [{}, {"padding": "none", "timestamps": "separate"}, {"timestamps": "channel"}])
def test_letters_are_prepared_as_they_were_for_the_training(trajectories_root, settings):
    from hippo.data.character_trajectories import read
    from hippo.data.pack import pack

    dataset = CharacterTrajectories(sampling={"rate": 0.5, "time_scale": 0.5}, **settings)
    splits = dataset.load(trajectories_root)
    series = read(trajectories_root)[0][:40]
    prepared = dataset.prepare(pack(series), splits.scaling)
    known = {row.numpy().tobytes() for split in splits[:3] for row in split.everything.x[:, :60]}
    assert {row.numpy().tobytes() for row in prepared.x[:, :60]} <= known
    assert (prepared.timestamps is None) == (settings.get("timestamps") != "separate")


def test_what_the_package_has_not_is_said():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        hippo.lode  # noqa: B018 - it raises
