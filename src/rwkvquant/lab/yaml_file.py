"""A YAML file as plain Python data, by PyYAML's safe loader. The only file that imports it.

Two things of YAML are refused, because a specification has no use for them: aliases, with which a short text becomes a value of any
size, and a key that is there twice, of which one would be lost without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwkvquant.errors import ConfigError

LARGEST = 1 << 20  # bytes


def read_yaml(path: Path) -> Any:
    """Raises ConfigError for a file that is missing, too large or not YAML, and where PyYAML is not installed."""
    try:
        import yaml
    except ImportError:
        raise ConfigError("the laboratory reads YAML with PyYAML; install it: pip install 'rwkv-hybridquant[lab]'") from None

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ConfigError(f"{path}: aliases (*name) are not read; write the value again")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if isinstance(key, str) and keys.count(key) > 1:
                    raise ConfigError(f"{path}: {key[:80]!r} is there twice in one place; give each name once")
            return super().construct_mapping(node, deep)

    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: a specification has at most {LARGEST >> 20} MiB; this file has {path.stat().st_size} bytes")
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigError(f"{path}: {why}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not a specification: it is nested too deeply") from None
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
        TypeError,
    ) as error:  # bytes that are no text, numbers of any length, unhashable keys
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0][:120]
        raise ConfigError(f"{path} is not valid YAML{where}: {problem}") from None
