"""All that calibration adds up, token by token: what quantisers and choosers get of a text.

    inputs.py       InputStatistics   second moments H of a product's input
    cross.py        CrossStatistics   what errors before a product have left for it to make up for
    importance.py   Importance        how much each element of an element-wise vector matters
    gradients.py    Sensitivity       of pass 1: inputs, and gradients by outputs

None of them keeps an activation, and each gives plain tensors. Quantisers never import them.
"""

from rwkvquant.calibration.statistics.cross import CrossStatistics
from rwkvquant.calibration.statistics.gradients import Sensitivity
from rwkvquant.calibration.statistics.importance import Importance
from rwkvquant.calibration.statistics.inputs import InputStatistics

__all__ = ["CrossStatistics", "Importance", "InputStatistics", "Sensitivity"]
