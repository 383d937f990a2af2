"""Procedural samples: infographics with charts, tables and small print, some of it too small for the first view.

A page is laid out in pixels of its overview and drawn at four times that size. What decides a question is plain text,
or fine print on a strip whose every 4x4 block has the mean of the empty strip. The first view is the exact 4x4 mean, so
it has the same bytes whatever the fine print says.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from PIL import Image

from pxr_env.synthetic.infographic_content import KINDS, PAGE_TITLES, Question, Section, ask, draw_sections
from pxr_env.synthetic.infographic_page import (
    PAGE_WIDTH,
    PALETTES,
    REDUCTION,
    Palette,
    Shape,
    box_of,
    draw_page,
    lay_out,
    least_height,
)
from pxr_env.synthetic.scenes import SPLITS, Budget, ProceduralSamples, check_range, image_sample
from pxr_env.types import Sample
from pxr_env.views import Size

#: Pages are between this many times as tall as wide.
SHAPES = (1.2, 3.2)
_DEFAULT_TOKENS = 180


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

    @property
    def budget(self) -> Budget:
        return _budget(self.min_pixels, self.max_pixels, self.size_multiple)

    @classmethod
    def environment_defaults(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the environment's arguments that suit samples made with `given`."""
        return _budget(given.get("min_pixels"), given.get("max_pixels"), given.get("size_multiple", 28)).defaults()

    def _sample(self, index: int) -> Sample:
        page = _page(self, index)
        return image_sample(
            self,
            index,
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

    def size(self, index: int) -> Size:
        """Width and height of an image in pixels."""
        width, height = _page(self, index).size
        return width * REDUCTION, height * REDUCTION

    def draw(self, index: int) -> Image.Image:
        """Draws a page, RGB."""
        page = _page(self, index)
        return draw_page(page.size, page.shapes)

    def without(self, index: int, image: Image.Image) -> Image.Image:
        """The page without the texts that decide."""
        page = _page(self, index)
        return draw_page(page.size, page.shapes, without=page.question.keys)


@functools.lru_cache(maxsize=64)
def _page(task: SyntheticInfographic, index: int) -> _Page:
    rng = task._rng(index)
    formats = _formats(task.budget, task.n_sections)
    size = formats[int(rng.integers(len(formats)))]
    title = PAGE_TITLES[int(rng.integers(len(PAGE_TITLES)))]
    palette = _of_split(PALETTES[int(rng.integers(len(PALETTES)))], task.split)
    kinds = [KINDS[int(number)] for number in rng.permutation(len(KINDS))[: task.n_sections]]
    sections = draw_sections(rng, kinds)
    asked = int(rng.integers(len(sections)))
    sections[asked] = replace(sections[asked], fine=bool(rng.random() < task.hard_fraction))
    question = ask(rng, asked, sections[asked])
    return _Page(size=size, title=title, palette=palette, sections=tuple(sections), asked=asked, question=question)


def _of_split(palette: Palette, split: str) -> Palette:
    """The paper of one split has an even blue, that of the other an odd one: no page can be in both."""
    red, green, blue = palette.paper
    return replace(palette, paper=(red, green, blue // 2 * 2 + SPLITS.index(split)))


def _budget(min_pixels: int | None, max_pixels: int | None, size_multiple: int) -> Budget:
    most = _DEFAULT_TOKENS * size_multiple**2 if max_pixels is None else max_pixels
    return Budget(
        min_pixels=most // 4 if min_pixels is None else min_pixels, max_pixels=most, size_multiple=size_multiple
    )


@functools.lru_cache(maxsize=16)
def _formats(budget: Budget, n_sections: int) -> tuple[Size, ...]:
    """The sizes of overviews in pixels that are exact means of their sources and have room for the sections."""
    multiple, height = budget.size_multiple, least_height(n_sections)
    exact = [(columns * multiple, rows * multiple) for columns, rows in budget.exact_overviews(REDUCTION)]
    formats = [
        size
        for size in exact
        if size[0] >= PAGE_WIDTH and size[1] >= height and SHAPES[0] <= size[1] / size[0] <= SHAPES[1]
    ]
    if not formats:
        raise ValueError(
            f"got max_pixels={budget.max_pixels} and size_multiple={multiple} with n_sections={n_sections}, expected "
            f"room for a page of at least {PAGE_WIDTH}x{height} pixels, {SHAPES[0]} to {SHAPES[1]} times as tall as "
            "wide. Raise max_pixels or lower n_sections."
        )
    return tuple(formats)
