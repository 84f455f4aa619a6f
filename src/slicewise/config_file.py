"""A run's configuration as one YAML file with dotted ``key=value`` overrides; saved with the run, it reloads equal.

A partial section keeps the defaults of its siblings (it is merged onto the dumped defaults before validation), and YAML
is read by its 1.2 rules where PyYAML's older ones surprise: ``1e-3`` is a number, ``no`` and ``yes`` are words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from slicewise.config import Config, PhantomConfig, SourceConfig
from slicewise.errors import ConfigError

__all__ = ["load_config", "save_config"]


class _Loader(yaml.SafeLoader):
    """YAML with 1.2's floats and booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Quotes the words that the loader, or a reader of YAML 1.1, would take for something else."""


for _first, _resolvers in _Loader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_first])


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration from YAML and apply dotted overrides.

    Args:
        path: A YAML file whose top level is a mapping of sections.
        overrides: Settings such as ``training.batch_size=8``; the value is read as YAML. ``sources.NAME=null`` and
            ``phantom=null`` remove what they name.

    Raises:
        ConfigError: The file is missing or is no YAML, a key is unknown, or a value is impossible.
    """
    try:
        given = _parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ConfigError(f"Expected a configuration file, found nothing at {path}. Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Expected a configuration in YAML, could not read {path}: {error}.") from None
    if not isinstance(given, Mapping):
        raise ConfigError(f"Expected a YAML mapping of sections in {path}, got {type(given).__name__}.")
    tree = _merge(_defaults(given), given)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"Expected an override KEY=VALUE such as seed=1, got {override!r}.")
        change: Any = _parse(text, override)
        for part in reversed(key.split(".")):
            change = {part: change}
        tree = _merge(tree, change)
    sources = tree.get("sources") or {}
    if not isinstance(sources, Mapping):
        raise ConfigError(f"Expected sources by name, such as sources.lgg.layout=lgg, got sources: {sources!r}.")
    tree["sources"] = {name: source for name, source in sources.items() if source is not None}
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"Configuration {path}: {_explain(error)}") from None


def save_config(config: Config, path: Path) -> None:
    """Write a configuration so that `load_config` gives an equal one."""
    text = yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)
    path.write_text(text, encoding="utf-8")


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"Expected YAML in {where}: {' '.join(str(error).split())}.") from None


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The dumped defaults that a partial configuration is merged onto."""
    defaults: dict[str, Any] = {
        name: field.default.model_dump(mode="json")
        for name, field in Config.model_fields.items()
        if isinstance(field.default, BaseModel)
    }
    if given.get("phantom") is not None:
        defaults["phantom"] = PhantomConfig().model_dump(mode="json")
    return defaults


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError) -> str:
    """One line a problem: where, what was expected, what came."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "the whole file"
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {where!r}; {_known_keys(problem['loc'])}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            got = "" if isinstance(problem["input"], Mapping) or problem["loc"] == () else f", got {problem['input']!r}"
            lines.append(f"{where}: {message}{got}")
    return "; ".join(lines)


def _known_keys(location: tuple[int | str, ...]) -> str:
    named: dict[int | str, Any] = {"sources": SourceConfig, "phantom": PhantomConfig}
    section = named.get(location[0], Config)
    for part in location[:-1] if section is Config else ():
        section = section.model_fields[str(part)].annotation
    return f"known keys here: {', '.join(section.model_fields)}"
