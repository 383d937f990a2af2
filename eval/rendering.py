"""Fills the templates of `eval/templates`; everything that is put into them is escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .cards import SOURCE_SIDE, EpisodeCard, shorten
from .tables import label


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill one template."""
    return _environment().get_template(template).render(context)


def render_episode(card: EpisodeCard) -> str:
    """An episode as it stands in a page."""
    return str(_macros().episode(card))


def write_page(path: Path, template: str, context: Mapping[str, Any]) -> None:
    """Fill one template and write it to a file piece by piece; the file is whole or not there."""
    unfinished = path.with_suffix(path.suffix + ".tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Models write anything, even halves of surrogate pairs, which no encoding takes.
    with unfinished.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(_environment().get_template(template).generate(context))
    unfinished.replace(path)


def policy(script: str) -> str:
    """A Content-Security-Policy: the page may run this one script and load nothing, whatever a model wrote into it."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


@functools.cache
def template_file(name: str) -> str:
    """The text of a file beside the templates."""
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def signed(value: float) -> str:
    """`value` with three decimals, a sign, and a minus sign as wide as a plus sign."""
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def file_size(n_bytes: float) -> str:
    """Bytes as people read them: "312 kB", "4.1 MB"."""
    if n_bytes < 999_500:
        return f"{n_bytes / 1000:.0f} kB"
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes < 99.95e6 else f"{n_bytes / 1e6:.0f} MB"


@functools.cache
def _macros() -> Any:
    return _environment().get_template("macros.html.jinja").module


@functools.cache
def _environment() -> Environment:
    loader = PackageLoader(__package__)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "label": label,
        "source_side": SOURCE_SIDE,
        "policy": policy,
        "file_text": lambda name: Markup(template_file(name)),
    }
    environment.filters |= {"signed": signed, "file_size": file_size, "shorten": shorten}
    return environment
