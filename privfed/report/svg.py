"""A few helpers around `xml.etree`: well-formed SVG in which every text and attribute is escaped by construction."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

__all__ = ["child", "clean", "document", "polyline", "serialise", "shorten", "text_width"]

NAMESPACE = "http://www.w3.org/2000/svg"
# Mean advance of a sans-serif glyph in ems. Only for room: labels are centred or end-anchored, never cut by it.
GLYPH_WIDTH = 0.56

# Characters that no XML 1.0 document may hold, not even escaped (XML 1.0, production 2), lone surrogates among them;
# and those that turn the direction of what follows, by which a name could make a number read backwards.
_FORBIDDEN = re.compile(
    "[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]|[\\u202a-\\u202e\\u2066-\\u2069]"
)


def document(*, identifier: str, width: float, height: float, title: str, description: str, css: str) -> ET.Element:
    """Return an `<svg>` element with an accessible name and description.

    Args:
        identifier: prefix of the ids inside; unique in the page.
        width: of the view box.
        height: of the view box.
        title: accessible name.
        description: what a reader who does not see the picture should know.
        css: class of the element.
    """
    root = ET.Element(
        "svg",
        {
            "xmlns": NAMESPACE,
            "class": css,
            "viewBox": f"0 0 {number(width)} {number(height)}",
            "width": number(width),
            "height": number(height),
            "role": "img",
            "aria-labelledby": f"{identifier}-title {identifier}-desc",
        },
    )
    child(root, "title", clean(title), id=f"{identifier}-title")
    child(root, "desc", clean(description), id=f"{identifier}-desc")
    return root


def child(parent: ET.Element, tag: str, text: str | None = None, /, **attributes: str | float) -> ET.Element:
    """Append an element; `class_` and `stroke_width` become `class` and `stroke-width`, floats get two digits."""
    named = {
        name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else number(value)
        for name, value in attributes.items()
    }
    element = ET.SubElement(parent, tag, {name: clean(value) for name, value in named.items()})
    if text is not None:
        element.text = clean(text)
    return element


def serialise(root: ET.Element) -> str:
    """Return the element as text that is valid both inside HTML and, with its `xmlns`, as a file of its own."""
    return ET.tostring(root, encoding="unicode", short_empty_elements=True)


def polyline(points: list[tuple[float, float]]) -> str:
    """Return path data through `points`, relative after the first: a third shorter than absolute coordinates."""
    data: list[str] = []
    here = (0.0, 0.0)
    for index, (x, y) in enumerate(points):
        x, y = round(x, 1), round(y, 1)
        if index == 0:
            data.append(f"M{number(x)} {number(y)}")
        elif y == here[1]:
            data.append(f"h{number(x - here[0])}")
        elif x == here[0]:
            data.append(f"v{number(y - here[1])}")
        else:
            data.append(f"l{number(x - here[0])} {number(y - here[1])}")
        here = (x, y)
    return "".join(data)


def number(value: float) -> str:
    """Return a coordinate with at most two digits after the point and no trailing zeros."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def clean(text: str) -> str:
    """Return `text` with a replacement character for what XML forbids and for what overrides the writing direction."""
    return _FORBIDDEN.sub("\ufffd", text)


def text_width(text: str, size: float) -> float:
    """Return about how wide `text` is at font size `size`, in the same units."""
    return len(text) * size * GLYPH_WIDTH


def shorten(text: str, room: float, size: float) -> str:
    """Return `text`, cut with an ellipsis where it would be wider than `room`."""
    fitting = max(2, int(room / (size * GLYPH_WIDTH)))
    return text if len(text) <= fitting else text[: fitting - 1].rstrip() + "…"
