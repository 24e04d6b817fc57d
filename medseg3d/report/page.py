"""From a view to one HTML file that opens without a network. Every kind of report is written through here."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from medseg3d.files import whole_or_not_at_all
from medseg3d.report import words

__all__ = ["packed", "render", "write_page"]


def render(template: str, *, payloads: Mapping[str, Any], **view: Any) -> str:
    """Fill a template of ``medseg3d/report/templates``.

    Args:
        template: its file name; it extends ``base.html.j2``.
        payloads: what the page's scripts read, by the element id under which they find it.
        view: what the template shows. All of it is escaped: names of cases and labels may hold anything.
    """
    scripts = {name: packed(content) for name, content in payloads.items()}
    return _environment().get_template(template).render(payloads=scripts, **view)


def write_page(path: Path, html: str) -> Path:
    """Write the page whole or not at all."""
    with whole_or_not_at_all(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def packed(content: Any) -> str:
    """JSON, gzipped, as base64: small, and free of any character that HTML could read as its own.

    The same content gives the same text: the gzip header holds no time.

    Raises:
        ValueError: the content holds NaN or infinity.
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode("ascii")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medseg3d.report"),
        autoescape=True,  # the suffix .j2 would switch it off in select_autoescape
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = _asset
    environment.globals["plotly_js"] = _plotly_js
    environment.filters["number"] = words.number
    environment.filters["interval"] = words.interval
    return environment


def _asset(name: str) -> Markup:
    """A style sheet or script of this package, as it is."""
    text = files("medseg3d.report").joinpath("templates", name).read_text(encoding="utf-8")
    return Markup(text)


def _plotly_js() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())
