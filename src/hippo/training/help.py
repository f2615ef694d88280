"""What `hippo train --help` shows of the configuration: its values, with the comments of the files they come from."""

import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

_LINE = re.compile(r"^( *)([\w.-]+):(?:\s.*?)?(?:\s#\s(.*))?$")
_NARROW, _WIDE = 60, 120  # columns
_LONG = 36  # a line whose comment begins on the next one


def settings(config: DictConfig) -> str:
    """Return a composed configuration as YAML, each key with its comment.

    Args:
        config: Hydra's own node included, which knows what was chosen and where files lie.
    """
    text = OmegaConf.to_yaml(OmegaConf.masked_copy(config, [key for key in map(str, config) if key != "hydra"]))
    folders = [Path(source.path) for source in config.hydra.runtime.config_sources if source.schema == "file"]
    known = _comments(folders, "train", ())
    for group, choice in config.hydra.runtime.choices.items():
        if choice and "/" not in group:
            known |= _comments(folders, f"{group}/{choice}", (group,))
    lines = [(line, known.get(path, "")) for path, line in _paths(text)]
    place = max((len(line) for line, comment in lines if comment and len(line) <= _LONG), default=0) + 2
    shown = []
    for line, comment in lines:
        words = textwrap.wrap(comment, _width() - place - 2, break_long_words=False, break_on_hyphens=False)
        if len(line) > _LONG or not words:
            shown.append(line)
        else:
            shown.append(f"{line:{place}}# {words.pop(0)}")
        shown += [f"{'':{place}}# {word}" for word in words]
    return "\n".join(shown)


def groups() -> str:
    """Return the options of each group, wrapped."""
    loader = GlobalHydra.instance().config_loader()
    lines = []
    for group in loader.list_groups(""):
        if group != "hydra":
            options = f"{group}: {', '.join(loader.get_group_options(group))}"
            lines.append(textwrap.fill(options, _width(), subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines)


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, _NARROW), _WIDE)


def _comments(folders: list[Path], name: str, above: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Return the comments in a file of configuration, and in those that it begins with, by the paths of their keys."""
    path = next((found for folder in folders if (found := folder / f"{name}.yaml").is_file()), None)
    if path is None:
        return {}
    text = path.read_text(encoding="utf-8")
    found: dict[tuple[str, ...], str] = {}
    defaults: Any = (yaml.safe_load(text) or {}).get("defaults", [])
    for base in defaults if above else []:  # of train.yaml they are the groups
        if isinstance(base, str) and base != "_self_":
            found |= _comments(folders, f"{above[0]}/{base}", above)
    for where, line in _paths(text):
        match = _LINE.match(line)
        if match and match[3]:
            found[above + where] = match[3]
    return found


def _paths(text: str) -> list[tuple[tuple[str, ...], str]]:
    """Return the lines of a YAML text, each with the keys that lead to it."""
    lines, keys = [], []
    for line in text.splitlines():
        if match := _LINE.match(line):
            depth = len(match[1])
            keys = [(its, key) for its, key in keys if its < depth] + [(depth, match[2])]
        lines.append((tuple(key for _, key in keys), line))
    return lines
