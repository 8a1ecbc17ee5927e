"""The swarm as one session sees it: its own work counted by what it knows, that of others by their heartbeats."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from swarm.planted import heartbeat

from apiary_df.config import Settings
from apiary_df.errors import StorageUnreachable
from apiary_df.host import SystemHost
from apiary_df.model import NodeInfo, TaskKey
from apiary_df.plan.functions import PythonFunction
from apiary_df.protocol import keys
from apiary_df.protocol.storage import write_message
from apiary_df.protocol.versions import python_version
from apiary_df.store import Store, open_store
from apiary_df.view import UNHEARD_BEATS, UNREAD_BEATS, GivenWork, SwarmView

OWN, OTHER = "q-own", "q-other"


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def view(store: Store) -> SwarmView:
    """A view that reads heartbeats only when it is told to."""
    view = SwarmView(store, "session-1", Settings(heartbeat_s=100.0, suspect_after_s=300.0, dead_after_s=900.0))
    view.query_started(OWN)
    return view


def beat(store: Store, node_id: str = "n1", **changes: Any) -> None:
    write_message(store, keys.heartbeat(node_id), heartbeat(node_id, **changes))


def seen(view: SwarmView) -> NodeInfo:
    view.refresh()
    (info,) = view.node_infos()
    assert info.bees_busy + info.idle_bees == info.bees_total
    return info


def test_idle_node_is_idle(store: Store, view: SwarmView) -> None:
    beat(store)
    assert (seen(view).bees_busy, seen(view).idle_bees) == (0, 4)


def test_bees_that_work_for_others_are_busy(store: Store, view: SwarmView) -> None:
    beat(store, bees_busy=3, queries=(OTHER,))
    assert seen(view).bees_busy == 3


def test_work_that_was_sent_counts_before_any_heartbeat_tells_of_it(store: Store, view: SwarmView) -> None:
    beat(store)
    view.mail_sent("n1", 0, 2)
    assert seen(view).bees_busy == 2


def test_own_work_that_has_ended_counts_no_more_though_the_heartbeat_still_says_so(
    store: Store, view: SwarmView
) -> None:
    beat(store, bees_busy=2, queries=(OWN,))
    view.mail_sent("n1", 0, 2)
    view.task_ended("n1")
    assert seen(view).bees_busy == 1
    view.task_ended("n1")
    assert seen(view).bees_busy == 0


def test_with_the_work_of_others_among_it_the_higher_count_holds(store: Store, view: SwarmView) -> None:
    beat(store, bees_busy=3, queries=(OTHER, OWN))
    view.mail_sent("n1", 0, 1)
    assert seen(view).bees_busy == 3
    view.mail_sent("n1", 1, 3)
    assert seen(view).bees_busy == 4


def test_no_node_has_more_busy_bees_than_bees(store: Store, view: SwarmView) -> None:
    beat(store)
    view.mail_sent("n1", 0, 100)
    assert (seen(view).bees_busy, seen(view).idle_bees) == (4, 0)


def test_news_of_a_task_that_was_never_sent_is_no_credit(store: Store, view: SwarmView) -> None:
    beat(store)
    view.task_ended("n1")
    view.mail_sent("n1", 0, 1)
    assert seen(view).bees_busy == 1


def test_work_counts_for_the_node_that_has_it(store: Store, view: SwarmView) -> None:
    beat(store, "n1")
    beat(store, "n2")
    view.mail_sent("n2", 0, 3)
    view.refresh()
    assert {info.node_id: info.bees_busy for info in view.node_infos()} == {"n1": 0, "n2": 3}


def test_next_mail_is_the_number_that_the_node_reads_next(store: Store, view: SwarmView) -> None:
    beat(store, inbox_next=7)
    view.refresh()
    assert view.next_mail("n1") == 7


def test_next_mail_follows_the_mail_that_was_sent(store: Store, view: SwarmView) -> None:
    beat(store, inbox_next=7)
    view.refresh()
    view.mail_sent("n1", 9, 1)
    assert view.next_mail("n1") == 10


def test_next_mail_follows_the_node_when_others_have_written_to_it(store: Store, view: SwarmView) -> None:
    beat(store, inbox_next=7)
    view.mail_sent("n1", 9, 1)
    beat(store, seq=2, inbox_next=20)
    view.refresh()
    assert view.next_mail("n1") == 20


def test_next_mail_to_a_node_that_was_never_seen_is_the_first(view: SwarmView) -> None:
    assert view.next_mail("n9") == 0


@pytest.mark.parametrize("changes", [{"leaving": True}, {"datafusion_version": "54.0.0"}, {"protocol_version": 99}])
def test_node_that_is_not_fit_for_work_is_seen_and_not_planned_with(
    store: Store, view: SwarmView, changes: dict[str, Any]
) -> None:
    beat(store, **changes)
    assert [seen.info.node_id for seen in view.refresh()] == ["n1"]
    assert view.node_infos() == ()
    assert [(sight.node_id, sight.usable) for sight in view.sights()] == [("n1", False)]


def test_node_that_said_goodbye_is_not_seen(store: Store, view: SwarmView) -> None:
    beat(store)
    view.refresh()
    assert [sight.usable for sight in view.sights()] == [True]
    store.delete([keys.heartbeat("n1")])
    view.refresh()
    assert view.sights() == ()


def test_a_schedule_learns_of_incarnations_and_of_what_runs_functions(store: Store, view: SwarmView) -> None:
    beat(store, incarnation="first")
    view.refresh()
    assert [(sight.incarnation, sight.usable) for sight in view.sights(functions=True)] == [("first", False)]


def test_mail_to_a_node_that_a_lagging_listing_leaves_out_is_for_the_life_that_was_seen(
    store: Store, view: SwarmView
) -> None:
    assert view.incarnation_of("n1") == ""
    beat(store, incarnation="first")
    view.refresh()
    store.delete([keys.heartbeat("n1")])
    view.refresh()
    assert view.incarnation_of("n1") == "first"
    beat(store, incarnation="second")
    view.refresh()
    assert view.incarnation_of("n1") == "second"


def test_who_comes_back_under_the_same_id_has_none_of_the_work_that_was_sent_before(
    store: Store, view: SwarmView
) -> None:
    beat(store, incarnation="first")
    view.refresh()
    view.mail_sent("n1", 6, 3)
    beat(store, incarnation="second")
    assert seen(view).bees_busy == 0
    assert view.next_mail("n1") == 0


def test_ended_queries_are_forgotten_once_no_node_names_them(store: Store, view: SwarmView) -> None:
    beat(store, bees_busy=3, queries=(OWN,))
    view.refresh()
    view.query_ended(OWN)
    # The heartbeat is late, not somebody else's work.
    assert seen(view).bees_busy == 0
    beat(store, seq=2)
    view.refresh()
    beat(store, seq=3, bees_busy=3, queries=(OWN,))
    assert seen(view).bees_busy == 3


SENT = TaskKey(query_id=OWN, stage=0, task=0)


class TestForgottenWork:
    @pytest.fixture
    def given(self, store: Store, view: SwarmView) -> GivenWork:
        """Work that was sent in mail 5, and the first heartbeat after that."""
        beat(store, seq=9)
        view.refresh()
        given = GivenWork(view, OWN)
        given.sent("n1", 5, [SENT])
        assert given.forgotten() == []
        beat(store, seq=10)
        view.refresh()
        assert given.forgotten() == []
        return given

    def forgotten(self, store: Store, view: SwarmView, given: GivenWork, **changes: Any) -> bool:
        beat(store, **changes)
        view.refresh()
        return given.forgotten() == [SENT]

    def test_a_node_that_has_read_its_mail_and_does_not_name_the_query_has_forgotten_it(
        self, store: Store, view: SwarmView, given: GivenWork
    ) -> None:
        seqs = [seq for seq in range(10, 20) if self.forgotten(store, view, given, seq=seq, inbox_next=6)]
        assert seqs[0] == 10 + UNHEARD_BEATS

    def test_one_that_has_not_read_it_is_given_more_time(self, store: Store, view: SwarmView, given: GivenWork) -> None:
        assert not self.forgotten(store, view, given, seq=10 + UNREAD_BEATS - 1, inbox_next=5)
        assert self.forgotten(store, view, given, seq=10 + UNREAD_BEATS, inbox_next=5)

    def test_one_that_names_the_query_has_not(self, store: Store, view: SwarmView, given: GivenWork) -> None:
        assert not self.forgotten(store, view, given, seq=999, inbox_next=6, queries=(OWN,))

    def test_another_incarnation_is_not_judged(self, store: Store, view: SwarmView, given: GivenWork) -> None:
        assert not self.forgotten(store, view, given, seq=999, inbox_next=6, incarnation="second")

    def test_what_has_ended_cannot_be_forgotten(self, store: Store, view: SwarmView, given: GivenWork) -> None:
        given.settle([])
        assert not self.forgotten(store, view, given, seq=999, inbox_next=6)
        assert seen(view).bees_busy == 0


def test_heartbeats_are_not_read_again_before_one_is_due(store: Store, view: SwarmView) -> None:
    assert view.nodes() == ()
    beat(store)
    assert not view.refresh_if_due()
    assert view.nodes() == ()


def test_root_that_cannot_be_written_is_told(tmp_path: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnreachable, match="cannot be used"):
        SwarmView(open_store(str(tmp_path / "file" / "below")), "session-1", Settings())


FUNCTIONS = (PythonFunction(name="twice", kind="scalar", python="3.11"),)


def test_only_nodes_that_allow_functions_and_run_the_same_python_run_them(store: Store, view: SwarmView) -> None:
    beat(store, "closed", python_version=python_version())
    beat(store, "fit", allow_udfs=True, python_version=python_version())
    beat(store, "older", allow_udfs=True, python_version="3.8")
    beat(store, "silent", allow_udfs=True)
    view.refresh()
    assert {node.node_id for node in view.node_infos()} == {"closed", "fit", "older", "silent"}
    runners = view.runners_of(FUNCTIONS)
    assert [node.node_id for node in runners.nodes] == ["fit"]
    assert runners.refusal is None
    assert runners.note.startswith("Python functions: twice (scalar); on the nodes fit; left out: closed (it was not")
    assert "older (it runs Python 3.8" in runners.note
    assert "silent (it runs Python unknown" in runners.note


def test_where_no_node_runs_functions_they_are_refused(store: Store, view: SwarmView) -> None:
    beat(store, "closed")
    beat(store, "coordinator", allow_udfs=True, python_version=python_version(), bees_total=0)
    view.refresh()
    runners = view.runners_of(FUNCTIONS)
    assert runners.refusal is not None
    assert "closed (it was not started with --allow-udfs)" in runners.refusal.message


# -- for how long nodes are silent -------------------------------------------------------------------------------------

DEAD_S = 8.0
BEAT_S = 1.0


class HandHost(SystemHost):
    """A host whose clock is moved by hand."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def now_s(self) -> float:
        return self.at_s


