"""The .ts format of the UEA and UCR time-series archives."""

from pathlib import Path

import numpy as np

from hippo.data.base import DataError


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Read labelled series without timestamps.

    Channels of a series that differ in length, as in the archive's 2018 release of Character Trajectories, which cut
    small values off the end of each channel by itself, are made equal with zeros.

    Returns:
        Series (L, C), each of its own length, in float64, and their labels.

    Raises:
        DataError: If a line is not a series of finite numbers with a label, or there are none; the message names it.
    """
    series, labels, in_data = [], [], False
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}. Check that it is there, and its permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}). Replace the file."
        ) from error
    for number, line in enumerate(lines, start=1):
        if not in_data:
            in_data = line.strip().lower() == "@data"
            if line.strip().lower().split()[:2] in (["@classlabel", "false"], ["@targetlabel", "true"]):
                raise DataError(f"{path}, line {number}, says that series have no class: this reader needs one each.")
        elif line.strip():
            *channels, label = line.split(":")
            try:
                values = [np.array(channel.split(","), dtype=float) for channel in channels]
                one = np.zeros((max(map(len, values)), len(values)))
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number}, is not a labelled series: {error}. Replace the file."
                ) from error
            for channel, value in enumerate(values):
                one[: len(value), channel] = value
            if not np.isfinite(one).all() or (series and one.shape[1] != series[0].shape[1]):
                raise DataError(f"{path}, line {number}: NaN, infinity, or not as many channels as before")
            series.append(one)
            labels.append(label.strip())
    if not series:
        raise DataError(f"{path} holds no series: nothing follows a line @data. Replace the file.")
    return series, labels
