"""The option --cluster: the workers of a dask scheduler do the work (docs/cluster.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rwkvquant.errors import ConfigError

if TYPE_CHECKING:
    from rwkvquant.pipeline.cluster import Cluster
    from rwkvquant.pipeline.progress import Progress

ClusterOption = Annotated[
    str | None,
    typer.Option(
        help="tcp://HOST:PORT or tls://HOST:PORT of a dask scheduler, whose workers do the work; the result has the same bytes "
        "(docs/cluster.md). Needs the extra cluster."
    ),
]


@contextmanager
def cluster_at(address: str, progress: Progress) -> Iterator[Cluster]:
    """Raises ConfigError without the package, ClusterError for a cluster that cannot be used. `progress` is ended after an error."""
    try:
        from rwkvquant.pipeline.cluster import Cluster
    except ModuleNotFoundError as error:
        progress.end()
        if error.name not in ("distributed", "dask"):
            raise
        raise ConfigError("--cluster needs dask.distributed: pip install 'rwkv-hybridquant[cluster]'") from None
    try:
        cluster = Cluster(address, progress)
    except BaseException:
        progress.end()
        raise
    with cluster:
        yield cluster
