"""Character Trajectories: letters written on a tablet (B. H. Williams, UCI; UEA archive of multivariate series)."""

import contextlib
import errno
import hashlib
import http.client
import io
import os
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from filelock import FileLock
from sklearn.model_selection import train_test_split
from torch import Tensor

from hippo.data.base import Batch, CurvePoint, DataError, Scaling, SequenceDataset, Sequences, Shifted, Splits
from hippo.data.sampling import Sampling, sample
from hippo.data.ts import read_ts

RATE = 200  # samples a second
LONGEST = 182  # steps
CURVES = ("rate", "rate_told", "time_scale", "drop")
LETTERS = "abcdeghlmnopqrsuvwyz"  # of the labels 1 … 20: those written in one stroke
FILES = ("CharacterTrajectories_TRAIN.ts", "CharacterTrajectories_TEST.ts")
SOURCES = (
    "https://timeseriesclassification.com/aeon-toolkit/CharacterTrajectories.zip",
    "https://zenodo.org/records/18723007/files/{file}",
)
# sha256 of the values of both files in their order as float64, and of their labels: text that differs in its comments,
# or in how it writes a number, gives the same.
VALUES = "53adcf152b3e13030b6a3bf4a151b0bd15e93abc62e0c99b05b1f4a4ee2fe4c3"
# The release of 2018 has the same values, rounded to six decimals, and lacks small ones at the ends of channels. These
# are the values' sums over the first steps of every series, under random signs: a change of 0.01 shows in each.
FIRST_STEPS = 50
SUMS = (-374.0474, 1513.8266, -415.9107, 757.5852, 537.7954, -1012.202, 795.0808, 811.6247)
RELEASES = ("2023", f"2018, of which the first {FIRST_STEPS} steps of each series are checked")
LABELS = "8b1c2371b284cb0f95b69137203e3ae1649522880c13407da85af7c168614097"


