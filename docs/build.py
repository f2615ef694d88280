"""What the documentation needs beside MkDocs: a clone in which examples run, files of the repository, and pictures."""

import csv
import html
import io
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import matplotlib
from latex2mathml.converter import convert
from matplotlib.figure import Figure
from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.modules.setdefault("build", sys.modules[__name__])  # for `from build import show` in examples
ROOT = Path(__file__).parents[1]
INK = "#102030"  # stands for the colour of the text, which is another one on a dark page
BLUE, ORANGE, GREEN, RED = "#2f7ed8", "#e07b00", "#2e9e5b", "#d64550"
_LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)")
_FILE = re.compile(r'^```\w+ title="([\w./-]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_before: dict[str, str | Path] = {}

matplotlib.use("agg")
matplotlib.rcParams |= {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.labelcolor": INK},
    **{"figure.figsize": (7, 2.8), "figure.constrained_layout.use": True, "font.size": 11, "svg.fonttype": "none"},
    "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, RED, "#8e63ce", "#8a8a8a"]),
    "svg.hashsalt": "hippo",
}


def show(figure: Figure, says: str) -> str:
    """Return a figure as SVG in the colours of the page.

    Args:
        figure: Of matplotlib.
        says: What it shows, for those who cannot see it.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()[file.getvalue().index("<svg") :].replace(INK, "currentColor")
    head, rest = svg.split(">", 1)  # as wide as the page
    svg = re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest
    prefix = f"figure{zlib.crc32(says.encode())}-"  # ids are unique on a page
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\1{prefix}", svg)
    label = html.escape(says, quote=True)
    return f'<div class="figure" role="img" aria-label="{label}">{svg}</div>'


def table(name: str, columns: list[str], rows: list[str] | None = None) -> str:
    """Return columns of a committed table, each cell with its 95 % interval and the number of seeds.

    Args:
        name: Of results/tables.
        columns: Their labels.
        rows: Labels; every row that has a run where None.
    """
    with Path(f"results/tables/{name}.csv").open(encoding="utf-8") as file:
        read = {(line["row"], line["column"]): line for line in csv.DictReader(file) if line["reading"] == "best"}
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in rows or dict.fromkeys(row for row, _ in read):
        cells = []
        for line in (read[row, column] for column in columns):
            interval = f" [{float(line['low']):.1f}, {float(line['high']):.1f}]" if line["low"] else ""
            cells.append(f"{float(line['mean']):.1f}{interval} ({line['runs']})" if line["mean"] else "–")
        if set(cells) != {"–"}:
            lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def on_pre_build(config) -> None:
    """Clone the last commit and go there: examples are run as a reader runs them, and change nothing here."""
    clone = Path(tempfile.mkdtemp()) / "hippo"
    subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, clone], check=True)
    _before.update(os.environ, here=Path.cwd(), clone=clone)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ |= {"PYTHONPATH": str(clone / "src"), "OMP_NUM_THREADS": "1"}
    os.environ |= {"TQDM_DISABLE": "1", "WANDB_MODE": "disabled"}
    os.chdir(clone)


def on_post_build(config) -> None:
    """Come back, and remove the clone."""
    os.chdir(_before.pop("here"))
    shutil.rmtree(Path(_before.pop("clone")).parent)
    os.environ |= _before


def on_files(files, config):
    """Publish each file of the repository that a page links to, as text, under files/."""
    for page in list(files.documentation_pages()):
        for link in _LINK.findall(page.content_string):
            path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.src_uri), link))
            if (uri := _published(path)) and (ROOT / path).is_file() and not files.get_file_from_path(uri):
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Lead links to the repository's files to their copies, and write out the files that a page shows."""
    for name, text in _FILE.findall(markdown):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")

    def published(link: re.Match) -> str:
        folder = posixpath.dirname(page.file.src_uri)
        uri = _published(posixpath.normpath(posixpath.join("docs", folder, link[1])))
        return f"]({posixpath.relpath(uri, folder or '.')}" if uri else link[0]

    return _LINK.sub(published, markdown)


def on_page_content(page_html, page, config, files):
    """Turn formulas into MathML, which browsers show by themselves."""
    return _MATH.sub(lambda m: convert(html.unescape(m[2]), display="block" if m[1] == "div" else "inline"), page_html)


def _published(path: str) -> str:
    """Return where a file of the repository is in the site; an empty string for what is a page of it."""
    if path.startswith("docs/"):
        return ""
    picture = path.endswith((".png", ".gif", ".svg"))
    return f"files/{path}" if picture else f"files/{path}.txt"
