"""What a procedural infographic says: sections with names and numbers, small print, and one question about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

#: Names of what a section shows; every page has different ones, and small print.
KINDS = ("bars", "pie", "table", "line", "facts")
SMALL_PRINT = "small print"
#: A piece of text on a page: number of its section, row, column ("name" or "value", or the number of a table's column).
Key = tuple[int, int, str]


class Template(NamedTuple):
    """What a section may be about.

    Args:
        title: its heading.
        names: its rows are called after some of these.
        of_value: question about a number, with {name} and, in tables, {column}.
        of_most, of_least: questions about the row with the largest and the smallest number, if anybody would ask.
        columns: what a table counts.
    """

    title: str
    names: tuple[str, ...]
    of_value: str
    of_most: str | None = None
    of_least: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a page.

    Args:
        kind: one of `KINDS`, or `SMALL_PRINT`.
        template: what it is about.
        names: names of its rows.
        columns: names of its columns of numbers; one without a name outside of tables.
        values: the numbers, by row and column.
        fine: whether what decides a question about it is fine print that the first view does not show.
    """

    kind: str
    template: Template
    names: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    fine: bool

    def as_dict(self) -> dict[str, Any]:
        """Returns the section as a dict of plain values."""
        return {"title": self.template.title} | {
            name: getattr(self, name) for name in self.__slots__ if name != "template"
        }

    def text(self, row: int, column: int = 0) -> str:
        """Returns a number as it is written on the page."""
        return format_number(self.kind, self.values[row][column])


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about a section, and which pieces of text decide it."""

    text: str
    answers: tuple[str, ...]
    keys: tuple[Key, ...]


PAGE_TITLES = (
    "City life at a glance",
    "How we live today",
    "Our year in numbers",
    "The town report",
    "A look at daily life",
    "People and places",
    "What the survey says",
    "The region in figures",
)
MONTHS = ("January", "March", "April", "May", "June", "July", "August", "October", "November")
ADULTS = "adults surveyed"
MONTH = "month of the survey"

_SHARES = (
    Template(
        "Favourite drinks",
        ("Tea", "Coffee", "Juice", "Water", "Milk", "Cocoa", "Lemonade"),
        "What share of respondents chose {name} as their favourite drink?",
        "Which drink was chosen most often?",
        "Which drink was chosen least often?",
    ),
    Template(
        "Ways to work",
        ("Bus", "Train", "Bicycle", "Car", "Tram", "Ferry", "Scooter"),
        "What share of people go to work by {name}?",
        "What is the most common way to work?",
        "What is the least common way to work?",
    ),
    Template(
        "Household budget",
        ("Rent", "Food", "Travel", "Clothes", "Energy", "Leisure", "Savings"),
        "What share of the household budget goes to {name}?",
        "What takes the largest share of the household budget?",
        "What takes the smallest share of the household budget?",
    ),
    Template(
        "Electricity mix",
        ("Wind", "Solar", "Hydro", "Gas", "Coal", "Nuclear", "Biomass"),
        "What share of the electricity comes from {name}?",
        "Which source supplies most of the electricity?",
        "Which source supplies the least electricity?",
    ),
    Template(
        "Pets at home",
        ("Cats", "Dogs", "Fish", "Birds", "Rabbits", "Hamsters", "Turtles"),
        "What share of the pets are {name}?",
        "Which pets are the most common?",
        "Which pets are the least common?",
    ),
    Template(
        "Weekend plans",
        ("Sports", "Reading", "Cooking", "Cinema", "Gardening", "Museums", "Hiking"),
        "What share of people plan {name} for the weekend?",
        "Which weekend plan is the most popular?",
        "Which weekend plan is the least popular?",
    ),
    Template(
        "Holiday choices",
        ("Mountains", "Seaside", "Cities", "Lakes", "Islands", "Forests", "Deserts"),
        "What share of travellers choose {name} for their holidays?",
        "Which holiday choice is the most popular?",
        "Which holiday choice is the least popular?",
    ),
)
_TABLES = (
    Template(
        "Cities compared",
        (
            *("Porto", "Oslo", "Turin", "Lyon", "Ghent", "Graz"),
            *("Basel", "Bilbao", "Malmo", "Tartu", "Split", "Delft"),
        ),
        "How many {column} does {name} have?",
        "Which city has the most {column}?",
        "Which city has the fewest {column}?",
        ("museums", "parks", "bridges", "libraries", "theatres", "markets", "schools"),
    ),
    Template(
        "League table",
        ("Lions", "Eagles", "Wolves", "Sharks", "Falcons", "Tigers", "Bears", "Otters", "Ravens", "Foxes"),
        "How many {column} do the {name} have?",
        "Which team has the most {column}?",
        "Which team has the fewest {column}?",
        ("wins", "goals", "points", "fans", "players"),
    ),
)
_LINES = (
    Template(
        "Museum visitors, thousands",
        (),
        "How many thousand people visited the museum in {name}?",
        "In which year did most people visit the museum?",
        "In which year did the fewest people visit the museum?",
    ),
    *(
        Template(
            title,
            (),
            f"How many {things} were {done} in {{name}}?",
            f"In which year were most {things} {done}?",
            f"In which year were the fewest {things} {done}?",
        )
        for title, things, done in (
            ("Trees planted", "trees", "planted"),
            ("Bicycles sold", "bicycles", "sold"),
            ("Solar roofs built", "solar roofs", "built"),
        )
    ),
)
_FACTS = (
    Template(
        "Key figures",
        ("volunteers", "concerts", "benches", "bus stops", "gardens", "languages", "fountains", "bakeries"),
        "How many {name} are there according to the key figures?",
    ),
)
_PRINT = Template(SMALL_PRINT, (ADULTS, MONTH), "")


def draw_sections(rng: np.random.Generator, kinds: list[str]) -> list[Section]:
    """Draws a section of each kind and the small print, each fine or not with equal chance."""
    shares = [_SHARES[int(number)] for number in rng.permutation(len(_SHARES))]
    sections = []
    for kind in kinds:
        fine = bool(rng.random() < 0.5)
        if kind in ("bars", "pie"):
            template = shares.pop()
            n = int(rng.integers(3, 5 + (kind == "bars")))
            names, values = _pick(rng, template.names, n), _shares(rng, n)
        elif kind == "table":
            template = _TABLES[int(rng.integers(len(_TABLES)))]
            names = _pick(rng, template.names, int(rng.integers(3, 5)))
            columns = _pick(rng, template.columns, 2)
            by_column = [_distinct(rng, 3, 199, len(names)) for _ in columns]
            sections.append(Section(kind, template, names, columns, tuple(zip(*by_column, strict=True)), fine))
            continue
        elif kind == "line":
            template = _LINES[int(rng.integers(len(_LINES)))]
            first, n = int(rng.integers(1990, 2019)), int(rng.integers(4, 6))
            names, values = tuple(str(first + year) for year in range(n)), _distinct(rng, 12, 980, n)
        else:
            template = _FACTS[int(rng.integers(len(_FACTS)))]
            names, values = _pick(rng, template.names, 3), _distinct(rng, 110, 9900, 3)
        rows = tuple((value,) for value in values)
        sections.append(Section(kind, template, names, ("",), rows, fine))
    month, adults = int(rng.integers(len(MONTHS))), int(rng.integers(310, 9900))
    fine = bool(rng.random() < 0.5)
    sections.append(Section(SMALL_PRINT, _PRINT, _PRINT.names, ("",), ((adults,), (month,)), fine))
    return sections


def ask(rng: np.random.Generator, number: int, section: Section) -> Question:
    """Draws a question about section `number` of a page: a value, or the largest or smallest of them."""
    if section.kind == SMALL_PRINT:
        return _ask_small_print(rng, number, section)
    template, column = section.template, int(rng.integers(len(section.columns)))
    ranked = sorted(range(len(section.names)), key=lambda row: section.values[row][column])
    wording = [template.of_value, template.of_most, template.of_least][int(rng.choice(3, p=(0.5, 0.25, 0.25)))]
    if wording is None or wording == template.of_value:
        row = int(rng.integers(len(section.names)))
        text = template.of_value.format(name=_in_a_sentence(section, row), column=section.columns[column])
        answers = number_answers(section.kind, section.values[row][column])
        return Question(text=text, answers=answers, keys=_keys_of_value(number, section, row, column))
    row = ranked[-1] if wording == template.of_most else ranked[0]
    keys = (
        tuple((number, other, str(column)) for other in range(len(section.names)))
        if section.kind == "table"
        # The chart shows which one it is, and its name decides.
        else ((number, row, "name"),)
    )
    return Question(text=wording.format(column=section.columns[column]), answers=(section.names[row],), keys=keys)


def format_number(kind: str, value: int) -> str:
    """Returns a number as sections of that kind write it."""
    return f"{value}%" if kind in ("bars", "pie") else f"{value:,}"


def number_answers(kind: str, value: int) -> tuple[str, ...]:
    """Returns the accepted ways to write a number, the one on the page first."""
    forms = [format_number(kind, value), str(value)]
    if kind in ("bars", "pie"):
        forms += [f"{value} %", f"{value} percent"]
    return tuple(dict.fromkeys(forms))


def small_print(section: Section) -> str:
    """Returns the sentence of the small print."""
    return f"Survey of {section.values[0][0]:,} adults, held in {MONTHS[section.values[1][0]]}."


def _ask_small_print(rng: np.random.Generator, number: int, section: Section) -> Question:
    keys = ((number, 0, "value"),)
    (adults,), (month,) = section.values
    if rng.random() < 0.5:
        answers = number_answers(section.kind, adults)
        return Question(text="How many adults took part in the survey?", answers=answers, keys=keys)
    return Question(text="In which month was the survey held?", answers=(MONTHS[month],), keys=keys)


def _keys_of_value(number: int, section: Section, row: int, column: int) -> tuple[Key, ...]:
    if section.kind == "table":
        return ((number, row, str(column)),)
    if section.kind == "facts":
        return ((number, row, "value"),)
    return (number, row, "name"), (number, row, "value")


def _in_a_sentence(section: Section, row: int) -> str:
    name = section.names[row]
    return name.lower() if section.kind in ("bars", "pie") else name


def _pick(rng: np.random.Generator, names: tuple[str, ...], n: int) -> tuple[str, ...]:
    return tuple(names[int(number)] for number in rng.permutation(len(names))[:n])


def _distinct(rng: np.random.Generator, low: int, high: int, n: int) -> list[int]:
    return [int(value) for value in rng.choice(np.arange(low, high), size=n, replace=False)]


def _shares(rng: np.random.Generator, n: int) -> list[int]:
    """Draws n different percentages of at least 5 that add up to 100."""
    while True:
        cuts = np.sort(rng.integers(0, 101 - 5 * n, n - 1))
        shares = np.diff(cuts, prepend=0, append=100 - 5 * n) + 5
        if len(set(shares.tolist())) == n:
            return [int(share) for share in shares]
