"""Where ids stand in long lists."""

import pickle

import pyarrow as pa

from msrrec.data.places import Places


def test_an_id_is_found_at_its_first_place_and_nothing_else_is_found() -> None:
    places = Places(pa.array(["b", "é", "a", "", "b"]))
    assert [places.find(name) for name in ("a", "b", "é", "")] == [2, 0, 1, 3]
    assert places.find("A") is None
    assert len(places) == 5


def test_a_list_without_ids_holds_none() -> None:
    assert Places(pa.array([], pa.large_string())).find("a") is None


def test_places_are_the_same_in_another_process() -> None:
    sent = pickle.loads(pickle.dumps(Places(pa.array(["b", "a"]))))
    assert [sent.find(name) for name in ("a", "b", "c")] == [1, 0, None]
