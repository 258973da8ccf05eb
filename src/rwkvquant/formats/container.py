"""The packed file: one .safetensors with weights, sizes, tokenizer, table and checksums. docs/format.md is its specification.

reader.py and writer.py are the two halves. header.py, table.py, model.py and states.py have the parts of the header that they share.
"""

from rwkvquant.formats.reader import PackedFile, open_packed, open_text_packed
from rwkvquant.formats.table import TensorEntry
from rwkvquant.formats.writer import ContainerWriter, check_output

__all__ = ["ContainerWriter", "PackedFile", "TensorEntry", "check_output", "open_packed", "open_text_packed"]
