"""Tests run side by side, one process a core: torch must not start a team of threads in each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start

import torch

from rwkvquant import _native
from rwkvquant.bench import roofline

if TYPE_CHECKING:
    from tests.pipeline.clusters import LocalCluster

torch.set_num_threads(1)
roofline.BYTES = 1 << 24  # 1 GiB takes seconds to fill; how fast memory is, no test asks


@pytest.fixture(params=_native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every body of the native module that this CPU can run, in turn."""
    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster of two workers. No test harms them."""
    from tests.pipeline.clusters import LocalCluster  # imports dask, which few tests need

    with LocalCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        for _ in range(2):
            cluster.add_worker()
        yield cluster
