"""Who the views stand for, in words."""

from __future__ import annotations

import re

from privfed.report.data import View

__all__ = ["described", "view_name"]

NAMES = {
    "released": "readers of the releases",
    "server": "the server",
    "client": "a fellow client",
    "unmasked": "one vector without its mask",
}


def view_name(view: str) -> str:
    """Return who a view stands for, in words.

    Examples:
        >>> view_name("colluders(3)"), view_name("client")
        ('the server with 3 clients', 'a fellow client')
    """
    if colluders := re.fullmatch(r"colluders\((\d+)\)", view):
        return f"the server with {colluders[1]} client{'' if colluders[1] == '1' else 's'}"
    return NAMES.get(view, view)


def described(view: View) -> str:
    """Return who a view is, the number of colluders filled in."""
    if colluders := re.fullmatch(r"colluders\((\d+)\)", view.view):
        return view.description.replace(" t clients", f" {colluders[1]} client{'' if colluders[1] == '1' else 's'}")
    return view.description
