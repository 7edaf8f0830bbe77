"""The backbone's pretraining texts and its tokenizer."""

import random

from msrrec.embedded.backbone.corpus import (
    EXERCISES,
    Page,
    Product,
    iter_documents,
    make_words,
    render_page,
)
from msrrec.embedded.backbone.tokenizer import VOCAB_SIZE, train_tokenizer
from msrrec.titles import REASONING_END, REASONING_START

PAGE = Page(
    shelf=[
        Product("Ado Kettle", "Ado", "kettle", "Kitchen"),
        Product("Ado Toaster", "Ado", "toaster", "Kitchen"),
        Product("Bel Tent", "Bel", "tent", "Camping"),
    ],
    items=[
        Product("Cor Hammock, Red", "Cor", "hammock", "Camping"),
        Product("Ado Rake", "Ado", "rake", "Garden"),
    ],
)


def ask(name: str) -> str:
    question = next(q for q in EXERCISES if q.__name__ == f"_ask_{name}")
    return "".join(text for text, _ in question(random.Random(0), PAGE))


def test_the_answers_of_a_page_are_right() -> None:
    assert ask("categories") == "Categories: (1) Camping; (2) Garden.\n"
    assert ask("brands") == "Brands: (1) Cor; (2) Ado.\n"
    assert ask("shelf") == "Shelf in order: Kitchen, Kitchen, Camping.\n"
    assert ask("counts") == "Shelf counts: Kitchen 2, Camping 1.\n"
    assert ask("most") == "Most on the shelf: Kitchen.\n"


def test_copied_titles_stand_on_the_page() -> None:
    lines = ask("copies").splitlines()
    assert sorted(line.split(": ", 1)[1] for line in lines) == ["Ado Rake", "Cor Hammock, Red"]


def test_a_page_lists_its_products() -> None:
    text = render_page(random.Random(0), PAGE)
    assert "- Ado Toaster\n" in text
    assert "(2) Ado Rake\n" in text


def test_documents_follow_their_seed_and_have_answers() -> None:
    words = make_words(0, [])
    first, second = iter_documents(5, words), iter_documents(5, words)
    for _ in range(50):
        document = next(first)
        assert document == next(second)
        assert any(is_answer for _, is_answer in document)


def test_the_tokenizer_keeps_any_text_and_has_the_markers() -> None:
    stream = iter_documents(0, make_words(0, []))
    tokenizer = train_tokenizer("".join(t for t, _ in next(stream)) for _ in range(2000))
    assert len(tokenizer) == VOCAB_SIZE
    for text in ("(3) Ünïcode “title” 日本\n[x]", "  two  spaces ", "a\tb"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for marker in (REASONING_START, REASONING_END, "(6)"):
        assert len(tokenizer.encode(marker)) == 1
