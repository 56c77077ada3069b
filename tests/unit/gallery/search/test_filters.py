"""Filters: what passes, what is refused, and that the k best are taken among what passes, by both engines."""

from collections.abc import Callable
from datetime import datetime
from importlib.util import find_spec

import numpy as np
import pytest

from gallery.answers import CannotAnswer
from gallery.footage.origin import Origin
from gallery.search.engines import open_engine
from gallery.search.filters import Filter, shared_folder
from gallery.store.writer import StoreWriter
from tests.helpers.gallery_store import WIDTH, add, expected, new_writer, origin

MILVUS = pytest.param(
    "milvus.db", marks=pytest.mark.skipif(not find_spec("milvus_lite"), reason="requirements-milvus.txt not installed")
)
RARE = '/rec/cam2/it\'s "rare".mp4'
EIGHT = datetime(2026, 11, 20, 8)


@pytest.fixture
def writer(tmp_path):
    """300 rows of one camera, 3 of another, one per second, and 5 rows that are plain pictures."""
    with new_writer(tmp_path / "index") as opened:
        add(opened, "plain", 5)
        add(opened, "a", 300, [tall(row) for row in range(300)])
        add(opened, "b", 4, [origin(RARE, 25 * row) for row in range(3)] + [origin("/rec/day.jpg", clock=None)])
        yield opened


def tall(row: int) -> Origin:
    return origin(frame=25 * row, box=(0.0, 10.0, 9.0, 10.0 + row))


CASES: dict[str, tuple[Filter, Callable[[Origin], bool]]] = {
    "rare source": (Filter(sources=("cam2",)), lambda own: own.source == RARE),
    "time": (
        Filter(after=EIGHT.replace(second=7), before=EIGHT.replace(second=30)),
        lambda own: own.clock is not None and EIGHT.replace(second=7) <= own.clock < EIGHT.replace(second=30),
    ),
    "until": (Filter(before=EIGHT), lambda own: False),
    "height": (Filter(min_height=290.0), lambda own: own.box[3] - own.box[1] >= 290),
    "all": (
        Filter(sources=("cam1", "day.jpg"), after=EIGHT.replace(minute=1), min_height=100),
        lambda own: own.source.startswith("/rec/cam1") and own.frame >= 25 * 100,
    ),
}


@pytest.mark.parametrize("engine", [None, MILVUS])
def test_the_best_are_taken_among_what_passes(engine, writer):
    queries = np.random.default_rng(1).standard_normal((2, WIDTH), dtype=np.float32)
    searched = open_engine(writer.store, engine and str(writer.folder.parent / engine))
    searched.update(writer.store)

    def check() -> None:
        for where, passes in CASES.values():
            for k in (2, 1000):
                wanted = expected(writer.store, queries, k, lambda own, passes=passes: own is not None and passes(own))
                found = searched.search(queries, k, where)
                np.testing.assert_array_equal(found.key, wanted.key)
                np.testing.assert_allclose(found.similarity, wanted.similarity, rtol=0, atol=1e-5)
        assert searched.search(queries, 1000).key.shape == (2, len(writer.store))

    check()
    # The rare rows are far from the best of all: a filter on the best would find none of them.
    best = searched.search(queries, 10).key
    assert not any(
        writer.store.origin(key) in map(writer.store.origin, writer.store.keys()[-4:-1]) for key in best.flat
    )
    writer.commit(removed=[*writer.store.keys()[100:120].tolist(), int(writer.store.keys()[-2])])
    searched.update(writer.store)
    check()
    searched.close()


@pytest.mark.skipif(not find_spec("milvus_lite"), reason="requirements-milvus.txt not installed")
def test_a_collection_of_an_earlier_version_gets_its_columns_with_the_first_origins(tmp_path, monkeypatch):
    from gallery.search.milvus_engine import MilvusEngine

    def create_old(self: MilvusEngine, width: int) -> None:
        self._client.create_collection(
            self._collection, dimension=width, primary_field_name="key", metric_type="IP", enable_dynamic_field=False
        )

    with new_writer(tmp_path / "index") as writer:
        add(writer, "plain", 3)
        engine = open_engine(writer.store, str(tmp_path / "milvus.db"))
        with monkeypatch.context() as patched:
            patched.setattr(MilvusEngine, "_create", create_old)
            engine.update(writer.store)
        query = np.ones((1, WIDTH), np.float32)
        add(writer, "later", 2)
        engine.update(writer.store)  # still plain: the collection stays as it is
        assert not engine._has_columns()
        np.testing.assert_array_equal(engine.search(query, 9).key, expected(writer.store, query, 9).key)
        add(writer, "a", 2, [origin(), origin(RARE)])
        engine.update(writer.store)
        np.testing.assert_array_equal(engine.search(query, 9).key, expected(writer.store, query, 9).key)
        rare = engine.search(query, 9, Filter(sources=("cam2",))).key[0].tolist()
        assert [writer.store.image(key).path for key in rare] == ["a/1.jpg"]
        engine.close()


