"""Pretraining texts of the embedded backbone: general skills that a language model has.

They train naming categories, brands and kinds of titles, counting, copying and picking from lists.
No text shows a user, a purchase that depends on others, or a chain of reasoning.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

from msrrec.config import AnswerFormat, PromptConfig
from msrrec.embedded.lexicon import CATEGORIES, make_brand, make_title
from msrrec.reasoning.prompts import Side, render_instruction
from msrrec.titles import REASONING_END, REASONING_START

Segment = tuple[str, bool]
"""A piece of text, and whether the model is trained to write it."""

_SHELVES = ("Shelf", "Box", "Seen", "Store", "Row", "Bag")
_LISTS = ("List", "Items", "Table", "Goods", "Offers")
_CODE = "ABCDEFGHKLMNPRSTUVWXYZ0123456789-/"
_ENGLISH = """
a about after all also always an and any as at because best between both brand brands bought but buy
buys by can category choice choose closest common copy customer details domain each either every
exactly few first fits follows for from goes good has have history in interest into is it its items
kind last latest less like list made makes many match matches mostly more most name named neither
never new next no none not nothing number of offers often oldest on once one only or other out
preference preferences product products purchase purchases rarely reason recent recently recommended
recommend repeats same second see seldom several shares shelf side similar so some sometimes style
suits taste than that the their them then there these they this those title to two type unclear
usually user very was well what which who with words would word yes
"""


@dataclass(frozen=True)
class Product:
    """A made-up product and the facts about it."""

    title: str
    brand: str
    kind: str
    category: str


def make_product(rng: random.Random, brands: list[str], categories: list[str]) -> Product:
    """A random product of one of the categories."""
    category = rng.choice(categories)
    kind, brand = rng.choice(CATEGORIES[category]), rng.choice(brands)
    return Product(make_title(rng, brand, kind), brand, kind, category)


@dataclass(frozen=True)
class Page:
    """An unnumbered list (shelf) and a numbered list of products."""

    shelf: list[Product]
    items: list[Product]


def make_foreign_product(rng: random.Random, words: list[str]) -> Product:
    """A product of no known category: words and part numbers in any order, of any length."""
    parts = [rng.choice(words) for _ in range(rng.randint(1, 7))]
    for _ in range(rng.choice((0, 0, 1, 2))):
        code = "".join(
            rng.choice("ABCDEFGHKLMNPRSTUVWXYZ0123456789-/") for _ in range(rng.randint(2, 7))
        )
        parts.insert(rng.randint(0, len(parts)), code)
    parts = [p.title() if rng.random() < 0.7 else p for p in parts]
    return Product(" ".join(parts), parts[0], "thing", "Unknown")


def make_page(rng: random.Random, hard: float) -> Page:
    """Random products; ``hard`` in [0, 1] grows the page from 2 to about 16 products."""
    brands = [make_brand(rng) for _ in range(rng.randint(3, 12))]
    categories = rng.sample(sorted(CATEGORIES), rng.randint(2, 10))
    few = categories[: rng.randint(1, 3)]
    shelf = [
        make_product(rng, brands, few if rng.random() < 0.7 else categories)
        for _ in range(rng.randint(1, 2 + round(8 * hard)))
    ]
    items = [
        make_product(rng, brands, categories) for _ in range(rng.randint(2, 3 + round(4 * hard)))
    ]
    unique = {p.title: p for p in items}
    return Page(shelf, list(unique.values()))


def render_page(rng: random.Random, page: Page) -> str:
    """Both lists of a page as text, under one of several headings."""
    shelf = "".join(f"- {p.title}\n" for p in page.shelf)
    items = "".join(f"({n}) {p.title}\n" for n, p in enumerate(page.items, 1))
    return f"{rng.choice(_SHELVES)}:\n{shelf}{rng.choice(_LISTS)}:\n{items}"


def make_foreign_page(rng: random.Random, words: list[str], hard: float) -> Page:
    """A page of unknown products, used only for copying and picking."""
    shelf = [make_foreign_product(rng, words) for _ in range(rng.randint(1, 2 + round(4 * hard)))]
    items = [make_foreign_product(rng, words) for _ in range(rng.randint(2, 3 + round(3 * hard)))]
    return Page(shelf, list({p.title: p for p in items}.values()))


def _numbers(numbers: list[int]) -> str:
    return ", ".join(f"({n})" for n in numbers) if numbers else "none"


def _ask_categories(rng: random.Random, page: Page) -> list[Segment]:
    facts = "; ".join(f"({n}) {p.category}" for n, p in enumerate(page.items, 1))
    return [("Categories:", False), (f" {facts}.\n", True)]


def _ask_brands(rng: random.Random, page: Page) -> list[Segment]:
    facts = "; ".join(f"({n}) {p.brand}" for n, p in enumerate(page.items, 1))
    return [("Brands:", False), (f" {facts}.\n", True)]


def _ask_facts(rng: random.Random, page: Page) -> list[Segment]:
    facts = "; ".join(
        f"({n}) {p.category}, {p.kind}, {p.brand}" for n, p in enumerate(page.items, 1)
    )
    return [("Facts:", False), (f" {facts}.\n", True)]


def _ask_copies(rng: random.Random, page: Page) -> list[Segment]:
    segments: list[Segment] = []
    for n in rng.sample(range(1, len(page.items) + 1), min(3, len(page.items))):
        verb = rng.choice(("Copy", "Write", "Title of"))
        segments += [(f"{verb} ({n}):", False), (f" {page.items[n - 1].title}\n", True)]
    return segments


def _ask_numbered(rng: random.Random, page: Page) -> list[Segment]:
    n = rng.randint(1, len(page.items))
    return [("Any one: ", False), (f"({n})", False), (f" {page.items[n - 1].title}.\n", True)]


def _ask_number(rng: random.Random, page: Page) -> list[Segment]:
    n = rng.randint(1, len(page.items))
    return [(f"Number of {page.items[n - 1].title}:", False), (f" ({n})\n", True)]


def _ask_members(rng: random.Random, page: Page) -> list[Segment]:
    category = rng.choice([*(p.category for p in page.items + page.shelf), *CATEGORIES])
    hits = [n for n, p in enumerate(page.items, 1) if p.category == category]
    return [(f"From {category}:", False), (f" {_numbers(hits)}.\n", True)]


def _ask_find(rng: random.Random, page: Page) -> list[Segment]:
    """Name the categories, then pick items by category."""
    segments = _ask_categories(rng, page)
    listed = sorted({p.category for p in page.items})
    for category in [*rng.sample(listed, min(3, len(listed))), rng.choice(sorted(CATEGORIES))]:
        hits = [n for n, p in enumerate(page.items, 1) if p.category == category]
        segments += [(f"From {category}:", False), (f" {_numbers(hits)}.\n", True)]
    return segments


def _ask_brand_members(rng: random.Random, page: Page) -> list[Segment]:
    brand = rng.choice([p.brand for p in page.items + page.shelf])
    hits = [n for n, p in enumerate(page.items, 1) if p.brand == brand]
    return [(f"Made by {brand}:", False), (f" {_numbers(hits)}.\n", True)]


def _ask_shelf(rng: random.Random, page: Page) -> list[Segment]:
    facts = ", ".join(p.category for p in page.shelf)
    return [("Shelf in order:", False), (f" {facts}.\n", True)]


def _ask_counts(rng: random.Random, page: Page) -> list[Segment]:
    counts = Counter(p.category for p in page.shelf).most_common(3)
    facts = ", ".join(f"{name} {count}" for name, count in counts)
    return [("Shelf counts:", False), (f" {facts}.\n", True)]


def _ask_most(rng: random.Random, page: Page) -> list[Segment]:
    counts = Counter(p.category for p in page.shelf).most_common(2)
    return [("Most on the shelf:", False), (f" {counts[0][0]}.\n", True)]


def _ask_repeat(rng: random.Random, page: Page) -> list[Segment]:
    titles = [rng.choice(page.shelf + page.items).title for _ in range(2)]
    text = "; ".join(titles)
    return [(f"Say: {text}\nAgain:", False), (f" {text}\n", True)]


Exercise = Callable[[random.Random, Page], list[Segment]]
EXERCISES: tuple[Exercise, ...] = (
    _ask_categories,
    _ask_categories,
    _ask_brands,
    _ask_facts,
    _ask_copies,
    _ask_copies,
    _ask_numbered,
    _ask_number,
    _ask_members,
    _ask_members,
    _ask_find,
    _ask_find,
    _ask_find,
    _ask_find,
    _ask_brand_members,
    _ask_shelf,
    _ask_counts,
    _ask_counts,
    _ask_most,
    _ask_most,
    _ask_repeat,
)


FOREIGN_EXERCISES: tuple[Exercise, ...] = (
    _ask_copies,
    _ask_copies,
    _ask_brands,
    _ask_numbered,
    _ask_number,
    _ask_repeat,
)


def make_words(seed: int, vocabulary: list[str]) -> list[str]:
    """Words for gibberish: English, words of the instructions, vocabulary entries, made-up ones.

    So every entry of the vocabulary is trained.
    """
    rng = random.Random(seed)
    made_up = [make_brand(rng) for _ in range(2000)]
    made_up += [make_brand(rng).lower() for _ in range(1000)]
    forms = [PromptConfig(answer_format=answer_format) for answer_format in get_args(AnswerFormat)]
    instructions = " ".join(render_instruction(s, f) for s in get_args(Side) for f in forms)
    known = [*_ENGLISH.split(), *instructions.split(), REASONING_START, REASONING_END]
    known += [word.capitalize() for word in _ENGLISH.split()]
    return [*made_up, *known * 4, *vocabulary]


def make_gibberish(rng: random.Random, words: list[str]) -> list[Segment]:
    """Random words and their repetition, which teach a transformer to copy."""
    glue = rng.choice((" ", " ", "\n"))  # words at the beginning of a line have other tokens
    text = glue.join(rng.choice(words) for _ in range(rng.randint(4, 24)))
    return [(f"Say:{glue}{text}\nAgain:", False), (f"{glue}{text}\n", True)]


def make_document(rng: random.Random, words: list[str], hard: float) -> list[Segment]:
    """One training text: gibberish to repeat, or a page and several exercises about it."""
    draw = rng.random()
    if draw < 0.08 + 0.5 * (1 - hard):
        return make_gibberish(rng, words)
    if draw > 0.88:
        page, exercises = make_foreign_page(rng, words, hard), FOREIGN_EXERCISES
    else:
        page, exercises = make_page(rng, hard), EXERCISES
    segments: list[Segment] = [(render_page(rng, page), False)]
    for ask in rng.sample(exercises, rng.randint(3, min(7, len(exercises)))):
        segments += ask(rng, page)
    return segments


def iter_documents(seed: int, words: list[str], hard: float = 1.0) -> Iterator[list[Segment]]:
    """An endless stream of texts, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield make_document(rng, words, hard)
