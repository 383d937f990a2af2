"""Procedural samples: infographics with charts, tables and small print, some of it too small for the first view.

A page is laid out in pixels of its overview and drawn at four times that size. What decides a question is plain text,
or fine print on a strip whose every 4x4 block has the mean of the empty strip. The first view is the exact 4x4 mean, so
it has the same bytes whatever the fine print says.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from pxr_env.media import ImageSource
from pxr_env.synthetic.infographic_page import (
    MONTHS,
    PAGE_WIDTH,
    PALETTES,
    REDUCTION,
    SMALL_PRINT,
    WORDS,
    Key,
    Palette,
    Section,
    Shape,
    Template,
    box_of,
    draw_page,
    lay_out,
    least_height,
)
from pxr_env.synthetic.scenes import SPLITS, Budget, ProceduralSamples, check_range, needs_operation, scene_of
from pxr_env.types import Sample
from pxr_env.views import Size

T = TypeVar("T")
#: Names of what a section shows; every page has different ones, and small print.
KINDS = ("bars", "pie", "table", "line", "facts")
#: What sections may be about; bars and pies show shares.
TEMPLATES = {
    kind: [
        Template(**{"names": ()} | {name: tuple(x) if isinstance(x, list) else x for name, x in row.items()})
        for row in WORDS[kind]
    ]
    for kind in ("shares", "table", "line", "facts")
}
_PRINT = Template(SMALL_PRINT, ("adults surveyed", "month of the survey"), "")
#: Pages are between this many times as tall as wide.
SHAPES = (1.2, 3.2)
_DEFAULT_TOKENS = 180


class Question(NamedTuple):
    """A question about a section, and which pieces of text decide it."""

    text: str
    answers: tuple[str, ...]
    keys: tuple[Key, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Page:
    """A page before it is drawn; `size` is that of the overview, `asked` the number of the section asked about."""

    size: Size
    title: str
    palette: Palette
    sections: tuple[Section, ...]
    asked: int
    question: Question

    @property
    def shapes(self) -> list[Shape]:
        return lay_out(self.size, self.title, self.sections, self.palette)


@dataclass(frozen=True, kw_only=True)
class SyntheticInfographic(ProceduralSamples):
    """The data of `pxr/SyntheticInfographic-v0`: infographics, where some text can only be read after a zoom.

    ## Description
    A counterpart of questions about infographics (InfographicVQA). A tall page has a header, `n_sections` sections
    (bars, a pie, a table, a line, key figures) and small print below. Half of the sections have their texts in fine
    print, on strips that look empty at first sight. A sample is a pure function of the arguments (except
    `num_samples`), the split and the index; the letters are those of Pillow's own font. Train and test have no page
    in common: the last bit of the paper's colour differs.

    ## Observation
    One image of 180 vision tokens by default, such as 252x560 pixels, and a question about a number, a name, the
    largest or the smallest: "What share of respondents chose tea as their favourite drink?". The questions are the
    same for plain text and fine print.

    ## Action
    `zoom_in`. One zoom into the text is enough.

    ## Reward
    ANLS (scorer "anls") against the accepted answers, such as "42%", "42" and "42 percent". A name is
    any of those in its section with equal chance, a month one of nine; the shares of 3 to 5 rows add up to 100, other
    numbers are uniform in the range of their section, between 3 and 9,900.

    ## Difficulty
    `hard_fraction`; `n_sections` (more to search); a larger `max_pixels` makes larger pages.

    ## Certified need
    The mean of every 4x4 block of a strip with fine print is the colour of the empty strip, and the first view is the
    exact 4x4 mean. `needs_operation` is computed for each sample: the first view has the same bytes without the texts
    that decide. What a chart shows without words (which bar is the longest) is visible; which name or number belongs
    to it is not.

    ## Oracle
    `evidence_box` is the box around the texts that decide, small enough to be shown at about full resolution or larger.
    `metadata` holds "title", "section" (the number of the one asked about) and "sections" (each with "kind", "title",
    "names", "columns", "values" by row and column, and "fine").

    Args:
        hard_fraction: chance that the text that decides is fine print; each other section is so with chance 0.5.
        n_sections: sections beside the small print, 1 to 5.
        min_pixels: pixel budget of the environment that shows the samples, see `fit_size`; by default a quarter of
            `max_pixels`, the least size of a zoom.
        max_pixels: the same; by default 180 tokens. The formats of the pages follow from it.
        size_multiple: the same.

    Raises:
        ValueError: an argument is out of range, or no page with that many sections fits into the budget.
    """

    scorer: ClassVar[str] = "anls"
    seed: ClassVar[tuple[int, ...]] = (3,)

    n_sections: int = 3
    min_pixels: int | None = None
    max_pixels: int | None = None
    size_multiple: int = 28

    def _check(self) -> None:
        check_range("n_sections", self.n_sections, 1, len(KINDS))
        _formats(self.budget, self.n_sections)

    @classmethod
    def budget_of(cls, given: Mapping[str, Any]) -> Budget:
        least, most, size_multiple = given.get("min_pixels"), given.get("max_pixels"), given.get("size_multiple", 28)
        most = _DEFAULT_TOKENS * size_multiple**2 if most is None else most
        return Budget(min_pixels=most // 4 if least is None else least, max_pixels=most, size_multiple=size_multiple)

    def _sample(self, index: int) -> Sample:
        page = scene_of(self, index)
        return Sample(
            sample_id=f"{self.split}-{index}",
            sources=(self._source(index),),
            needs_operation=needs_operation(self, index),
            question=page.question.text,
            answers=page.question.answers,
            evidence_box=box_of(page.shapes, page.question.keys),
            category="hard" if page.sections[page.asked].fine else "easy",
            metadata={
                "title": page.title,
                "section": page.asked,
                "sections": [section.as_dict() for section in page.sections],
            },
        )

    def _source(self, index: int) -> ImageSource:
        width, height = scene_of(self, index).size
        return self._image(index, self.draw, (width * REDUCTION, height * REDUCTION))

    def draw(self, index: int) -> Image.Image:
        """Draws a page, RGB."""
        page = scene_of(self, index)
        return draw_page(page.size, page.shapes)

    def _is_hidden(self, index: int) -> bool:
        page, image = scene_of(self, index), self._source(index).image
        without = draw_page(page.size, page.shapes, without=page.question.keys)
        return np.array_equal(self.budget.show(image), self.budget.show(without))

    def _scene(self, index: int) -> _Page:
        rng = self._rng(index)
        formats = _formats(self.budget, self.n_sections)
        size = _one_of(rng, formats)
        title, palette = _one_of(rng, WORDS["page_titles"]), _one_of(rng, PALETTES)
        # The paper of one split has an even blue, that of the other an odd one: no page can be in both.
        red, green, blue = palette.paper
        palette = replace(palette, paper=(red, green, blue // 2 * 2 + SPLITS.index(self.split)))
        sections = _draw_sections(rng, _pick(rng, KINDS, self.n_sections))
        asked = int(rng.integers(len(sections)))
        sections[asked] = replace(sections[asked], fine=bool(rng.random() < self.hard_fraction))
        question = _ask(rng, asked, sections[asked])
        return _Page(size=size, title=title, palette=palette, sections=tuple(sections), asked=asked, question=question)


@functools.lru_cache(maxsize=16)
def _formats(budget: Budget, n_sections: int) -> tuple[Size, ...]:
    """The sizes of overviews in pixels that are exact means of their sources and have room for the sections."""
    least = least_height(n_sections)
    formats = [
        (width, height)
        for width, height in budget.exact_overviews(REDUCTION)
        if width >= PAGE_WIDTH and height >= least and SHAPES[0] <= height / width <= SHAPES[1]
    ]
    if not formats:
        raise ValueError(
            f"got max_pixels={budget.max_pixels} and size_multiple={budget.size_multiple} with n_sections={n_sections}"
            f", expected room for a page of at least {PAGE_WIDTH}x{least} pixels, {SHAPES[0]} to {SHAPES[1]} times as "
            "tall as wide. Raise max_pixels or lower n_sections."
        )
    return tuple(formats)


def _draw_sections(rng: np.random.Generator, kinds: Sequence[str]) -> list[Section]:
    """A section of each kind and the small print, each fine or not with equal chance."""
    shares = list(_pick(rng, TEMPLATES["shares"], len(TEMPLATES["shares"])))
    sections = []
    for kind in kinds:
        fine = bool(rng.random() < 0.5)
        if kind in ("bars", "pie"):
            template = shares.pop()
            n = int(rng.integers(3, 5 + (kind == "bars")))
            names, values = _pick(rng, template.names, n), _shares(rng, n)
        elif kind == "table":
            template = _one_of(rng, TEMPLATES["table"])
            names = _pick(rng, template.names, int(rng.integers(3, 5)))
            columns = _pick(rng, template.columns, 2)
            by_column = [_distinct(rng, 3, 199, len(names)) for _ in columns]
            sections.append(Section(kind, template, names, columns, tuple(zip(*by_column, strict=True)), fine))
            continue
        elif kind == "line":
            template = _one_of(rng, TEMPLATES["line"])
            first, n = int(rng.integers(1990, 2019)), int(rng.integers(4, 6))
            names, values = tuple(str(first + year) for year in range(n)), _distinct(rng, 12, 980, n)
        else:
            template = _one_of(rng, TEMPLATES["facts"])
            names, values = _pick(rng, template.names, 3), _distinct(rng, 110, 9900, 3)
        rows = tuple((value,) for value in values)
        sections.append(Section(kind, template, names, ("",), rows, fine))
    month, adults = int(rng.integers(len(MONTHS))), int(rng.integers(310, 9900))
    fine = bool(rng.random() < 0.5)
    sections.append(Section(SMALL_PRINT, _PRINT, _PRINT.names, ("",), ((adults,), (month,)), fine))
    return sections


def _ask(rng: np.random.Generator, number: int, section: Section) -> Question:
    """A question about section `number` of a page: a value, or the largest or smallest of them."""
    if section.kind == SMALL_PRINT:
        return _ask_small_print(rng, number, section)
    template, column = section.template, int(rng.integers(len(section.columns)))
    ranked = sorted(range(len(section.names)), key=lambda row: section.values[row][column])
    wording = [template.of_value, template.of_most, template.of_least][int(rng.choice(3, p=(0.5, 0.25, 0.25)))]
    if wording is None or wording == template.of_value:
        row = int(rng.integers(len(section.names)))
        name = section.names[row].lower() if section.kind in ("bars", "pie") else section.names[row]
        text = template.of_value.format(name=name, column=section.columns[column])
        return Question(text, _number_answers(section, row, column), _keys_of_value(number, section, row, column))
    row = ranked[-1] if wording == template.of_most else ranked[0]
    keys = (
        tuple((number, other, str(column)) for other in range(len(section.names)))
        if section.kind == "table"
        # The chart shows which one it is, and its name decides.
        else ((number, row, "name"),)
    )
    return Question(wording.format(column=section.columns[column]), (section.names[row],), keys)


def _ask_small_print(rng: np.random.Generator, number: int, section: Section) -> Question:
    keys = ((number, 0, "value"),)
    if rng.random() < 0.5:
        return Question("How many adults took part in the survey?", _number_answers(section, 0), keys)
    return Question("In which month was the survey held?", (MONTHS[section.values[1][0]],), keys)


def _number_answers(section: Section, row: int, column: int = 0) -> tuple[str, ...]:
    """The accepted ways to write a number, the one on the page first."""
    value = section.values[row][column]
    forms = [section.text(row, column), str(value)]
    if section.kind in ("bars", "pie"):
        forms += [f"{value} %", f"{value} percent"]
    return tuple(dict.fromkeys(forms))


def _keys_of_value(number: int, section: Section, row: int, column: int) -> tuple[Key, ...]:
    if section.kind == "table":
        return ((number, row, str(column)),)
    value = (number, row, "value")
    return (value,) if section.kind == "facts" else ((number, row, "name"), value)


def _one_of(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _pick(rng: np.random.Generator, options: Sequence[T], n: int) -> tuple[T, ...]:
    return tuple(options[number] for number in rng.permutation(len(options))[:n].tolist())


def _distinct(rng: np.random.Generator, low: int, high: int, n: int) -> list[int]:
    return rng.choice(np.arange(low, high), size=n, replace=False).tolist()


def _shares(rng: np.random.Generator, n: int) -> list[int]:
    """n different percentages of at least 5 that add up to 100."""
    while True:
        cuts = np.sort(rng.integers(0, 101 - 5 * n, n - 1))
        shares: list[int] = (np.diff(cuts, prepend=0, append=100 - 5 * n) + 5).tolist()
        if len(set(shares)) == n:
            return shares
