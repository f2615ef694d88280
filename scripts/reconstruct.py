"""Draw what a HiPPO memory remembers of a signal: `python scripts/reconstruct.py --help`."""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from hippo import HiPPO


def noise(length: int, cycles: int, seed: int) -> torch.Tensor:
    """Return white noise (length,) without the frequencies above `cycles` per length, with variance 1."""
    spectrum = torch.fft.rfft(torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    spectrum[cycles + 1 :] = 0
    signal = torch.fft.irfft(spectrum, length)
    return (signal - signal.mean()) / signal.std()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--order", type=int, default=64, help="numbers in the memory")
    parser.add_argument("--length", type=int, default=4000, help="samples of the signal")
    parser.add_argument("--cycles", type=int, default=16, help="highest frequency, in periods per length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/figures/reconstruction.png"))
    args = parser.parse_args()

    signal = noise(args.length, args.cycles, args.seed)
    memory = HiPPO("legs", order=args.order)
    coefficients, _ = memory(signal.unsqueeze(0))

    figure = Figure(figsize=(9, 5), layout="constrained")
    moments = (args.length // 4, args.length // 2, args.length)
    for axes, now in zip(figure.subplots(len(moments), 1, sharex=True, sharey=True), moments, strict=True):
        past = torch.linspace(0, 1, now, dtype=torch.float64)
        remembered = memory.reconstruct(coefficients[0, now - 1], past)
        error = (remembered - signal[:now]).square().mean().sqrt() / signal.std()
        axes.plot(signal, color="0.85", lw=3)
        axes.plot(signal[:now], color="0.6", lw=3, label="signal so far")
        axes.plot(past * now, remembered, color="tab:red", lw=1.3, label=f"read back from {args.order} numbers")
        axes.axvline(now, color="0.3", lw=0.8, ls=":")
        axes.set_title(f"after {now:,} samples: {100 * error:.1f} % RMS error", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks([])
    axes.set_xlabel("sample")
    figure.axes[0].legend(frameon=False, ncols=2, loc="upper right", fontsize=9)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    print(args.out)


if __name__ == "__main__":
    main()
