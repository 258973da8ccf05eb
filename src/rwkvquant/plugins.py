"""Other packages' codecs, transforms and methods: the command line, and workers of a cluster, import the modules that they name for it.

    [project.entry-points."rwkvquant.plugins"]
    ternary = "rwkvquant_ternary"

Importing that module registers what it has (docs/extending.md). Only installing a package makes it a plugin: no file that is read, and
no option, ever does. In Python, import the module yourself.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from rwkvquant.errors import RwkvQuantError

GROUP = "rwkvquant.plugins"


def load_plugins() -> None:
    """Raises RwkvQuantError for a plugin that cannot be imported: going on without it would change what a command does."""
    for plugin in entry_points(group=GROUP):
        try:
            plugin.load()
        except Exception as error:
            shown = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise RwkvQuantError(f"the plugin {_name(plugin)} cannot be loaded ({shown}); update or remove that package") from error


def plugins() -> list[str]:
    """The installed ones, each with the version of its package."""
    return sorted(f"{plugin.name} {plugin.dist.version if plugin.dist else ''}".strip() for plugin in entry_points(group=GROUP))


def _name(plugin: EntryPoint) -> str:
    return plugin.name if plugin.dist is None else f"{plugin.name} of the package {plugin.dist.name}"
