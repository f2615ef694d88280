"""Time forward and backward of each layer along time, and its steps one at a time in a network.

    python scripts/layers.py                                     # every layer, at the size of the goals
    python scripts/layers.py mamba s5 --batch 8 --threads 1      # these, at another size
    python scripts/layers.py --out results/benchmarks/layers.json

In turn with each layer go the matrix products that its mathematics cannot do without (where it is a convolution, the
Fourier transforms), and public PyTorch code, where its package can be imported and nothing but a GPU is wanted by it:
mambapy 1.2.0 (Mamba), s5-pytorch 0.2.1 (S5), lrnnx 1.0.0 (LRU, S4D). The public layer has our layer's parameters, and
its outputs are compared before any time is taken. Ratios are the medians of those within a pair, for the machine may be
slower the next second. Each layer has a process of its own, whose peak memory is taken before public code runs.
"""

import argparse
import importlib
import multiprocessing
import statistics
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmark import CONFIGS, now
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from hippo.training import host, records

Layer = Any
STEPS = 300


class Size(NamedTuple):
    batch: int
    length: int
    hidden: int
    states: int


class Floor(NamedTuple):
    """What a layer cannot do without.

    Attributes:
        products: How many, rows, inner size and columns of matrix products.
        transforms: Channels whose spectra are taken, and channels that are made of spectra.
    """

    products: list[tuple[int, int, int, int]]
    transforms: tuple[int, int] = (0, 0)


