"""A figure as a part of a page: its names made its own, what nobody needs taken out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_REFERENCE = re.compile(r"url\(#([^)]*)\)")
_DROPPED = frozenset({f"{{{_SVG}}}metadata", f"{{{_SVG}}}title", f"{{{_SVG}}}desc"})


def inline(svg: bytes, prefix: str, title: str, description: str) -> str:
    """Return an SVG element for a page with others: ids begin with `prefix`, the background is the page's own.

    Args:
        svg: a file that matplotlib wrote.
        prefix: unique on the page.
        title: what a screen reader says first.
        description: and then.
    """
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(svg)
    for child in [child for child in root if child.tag in _DROPPED]:
        root.remove(child)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{prefix}-{value}")
            elif name == f"{{{_XLINK}}}href" and value.startswith("#"):
                element.set(name, f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                element.set(name, _REFERENCE.sub(rf"url(#{prefix}-\1)", value))
    _without_background(root)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        said = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{prefix}-{tag}"})
        said.text = "".join(char if char.isprintable() else " " for char in text)
        root.insert(place, said)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-desc")
    return ET.tostring(root, encoding="unicode")


def _without_background(root: ET.Element) -> None:
    """Take the white paper away: the first patch of a figure is it."""
    for group in root.iter(f"{{{_SVG}}}g"):
        if group.get("id", "").endswith("-patch_1"):
            for path in group:
                path.set("style", "fill: none")
            return
