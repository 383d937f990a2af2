"""Writes one self-contained HTML file about an evaluation run or a quick start."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eval.records import RunDirectory
from eval.run_page import run_context
from eval.tables import label
from eval.training_page import training_context


def write_report(directory: Path, out: Path, *, n_episodes: int = 24) -> None:
    """Write the report of `directory` to the file `out`.

    Args:
        directory: an evaluation run (`python -m eval run`), or a quick start (which has a `summary.json`).
        out: the HTML file; it needs nothing else, neither other files nor the network.
        n_episodes: how many episodes (for a quick start: samples) are shown with their pictures.

    Raises:
        FileNotFoundError: `directory` is neither of the two, or its run is not finished.
        eval.replay.ReplayError: the environment no longer answers as it did when the episodes were made.
    """
    run = RunDirectory(directory)
    if (directory / "summary.json").exists():
        page = render("training.html.jinja", training_context(directory, n_episodes=n_episodes))
    elif run.manifest_file.exists():
        page = render("run.html.jinja", run_context(run, n_episodes=n_episodes))
    else:
        raise FileNotFoundError(
            f'"{directory}" holds neither a manifest.json nor a summary.json. Expected a directory written by '
            "`python -m eval run` or by the quick start; check the path."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    # Models write anything, even halves of surrogate pairs, which no encoding takes.
    out.write_text(page, encoding="utf-8", errors="replace")


def render(template: str, context: dict[str, Any]) -> str:
    """Fill one of `eval/templates`; everything from `context` is escaped."""
    environment = Environment(
        loader=PackageLoader("eval"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["label"] = label
    environment.filters["signed"] = signed
    script = _template_file("report.js")
    # The page may run this one script and load nothing at all, whatever a model wrote into it.
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    shared = {"style": Markup(_template_file("report.css")), "script": Markup(script), "policy": policy}
    return environment.get_template(template).render(context | shared)


def signed(value: float) -> str:
    """`value` with three decimals, a sign, and a minus sign as wide as a plus sign."""
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _template_file(name: str) -> str:
    return resources.files("eval").joinpath("templates", name).read_text(encoding="utf-8")