def settings(name: str, size: Size) -> dict[str, int]:
    """Return what gives a configured layer N states: of a feature, of the layer, or of each key."""
    own = {
        "lmu_deep": {"memory_order": size.states},
        "mamba2": {"state_size": size.states, "head_size": size.states},
        "retnet": {"heads": max(size.hidden // size.states, 1)},
        "rwkv": {"head_size": size.states},
        "scale_convolution": {"order": size.states},
    }
    return own.get(name, {"state_size": size.states})


def network(name: str, size: Size) -> Any:
    """Return the deep network of a layer as configured, at a size, four deep."""
    torch.manual_seed(0)
    config: Any = OmegaConf.create({"window": size.length, "model": OmegaConf.load(CONFIGS / f"{name}.yaml")})
    config.model.update({"hidden_size": size.hidden, "depth": 4})
    config.model.layer.update(settings(name, size))
    return instantiate(OmegaConf.to_container(config, resolve=True)["model"], input_size=1).eval()  # type: ignore[index]


def floor(name: str, layer: Layer, size: Size) -> Floor:
    """Return the products of a layer's maps, of real numbers, and those of its recurrence where its state is a matrix.

    A diagonal recurrence has none. One with a matrix for each head writes k vᵀ and reads qᵀ S at each step; products
    over 64 steps stand for those, without what chunks add.
    """
    B, L, H, N = size
    maps = [(1, B * L, m.in_features, m.out_features) for m in layer.modules() if isinstance(m, nn.Linear)]
    if name in ("lssl", "s4", "s4d", "rtf"):
        return Floor([], (H, H))
    if name == "lmu_deep":
        return Floor([(1, B * L, H, H), (1, H, N, L)], (1, H))
    if name in ("s5", "lru"):
        return Floor([(1, B * L, H, 2 * layer.state_size), (1, B * L, 2 * layer.state_size, H)])
    if name in ("mamba2", "retnet", "rwkv"):
        state = layer.initial_state(1, torch.zeros(1))[0 if name == "retnet" else 1]
        heads, keys, values = state.shape[1:]
        if name == "rwkv":
            rank = layer.w1.shape[1]
            maps += 3 * [(1, B * L, H, rank), (1, B * L, rank, H)]
        chunks = B * heads * -(-L // 64)
        return Floor([*maps, (chunks, keys, 64, values), (chunks, 64, keys, values)])
    return Floor(maps)


def run_floor(wanted: Floor, size: Size) -> Callable[[], None]:
    """Return a function that does what a layer cannot do without, forward and backward: two products for each one."""
    factors = [(torch.randn(c, m, k), torch.randn(c, k, n), torch.randn(c, m, n)) for c, m, k, n in wanted.products]
    read, made = wanted.transforms
    x, y = torch.randn(max(read, 1), 2 * size.length), torch.randn(max(made, 1), 2 * size.length)
    of_x, of_y = torch.fft.rfft(x), torch.fft.rfft(y)

    def run() -> None:
        for a, b, c in factors:
            torch.bmm(a, b)
            torch.bmm(c, b.mT)
            torch.bmm(a.mT, c)
        for _ in range(size.batch if made else 0):
            torch.fft.rfft(x)
            torch.fft.irfft(of_y)
            torch.fft.rfft(y)
            torch.fft.irfft(of_x)

    return run


def mambapy(layer: Layer, size: Size) -> Any:
    module = importlib.import_module("mambapy.mamba")
    public = module.MambaBlock(module.MambaConfig(d_model=size.hidden, n_layers=1, d_state=layer.state_size))
    copy(public.conv1d.weight, layer.convolution.weight.unsqueeze(1))
    copy(public.conv1d.bias, layer.convolution.bias)
    for theirs, ours in (
        (public.in_proj, layer.enter),
        (public.x_proj, layer.select),
        (public.dt_proj, layer.to_step),
        (public.out_proj, layer.leave),
    ):
        theirs.load_state_dict(ours.state_dict())
    copy(public.A_log, layer.A_log)
    copy(public.D, layer.D)
    return public


def s5_pytorch(layer: Layer, size: Size) -> Any:
    """It keeps both states of each pair of conjugates, of which ours keeps one."""
    public = importlib.import_module("s5").S5(size.hidden, 2 * layer.state_size)
    half = torch.complex(-torch.exp(layer.log_decay), layer.frequency)
    copy(public.seq.Lambda, torch.cat([half, half.conj()]))
    copy(public.seq.log_step, layer.log_step.repeat(2))
    copy(public.seq.B, torch.cat([layer.B, layer.B * torch.tensor([1.0, -1.0])]))
    C = torch.view_as_complex(layer.C)
    copy(public.seq.C, torch.cat([C, C.conj()], 1))
    copy(public.seq.D, layer.D)
    return public


def lrnnx(name: str) -> Any:
    """Return one of its layers. It asks for two extensions for a GPU as it is imported, which these do not use."""
    for extension in ("selective_scan_cuda", "simplified_scan_cuda"):
        try:
            importlib.import_module(extension)
        except ImportError:
            sys.modules[extension] = types.ModuleType(extension)
    return getattr(importlib.import_module("lrnnx.models.lti"), name)


def lrnnx_lru(layer: Layer, size: Size) -> Any:
    public = lrnnx("LRU")(size.hidden, layer.state_size)
    for theirs, ours in (("nu_log", layer.nu), ("theta_log", layer.theta), ("gamma_log", layer.gamma), ("D", layer.D)):
        copy(getattr(public, theirs), ours)
    for theirs, ours in (("B", layer.B), ("C", layer.C)):
        copy(getattr(public, f"{theirs}_re"), ours[..., 0])
        copy(getattr(public, f"{theirs}_im"), ours[..., 1])
    return public


def lrnnx_s4d(layer: Layer, size: Size) -> Any:
    """Without the activations that follow its convolution."""
    public = lrnnx("S4D")(size.hidden, final_act=None, transposed=False, d_state=layer.state_size, verbose=False)
    public.conv_activation, public.mult_activation = nn.Identity(), nn.Identity()
    copy(public.inv_dt, layer.log_step.unsqueeze(1))
    copy(public.A_real, layer.log_decay)
    copy(public.A_imag, -layer.frequency)
    copy(public.B, torch.tensor([1.0, 0.0]).expand_as(public.B))
    copy(public.C, layer.C.unsqueeze(0))
    copy(public.D, layer.D.unsqueeze(0))
    return lambda x: public(x)[0]


@torch.no_grad()
def copy(theirs: Tensor, ours: Tensor) -> None:
    theirs.copy_(ours)


class Public(NamedTuple):
    """Public code of a layer.

    Attributes:
        package: Its name on PyPI.
        make: From our layer, theirs with its parameters.
        part: Sequences that it is given at a time, as all of them would take tens of gigabytes; None for all.
    """

    package: str
    make: Callable[[Layer, Size], Any]
    part: int | None = None


PUBLIC = {
    "mamba": Public("mambapy", mambapy, part=5),
    "s5": Public("s5-pytorch", s5_pytorch),
    "lru": Public("lrnnx", lrnnx_lru),
    "s4d": Public("lrnnx", lrnnx_s4d),
}


def passes(layer: Callable[[Tensor], Tensor], x: Tensor, part: int | None = None) -> tuple[float, float]:
    """Return the seconds of the forward and of the backward pass of a batch."""
    forward = backward = 0.0
    for some in x.split(part or len(x)):
        begin = now()
        y = layer(some)
        middle = now()
        y.backward(torch.ones_like(y))
        forward, backward = forward + middle - begin, backward + now() - middle
    return forward, backward


def measure(name: str, size: Size, rounds: int, threads: int, compile_steps: bool) -> dict[str, Any]:
    """Return the seconds of a layer, their ratios to those of its floor and of public code, and its steps a second."""
    host.prepare()
    torch.set_num_threads(threads)
    model = network(name, size)
    layer = model.mixers[0]
    x = torch.randn(size.batch, size.length, size.hidden, requires_grad=True)

    def ours(x: Tensor) -> Tensor:
        return layer(x)[0]

    for _ in range(2):  # memory is new
        passes(ours, x)
    memory, wanted = records.peak_memory()["host"], floor(name, layer, size)
    result: dict[str, Any] = {"parameters": sum(p.numel() for p in layer.parameters()), "peak_memory": memory}
    run = run_floor(wanted, size) if wanted != Floor([]) else None
    public, made = PUBLIC.get(name), None
    if public is not None:
        try:
            made = public.make(layer, size)
        except ImportError as error:
            result["public"] = {"package": public.package, "missing": str(error)}
        else:
            result["public"] = {"package": public.package, "error": difference(ours, made, x[:2].detach())}

    times, floors, theirs = [], [], []
    if run is not None:
        run()
    for _ in range(rounds):
        times.append(passes(ours, x))
        if run is not None:
            begin = now()
            run()
            floors.append(now() - begin)
        if made is not None:
            theirs.append(sum(passes(made, x, public.part)))  # type: ignore[union-attr]
    result["seconds"] = {
        key: statistics.median(values)
        for key, values in zip(("forward", "backward"), zip(*times, strict=True), strict=True)
    } | {"step": statistics.median(map(sum, times))}
    if floors:
        result["floor_seconds"] = statistics.median(floors)
        result["ratio_to_floor"] = statistics.median(sum(a) / b for a, b in zip(times, floors, strict=True))
    if theirs:
        result["public"]["seconds"] = statistics.median(theirs)
        result["public"]["ratio"] = statistics.median(b / sum(a) for a, b in zip(times, theirs, strict=True))
        result["public"]["peak_memory"] = records.peak_memory()["host"]
    torch.set_num_threads(1)
    result["steps_a_second"] = max(steps_a_second(model.step) for _ in range(rounds))
    if compile_steps:
        step = model.compiled_step()
        result["compiled_steps_a_second"] = max(steps_a_second(step) for _ in range(rounds))
    return result


@torch.no_grad()
def difference(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Return ‖theirs − ours‖ / ‖ours‖. Raises ValueError where they are not the same map."""
    expected = ours(x)
    error = (torch.linalg.vector_norm(theirs(x) - expected) / torch.linalg.vector_norm(expected)).item()
    if not error < 1e-3:
        raise ValueError(
            f"the public layer makes something else, by {error:.1e}; compare its version with the one above"
        )
    return error


@torch.inference_mode()
def steps_a_second(step: Callable[..., Any]) -> float:
    """Return how many samples of one sequence a network takes in a second, one at a time."""
    samples, state = torch.randn(STEPS, 1, 1).unbind(), None
    for sample in samples[:3]:  # makes what is made once
        _, state = step(sample, state=state)
    begin = now()
    for sample in samples:
        _, state = step(sample, state=state)
    return STEPS / (now() - begin)


def show(size: Size, layers: dict[str, dict[str, Any]]) -> None:
    print(f"batch {size.batch}, {size.length} steps, hidden {size.hidden}, {size.states} states")
    head = f"{'forward':>9}{'backward':>9}{'/ floor':>9}{'public, times as long':>28}{'peak GB':>9}"
    print(f"{'':18}{head}{'steps / s':>11}{'compiled':>11}")
    for name, found in layers.items():
        seconds, public = found["seconds"], found.get("public", {})
        ratio = f"{found['ratio_to_floor']:.2f}" if "ratio_to_floor" in found else "–"
        beside = f"{public['package']} {public['ratio']:.1f}" if "ratio" in public else "–"
        times = f"{seconds['forward']:9.3f}{seconds['backward']:9.3f}{ratio:>9}{beside:>28}"
        compiled = f"{found['compiled_steps_a_second']:,.0f}" if "compiled_steps_a_second" in found else "–"
        steps = f"{found['steps_a_second']:11,.0f}{compiled:>11}"
        print(f"{name:18}{times}{found['peak_memory'] / 1e9:9.2f}{steps}")
    for name, found in layers.items():
        public = found.get("public", {})
        if "missing" in public:
            print(f"nothing stands beside {name}: {public['package']} cannot be imported ({public['missing']})")


def main() -> None:
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml") if "layer" in OmegaConf.load(path))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", metavar="layer", help=f"of {', '.join(names)}; all, where none is named")
    parser.add_argument("--batch", type=int, default=50, help="sequences (50)")
    parser.add_argument("--length", type=int, default=784, help="steps (784)")
    parser.add_argument("--hidden", type=int, default=128, help="features (128)")
    parser.add_argument("--states", type=int, default=64, help="states N (64)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each layer (3)")
    parser.add_argument("--threads", type=int, default=2, help="for forward and backward; steps have one (2)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out steps by torch.compile")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    for name in args.layers:
        if name not in names:
            parser.error(f"there is no layer {name}; choose from {', '.join(names)}")
    size = Size(args.batch, args.length, args.hidden, args.states)

    host.set_environment()
    processes = multiprocessing.get_context("spawn")  # they read PyTorch anew, in this environment, as a run does
    layers = {}
    for name in args.layers or names:
        print(f"\r{name:20}", end="", file=sys.stderr, flush=True)
        with processes.Pool(1) as pool:
            layers[name] = pool.apply(measure, (name, size, args.rounds, args.threads, args.compile))
    print("\r" + 20 * " ", end="\r", file=sys.stderr)
    show(size, layers)
    if args.out:
        torch.set_num_threads(args.threads)  # which the record tells
        result = {"size": size._asdict(), "rounds": args.rounds, "layers": layers}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        records.write(args.out, result | records.provenance())


if __name__ == "__main__":
    main()
