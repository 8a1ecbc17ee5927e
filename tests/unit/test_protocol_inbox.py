"""Mail arrives once, whatever numbers senders think of and whatever the store loses."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiary_df.errors import StorageTransient
from apiary_df.protocol import keys
from apiary_df.protocol.inbox import Inbox, SweepPace, send
from apiary_df.protocol.messages import Mail
from apiary_df.protocol.seal import UNSEALED
from apiary_df.protocol.storage import write_message
from apiary_df.store import Store, open_store


class FaultyStore(Store):
    """A real store whose reads or deletes fail on demand, as one behind a bad network does."""

    fail_reads_of: frozenset[str] = frozenset()
    fail_deletes = False

    def get_or_none(self, key: str, limit_bytes: int | None = None) -> bytes | None:
        if key in self.fail_reads_of:
            raise StorageTransient("503 Slow Down")
        return super().get_or_none(key, limit_bytes)

    def delete(self, keys: Iterable[str]) -> None:
        if self.fail_deletes:
            raise StorageTransient("503 Slow Down")
        super().delete(keys)


@pytest.fixture
def store() -> Store:
    return new_store()


def new_store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}", environ={})


def mail(token: str) -> Mail:
    return Mail(token=token, query_id="q", sender="s", tasks=())


def tokens(mails: Iterable[Mail]) -> list[str]:
    return [m.token for m in mails]


def faulty(store: Store) -> FaultyStore:
    return FaultyStore(store.site, store.options)


def test_mail_is_read_in_order_once_and_deleted(store: Store) -> None:
    assert [send(store, "n", 0, mail(t)) for t in "abc"] == [0, 1, 2]
    inbox = Inbox(store, "n")
    assert tokens(inbox.poll()) == ["a", "b", "c"]
    assert list(inbox.poll()) == []
    assert inbox.next_number == 3
    assert store.list("") == []


def test_an_empty_inbox_is_polled_with_one_request(store: Store) -> None:
    assert list(Inbox(store, "n").poll()) == []
    assert store.counts.snapshot()["get"] == 1
    assert store.counts.snapshot()["list"] == 0


def test_mail_goes_to_its_own_node_only(store: Store) -> None:
    send(store, "n1", 0, mail("a"))
    assert list(Inbox(store, "n2").poll()) == []
    assert list(Inbox(store, "n2").sweep()) == []
    assert tokens(Inbox(store, "n1").poll()) == ["a"]


def test_concurrent_senders_get_numbers_of_their_own(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda i: send(store, "n", 0, mail(f"t{i}")), range(40)))
    assert sorted(numbers) == list(range(40))
    assert sorted(tokens(Inbox(store, "n").poll())) == sorted(f"t{i}" for i in range(40))


@pytest.mark.parametrize("sweep", [False, True])
def test_mail_is_handed_over_before_it_is_deleted_and_then_deleted_whoever_stops_taking(
    store: Store, *, sweep: bool
) -> None:
    send(store, "n", 0, mail("a"))
    send(store, "n", 0, mail("b"))
    inbox = Inbox(store, "n")
    mails = inbox.sweep() if sweep else inbox.poll()
    assert next(mails).token == "a"
    assert (inbox.next_number, len(store.list(""))) == (0, 2)
    del mails
    assert tokens(inbox.sweep()) == ["b"]
    assert store.list("") == []


def test_a_sender_far_behind_jumps_instead_of_trying_every_number(store: Store) -> None:
    for number in range(200):
        write_message(store, keys.inbox("n", number), mail(f"t{number}"))
    before = store.counts.snapshot()["put"]
    assert send(store, "n", 0, mail("new")) == 200
    assert store.counts.snapshot()["put"] - before < 20


def test_a_sweep_finds_mail_below_the_place_and_beyond_a_gap(store: Store) -> None:
    inbox = Inbox(store, "n")
    for token in "ab":
        send(store, "n", 0, mail(token))
    list(inbox.poll())
    assert send(store, "n", 0, mail("stale")) == 0
    assert send(store, "n", 7, mail("ahead")) == 7
    assert list(inbox.poll()) == []
    assert tokens(inbox.sweep()) == ["stale", "ahead"]
    assert inbox.next_number == 8
    send(store, "n", 8, mail("next"))
    assert tokens(inbox.poll()) == ["next"]
    assert store.list("") == []


@pytest.mark.parametrize("data", [b"", b"{", b'{"token": "t"}', b"\xff\xfe"])
def test_damaged_mail_is_counted_thrown_away_and_in_nobodys_way(store: Store, data: bytes) -> None:
    store.put(keys.inbox("n", 0), data)
    send(store, "n", 1, mail("good"))
    inbox = Inbox(store, "n")
    assert tokens(inbox.poll()) == ["good"]
    assert store.refusals.snapshot() == {UNSEALED: 1}
    assert store.list("") == []


def test_damaged_mail_is_thrown_away_by_sweeps_too(store: Store) -> None:
    store.put(keys.inbox("n", 5), b"{")
    inbox = Inbox(store, "n")
    assert list(inbox.sweep()) == []
    assert (store.refusals.snapshot(), inbox.next_number, store.list("")) == ({UNSEALED: 1}, 0, [])


def test_mail_that_was_read_is_not_lost_when_the_next_read_fails(store: Store) -> None:
    bad = faulty(store)
    for token in "ab":
        send(store, "n", 0, mail(token))
    bad.fail_reads_of = frozenset({keys.inbox("n", 1)})
    inbox = Inbox(bad, "n")
    taken: list[Mail] = []
    for _ in range(2):
        with pytest.raises(StorageTransient):
            taken.extend(inbox.poll())
    assert tokens(taken) == ["a"]
    bad.fail_reads_of = frozenset()
    assert tokens(inbox.poll()) == ["b"]


def test_a_sweep_loses_no_mail_either(store: Store) -> None:
    bad = faulty(store)
    send(store, "n", 3, mail("a"))
    send(store, "n", 5, mail("b"))
    bad.fail_reads_of = frozenset({keys.inbox("n", 5)})
    inbox = Inbox(bad, "n")
    taken: list[Mail] = []
    for _ in range(2):
        with pytest.raises(StorageTransient):
            taken.extend(inbox.sweep())
    assert tokens(taken) == ["a"]
    bad.fail_reads_of = frozenset()
    assert tokens(inbox.sweep()) == ["b"]


def test_mail_that_could_not_be_deleted_is_not_given_out_twice(store: Store) -> None:
    bad = faulty(store)
    bad.fail_deletes = True
    send(store, "n", 0, mail("a"))
    inbox = Inbox(bad, "n")
    assert tokens(inbox.poll()) == ["a"]
    bad.fail_deletes = False
    assert list(inbox.sweep()) == []
    assert store.list("") == []


def test_mail_that_a_sender_repeats_after_a_lost_reply_is_not_given_out_twice(store: Store) -> None:
    inbox = Inbox(store, "n")
    send(store, "n", 0, mail("a"))
    assert tokens(inbox.poll()) == ["a"]
    send(store, "n", 1, mail("a"))  # its first create arrived, was read and deleted before it looked again
    assert list(inbox.poll()) == []


STEPS = st.lists(
    st.one_of(st.tuples(st.just("send"), st.integers(0, 6)), st.tuples(st.sampled_from(["poll", "sweep"]), st.just(0))),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_every_mail_arrives_exactly_once_whatever_number_its_sender_began_with(steps: list[tuple[str, int]]) -> None:
    store = new_store()
    inbox = Inbox(store, "n")
    sent: list[str] = []
    got: list[str] = []
    for step, number in steps:
        if step == "send":
            sent.append(f"t{len(sent)}")
            send(store, "n", number, mail(sent[-1]))
        else:
            got += tokens(inbox.poll() if step == "poll" else inbox.sweep())
    got += tokens(inbox.sweep())
    assert sorted(got) == sorted(sent)
    assert store.list("") == []


def test_listings_are_rare_until_one_finds_mail_and_often_for_as_long_as_they_do() -> None:
    pace = SweepPace(least_s=1.0, most_s=8.0, now_s=0.0)
    assert [pace.is_due(s) for s in (7.9, 8.0)] == [False, True]
    waits = []
    now_s = 8.0
    for found in (True, True, False, False, False, False, False):
        pace.swept(now_s, found=found)
        due_s = next(s / 10 for s in range(10 * 100) if pace.is_due(s / 10))
        waits.append(due_s - now_s)
        now_s = due_s
    assert waits == pytest.approx([1, 1, 2, 4, 8, 16, 32])


def test_listings_become_rarer_still_while_nobody_sends_and_are_due_soon_after_mail() -> None:
    pace = SweepPace(least_s=1.0, most_s=8.0, now_s=0.0)
    now_s = 0.0
    for _ in range(10):
        pace.swept(now_s, found=False)
        now_s += 1000.0
    pace.swept(now_s, found=False)
    assert [pace.is_due(now_s + s) for s in (95.0, 96.0)] == [False, True]
    pace.mail_came(now_s + 10.0)
    assert [pace.is_due(now_s + s) for s in (17.0, 18.0)] == [False, True]
