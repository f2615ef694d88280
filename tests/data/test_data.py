"""Datasets: what the splits hold, and what is said when they cannot be had."""

import copy
import hashlib
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import torch
import torchvision

from hippo.data import MNIST, Batch, DataError, Digits, Sequences, Splits, mnist
from hippo.data.permutation import bit_reversal, pixel_order


def test_bit_reversal_reverses_binary_digits():
    assert bit_reversal(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    expected = [i for i in (int(f"{i:010b}"[::-1], 2) for i in range(1024)) if i < 784]
    assert bit_reversal(784).tolist() == expected
    assert bit_reversal(1).tolist() == [0]


@pytest.mark.parametrize("permutation", ["none", "bit_reversal", "random"])
def test_each_pixel_is_shown_once(permutation):
    assert sorted(pixel_order(permutation, 784, seed=3).tolist()) == list(range(784))


def test_the_random_permutation_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = pixel_order("random", 64, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first, pixel_order("random", 64, seed=5))
    assert not torch.equal(first, pixel_order("random", 64, seed=6))


def test_an_unknown_permutation_is_refused():
    with pytest.raises(ValueError, match="choose none, bit_reversal or random"):
        pixel_order("reverse", 64)


def test_digits_are_split_without_overlap_and_in_proportion():
    splits = Digits(permutation="none").load(Path("unused"))
    assert [len(split) for split in splits[:3]] == [1257, 270, 270]
    x = torch.cat([split.everything.x for split in splits[:3]])
    assert x.shape == (1797, 64, 1)
    assert x.min() == 0
    assert x.max() == 1
    from sklearn.datasets import load_digits

    rows = {row.numpy().tobytes() for row in x.squeeze(-1)}
    assert rows == {row.tobytes() for row in (load_digits().data / 16).astype("float32")}
    for split in splits[:3]:
        assert (split.everything.y.bincount() / len(split)).sub(0.1).abs().max() < 0.011


def test_a_split_depends_on_its_own_seed_alone():
    first, again, other = (Digits(split_seed=seed).load(Path("unused")).train.everything for seed in (0, 0, 1))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.y, other.y)


def test_loaded_splits_go_to_another_process():
    splits = Digits().load(Path("unused"))
    for again in (pickle.loads(pickle.dumps(splits)), copy.deepcopy(splits)):
        assert torch.equal(again.test.everything.x, splits.test.everything.x)
        assert again.shifted == splits.shifted == {}


def test_a_permutation_moves_pixels_and_nothing_else():
    plain, permuted = (Digits(permutation=p).load(Path("unused")).test.everything for p in ("none", "bit_reversal"))
    assert torch.equal(plain.x[:, bit_reversal(64)], permuted.x)
    assert torch.equal(plain.y, permuted.y)


def test_batches_are_taken_by_one_indexing_operation():
    data = Sequences(Batch(torch.rand(5, 3, 2), torch.arange(5), lengths=torch.tensor([1, 2, 3, 2, 1])))
    batch = data.__getitems__([4, 0])
    assert torch.equal(batch.x, data.everything.x[[4, 0]])
    assert batch.y.tolist() == [4, 0]
    assert batch.lengths.tolist() == [1, 1]
    assert batch.mask is None
    assert data[2].x.shape == (1, 3, 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    x = torch.rand(4, 3, 1)
    x[1, 2] = bad
    with pytest.raises(DataError, match="1 of 4 sequences"):
        Sequences(Batch(x, torch.zeros(4)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_was_not_observed_may_hold_anything(bad):
    x, times = torch.rand(4, 3, 2), torch.arange(3.0).repeat(4, 1)
    x[1, 2] = times[1, 2] = bad
    mask = torch.isfinite(x)
    Sequences(Batch(x, torch.zeros(4), mask=mask, timestamps=times))
    Sequences(Batch(x, torch.zeros(4), mask=mask.all(-1), timestamps=times))
    Sequences(Batch(x, torch.zeros(4), lengths=torch.tensor([3, 2, 3, 3]), timestamps=times))
    mask[1, 2, 1] = True
    with pytest.raises(DataError, match="1 of 4 sequences hold NaN or infinite values, sequence 1 first"):
        Sequences(Batch(x, torch.zeros(4), mask=mask))
    with pytest.raises(DataError, match="timestamps hold NaN"):
        Sequences(Batch(torch.rand(4, 3, 2), torch.zeros(4), timestamps=times))


@pytest.mark.parametrize(
    ("y", "classes", "message"),
    [
        (torch.tensor([1, 2, 3]), ("a", "b", "c"), "number the 3 classes from 0 to 2; here it goes from 1 to 3"),
        (torch.tensor([-1, 0, 1]), ("a", "b", "c"), "here it goes from -1 to 1"),
        (torch.tensor([0.0, 1.0, 2.0]), ("a", "b", "c"), "whole numbers .int64. where there are classes"),
        (torch.tensor([0, 1, 2], dtype=torch.int32), ("a", "b", "c"), r"int64.*not \(3,\) of torch.int32"),
        (torch.tensor([0, 1, 2]), (), r"not \(3,\) of torch.int64"),
    ],
)
def test_targets_are_classes_or_numbers(y, classes, message):
    good = torch.zeros(3, dtype=torch.int64) if classes else torch.zeros(3, 1)
    splits = [Sequences(Batch(torch.rand(3, 2, 1), targets)) for targets in (good, y, good)]
    with pytest.raises(DataError, match=message):
        Splits(*splits, classes=classes).check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.rand(4, 3)}, "must hold sequences"),
        ({"x": torch.rand(4, 3, 0)}, "must hold sequences"),
        ({"x": torch.ones(4, 3, 2, dtype=torch.int64)}, "must hold sequences"),
        ({"x": [1.0]}, "x must be a tensor, not list"),
        ({"y": torch.zeros(3)}, r"y must be \(4,\) to match"),
        ({"y": None}, "y must be a tensor, not NoneType"),
        ({"mask": torch.ones(4, 3)}, "mask must be of booleans"),
        ({"mask": torch.ones(4, 2).bool()}, r"mask must be \(4, 3\) or \(4, 3, 2\)"),
        ({"mask": torch.ones(4, 3, 1).bool()}, r"mask must be \(4, 3\) or \(4, 3, 2\)"),
        ({"mask": torch.eye(4, 3).bool()}, "sequence 3 has no observed step"),
        ({"lengths": torch.ones(4)}, "lengths must be whole numbers from 1 to 3"),
        ({"lengths": torch.arange(4)}, "lengths must be whole numbers from 1 to 3"),
        ({"lengths": torch.ones(3, dtype=torch.int64)}, r"lengths must be \(4,\)"),
        ({"timestamps": torch.ones(4, 2)}, r"timestamps must be \(4, 3\)"),
        ({"timestamps": torch.ones(4, 3, dtype=torch.complex64)}, "timestamps must be real numbers"),
        ({"timestamps": torch.tensor([[0.0, 1, 2]] * 3 + [[0, 2, 1]])}, "must not decrease, as they do in sequence 3"),
        ({"timestamps": torch.tensor([[-1.0, 1, 2]] * 4)}, "must be at least 0"),
    ],
)
def test_what_no_model_could_read_is_refused_before_any_work(change, message):
    with pytest.raises(DataError, match=message):
        Sequences(Batch(**{"x": torch.rand(4, 3, 2), "y": torch.zeros(4), **change}))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"x": torch.rand(3, 2, 2)}, "all splits must have the channels of the training, 1, in float32"),
        ({"x": torch.rand(3, 2, 1, dtype=torch.float64)}, r"here is one with 1 in torch\.float64"),
        ({"timestamps": torch.ones(3, 2)}, "timestamps if it has them"),
        ({"y": torch.rand(3, 2)}, "the same M in all splits"),
        ({"y": torch.rand(3, 1, dtype=torch.float64)}, r"not \(3, 1\) of torch\.float64"),
        ({"y": torch.full((3, 1), torch.nan)}, "y holds NaN or infinite values"),
    ],
)
def test_splits_are_of_one_kind(other, message):
    good = {"x": torch.rand(3, 2, 1), "y": torch.rand(3, 1)}
    splits = [Sequences(Batch(**(good | change))) for change in ({}, {}, other)]
    with pytest.raises(DataError, match=message):
        Splits(*splits).check()


