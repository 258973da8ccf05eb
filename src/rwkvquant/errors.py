"""Every error a user can cause. The command line prints the message as one sentence and exits with 2.

A message gives the rule, what came instead, the tensor or file it came from, and what to try:

    [gemv_uniform] group_size must be a multiple of the tile width; got 48 and 32 (blocks.3.att.key.weight). Try group_size=64.
"""


class RwkvQuantError(Exception):
    """Base of all errors that the user can correct."""


class CheckpointError(RwkvQuantError):
    """A checkpoint that cannot be read: truncated, altered, hostile, of an unsupported architecture, or not a checkpoint."""


class FormatError(RwkvQuantError):
    """A packed file that breaks a rule of docs/format.md."""


class ConfigError(RwkvQuantError):
    """An option that is misspelt, out of range, or impossible (for example fewer bits than the smallest candidates need)."""


class TokenizerError(RwkvQuantError):
    """A file that is not a valid vocabulary, or a token outside the vocabulary."""


class CalibrationError(RwkvQuantError):
    """Calibration or evaluation text that is missing, empty or too short."""


class ImageError(RwkvQuantError):
    """An image, or a set of images, that is missing, damaged, or does not fit the model or its labels."""


class ClusterError(RwkvQuantError):
    """A cluster that cannot be reached, a worker that would give other bytes, or work that no worker is left for."""


class StoppedError(RwkvQuantError):
    """Not a mistake: a job stopped because it was asked to. It can be continued. The command line exits with 75."""
