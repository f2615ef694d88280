"""Draw what a HiPPO memory remembers of a signal, at three moments, and as an animation all the way.

python scripts/reconstruct.py                                        # LegS, on noise without high frequencies
python scripts/reconstruct.py chirp --measure legt --window 800      # a window that slides
python scripts/reconstruct.py song.wav --order 512 --out song.png    # a sound, or a column of numbers in a CSV file
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


def read(path: Path, column: int) -> Tensor:
    """Return the samples of a WAV file, its channels averaged, or of a column of a CSV file, standardised.

    Raises:
        ValueError: If there is no such file, it cannot be read, or does not hold at least two finite numbers.
    """
    try:
        if path.suffix.lower() == ".wav":
            from scipy.io import wavfile

            values = np.asarray(wavfile.read(path)[1], dtype=np.float64)
            values = values.mean(axis=1) if values.ndim == 2 else values
        else:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            if not lines:
                raise ValueError("it is empty")
            values = np.genfromtxt(lines, delimiter=",", ndmin=2)[:, column]
            name = lines[0].split(",")[column].strip()
            values = values[1:] if np.isnan(values[0]) and name.lower() not in ("", "nan") else values
    except (OSError, ValueError, IndexError, ZeroDivisionError, struct.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if len(values) < 2 or not np.isfinite(values).all():
        wrong = np.flatnonzero(~np.isfinite(values))
        what = f"sample {wrong[0]} is no finite number" if len(wrong) else f"{len(values)} samples are too few"
        raise ValueError(f"{path}: {what}")
    signal = torch.from_numpy(values)
    return (signal - signal.mean()) / signal.std().clamp(min=torch.finfo(torch.float64).tiny)


def remembered(memory: HiPPO, signal: Tensor, moments: list[int]) -> Tensor:
    """Return the coefficients (M, N) after so many samples each, in ascending order."""
    state, before, found = None, 0, []
    for moment in tqdm(moments, desc="remembering", unit="moment", leave=False):
        state = memory.remember(signal[None, before:moment], state=state)
        before = moment
        found.append(state.coefficients[0])
    return torch.stack(found)


class Drawing:
    """A signal, and over it what a memory gives back of it at one moment.

    Args:
        axes: Where.
        signal: (L,).
        memory: The memory.
    """

    def __init__(self, axes: Axes, signal: Tensor, memory: HiPPO) -> None:
        self.axes, self.signal, self.memory = axes, signal, memory
        samples = np.linspace(0, len(signal) - 1, min(len(signal), 4000)).astype(int)  # as many as can be seen
        axes.plot(samples, signal[samples], color="0.85", lw=3)
        (self.past,) = axes.plot([], [], color="0.6", lw=3, label="signal so far")
        (self.read,) = axes.plot([], [], color="tab:red", lw=1.3, label=f"read back from {memory.order} numbers")
        self.now = axes.axvline(0, color="0.3", lw=0.8, ls=":")
        low, high = signal.min().item(), signal.max().item()
        axes.set_ylim(low - 0.2 * (high - low) - 1e-9, high + 0.2 * (high - low) + 1e-9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks([])

    def show(self, now: int, coefficients: Tensor) -> None:
        """Draw the moment after `now` samples. Sample k stands for the time from k to k + 1."""
        oldest, newest = self.memory.measure.window(float(now))
        times = torch.linspace(max(oldest, 0.0), newest, 2000, dtype=torch.float64)
        times = times.clamp(math.nextafter(oldest, math.inf), math.nextafter(newest, -math.inf))
        read = self.memory.reconstruct(coefficients, times, now=float(now))
        truth = self.signal[times.long().clamp(max=now - 1)]
        error = (read - truth).square().mean().sqrt() / (self.signal.std() or 1)
        self.past.set_data(times, truth)
        self.read.set_data(times, read)
        self.now.set_xdata([now, now])
        self.axes.set_title(f"after {now:,} samples: {100 * error:.1f} % RMS error", loc="left", fontsize=10)


def picture(memory: HiPPO, signal: Tensor, path: Path) -> None:
    """Draw a quarter, a half, and all of a signal."""
    moments = sorted({max(len(signal) * part // 4, 1) for part in (1, 2, 4)})
    figure = Figure(figsize=(9, 5), layout="constrained")
    grid = figure.subplots(len(moments), 1, sharex=True, squeeze=False)[:, 0]
    for axes, moment, coefficients in zip(grid, moments, remembered(memory, signal, moments), strict=True):
        Drawing(axes, signal, memory).show(moment, coefficients)
    grid[-1].set_xlabel("sample")
    grid[0].legend(frameon=False, ncols=2, loc="upper right", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def animation(memory: HiPPO, signal: Tensor, path: Path, frames: int) -> None:
    """Draw the memory as the signal passes: GIF, or what ffmpeg writes, by the name of the file."""
    moments = sorted({max(len(signal) * (k + 1) // frames, 1) for k in range(frames)})
    coefficients = remembered(memory, signal, moments)
    figure = Figure(figsize=(7, 4), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=[3, 1])
    drawing = Drawing(top, signal, memory)
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
    parser.add_argument("--length", type=int, default=4000, help="samples of a built-in signal (4000)")
    parser.add_argument("--cycles", type=int, default=16, help="its highest frequency, in periods per length (16)")
    parser.add_argument("--seed", type=int, default=1, help="of a built-in signal that is random (1)")
    parser.add_argument("--measure", choices=MEASURES, default="legs", help="what is remembered (legs)")
    parser.add_argument("--window", type=float, default=1000, help="of a measure that slides, in samples (1000)")
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
            signal = SIGNALS[args.signal](args.length, args.cycles, args.seed)
        elif Path(args.signal).suffix.lower() in (".wav", ".csv"):
            signal = read(Path(args.signal), args.column)
        else:
            raise ValueError(f"there is no signal {args.signal}; choose {KNOWN}")
        memory = HiPPO(MEASURES[args.measure](args.window), args.order)
        if args.animation:
            animation(memory, signal, args.animation, args.frames)
        path = args.out or (None if args.animation else Path("results/figures/reconstruction.png"))
        if path:
            picture(memory, signal, path)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print("\n".join(str(path) for path in (args.animation, path) if path))


if __name__ == "__main__":
    main()
