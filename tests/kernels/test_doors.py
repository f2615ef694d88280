"""Every operation is entered by its door: nothing outside its folder imports from the inside."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "src" / "hippo" / "kernels"
MODULES = {
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    for path in KERNELS.glob("*/*.py")
    if path.stem != "__init__"
}


def inside(source: str) -> Iterator[str]:
    """Yield the modules inside operations that a source imports, or takes names from."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from MODULES.intersection(names)


def test_what_is_inside_is_found_however_it_is_imported():
    assert len(MODULES) > 20
    for source in (
        "import hippo.kernels.legs.cpu",
        "from hippo.kernels.legs import step, cpu as loops",
        "def f():\n    from hippo.kernels.legs.cpu import advance",
    ):
        assert list(inside(source)) == ["hippo.kernels.legs.cpu"]
    assert not list(inside("from hippo.kernels import legs\nfrom hippo.kernels.legs import sequence"))


def test_operations_are_entered_by_their_doors():
    sources = [path for folder in ("src", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    entered = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources
        for name in inside(path.read_text())
        if KERNELS / name.split(".")[2] not in path.parents  # its own
        and not (name.split(".")[2] == "common" and KERNELS in path.parents)  # what all operations share
    ]
    assert entered == []