@dataclass(frozen=True, kw_only=True)
class CharacterTrajectories(SequenceDataset):
    """2,858 letters of 20 classes as series of the pen's velocity in x and y, and its force; 60 to 182 steps at 200 Hz.

    The protocol is that of the HiPPO paper's code (arXiv 2008.07669): both files joined and split 70 / 15 / 15 %,
    stratified, into 2000 / 429 / 429; channels standardized with the training split's statistics. Series are sampled as
    `sampling` says, for training, validation and test alike. What else they are tested on no model ever trains on.

    Args:
        batch_size: Sequences a step.
        padding: "last_value" repeats the last value of every series up to the longest, 182 steps, as in the paper's
            code, and models read it as data; "none" keeps the true lengths.
        timestamps: None; "separate" for models that know what time is, in units of 1/200 s before
            `Sampling.time_scale`; or as the first channel, "index" in the same units, as in the paper's code,
            and "channel" in seconds.
        sampling: Settings of `Sampling`, for training and what is called validation and test.
        shifts: Settings of `Sampling` by name: validated on in every epoch, and tested on, beside the unshifted.
            Without timestamps a change of nothing but time_scale is none, and left out; so is null.
        curve: Factors on the sampling of the training, to be tested on at the end: "rate" (unknown to the model: its
            clock counts samples), "rate_told" (its clock shows how far apart they are), "time_scale"; and "drop",
            which replaces the training's. Without timestamps "rate_told" and "time_scale" are left out; so is null.
        split_seed: Seed of the split; the next one divides validation from test.
        drop_seed: Seed of what is dropped.

    Raises:
        ValueError: If a setting is unknown, or beyond its range.
    """

    with_timestamps: ClassVar[str] = "separate"
    padding: Literal["last_value", "none"] = "last_value"
    timestamps: Literal["separate", "channel", "index"] | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    shifts: Mapping[str, Mapping[str, float] | None] = field(default_factory=dict)
    curve: Mapping[str, Sequence[float] | None] = field(default_factory=dict)
    split_seed: int = 0
    drop_seed: int = 0

    def __post_init__(self) -> None:
        self.samplings()
        self.curve_points()

    def samplings(self) -> dict[str, Sampling]:
        """Return how series are sampled in training, by the name "", and under each shift, by its name."""
        if "" in self.shifts:
            raise ValueError("shifts: each needs a name")
        found = {
            name: Sampling.of(settings, f"shifts.{name}" if name else "sampling")
            for name, settings in ({"": self.sampling} | dict(self.shifts)).items()
            if settings is not None
        }
        unseen = (lambda s: (s.rate, s.drop)) if self.timestamps is None else (lambda s: s)
        return {name: s for name, s in found.items() if not name or unseen(s) != unseen(found[""])}

    def curve_points(self) -> list[tuple[str, float, Sampling]]:
        """Return the points of the curve: what is changed, by how much, and how series are sampled then."""
        base = Sampling.of(self.sampling, "sampling")
        points = []
        for kind, values in self.curve.items():
            if kind not in CURVES:
                raise ValueError(f"curve.{kind}: there is no such curve; valid are {', '.join(CURVES)}")
            if kind in ("rate_told", "time_scale") and self.timestamps is None:
                continue
            for value in values or ():
                to = {
                    "rate": {"rate": base.rate * value, "time_scale": base.time_scale * value},
                    "rate_told": {"rate": base.rate * value},
                    "time_scale": {"time_scale": base.time_scale * value},
                    "drop": {"drop": value},
                }[kind]
                points.append((kind, float(value), Sampling.of(asdict(base) | to, f"curve.{kind}")))
        return points

    def is_here(self, root: Path) -> bool:
        return all((root / "CharacterTrajectories" / name).is_file() for name in FILES)

    def load(self, root: Path) -> Splits:
        series, labels, release = read(root)
        x, lengths = self._padded([torch.from_numpy(one) for one in series])
        names = list(dict.fromkeys(labels))
        y = torch.tensor([names.index(label) for label in labels], device="cpu")
        train, rest = train_test_split(range(len(y)), train_size=0.7, stratify=y, random_state=self.split_seed)
        validation, test = train_test_split(rest, train_size=0.5, stratify=y[rest], random_state=self.split_seed + 1)

        observed = x[train][torch.arange(x.shape[1], device="cpu") < lengths[train].unsqueeze(1)]
        scaling = Scaling.of(observed)
        x = scaling(x).float()

        def take(rows: list[int], split: int, sampling: Sampling) -> Sequences:
            return self._take(x[rows], lengths[rows], y[rows], sampling, seed=3 * self.drop_seed + split)

        samplings = self.samplings()
        return Splits(
            *(take(rows, split, samplings[""]) for split, rows in enumerate((train, validation, test))),
            classes=tuple(LETTERS[int(name) - 1] for name in names),
            shifted={
                name: Shifted(take(validation, 1, shift), take(test, 2, shift))
                for name, shift in samplings.items()
                if name
            },
            curve=[CurvePoint(kind, value, take(test, 2, sampling)) for kind, value, sampling in self.curve_points()],
            release=release,
            scaling=scaling,
        )

    def prepare(self, raw: Batch, scaling: Scaling | None) -> Batch:
        """Return series (B, L, 3), recorded at 200 Hz, as a model gets them: at the rate of the training and on its
        clock. Nothing is dropped."""
        if scaling is None or raw.x.shape[2] != 3 or raw.timestamps is not None or raw.mask is not None:
            raise ValueError(
                f"a letter is (L, 3), the pen's velocity in x and y and its force at {RATE} Hz, whole and without "
                f"timestamps; these have {raw.x.shape[2]} channels"
            )
        lengths = [raw.x.shape[1]] * len(raw.x) if raw.lengths is None else raw.lengths.tolist()
        x, own = self._padded([one[:length] for one, length in zip(raw.x, lengths, strict=True)])
        sampling = replace(self.samplings()[""], drop=0.0)
        return self._take(scaling(x).float(), own, raw.y, sampling, seed=0).everything

    def _padded(self, series: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return series (L, 3) as one tensor of at least 182 steps, and how many of each a model reads."""
        lengths = torch.tensor([len(one) for one in series], device="cpu")
        x = torch.zeros(len(series), max(LONGEST, int(lengths.max())), 3, dtype=torch.float64, device="cpu")
        for k, one in enumerate(series):
            x[k, : len(one)] = one
            if self.padding == "last_value":
                x[k, len(one) :] = one[-1]
        return x, torch.full_like(lengths, x.shape[1]) if self.padding == "last_value" else lengths

    def _take(self, x: Tensor, lengths: Tensor, y: Tensor, sampling: Sampling, seed: int) -> Sequences:
        x, timestamps, lengths = sample(x, lengths, sampling, seed)
        if self.timestamps in ("channel", "index"):
            clock = timestamps / RATE if self.timestamps == "channel" else timestamps
            x = torch.cat([clock.to(x).unsqueeze(-1), x], dim=-1)
        return Sequences(
            Batch(
                x,
                y,
                timestamps=timestamps.float() if self.timestamps == "separate" else None,
                lengths=lengths if self.padding == "none" else None,
            )
        )


def read(root: Path) -> tuple[list[np.ndarray], list[str], str]:
    """Return the series (L, 3) and labels of both files, and their release, downloading them if they are missing.

    Raises:
        DataError: If a file is missing and cannot be downloaded, or is not what it should be.
    """
    folder = root / "CharacterTrajectories"
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        fetch(folder, missing)
    series: list[np.ndarray] = []
    labels: list[str] = []
    for name in FILES:
        some, their_labels = read_ts(folder / name)
        series += some
        labels += their_labels
    wrong = "Delete both files to have them downloaded again, or replace them with intact copies."
    if hashlib.sha256(" ".join(labels).encode()).hexdigest() != LABELS:
        raise DataError(f"{folder} does not hold Character Trajectories: {len(labels)} labels, not these. {wrong}")
    values = hashlib.sha256(b"".join(np.ascontiguousarray(one).tobytes() for one in series)).hexdigest()
    if values == VALUES:
        return series, labels, RELEASES[0]
    shapes = {one.shape[1] for one in series}, min(map(len, series)), max(map(len, series))
    rounded = all(np.abs(one - one.round(6)).max() < 1e-12 for one in series)
    if shapes != ({3}, 60, LONGEST) or not rounded or not np.allclose(sums(series), SUMS, rtol=0, atol=5e-3):
        raise DataError(f"{folder} holds values that are neither the release of 2023 nor that of 2018. {wrong}")
    return series, labels, RELEASES[1]


def sums(series: list[np.ndarray]) -> np.ndarray:
    """Return the sums of the first steps of all series under eight draws of random signs, (8,)."""
    first = np.stack([one[:FIRST_STEPS] for one in series])
    signs = np.random.RandomState(0).randint(0, 2, size=(8, *first.shape)) * 2 - 1
    return np.einsum("ksnc,snc->k", signs, first)


def fetch(folder: Path, missing: list[str]) -> None:
    """Download what is missing from the first source that has it. Raises DataError if none does."""
    reasons = []
    new = [path for path in (folder, folder.parent) if not path.exists()]
    for source in SOURCES:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                missing = [name for name in missing if not (folder / name).exists()]
                if not missing:  # another process has fetched them
                    return
                with tempfile.TemporaryDirectory(dir=folder) as draft:
                    for name, content in _contents(source, missing).items():
                        (Path(draft) / name).write_bytes(content)
                        read_ts(Path(draft) / name)  # and not, say, a page that says that there is no such file
                    for name in missing:
                        os.replace(Path(draft) / name, folder / name)
            return
        except (OSError, KeyError, DataError, zipfile.BadZipFile, zlib.error, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            reasons.append(f"{source.partition('{')[0]}: {error}")
    with contextlib.suppress(OSError):
        (folder / ".lock").unlink()
    for path in new:
        with contextlib.suppress(OSError):  # it holds something
            path.rmdir()
    raise DataError(
        f"Character Trajectories is not complete, and could not be downloaded ({'; '.join(reasons)}).\n"
        f"Missing in {os.fspath(folder)}: {', '.join(missing)}.\n"
        "Put these files there, or name the folder that holds CharacterTrajectories with paths.data=FOLDER or the "
        "environment variable HIPPO_DATA."
    )


def _contents(source: str, names: list[str]) -> dict[str, bytes]:
    if not source.endswith(".zip"):
        return {name: _get(source.format(file=name)) for name in names}
    with zipfile.ZipFile(io.BytesIO(_get(source))) as archive:
        return {name: archive.read(name) for name in names}


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()