class Watcher:
    """A view with a clock of its own, of a node that beats when it is told to."""

    def __init__(self, store: Store) -> None:
        self.host, self._store, self._seq = HandHost(), store, 0
        settings = Settings(heartbeat_s=BEAT_S, suspect_after_s=DEAD_S / 2, dead_after_s=DEAD_S)
        self.view = SwarmView(store, "session-1", settings, host=self.host)
        self.beat()
        self.after(0.0)

    def beat(self) -> None:
        self._seq += 1
        beat(self._store, seq=self._seq)

    def after(self, seconds: float) -> str:
        """Return the node's state when the session looks, so many seconds after its last look."""
        self.host.at_s += seconds
        (seen,) = self.view.refresh()
        return seen.info.state.value


def test_a_session_that_was_stopped_with_a_query_under_way_judges_nobody(store: Store) -> None:
    watcher = Watcher(store)
    watcher.view.query_started(OWN)
    watcher.after(BEAT_S)
    assert watcher.after(100 * DEAD_S) == "alive"
    watcher.beat()
    assert watcher.after(BEAT_S) == "alive"


def test_time_in_which_a_session_looks_on_counts_beside_time_in_which_it_was_stopped(store: Store) -> None:
    watcher = Watcher(store)
    watcher.view.query_started(OWN)
    watcher.after(BEAT_S)
    states = [watcher.after(BEAT_S) for _ in range(3)]
    states.append(watcher.after(100 * DEAD_S))
    states += [watcher.after(BEAT_S) for _ in range(2)]
    assert states == ["alive", "alive", "suspect", "suspect", "suspect", "dead"]


def test_between_queries_all_time_counts(store: Store) -> None:
    watcher = Watcher(store)
    for query in (OWN, OTHER):
        watcher.view.query_started(query)
    watcher.after(BEAT_S)
    for query in (OWN, OTHER):
        watcher.view.query_ended(query)
    watcher.view.query_started("q-next")
    assert watcher.after(DEAD_S) == "dead"


def test_one_of_several_queries_that_ends_leaves_a_session_that_looks_on(store: Store) -> None:
    watcher = Watcher(store)
    for query in (OWN, OTHER):
        watcher.view.query_started(query)
    watcher.after(BEAT_S)
    watcher.view.query_ended(OTHER)
    assert watcher.after(DEAD_S) == "alive"
