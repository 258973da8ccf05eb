"""What a study is. The numbers of a line are the columns of its table, the fields of its CSV, and what a claim may be about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rwkvquant.lab.rows import Interval, TableRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rwkvquant.lab.kinds import Workplace
    from rwkvquant.lab.spec import LabModel


@dataclass(frozen=True)
class Value:
    """A number with an interval."""

    value: float
    interval: Interval


Entry = Value | float | int | str | None


@dataclass(frozen=True)
class Line:
    """A line of a table. `numbers`: by the names of their columns; None where there is none."""

    label: str
    numbers: Mapping[str, Entry]


class Study(ABC):
    """A frozen dataclass whose fields are its options. Done cells are read without torch, so only `results` may import it.

    `about`: a sentence below the table. `of_shapes`: its models are released shapes, not checkpoints.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    of_shapes: ClassVar[bool] = False

    @abstractmethod
    def question(self, model: LabModel) -> dict[str, Any]:
        """All that the results depend on, without paths, as plain JSON. Raises for a model that cannot be read."""

    @abstractmethod
    def results(self, model: LabModel, place: Workplace) -> dict[str, Any]:
        """As plain JSON."""

    @staticmethod
    @abstractmethod
    def lines(rows: Sequence[TableRow], reference: str | None) -> list[Line]:
        """Of cells that are done. `reference`: the model that others are compared with."""

    @staticmethod
    @abstractmethod
    def draw(rows: Sequence[TableRow], reference: str | None) -> Figure:
        """Of cells that are done. Needs matplotlib."""


def label_of(row: TableRow, rows: Sequence[TableRow]) -> str:
    """The model; with the request where there are several."""
    return row.model if len({each.label for each in rows}) == 1 else f"{row.model}, {row.label}"


def other_of(row: TableRow, rows: Sequence[TableRow], reference: str | None) -> TableRow | None:
    """The cell of the same request and the model `reference`; None for that model itself."""
    same = (each for each in rows if each.model == reference != row.model and each.label == row.label)
    return next(same, None)
