"""Character Trajectories: the real files, the protocol, and what files in the wild look like."""

import errno
import http.client
import io
import shutil
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from hippo.data import CharacterTrajectories, DataError, character_trajectories
from hippo.data.ts import read_ts
from hippo.training.errors import explain


@pytest.fixture(scope="module")
def real(trajectories_root):
    return character_trajectories.read(trajectories_root)


def test_the_archive_is_what_was_published(real):
    series, labels, _ = real
    assert len(series) == len(labels) == 2858
    assert {one.shape[1] for one in series} == {3}
    assert (min(map(len, series)), max(map(len, series))) == (60, 182)
    assert sorted(set(labels), key=int) == [str(k) for k in range(1, 21)]


def test_the_protocol_of_the_paper(trajectories_root, real):
    """Written out once more, with NumPy: join, pad, split, standardize."""
    series, labels, _ = real
    splits = CharacterTrajectories().load(trajectories_root)
    assert [len(split) for split in splits[:3]] == [2000, 429, 429]
    assert "".join(splits.classes) == "abcdeghlmnopqrsuvwyz"
    padded = np.stack([np.concatenate([one, one[-1:].repeat(182 - len(one), 0)]) for one in series])
    y = np.array([int(label) - 1 for label in labels])
    train, rest = train_test_split(np.arange(2858), train_size=0.7, stratify=y, random_state=0)
    validation, test = train_test_split(rest, train_size=0.5, stratify=y[rest], random_state=1)
    flat = padded[train].reshape(-1, 3)
    expected = (padded - flat.mean(0)) / (flat.std(0, ddof=1) + 1e-5)
    for rows, split in zip((train, validation, test), splits[:3], strict=True):
        batch = split.everything
        np.testing.assert_allclose(batch.x, expected[rows], atol=1e-6)
        assert batch.y.tolist() == y[rows].tolist()
        assert batch.timestamps is None
        assert batch.mask is None
        assert batch.lengths is None


def test_true_lengths(trajectories_root, real):
    splits = CharacterTrajectories(padding="none").load(trajectories_root)
    lengths = torch.cat([split.everything.lengths for split in splits[:3]])
    assert sorted(lengths.tolist()) == sorted(map(len, real[0]))
    train = splits.train.everything
    observed = train.x[torch.arange(train.x.shape[1]) < train.lengths.unsqueeze(1)]
    torch.testing.assert_close(observed.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(observed.std(0), torch.ones(3), atol=1e-4, rtol=0)


def test_shifts_are_of_validation_and_test_only(trajectories_root):
    dataset = CharacterTrajectories(
        timestamps="separate",
        sampling={"rate": 0.5, "time_scale": 0.5},
        shifts={"full": {}, "slow": {"rate": 0.5, "drop": 0.5}, "none": None},
    )
    splits = dataset.load(trajectories_root)
    assert list(splits.shifted) == ["full", "slow"]
    plain = CharacterTrajectories().load(trajectories_root)
    assert torch.equal(splits.train.everything.x, plain.train.everything.x[:, ::2])
    assert torch.equal(splits.train.everything.timestamps[0], torch.arange(91.0))
    assert torch.equal(splits.shifted["full"].test.everything.x, plain.test.everything.x)
    assert torch.equal(splits.shifted["full"].validation.everything.x, plain.validation.everything.x)
    slow = splits.shifted["slow"].test.everything
    assert slow.x.shape == (429, 45, 3)
    kept = slow.timestamps[7].long()
    assert torch.equal(slow.x[7], plain.test.everything.x[7, kept])
    assert not torch.equal(kept, splits.shifted["slow"].validation.everything.timestamps[7].long())


@pytest.mark.parametrize(("timestamps", "unit"), [("channel", 200), ("index", 1)])
def test_time_as_a_channel_is_in_seconds_or_samples(trajectories_root, timestamps, unit):
    dataset = CharacterTrajectories(timestamps=timestamps, shifts={"slow": {"time_scale": 2}})
    splits = dataset.load(trajectories_root)
    torch.testing.assert_close(splits.train.everything.x[5, :, 0], torch.arange(182.0) / unit)
    torch.testing.assert_close(splits.shifted["slow"].test.everything.x[5, :, 0], 2 * torch.arange(182.0) / unit)
    assert splits.train.everything.timestamps is None


def test_without_a_clock_a_change_of_time_is_no_shift(trajectories_root):
    shifts = {"slow": {"time_scale": 2}, "half": {"rate": 0.5}, "same": {"rate": 1}}
    curve = {"rate": [0.5, 1, 2], "rate_told": [0.5], "time_scale": [0.5, 2], "drop": [0, 0.9]}
    splits = CharacterTrajectories(shifts=shifts, curve=curve).load(trajectories_root)
    assert list(splits.shifted) == ["half"]
    assert [(p.kind, p.value) for p in splits.curve] == [
        ("rate", 0.5), ("rate", 1), ("rate", 2), ("drop", 0), ("drop", 0.9),
    ]  # fmt: skip
    assert [p.test.everything.x.shape[1] for p in splits.curve] == [91, 182, 363, 182, 18]
    timed = CharacterTrajectories(shifts=shifts, curve=curve, timestamps="separate")
    assert list(timed.samplings()) == ["", "slow", "half"]
    assert len(timed.curve_points()) == 8
    half = {kind: sampling for kind, value, sampling in timed.curve_points() if value == 0.5}
    assert half["rate_told"] == replace(half["rate"], time_scale=1.0)
    assert CharacterTrajectories(curve={"rate": None}).curve_points() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": {"rat": 1}}, "sampling.rat: there is no such setting"),
        ({"shifts": {"slow": {"drop": 2}}}, "shifts.slow: drop is a fraction"),
        ({"curve": {"speed": [1]}}, "curve.speed: there is no such curve; valid are rate, rate_told, time_scale, drop"),
        ({"curve": {"speed": None}}, "curve.speed: there is no such curve"),
        ({"curve": {"rate": [0]}}, "curve.rate: rate must be above 0"),
        ({"shifts": {"": {"rate": 0.5}}}, "shifts: each needs a name"),
    ],
)
def test_settings_are_checked_before_anything_is_read(settings, message):
    with pytest.raises(ValueError, match=message):
        CharacterTrajectories(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rate": 1e-9}, "rate=1e-09 leaves a single sample of 182"), ({"time_scale": 1e39}, "a smaller time_scale")],
)
def test_what_comes_of_settings_beyond_all_measure_is_said(trajectories_root, settings, message):
    with pytest.raises((DataError, ValueError), match=message):
        CharacterTrajectories(sampling=settings, timestamps="separate").load(trajectories_root)