@pytest.mark.parametrize(
    ("pattern", "passes"),
    [
        ("cam1", True),
        ("cam*", True),
        ("0800.mp4", True),
        ("*.mp4", True),
        ("rec", True),
        ("cam", False),
        ("CAM1", False),
        ("cam1/*.mp4", True),
        ("cam?/0800.mp4", True),
        ("rec/*.mp4", False),
        ("/rec/*/0800.mp4", True),
        ("/cam1/0800.mp4", False),
        ("/rec/cam1/0800.mp4", True),
        ("a/b/c/d/rec/cam1/0800.mp4", False),
    ],
)
def test_patterns_of_sources(pattern, passes):
    assert Filter(sources=("nothing", pattern)).passes_source("/rec/cam1/0800.mp4") is passes


@pytest.mark.parametrize(
    ("pattern", "passes"),
    [
        ("cam*", False),  # the folder of all cameras
        ("0800*", True),
        ("hall", True),
        ("hall/*.mp4", True),
        ("cameras/hall/*.mp4", False),
        ("/srv/cameras/*/0800.mp4", True),
    ],
)
def test_relative_patterns_look_below_the_folder_that_all_sources_share(pattern, passes):
    shared = shared_folder(["/srv/cameras/hall/0800.mp4", "/srv/cameras/door/0800.mp4", "/srv/cameras/day.jpg"])
    assert shared == "/srv/cameras"
    assert Filter(sources=(pattern,), shared=shared).passes_source("/srv/cameras/hall/0800.mp4") is passes


def test_a_name_with_the_characters_of_patterns_matches_itself():
    assert Filter(sources=("[a] 1.mp4",)).passes_source("/rec/[a] 1.mp4")
    assert Filter(sources=("/rec/[a] 1.mp4",)).passes_source("/rec/[a] 1.mp4")


def test_what_a_user_writes():
    parsed = Filter.parse(source=["cam1*", ""], after="2026-11-20", before=" 2026-11-20T08:30 ", min_height=80)
    assert parsed == Filter(
        sources=("cam1*",),
        after=datetime(2026, 11, 20),
        before=datetime(2026, 11, 20, 8, 30),
        min_height=80,
    )
    assert parsed.described() == {
        "source": ["cam1*"],
        "after": "2026-11-20T00:00:00",
        "before": "2026-11-20T08:30:00",
        "min_height": 80,
    }
    assert not Filter.parse(after="", before=None)
    assert Filter().described() == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"after": "yesterday"}, r"^after: 'yesterday' is no time; write a date or a date and a time, such as"),
        ({"before": "2026-13-01"}, "^before: '2026-13-01' is no time"),
        ({"after": "2026-11-20T08:00+01:00"}, "give the camera's local time, without a time zone"),
        ({"after": "2026-11-20", "before": "2026-11-20"}, "nothing is after 2026-11-20T00:00:00 and before"),
        ({"min_height": -1}, "must not be negative, got -1"),
        ({"min_height": float("nan")}, "must not be negative, got nan"),
    ],
)
def test_what_is_refused(given, told):
    with pytest.raises(CannotAnswer, match=told):
        Filter.parse(**given)


def test_a_source_that_is_not_there_is_told_with_those_that_are(writer: StoreWriter, tmp_path):
    own = Filter(sources=("cam2",)).for_index(writer.store)
    assert (own.shared, own.chosen_sources(writer.store)) == ("/rec", [RARE])
    with pytest.raises(
        CannotAnswer, match=r"^no source matches cam7\*; there are 0800\.mp4, it's \"rare\"\.mp4, day\.jpg$"
    ):
        Filter(sources=("cam7*",)).for_index(writer.store)
    with new_writer(tmp_path / "plain") as plain:
        add(plain, "a", 1)
        with pytest.raises(CannotAnswer, match="does not know where its images come from"):
            Filter(min_height=1).for_index(plain.store)
