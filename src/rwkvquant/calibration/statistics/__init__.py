"""All sums over the calibration text that quantisers and selection use.

    inputs.py       InputStatistics   second moments H of a product's input
    cross.py        CrossStatistics   what a product should correct of the errors before it
    drift.py        DriftStatistics   how far a product's input has moved from the full-precision model's
    importance.py   Importance        weights of the elements of an element-wise vector
    channels.py     ChannelFit        what a norm should correct of the errors before it
    gradients.py    Sensitivity       from pass 1: inputs, and gradients by outputs

None of them keeps an activation. Their results are plain tensors, and quantisers never import them.
"""

from rwkvquant.calibration.statistics.channels import ChannelFit
from rwkvquant.calibration.statistics.cross import CrossStatistics
from rwkvquant.calibration.statistics.drift import DriftStatistics
from rwkvquant.calibration.statistics.gradients import Sensitivity, limits
from rwkvquant.calibration.statistics.importance import Importance
from rwkvquant.calibration.statistics.inputs import InputStatistics

__all__ = ["ChannelFit", "CrossStatistics", "DriftStatistics", "Importance", "InputStatistics", "Sensitivity", "limits"]
