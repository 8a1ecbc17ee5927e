"""What is taken out of storage: only what is whole, for this place, and signed if this process has a swarm key."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiary_df.errors import ApiaryError, ConfigError, ObjectRefused
from apiary_df.model import ExchangeInput, PartialRef, Segment, TaskSpec, Within
from apiary_df.protocol import keys, storage
from apiary_df.protocol.inbox import REMEMBERED_NUMBERS, Inbox, send
from apiary_df.protocol.messages import CommitRecord, ErrorReport, Lease, Mail, TaskMail, TaskMetrics
from apiary_df.protocol.seal import (
    DAMAGED,
    FORGED,
    MALFORMED,
    MISPLACED,
    NO_KEY,
    REPLAYED,
    TOO_LARGE,
    UNSEALED,
    UNSIGNED,
    open_sealed,
    seal,
)
from apiary_df.protocol.storage import read_bytes, read_message, write_bytes, write_message
from apiary_df.store import Store, open_store
from apiary_df.store_options import RefusalCounts, StoreOptions, without_queries
from apiary_df.swarm_key import checked_key, key_from, new_key, read_key_file
from apiary_df.worker.bee import execution_error

KEY, OTHER = "correct-horse-battery-staple-0123456789", "incorrect-horse-battery-staple-012345678"
LEASE = Lease(query_id="q", coordinator="c", seq=3)


def reason_of(data: bytes, key: str, swarm_key: str | None) -> str:
    with pytest.raises(ObjectRefused) as caught:
        open_sealed(data, key, swarm_key)
    assert key in caught.value.message
    return caught.value.details["reason"]


@given(st.binary(max_size=200), st.text(min_size=1, max_size=20), st.sampled_from([None, KEY]))
def test_what_is_sealed_comes_back(content: bytes, key: str, swarm_key: str | None) -> None:
    assert open_sealed(seal(content, key, swarm_key), key, swarm_key) == content


@pytest.mark.parametrize(
    ("data", "swarm_key", "reason"),
    [
        (b"", None, UNSEALED),
        (b"{}", None, UNSEALED),
        (b"{}", KEY, UNSEALED),
        (b"apiary seal 2 xxh3 \n{}", None, UNSEALED),
        (seal(b"{}", "k", None).replace(b" 2 ", b" 1 ", 1), None, UNSEALED),
        (seal(b"{}", "k", None).replace(b"xxh3", b"hmac", 1), KEY, UNSEALED),
        (seal(b"{}", "k", None), KEY, UNSIGNED),
        (seal(b"{}", "k", KEY), None, NO_KEY),
        (seal(b"{}", "k", OTHER), KEY, FORGED),
        (seal(b"{}", "elsewhere", KEY), KEY, FORGED),
        (seal(b"{}", "elsewhere", None), None, DAMAGED),
        (seal(b"{}", "k", KEY) + b" ", KEY, FORGED),
        (seal(b"{}", "k", None)[:-1], None, DAMAGED),
        (seal(b"{}", "k", KEY).replace(b"\n", b"\r\n", 1), KEY, UNSEALED),
    ],
)
def test_what_is_not_ours_is_refused_with_the_reason(data: bytes, swarm_key: str | None, reason: str) -> None:
    assert reason_of(data, "k", swarm_key) == reason


@given(st.binary(max_size=60), st.data(), st.sampled_from([None, KEY]))
def test_no_changed_byte_goes_unnoticed(content: bytes, data: st.DataObject, swarm_key: str | None) -> None:
    sealed = bytearray(seal(content, "k", swarm_key))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    reason_of(bytes(sealed), "k", swarm_key)


def test_an_error_says_that_a_key_is_needed() -> None:
    with pytest.raises(ObjectRefused, match="APIARY_SWARM_KEY"):
        open_sealed(seal(b"{}", "k", KEY), "k", None)


# -- in storage ----------------------------------------------------------------------------------------------------


def store_with(swarm_key: str | None, url: str | None = None) -> Store:
    return open_store(url or f"memory://{uuid.uuid4().hex}", StoreOptions(swarm_key=swarm_key), environ={})


def test_refusals_are_counted_once_for_each_object() -> None:
    store = store_with(KEY)
    key = keys.lease("q")
    assert read_message(store, key, Lease) is None
    for content, times in ((b"junk", 1), (b"junk", 1), (b"other junk", 2)):
        store.put(key, content)
        with pytest.raises(ObjectRefused):
            read_message(store, key, Lease)
        assert store.refusals.snapshot() == {UNSEALED: times}
    write_message(store, key, LEASE)
    assert read_message(store, key, Lease) == LEASE


def test_of_what_is_too_large_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_SIGN_BYTES", "MAX_FRAGMENT_BYTES"):
        monkeypatch.setattr(storage, name, 100)
    store = store_with(None)
    store.put(keys.lease("q"), b"x" * 1000)
    before = store.counts.snapshot()["bytes_in"]
    with pytest.raises(ObjectRefused, match="has 1000 bytes"):
        read_message(store, keys.lease("q"), Lease)
    with pytest.raises(ObjectRefused):
        read_bytes(store, keys.lease("q"))
    assert store.counts.snapshot()["bytes_in"] == before
    assert store.refusals.snapshot() == {TOO_LARGE: 1}


def test_a_message_of_another_type_is_malformed() -> None:
    store = store_with(KEY)
    write_bytes(store, keys.lease("q"), b'{"seq": 1}')
    with pytest.raises(ObjectRefused) as caught:
        read_message(store, keys.lease("q"), Lease)
    assert caught.value.details["reason"] == MALFORMED


SEGMENT = Segment(partition=0, offset=8, length=8, rows=1, checksum="c")
METRICS = TaskMetrics(rows_out=0, bytes_out=0, bytes_in=0, queued_s=0, seconds=0)


def partial(key: str, **changes: Any) -> PartialRef:
    spans = {"length": 20, "footer_offset": 16, "head_length": 8, **changes}
    return PartialRef(key=key, footer_checksum="f", segments=(SEGMENT,), head_checksum="h", **spans)


def commit(**changes: object) -> CommitRecord:
    fields = {"query_id": "q", "stage": 1, "task": 2, "attempt": 3, "partial": partial(keys.partial("q", 1, 2, 3))}
    return CommitRecord(token="t", node_id="n", metrics=METRICS, **{**fields, **changes})  # type: ignore[arg-type]


def mail(read: PartialRef, token: str = "t", incarnation: str = "") -> Mail:
    exchange = ExchangeInput(leaf=0, segments=(read.segment_ref(SEGMENT),))
    spec = TaskSpec(stage=0, task=0, node_id="n", output_partitions=1, exchanges=(exchange,))
    task = TaskMail(spec=spec, attempt=0)
    return Mail(token=token, query_id="q", sender="s", tasks=(task,), incarnation=incarnation)


COMMIT = keys.commit("q", 1, 2, 0)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (keys.lease("another"), LEASE),
        (keys.manifest("q").replace("manifest", "unknown"), LEASE),
        (COMMIT, commit(query_id="another")),
        (COMMIT, commit(stage=0)),
        (COMMIT, commit(task=0)),
        (COMMIT, commit(epoch=1)),
        (COMMIT, commit(attempt=0)),
        (COMMIT, commit(partial=partial(keys.partial("another", 1, 2, 3)))),
        (COMMIT, commit(partial=partial("../../etc/passwd"))),
        (COMMIT, commit(partial=partial(keys.partial("q", 1, 2, 3), head_length=9))),
        (COMMIT, commit(partial=partial(keys.partial("q", 1, 2, 3), footer_offset=15))),
        (COMMIT, commit(partial=partial(keys.partial("q", 1, 2, 3), length=15))),
        (COMMIT, commit(partial=partial(keys.partial("q", 1, 2, 3), head_length=-1))),
        (keys.inbox("n", 0), mail(partial(keys.partial("another", 0, 0, 0)))),
        (keys.inbox("n", 0), mail(partial(keys.manifest("q")))),
        (keys.inbox("n", 0), mail(partial(keys.partial("q", 0, 0, 0), length=1))),
        *(
            (keys.inbox("n", 0), mail(partial(keys.partial("q", 0, 0, 0), within=Within(key=key, offset=offset))))
            for key, offset in (
                (keys.commit("another", 0, 0, 0), 640),
                (keys.commit("q", 0, 1, 0), 640),
                (keys.commit("q", 1, 0, 0), 640),
                (keys.partial("q", 0, 0, 0), 640),
                (keys.manifest("q"), 640),
                ("../../etc/passwd", 640),
                (keys.commit("q", 0, 0, 0), -1),
                (keys.commit("q", 0, 0, 0), 2**63),
            )
        ),
        (keys.inbox("n", 0).replace(".json", ".txt"), mail(partial(keys.partial("q", 0, 0, 0)))),
    ],
)
def test_a_message_that_names_what_is_not_its_own_is_refused_though_signed(key: str, message: CommitRecord) -> None:
    store = store_with(KEY)
    write_message(store, key, message)
    with pytest.raises(ObjectRefused) as caught:
        read_message(store, key, type(message))
    assert caught.value.details["reason"] == MISPLACED
    assert store.refusals.snapshot() == {MISPLACED: 1}


def test_honest_messages_are_taken() -> None:
    store = store_with(KEY)
    within = Within(key=keys.commit("q", 0, 0, 4), offset=640)
    for key, message in (
        (COMMIT, commit()),
        (keys.inbox("n", 0), mail(partial(keys.partial("q", 0, 0, 0)))),
        (keys.inbox("n", 0), mail(partial(keys.partial("q", 0, 0, 0), within=within))),
    ):
        write_message(store, key, message)
        assert read_message(store, key, type(message)) == message


def test_an_error_may_have_details_of_any_name() -> None:
    store = store_with(None)
    key = keys.error("q", 0, 0, 0)
    info = ConfigError("no").to_info()
    details = {"message": "m", "self": "s", "code": "c", "info": "x" * 10_000}
    error = type(info)(code="config", message="m" * 10_000, details=details)
    report = ErrorReport(query_id="q", stage=0, task=0, attempt=0, node_id="n", error=error, seconds=0)
    write_message(store, key, report)
    read = read_message(store, key, ErrorReport)
    assert read is not None
    rebuilt = ApiaryError.from_info(read.error)
    assert isinstance(rebuilt, ConfigError)
    assert rebuilt.details["message"] == "m"
    assert len(rebuilt.message) < 5_000


# -- mail that is put back ---------------------------------------------------------------------------------------------


def simple(token: str, incarnation: str = "") -> Mail:
    return Mail(token=token, query_id="q", sender="s", tasks=(), incarnation=incarnation)


@pytest.mark.parametrize("sweep", [False, True])
def test_mail_that_was_read_and_is_put_back_is_not_given_out_again(*, sweep: bool) -> None:
    store = store_with(KEY)
    inbox = Inbox(store, "n")
    send(store, "n", 0, simple("a"))
    caught = store.get(keys.inbox("n", 0))
    assert [m.token for m in inbox.poll()] == ["a"]
    store.put(keys.inbox("n", 0), caught)
    if not sweep:
        inbox.next_number = 0
    assert list(inbox.sweep() if sweep else inbox.poll()) == []
    assert store.refusals.snapshot() == {REPLAYED: 1}
    assert store.list("") == []


def test_mail_at_another_number_or_in_another_inbox_is_refused() -> None:
    store = store_with(KEY)
    send(store, "n", 0, simple("a"))
    for key in (keys.inbox("n", 5), keys.inbox("other", 0)):
        store.put(key, store.get(keys.inbox("n", 0)))
    assert [m.token for m in Inbox(store, "n").sweep()] == ["a"]
    assert list(Inbox(store, "other").poll()) == []
    assert store.refusals.snapshot() == {FORGED: 2}


def test_mail_for_an_earlier_life_of_the_node_is_refused() -> None:
    store = store_with(KEY)
    send(store, "n", 0, simple("a", "first"))
    send(store, "n", 1, simple("b", "second"))
    assert [m.token for m in Inbox(store, "n", "second").poll()] == ["b"]
    assert store.refusals.snapshot() == {REPLAYED: 1}


def test_what_a_node_must_remember_is_bounded() -> None:
    store = store_with(KEY)
    send(store, "n", 0, simple("old"))
    old = store.get(keys.inbox("n", 0))
    inbox = Inbox(store, "n")
    list(inbox.poll())
    inbox._tokens.clear()  # as after very many mails
    inbox.next_number = REMEMBERED_NUMBERS + 1
    store.put(keys.inbox("n", 0), old)
    assert list(inbox.sweep()) == []
    assert store.refusals.snapshot() == {REPLAYED: 1}


def test_junk_with_a_high_number_does_not_lead_senders_or_nodes_astray() -> None:
    store = store_with(KEY)
    store.put(keys.inbox("n", 9_999_999_999), b"junk")
    for number in range(10):
        store.put(keys.inbox("n", number), b"junk")
    assert send(store, "n", 0, simple("a")) == 10
    inbox = Inbox(store, "n")
    assert [m.token for m in inbox.sweep()] == ["a"]
    assert inbox.next_number == 11


# -- the key -------------------------------------------------------------------------------------------------------


def test_the_key_comes_from_options_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{OTHER}\n")
    environ = {"APIARY_SWARM_KEY_FILE": str(file)}
    assert key_from({}) is None
    assert key_from(environ) == OTHER == read_key_file(file)
    assert key_from({**environ, "APIARY_SWARM_KEY": f" {KEY} "}) == KEY
    assert open_store("memory://x", environ=environ).options.swarm_key == OTHER
    assert open_store("memory://x", StoreOptions(swarm_key=KEY), environ=environ).options.swarm_key == KEY
    assert StoreOptions.from_env(StoreOptions(swarm_key=KEY).to_environ()).swarm_key == KEY


@pytest.mark.parametrize("text", ["", "short", "x" * 31, "x" * 5000, "blank " * 10, "ü" * 40, "tab\t" * 20])
def test_what_is_no_key_is_refused_without_being_quoted(text: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(text.encode())
    with pytest.raises(ConfigError, match="apiary key") as told:
        checked_key(text, "here")
    with pytest.raises(ConfigError, match="apiary key") as in_file:
        read_key_file(file)
    for error in (told.value, in_file.value):
        assert len(text) < 5 or text not in str(error) + str(error.details)


def test_a_key_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the swarm key"):
        read_key_file(tmp_path / "none")


def test_new_keys_differ_and_are_taken() -> None:
    assert len({checked_key(new_key(), "new") for _ in range(10)}) == 10


def test_options_do_not_show_the_key() -> None:
    options = StoreOptions(swarm_key=KEY)
    assert KEY not in repr(options)
    assert KEY in options.secrets()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3) | st.none()), max_size=30))
def test_refusals_add_up(added: list[tuple[str, int | None]]) -> None:
    counts = RefusalCounts()
    for reason, mark in added:
        counts.add(reason, mark)
    distinct = {pair for pair in added if pair[1] is not None}
    for reason in "ab":
        once = sum(name == reason for name, _ in distinct)
        each = sum(name == reason and mark is None for name, mark in added)
        assert counts.snapshot().get(reason, 0) == once + each


def test_signatures_in_urls_are_not_quoted() -> None:
    words = "GET https://account.blob.core.windows.net/c/k?sv=2024&sig=abc%3D failed; see https://docs.example/x"
    assert (
        without_queries(words) == "GET https://account.blob.core.windows.net/c/k?... failed; see https://docs.example/x"
    )
    assert "sig=abc" not in str(execution_error(Exception(words)))