@pytest.fixture
def copy(trajectories_root, tmp_path):
    folder = tmp_path / "CharacterTrajectories"
    shutil.copytree(trajectories_root / folder.name, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    return folder


def test_the_release_of_2018_is_read(copy, real):
    """A stand-in made from the real files as that release is described: six decimals, and tiny values cut off the end
    of single channels."""
    unequal = 0
    for name in character_trajectories.FILES:
        lines = (copy / name).read_text().splitlines()
        start = lines.index("@data") + 1
        for k, line in enumerate(lines[start:], start):
            *channels, label = line.split(":")
            values = [[f"{float(v):.6f}" for v in channel.split(",")] for channel in channels]
            if k % 70 == 0:
                values[k % 3].pop()
                unequal += 1
            lines[k] = ":".join([*(",".join(channel) for channel in values), label])
        (copy / name).write_text("\n".join(lines) + "\n")
    assert unequal > 30
    series, labels, release = character_trajectories.read(copy.parent)
    assert labels == real[1]
    assert release.startswith("2018")
    assert real[2] == "2023"
    for old, new in zip(series, real[0], strict=True):
        assert old.shape == new.shape
        assert (np.abs(old - new) <= 5.1e-7).all() or (old[-1] == 0).any()
    splits = CharacterTrajectories().load(copy.parent)
    assert [len(split) for split in splits[:3]] == [2000, 429, 429]
    assert splits.release == release


@pytest.mark.parametrize(("step", "change"), [(0, 0.5), (31, -0.02)])
def test_a_changed_value_is_not_taken_for_another_release(copy, step, change):
    for name in character_trajectories.FILES:
        lines = (copy / name).read_text().splitlines()
        for k in range(lines.index("@data") + 1, len(lines)):
            *channels, label = lines[k].split(":")
            values = [[f"{float(v):.6f}" for v in channel.split(",")] for channel in channels]
            if name == character_trajectories.FILES[1] and k == len(lines) - 1:
                values[1][step] = f"{float(values[1][step]) + change:.6f}"
            lines[k] = ":".join([*map(",".join, values), label])
        (copy / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="neither the release of 2023 nor that of 2018"):
        character_trajectories.read(copy.parent)


def test_a_release_of_2023_with_one_other_value_is_not_taken_for_that_of_2018(copy):
    """Which has six decimals."""
    path = copy / character_trajectories.FILES[0]
    head, mark, body = path.read_text().partition("@data\n")
    first, colon, rest = body.partition(":")
    path.write_text(f"{head}{mark}{first.rpartition(',')[0]},0.5{colon}{rest}")
    with pytest.raises(DataError, match="neither the release of 2023 nor that of 2018"):
        character_trajectories.read(copy.parent)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda body: body[: len(body) // 2].rpartition("\n")[0], "does not hold Character Trajectories"),
        (lambda body: body[: len(body) // 2].rpartition(",")[0] + ",", r"line \d+, is not a labelled series"),
        (lambda body: body.replace("0.4", "0.5", 1), "neither the release of 2023 nor that of 2018"),
        (lambda body: "", "holds no series"),
        (lambda body: body.replace("-0.1", "x", 1), r"line \d+, is not a labelled series.*Replace the file"),
        (lambda body: "nan" + body[body.index(",") :], "NaN, infinity, or not as many channels"),
        (lambda body: body.replace("\n", "\n1:", 1), "NaN, infinity, or not as many channels"),
    ],
    ids=["half", "cut", "changed", "empty", "letter", "nan", "channels"],
)
def test_damaged_files_are_named(copy, damage, message):
    path = copy / character_trajectories.FILES[0]
    head, mark, body = path.read_text().partition("@data\n")
    path.write_text(head + mark + damage(body))
    with pytest.raises(DataError, match=message):
        character_trajectories.read(copy.parent)


def test_what_only_looks_like_the_release_of_2018_is_refused(copy, real):
    rng = np.random.default_rng(0)
    series = iter(real[0])
    for name in character_trajectories.FILES:
        head, mark, body = (copy / name).read_text().partition("@data\n")
        lines = []
        for line in body.splitlines():
            noise = rng.normal(size=next(series).shape).round(2).T
            lines.append(":".join([*(",".join(map(str, channel)) for channel in noise), line.rpartition(":")[2]]))
        (copy / name).write_text(head + mark + "\n".join(lines))
    with pytest.raises(DataError, match="neither the release of 2023 nor that of 2018"):
        character_trajectories.read(copy.parent)


def test_ts_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_ts(tmp_path / "none.ts")
    (tmp_path / "bytes.ts").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"not text in UTF-8 \(invalid start byte at byte 0\)"):
        read_ts(tmp_path / "bytes.ts")
    (tmp_path / "unlabelled.ts").write_text("@classLabel false\n@data\n1,2:3,4\n")
    with pytest.raises(DataError, match="line 1, says that series have no class"):
        read_ts(tmp_path / "unlabelled.ts")


def test_a_ts_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "marked.ts").write_text("@data\n1,2:3,4:a\n", encoding="utf-8-sig")
    (series,), labels = read_ts(tmp_path / "marked.ts")
    assert series.tolist() == [[1, 3], [2, 4]]
    assert labels == ["a"]


