"""Matrices stored by columns, with one table for many columns: `kmeans` rounds every weight by itself, `gptvq` feeds errors back.

methods.py    both, for the codecs columnwise and sections      walk.py      columns in turn, with error feedback
scales.py     the first scales of rows and columns              tables.py    k-means tables for all columns of one width
widths.py     how many bits the codes of each column get        update.py    after the walk: scales and codes to less loss
state.py      codes, tables and scales while they are chosen    columns.py   blocks of columns in the native module
"""

from rwkvquant.codecs import ColumnwiseConfig, SectionsConfig
from rwkvquant.quantizers.registry import register

_METHODS = "rwkvquant.quantizers.columnwise.methods:"

for _name, _config in (("columnwise", ColumnwiseConfig), ("sections", SectionsConfig)):
    register("kmeans", _config, f"{_METHODS}{_name}_kmeans")
    register("gptvq", _config, f"{_METHODS}{_name}_gptvq", feedback=True, plain="kmeans")
