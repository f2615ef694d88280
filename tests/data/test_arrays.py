"""Sequences from files of one's own: what is in them is what is trained on, and what cannot be is said."""

import numpy as np
import pytest
import torch

from hippo.data import Arrays, DataError
from hippo.data.files import read_labelled
from hippo.data.pack import pack

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(5, 3, (40, 12, 2))
LENGTHS = GENERATOR.integers(4, 13, 40)
CLOCK = 1.7e9 + GENERATOR.random((40, 12)).cumsum(1)
CLASSES = np.arange(40) % 4


def save(folder, **arrays) -> None:
    np.savez(folder / "x.npz", **arrays)


def test_a_file_gives_three_splits_of_each_class_alike(tmp_path):
    save(tmp_path, x=X, y=CLASSES, lengths=LENGTHS, timestamps=CLOCK)
    dataset = Arrays(file="x.npz", validation=0.25, test=0.25)
    assert dataset.is_here(tmp_path)
    splits = dataset.load(tmp_path)
    splits.check()
    assert splits.classes == ("0", "1", "2", "3")
    assert [len(split) for split in splits[:3]] == [20, 10, 10]
    for split in splits[:3]:
        assert split.everything.y.bincount().min() >= len(split) // 4
    found = {}
    for split in splits[:3]:
        x, y, clock, _, lengths = split.everything
        for one, label, times, length in zip(x, y, clock, lengths, strict=True):
            found[(one[0] * splits.scaling.scale + splits.scaling.mean)[0].item()] = one, label, times, length
    for x, label, times, length in zip(X, CLASSES, CLOCK, LENGTHS, strict=True):
        key = min(found, key=lambda value: abs(value - x[0, 0]))
        one, got, clock, steps = found.pop(key)
        assert (got, steps) == (label, length)
        restored = one[:length].double() * splits.scaling.scale + splits.scaling.mean
        torch.testing.assert_close(restored, torch.from_numpy(x[:length]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(clock[:length], torch.from_numpy(times[:length] - times[0]), rtol=0, atol=0)
        assert (clock[length:] == clock[length - 1]).all()


def test_the_training_split_alone_says_how_to_standardise(tmp_path):
    save(tmp_path, x=X, y=CLASSES, lengths=LENGTHS)
    train, _, _, *_ = Arrays(file="x.npz").load(tmp_path)
    x, _, _, _, lengths = train.everything
    read = torch.cat([one[:length] for one, length in zip(x, lengths, strict=True)])
    assert read.mean(0).abs().max() < 1e-5
    assert (read.std(0, correction=0) - 1).abs().max() < 1e-5
    raw = Arrays(file="x.npz", standardize=False).load(tmp_path)
    assert raw.scaling is None
    assert raw.train.everything.x.mean() > 2
    save(tmp_path, x=np.ones((40, 3)), y=CLASSES)
    assert (Arrays(file="x.npz").load(tmp_path).train.everything.x == 0).all()


def test_a_split_depends_on_its_seed_alone(tmp_path):
    save(tmp_path, x=X, y=CLASSES)
    one, again, other = (Arrays(file="x.npz", split_seed=seed).load(tmp_path) for seed in (0, 0, 1))
    assert torch.equal(one.test.everything.x, again.test.everything.x)
    assert not torch.equal(one.test.everything.y, other.test.everything.y) or not torch.equal(
        one.test.everything.x, other.test.everything.x
    )
    assert one.release.startswith("sha256 ")


@pytest.mark.parametrize(
    ("y", "targets", "classes", "shape"),
    [
        (CLASSES.astype(str), None, 4, (28,)),
        (np.array([b"a", b"b"] * 20), None, 2, (28,)),
        (CLASSES / 2, None, 0, (28, 1)),
        (CLASSES, "numbers", 0, (28, 1)),
        (CLASSES.astype(float), "classes", 4, (28,)),
        (X[:, 0, :].astype(np.float32), None, 0, (28, 2)),
        (CLASSES > 1, None, 2, (28,)),
    ],
)
def test_targets_are_classes_or_numbers(tmp_path, y, targets, classes, shape):
    save(tmp_path, x=X, y=y)
    splits = Arrays(file="x.npz", targets=targets).load(tmp_path)
    splits.check()
    assert len(splits.classes) == classes
    assert splits.train.everything.y.shape == shape


def test_a_test_split_may_have_a_file_of_its_own(tmp_path):
    save(tmp_path, x=X, y=CLASSES)
    np.savez(tmp_path / "other.npz", x=X[:8, :5], y=CLASSES[:8])
    splits = Arrays(file="x.npz", test_file="other.npz", validation=0.25).load(tmp_path)
    assert [len(split) for split in splits[:3]] == [30, 10, 8]
    assert splits.test.everything.x.shape == (8, 5, 2)
    np.savez(tmp_path / "other.npz", x=X[:8], y=CLASSES[:8] + 2)
    with pytest.raises(DataError, match="there is a class 4, which is none of those trained on: 0, 1, 2, 3"):
        Arrays(file="x.npz", test_file="other.npz").load(tmp_path)
    np.savez(tmp_path / "other.npz", x=X[:8, :, :1], y=CLASSES[:8])
    with pytest.raises(DataError, match="has 1 channels"):
        Arrays(file="x.npz", test_file="other.npz").load(tmp_path)


CSV = "sequence,timestamp,y,a,b\n" + "".join(
    f"s{k},{step / 2},{'left' if k % 2 else 'right'},{k + step},{'' if step == 1 else k - step}\n"
    for k in range(12)
    for step in range(2 + k % 3)
)


def test_a_csv_file_has_a_line_for_each_step(tmp_path):
    (tmp_path / "x.csv").write_text(CSV)
    raw, labels = read_labelled(tmp_path / "x.csv")
    assert labels.tolist() == ["right", "left"] * 6
    assert raw.x[4, :3].tolist() == [[4, 4], [5, 0], [6, 2]]
    assert raw.mask[4].tolist() == [[True, True], [True, False], [True, True], [False, False]]
    assert raw.timestamps[0].tolist() == [0, 0.5, 0.5, 0.5]
    assert raw.lengths[:4].tolist() == [2, 3, 4, 2]
    splits = Arrays(file="x.csv", validation=0.25, test=0.25).load(tmp_path)
    assert splits.classes == ("left", "right")
    (tmp_path / "x.csv").write_text("\n".join(line.rpartition(",")[0] for line in CSV.splitlines()))
    assert read_labelled(tmp_path / "x.csv").raw.mask is None


def test_steps_that_were_not_observed_at_all_need_no_mask_by_channel(tmp_path):
    lines = ["sequence,y,a,b", "0,1,1,2", "0,1,,", "0,1,3,4", "1,2.5,1,2"]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    raw, labels = read_labelled(tmp_path / "x.csv")
    assert raw.mask.tolist() == [[True, False, True], [True, False, False]]
    assert labels.tolist() == [[1], [2.5]]


def test_ts_files_are_read(tmp_path):
    lines = (f"{k},{k + 1},3:0,1,{k % 5}:{'ab'[k % 2]}" for k in range(20))
    (tmp_path / "x.ts").write_text("@problemName test\n@data\n" + "\n".join(lines))
    splits = Arrays(file="x.ts", standardize=False).load(tmp_path)
    assert splits.classes == ("a", "b")
    assert splits.train.everything.x.shape == (14, 3, 2)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"y": None}, "it has no array y, but x"),
        ({"timestamp": CLOCK}, "no use for the array timestamp; there is for lengths, mask, timestamps, x, y"),
        ({"x": np.array([np.zeros(3), np.zeros(2)], dtype=object)}, "x cannot be read .*allow_pickle.* lengths says"),
        ({"x": np.where(X > 12, np.nan, X)}, r"sequence \d+ is nan at step \d+, channel \d; say in mask"),
        ({"x": X[0, 0]}, r"x must be \(B, L, C\)"),
        ({"x": X[:0]}, "none of them 0"),
        ({"x": X.astype(str)}, "array of numbers, not of <U"),
        ({"y": CLASSES[:-1]}, r"y must be \(B,\).*B = 40; it is \(39,\)"),
        ({"y": np.full(40, np.nan)}, "y of sequence 0 is no finite number"),
        ({"lengths": LENGTHS + 9}, "lengths must be whole numbers from 1 to 12"),
        ({"lengths": LENGTHS / 1}, "lengths must be whole numbers"),
        ({"timestamps": CLOCK[:, ::-1]}, "the timestamps of sequence 0 decrease, or are not finite"),
        ({"timestamps": CLOCK[:, :5]}, r"timestamps must be \(40, 12\) to match x \(40, 12, 2\); it is \(40, 5\)"),
        ({"mask": X > 5, "lengths": None, "timestamps": CLOCK * np.nan}, "not finite"),
        ({"mask": (X > 5).astype(int)}, "mask must be of booleans"),
        ({"mask": X > 1e9}, "nothing was observed of sequence 0"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path, change, complaint):
    arrays = {"x": X, "y": CLASSES} | change
    save(tmp_path, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(DataError, match=complaint):
        Arrays(file="x.npz").load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.txt", b"", "has to end in .npz, .csv, .ts"),
        ("x.npz", b"no archive", "x.npz: "),
        ("x.npz", b"", "x.npz: "),
        ("x.csv", b"", "it has no column sequence, but none at all"),
        ("x.csv", b"sequence,y,a\n", "it has no lines"),
        ("x.csv", b"sequence,y\n1,2\n", "it has no channel"),
        ("x.csv", b"sequence,y,a\n1,2,3\n1,3,3\n", "line 3: y is '3', and was '2' of sequence 1"),
        ("x.csv", b"sequence,y,a\n1,2,nan\n", "line 2: a is 'nan', which is no finite number; a cell .* left empty"),
        ("x.csv", b"sequence,y,a\n1,2\n", "line 2 has not as many cells"),
        ("x.csv", b"sequence,y,a,a\n1,2,3,4\n", "a name of its own"),
        ("x.csv", b"sequence,y,timestamp,a\n1,2,3,4\n1,2,2,4\n", "timestamps of sequence 0 decrease"),
        ("x.csv", b"sequence,y,a\n1,2,\xff\n", "not text in UTF-8"),
        ("x.ts", b"@data\n1,x:a\n", "line 2, is not a labelled series"),
    ],
)
def test_a_file_that_is_none_is_said(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read_labelled(tmp_path / name)


def test_a_single_array_and_a_missing_file_are_said(tmp_path):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(DataError, match="it is a single array; write it by"):
        Arrays(file="x.npz").load(tmp_path)
    with pytest.raises(DataError, match=r"none\.npz cannot be read: No such file"):
        Arrays(file="none.npz").load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"file": None}, "dataset.file="), ({"validation": 0}, "shares above 0"), ({"test": 0.9}, "below 1 together")],
)
def test_settings_beyond_their_range_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Arrays(**{"file": "x.npz"} | settings)


def test_too_few_sequences_are_said(tmp_path):
    save(tmp_path, x=X[:2], y=CLASSES[:2])
    with pytest.raises(DataError, match="has 2 sequences, too few"):
        Arrays(file="x.npz").load(tmp_path)


def test_timestamps_are_left_out_or_made_where_they_are_asked_for(tmp_path):
    save(tmp_path, x=X, y=CLASSES, timestamps=CLOCK)
    assert Arrays(file="x.npz", timestamps=False).load(tmp_path).train.everything.timestamps is None
    save(tmp_path, x=X, y=CLASSES)
    assert Arrays(file="x.npz").load(tmp_path).train.everything.timestamps is None
    made = Arrays(file="x.npz", timestamps=True).load(tmp_path).train.everything.timestamps
    assert made[0].tolist() == list(range(12))


def test_packed_sequences_keep_what_they_are():
    batch = pack([np.ones((2, 1)), np.zeros((3, 1))], [[5, 6], [0, 0, 1]], [[True, False], [True] * 3])
    assert batch.lengths.tolist() == [2, 3]
    assert batch.timestamps.tolist() == [[5, 6, 6], [0, 0, 1]]
    assert batch.mask.tolist() == [[True, False, False], [True] * 3]
