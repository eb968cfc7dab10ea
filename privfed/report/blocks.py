"""What a report is made of: sections of typed blocks. Text is text; no block carries markup.

The template lays blocks out and escapes every string, so that a hostile run name stays a name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from privfed.errors import UsageError
from privfed.report.charts import LineChart
from privfed.report.images import ImageGrid
from privfed.report.scales import format_epsilon, format_number

__all__ = ["Block", "Cell", "Column", "Command", "Facts", "Notice", "Paragraph", "Points", "Section", "Table"]

Cell: TypeAlias = str | float | bool | None
Kind: TypeAlias = Literal["text", "number", "epsilon", "code"]

MAX_ROWS = 600  # of a table in the page; all rows stand in the JSON
EM_DASH = "—"


@dataclass(frozen=True)
class Paragraph:
    """Plain prose."""

    text: str


@dataclass(frozen=True)
class Points:
    """A bulleted list of plain sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Terms with their values, such as the setting of a run."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Command:
    """A command for a shell, or other text that is read letter by letter."""

    text: str


@dataclass(frozen=True)
class Notice:
    """Something that must not be overlooked.

    Attributes:
        kind: "good", "note", "caution" or "danger"; the title says it, colour only repeats it.
        title: what is the case.
        text: what it means for the reader.
    """

    kind: Literal["good", "note", "caution", "danger"]
    title: str
    text: str = ""


@dataclass(frozen=True)
class Column:
    """Head of a column, and how its cells are written.

    Attributes:
        title: of the column.
        kind: "text"; "number": four significant digits; "epsilon": four, rounded up; "code": a digest.
        decimals: of a number, the same in every row, where numbers of one size are to be compared.
    """

    title: str
    kind: Kind = "text"
    decimals: int | None = None

    @property
    def numeric(self) -> bool:
        """Whether cells are set flush right."""
        return self.kind in ("number", "epsilon")

    def show(self, cell: Cell) -> str:
        """Return a cell as text; None is a dash."""
        if cell is None:
            return EM_DASH
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if isinstance(cell, str):
            return cell
        if self.decimals is not None and math.isfinite(cell):
            return f"{cell:,.{self.decimals}f}".replace("-", "−")
        return format_epsilon(float(cell)) if self.kind == "epsilon" else format_number(float(cell))


@dataclass(frozen=True)
class Table:
    """Rows under named columns; the first column names the row.

    Attributes:
        caption: what the table shows.
        columns: heads.
        rows: cells, as many per row as there are columns; text, number, bool, or None for a dash.
        note: below the table: units, how a column was computed.

    Examples:
        >>> table = Table("Held-out quality", ("model", Column("nats", "number")), (("private", -21.40000001),))
        >>> list(table.body())
        [('private', '−21.4')]
    """

    caption: str
    columns: tuple[str | Column, ...]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise UsageError(
                    f"row {index} of table {self.caption!r} has {len(row)} cells, expected {len(self.columns)}"
                )

    @property
    def heads(self) -> tuple[Column, ...]:
        """The columns, those given as text included."""
        return tuple(column if isinstance(column, Column) else Column(column) for column in self.columns)

    @property
    def left_out(self) -> int:
        """Rows in the middle that the page does not show."""
        return max(0, len(self.rows) - MAX_ROWS)

    def body(self) -> list[tuple[str, ...]]:
        """Return the rows that the page shows, as text; see `gap_after` for where rows were left out."""
        shown = self.rows
        if self.left_out:
            half = MAX_ROWS // 2
            shown = [*self.rows[:half], *self.rows[-half:]]
        heads = self.heads
        return [tuple(head.show(cell) for head, cell in zip(heads, row, strict=True)) for row in shown]

    @property
    def gap_after(self) -> int:
        """Number of shown rows before the gap; 0 where nothing is left out."""
        return MAX_ROWS // 2 if self.left_out else 0


Block: TypeAlias = Paragraph | Points | Facts | Command | Notice | Table | LineChart | ImageGrid


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it.

    Attributes:
        title: heading.
        blocks: in order; a plain string is a paragraph.
    """

    title: str
    blocks: tuple[Block | str, ...] = ()

    @property
    def content(self) -> tuple[Block, ...]:
        """The blocks, strings turned into paragraphs."""
        return tuple(Paragraph(block) if isinstance(block, str) else block for block in self.blocks)