def archive(copy: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in character_trajectories.FILES:
            file.write(copy / name, name)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("working", "error"),
    [(0, None), (1, OSError("HTTP Error 404: Not Found")), (1, http.client.IncompleteRead(b"")), (1, zlib.error())],
)
def test_what_is_missing_comes_from_the_first_source_that_has_it(copy, monkeypatch, real, working, error):
    """The two sources as stand-ins, since a test reaches no network: a zip archive, or one file after the other."""
    zipped = archive(copy)
    contents = {name: (copy / name).read_bytes() for name in character_trajectories.FILES}
    asked = []

    def get(url: str) -> bytes:
        asked.append(url)
        if "zip" in url:
            if working == 0:
                return zipped
            raise error
        return contents[url.rpartition("/")[2]]

    monkeypatch.setattr(character_trajectories, "_get", get)
    (copy / character_trajectories.FILES[1]).unlink()
    assert character_trajectories.read(copy.parent)[1] == real[1]
    assert len(asked) == 1 + working
    assert not [path for path in copy.iterdir() if path.suffix not in (".ts", "") or path.name.startswith(".Char")]


@pytest.mark.parametrize("first", [b"<html>no such file</html>", b"@data\n1,2"])
def test_a_source_that_gives_something_else_is_passed_over(copy, monkeypatch, real, first):
    contents = {name: (copy / name).read_bytes() for name in character_trajectories.FILES}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in contents:
            file.writestr(name, first)
    zipped = buffer.getvalue()
    monkeypatch.setattr(
        character_trajectories, "_get", lambda url: zipped if "zip" in url else contents[url.rpartition("/")[2]]
    )
    for name in contents:
        (copy / name).unlink()
    assert character_trajectories.read(copy.parent)[1] == real[1]


def test_a_full_disk_is_not_taken_for_a_bad_source(tmp_path, monkeypatch, copy):
    def write(self, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    contents = {name: (copy / name).read_bytes() for name in character_trajectories.FILES}
    monkeypatch.setattr(character_trajectories, "_contents", lambda source, names: contents)
    monkeypatch.setattr(Path, "write_bytes", write)
    (tmp_path / "root").mkdir()
    with pytest.raises(OSError, match="No space left") as error:
        CharacterTrajectories().load(tmp_path / "root")
    assert "the disk is full" in explain(error.value)


def test_a_root_that_was_there_before_a_failed_download_is_left_there(tmp_path, monkeypatch):
    monkeypatch.setattr(character_trajectories, "_contents", lambda source, names: {}["nothing"])
    with pytest.raises(DataError):
        CharacterTrajectories().load(tmp_path)
    assert tmp_path.exists()
    assert not list(tmp_path.iterdir())


def test_no_source_at_all_is_one_error_with_what_to_do(tmp_path, monkeypatch):
    def get(url: str) -> bytes:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(character_trajectories, "_get", get)
    with pytest.raises(DataError) as error:
        CharacterTrajectories().load(tmp_path / "root")
    assert not (tmp_path / "root").exists()
    for word in (*character_trajectories.FILES, "Network is unreachable", "HIPPO_DATA", "zenodo"):
        assert word in str(error.value)


def test_what_another_process_has_fetched_meanwhile_is_not_fetched_again(copy, monkeypatch, real):
    asked = []
    monkeypatch.setattr(character_trajectories, "_get", asked.append)
    character_trajectories.fetch(copy, list(character_trajectories.FILES))
    assert asked == []
