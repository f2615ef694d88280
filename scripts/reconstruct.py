"""Draw what a HiPPO memory remembers of a signal, at three moments, and as an animation all the way.

python scripts/reconstruct.py                                        # LegS, on noise without high frequencies
python scripts/reconstruct.py chirp --measure legt --window 800      # a window that slides
python scripts/reconstruct.py song.wav --order 512 --out song.png    # a sound, or a column of numbers in a CSV file
python scripts/reconstruct.py log.csv --timestamps 0 --column 1      # samples at irregular times
python scripts/reconstruct.py --animation memory.gif
"""

import argparse
import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from hippo import HiPPO
from hippo.measures import LMU, ChebT, FouT, LagT, LegS, LegT, Measure

MEASURES: dict[str, Callable[[float], Measure]] = {
    "legs": lambda window: LegS(),
    "legt": LegT,
    "lmu": LMU,
    "chebyshev": ChebT,
    "fourier": FouT,
    "lagt": LagT,
}


def noise(length: int, cycles: int, seed: int) -> Tensor:
    """Return white noise (length,) without the frequencies above `cycles` per length, with variance 1."""
    spectrum = torch.fft.rfft(torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    spectrum[cycles + 1 :] = 0
    signal = torch.fft.irfft(spectrum, length)
    return (signal - signal.mean()) / signal.std()


def chirp(length: int, cycles: int, seed: int) -> Tensor:
    """Return a sine (length,) whose frequency rises from 0 to `cycles` per length."""
    x = torch.arange(length, dtype=torch.float64) / length
    return torch.sin(math.pi * cycles * x.square())


def steps(length: int, cycles: int, seed: int) -> Tensor:
    """Return 2 · `cycles` random levels (length,), each held for as long."""
    levels = torch.randn(2 * cycles, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return levels[torch.arange(length) * 2 * cycles // length]


SIGNALS = {"noise": noise, "chirp": chirp, "steps": steps}
KNOWN = f"{', '.join(SIGNALS)}, or a .wav or .csv file"


def read(path: Path, column: int, timestamps: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the samples of a WAV file, its channels averaged, or of a column of a CSV file, standardised; and the time
    that has passed after each: the number of samples, or, from a column of timestamps, time since the first one, before
    which as much has passed as after it.

    Raises:
        ValueError: If there is no such file, it cannot be read, does not hold at least two finite numbers, or time runs
            backwards.
    """
    try:
        if path.suffix.lower() == ".wav":
            from scipy.io import wavfile

            if timestamps is not None:
                raise ValueError("a sound has no column of timestamps")
            values = np.asarray(wavfile.read(path)[1], dtype=np.float64)
            values, clock = values.mean(axis=1) if values.ndim == 2 else values, None
        else:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            if not lines:
                raise ValueError("it is empty")
            table = np.genfromtxt(lines, delimiter=",", ndmin=2)
            name = lines[0].split(",")[column].strip()
            table = table[1:] if np.isnan(table[0, column]) and name.lower() not in ("", "nan") else table
            values, clock = table[:, column], None if timestamps is None else table[:, timestamps]
    except (OSError, ValueError, IndexError, ZeroDivisionError, struct.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if len(values) < 2 or not np.isfinite(values).all():
        wrong = np.flatnonzero(~np.isfinite(values))
        what = f"sample {wrong[0]} is no finite number" if len(wrong) else f"{len(values)} samples are too few"
        raise ValueError(f"{path}: {what}")
    signal = torch.from_numpy(values)
    signal = (signal - signal.mean()) / signal.std().clamp(min=torch.finfo(torch.float64).tiny)
    if clock is None:
        return signal, counted(len(signal))
    if not np.isfinite(clock).all() or not (np.diff(clock) > 0).all():
        raise ValueError(f"{path}: timestamps must be finite and rise from sample to sample; sort the lines by time")
    return signal, torch.from_numpy(clock - 2 * clock[0] + clock[1])


def counted(length: int) -> Tensor:
    """Return the time after each sample where time counts samples, (length,)."""
    return torch.arange(1, length + 1, dtype=torch.float64)


def remembered(memory: HiPPO, signal: Tensor, clock: Tensor, moments: list[int]) -> Tensor:
    """Return the coefficients (M, N) after so many samples each, in ascending order."""
    state, before, found = None, 0, []
    timed = not torch.equal(clock, counted(len(clock)))
    for moment in tqdm(moments, desc="remembering", unit="moment", leave=False):
        times = clock[None, before:moment] if timed else None
        state = memory.remember(signal[None, before:moment], times, state=state)
        before = moment
        found.append(state.coefficients[0])
    return torch.stack(found)


class Drawing:
    """A signal, and over it what a memory gives back of it at one moment.

    Args:
        axes: Where.
        signal: (L,).
        clock: The time after each sample, (L,).
        memory: The memory.
    """

    def __init__(self, axes: Axes, signal: Tensor, clock: Tensor, memory: HiPPO) -> None:
        self.axes, self.signal, self.clock, self.memory = axes, signal, clock, memory
        samples = np.linspace(0, len(signal) - 1, min(len(signal), 4000)).astype(int)  # as many as can be seen
        axes.plot(clock[samples], signal[samples], color="0.85", lw=3)
        (self.past,) = axes.plot([], [], color="0.6", lw=3, label="signal so far")
        (self.read,) = axes.plot([], [], color="tab:red", lw=1.3, label=f"read back from {memory.order} numbers")
        self.now = axes.axvline(0, color="0.3", lw=0.8, ls=":")
        low, high = signal.min().item(), signal.max().item()
        axes.set_ylim(low - 0.2 * (high - low) - 1e-9, high + 0.2 * (high - low) + 1e-9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks([])

    def show(self, now: int, coefficients: Tensor) -> None:
        """Draw the moment after `now` samples. A sample stands for the time since the one before."""
        present = float(self.clock[now - 1])
        oldest, newest = self.memory.measure.window(present)
        times = torch.linspace(max(oldest, 0.0), newest, 2000, dtype=torch.float64)
        times = times.clamp(math.nextafter(oldest, math.inf), math.nextafter(newest, -math.inf))
        read = self.memory.reconstruct(coefficients, times, now=present)
        truth = self.signal[torch.searchsorted(self.clock, times).clamp(max=now - 1)]
        error = (read - truth).square().mean().sqrt() / (self.signal.std() or 1)
        self.past.set_data(times, truth)
        self.read.set_data(times, read)
        self.now.set_xdata([present, present])
        self.axes.set_title(f"after {now:,} samples: {100 * error:.1f} % RMS error", loc="left", fontsize=10)


def picture(memory: HiPPO, signal: Tensor, clock: Tensor, path: Path) -> None:
    """Draw a quarter, a half, and all of a signal."""
    moments = sorted({max(len(signal) * part // 4, 1) for part in (1, 2, 4)})
    figure = Figure(figsize=(9, 5), layout="constrained")
    grid = figure.subplots(len(moments), 1, sharex=True, squeeze=False)[:, 0]
    for axes, moment, coefficients in zip(grid, moments, remembered(memory, signal, clock, moments), strict=True):
        Drawing(axes, signal, clock, memory).show(moment, coefficients)
    grid[-1].set_xlabel("sample" if torch.equal(clock, counted(len(clock))) else "time")
    grid[0].legend(frameon=False, ncols=2, loc="upper right", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def animation(memory: HiPPO, signal: Tensor, clock: Tensor, path: Path, frames: int) -> None:
    """Draw the memory as the signal passes: GIF, or what ffmpeg writes, by the name of the file."""
    moments = sorted({max(len(signal) * (k + 1) // frames, 1) for k in range(frames)})
    coefficients = remembered(memory, signal, clock, moments)
    figure = Figure(figsize=(7, 4), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=[3, 1])
    drawing = Drawing(top, signal, clock, memory)
    top.legend(frameon=False, ncols=2, loc="lower right", fontsize=9)
    bars = bottom.bar(range(memory.order), coefficients[0].numpy(), color="tab:red", width=1)
    bottom.set_ylim(coefficients.min().item() - 1e-9, coefficients.max().item() + 1e-9)
    bottom.set_xlabel("coefficients")
    bottom.spines[["top", "right"]].set_visible(False)
    bottom.set_yticks([])

    def draw(k: int) -> list:
        drawing.show(moments[k], coefficients[k])
        for bar, height in zip(bars, coefficients[k].tolist(), strict=True):
            bar.set_height(height)
        return []

    path.parent.mkdir(parents=True, exist_ok=True)
    film = FuncAnimation(figure, draw, frames=len(moments))
    with tqdm(total=len(moments), desc="drawing", unit="frame", leave=False) as bar:
        writer = "pillow" if path.suffix.lower() == ".gif" else "ffmpeg"
        film.save(path, writer, fps=15, dpi=80, progress_callback=lambda *_: bar.update())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "signal", nargs="?", default="noise", help=f"{', '.join(SIGNALS)}, or a .wav or .csv file (noise)"
    )
    parser.add_argument("--column", type=int, default=0, help="of a CSV file, from 0 (0)")
    parser.add_argument("--timestamps", type=int, metavar="COLUMN", help="of a CSV file that says when each sample was")
    parser.add_argument("--length", type=int, default=4000, help="samples of a built-in signal (4000)")
    parser.add_argument("--cycles", type=int, default=16, help="its highest frequency, in periods per length (16)")
    parser.add_argument("--seed", type=int, default=1, help="of a built-in signal that is random (1)")
    parser.add_argument("--measure", choices=MEASURES, default="legs", help="what is remembered (legs)")
    parser.add_argument(
        "--window",
        type=float,
        default=1000,
        help="of what slides, in samples or as timestamps (1000)",
    )
    parser.add_argument("--order", type=int, default=64, help="numbers in the memory (64)")
    parser.add_argument("--out", type=Path, help="the picture (results/figures/reconstruction.png)")
    parser.add_argument("--animation", type=Path, metavar="FILE", help="draw an animation instead, a .gif or .mp4")
    parser.add_argument("--frames", type=int, default=120, help="of the animation (120)")
    args = parser.parse_args()
    try:
        if args.frames < 1:
            raise ValueError("--frames must be at least 1")
        if args.signal in SIGNALS:
            if args.length < 2 or args.cycles < 1:
                raise ValueError("--length must be at least 2, --cycles at least 1")
            if args.timestamps is not None:
                raise ValueError("--timestamps is for a .csv file")
            signal, clock = SIGNALS[args.signal](args.length, args.cycles, args.seed), counted(args.length)
        elif Path(args.signal).suffix.lower() in (".wav", ".csv"):
            signal, clock = read(Path(args.signal), args.column, args.timestamps)
        else:
            raise ValueError(f"there is no signal {args.signal}; choose {KNOWN}")
        memory = HiPPO(MEASURES[args.measure](args.window), args.order)
        if args.animation:
            animation(memory, signal, clock, args.animation, args.frames)
        path = args.out or (None if args.animation else Path("results/figures/reconstruction.png"))
        if path:
            picture(memory, signal, clock, path)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print("\n".join(str(path) for path in (args.animation, path) if path))


if __name__ == "__main__":
    main()
