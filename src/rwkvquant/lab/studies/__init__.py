"""Requests that quantise nothing: a study reads a model, and has a table and a figure of its own.

    {study: clusters}                      how well a few clusters fit the weights: Table 1 (clusters.py)
    {study: gaps}                          are the gaps between sorted weights even? Figure 1 (gaps.py)
    {study: activation, tensor: NAME}      how what a tensor is multiplied with is distributed: Figure 4 (activation.py)
    {study: speed}                         speed and memory of a shape, quantised and in 16 bits: Table 4 (speed.py)
    {study: thresholds, dtype: bfloat16}   the share of SQ by fixed thresholds: Figure 5 (thresholds.py)

A new study is a file here, and its name in STUDIES.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from rwkvquant.errors import ConfigError
from rwkvquant.lab.studies.activation import Activation
from rwkvquant.lab.studies.clusters import Clusters
from rwkvquant.lab.studies.gaps import Gaps
from rwkvquant.lab.studies.speed import Speed
from rwkvquant.lab.studies.study import Study
from rwkvquant.lab.studies.thresholds import ThresholdShares

STUDIES: dict[str, type[Study]] = {study.name: study for study in (Clusters, Gaps, Activation, ThresholdShares, Speed)}


def study_named(name: Any) -> type[Study]:
    if not isinstance(name, str) or name not in STUDIES:
        near = difflib.get_close_matches(str(name)[:20], STUDIES, n=1)
        hint = f". Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"study must be one of {', '.join(STUDIES)}; got {str(name)[:40]}{hint}")
    return STUDIES[name]


def study_of(options: Mapping[str, Any]) -> Study:
    """`options`: "study", the options of this study, and "calibration", for those that read a text. Raises ConfigError for others."""
    study = study_named(options["study"])
    known = [field.name for field in dataclasses.fields(study)]  # type: ignore[arg-type]  # each is a dataclass
    own = {name: value for name, value in options.items() if name != "study" and (name != "calibration" or name in known)}
    for name in own:
        if name not in known:
            raise ConfigError(f"the study {study.name} has no option {str(name)[:40]}; it has {', '.join(known) or 'none'}")
    return study(**own)
