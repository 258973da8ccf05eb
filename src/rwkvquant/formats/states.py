"""The `states` metadata: how engines keep the recurrent state in memory. Without it every array of the state is float32.

It is a place for codecs of states that are still to come. This version has none, writes no `states`, and refuses what it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping

from rwkvquant.architectures import Architecture
from rwkvquant.errors import FormatError
from rwkvquant.formats import strict_json
from rwkvquant.formats.strict_json import shown

KEY = "states"
CODECS = ("float32",)  # none of them has parameters


def decode_states(architecture: Architecture, metadata: Mapping[str, str]) -> dict[str, str]:
    """Name of each array of the architecture's state -> its codec.

    Raises FormatError for a name that the state does not have, and for a codec or a parameter that this version does not know.
    """
    codecs = dict.fromkeys((array.name for array in architecture.state), "float32")
    if KEY not in metadata:
        return codecs
    for name, value in strict_json.parse_object(metadata[KEY], KEY).items():
        if name not in codecs:
            raise FormatError(f"the state of {architecture.title} has the arrays {', '.join(codecs) or 'none'}; {KEY} names {shown(name)}")
        what = f"{KEY}[{name}]"
        described = strict_json.typed(value, dict, what)
        codec = strict_json.field(described, "codec", str, what)
        if codec not in CODECS:
            raise FormatError(
                f"this version keeps states as {', '.join(CODECS)}; {what} has the codec {shown(codec)}. Try a newer rwkvquant."
            )
        if len(described) > 1:
            raise FormatError(f"the codec {codec} has no parameters; {what} has {shown(sorted(described.keys() - {'codec'}))}")
        codecs[name] = codec
    return codecs