@pytest.mark.parametrize("shape", [(0, 5, 1), (3, 0, 1)])
def test_an_empty_split_is_refused(shape):
    with pytest.raises(DataError, match="must hold sequences"):
        Sequences(Batch(torch.zeros(shape), torch.zeros(shape[0])))


def test_mnist_is_the_published_one(data_root):
    splits = MNIST(permutation="none").load(data_root)
    assert [len(split) for split in splits[:3]] == [54_000, 6_000, 10_000]
    raw = torchvision.datasets.MNIST(data_root, train=False)
    test = splits.test.everything
    assert torch.equal((test.x * 255).round().byte().view(-1, 28, 28), raw.data)
    assert torch.equal(test.y, raw.targets)
    labels = torchvision.datasets.MNIST(data_root, train=True).targets
    both = torch.cat([splits.train.everything.y, splits.validation.everything.y])
    assert torch.equal(both.bincount(), labels.bincount())
    permuted = MNIST().load(data_root)
    assert torch.equal(permuted.test.everything.x, test.x[:, bit_reversal(784)])
    other = MNIST(permutation="none", split_seed=1).load(data_root)
    assert torch.equal(other.test.everything.y, test.y)
    assert not torch.equal(other.validation.everything.y, splits.validation.everything.y)


@pytest.fixture
def offline(monkeypatch):
    """No network: every attempt to connect fails at once."""

    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("offline")
def test_missing_files_are_named_with_where_to_put_them(tmp_path):
    with pytest.raises(DataError) as error:
        MNIST().load(tmp_path)
    for word in [*mnist.MD5, str(tmp_path / "MNIST" / "raw"), "paths.data", "HIPPO_DATA"]:
        assert word in str(error.value)


@pytest.mark.usefixtures("offline")
def test_a_data_root_that_cannot_be_written_is_an_error_of_the_same_kind(tmp_path):
    root = tmp_path / "file"
    root.write_text("not a folder")
    with pytest.raises(DataError, match="Put these files there"):
        MNIST().load(root)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Files that are not MNIST's, with checksums to match: a synthetic stand-in."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in mnist.MD5:
        (folder / name).write_bytes(name.encode() * 50)
    digests = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in mnist.MD5}
    monkeypatch.setattr(mnist, "MD5", digests)
    return folder


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_file_is_named_with_what_to_do(stand_in, damage):
    mnist.fetch(stand_in.parent.parent)
    path = stand_in / "t10k-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1] if damage == "truncated" else bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte is damaged.*Delete it"):
        mnist.fetch(stand_in.parent.parent)


def test_a_read_only_data_root_is_left_as_it_is(data_root, tmp_path):
    """Files and folders without write permission; root may write all the same, so the contents are compared too."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in mnist.MD5:
        shutil.copyfile(data_root / "MNIST" / "raw" / name, folder / name)
        (folder / name).chmod(0o444)
    for path in (folder, folder.parent, tmp_path):
        path.chmod(0o555)
    try:
        before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
        assert len(MNIST().load(tmp_path).test) == 10_000
        assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before
    finally:
        for path in (tmp_path, folder.parent, folder):
            path.chmod(0o755)
