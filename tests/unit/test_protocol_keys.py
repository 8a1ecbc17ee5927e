"""Keys: ids become keys, keys become ids again, and nothing leads out of its folder."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiary_df.errors import ConfigError
from apiary_df.protocol import keys
from apiary_df.protocol.keys import QueryKey

IDS = st.from_regex(re.compile(r"[a-z0-9][a-z0-9-]{0,63}"), fullmatch=True)
NUMBERS = st.integers(0, 10**6)


@given(IDS, NUMBERS)
def test_mail_and_heartbeat_keys_say_whose_they_are(node_id: str, number: int) -> None:
    assert keys.number_of_mail(keys.inbox(node_id, number)) == number
    assert keys.inbox(node_id, number).startswith(keys.inbox_prefix(node_id))
    assert keys.node_of_heartbeat(keys.heartbeat(node_id)) == node_id


@given(IDS, NUMBERS, NUMBERS, NUMBERS)
def test_keys_of_a_query_are_parsed_as_they_were_made(query_id: str, stage: int, task: int, attempt: int) -> None:
    made = {
        keys.manifest(query_id): QueryKey(query_id=query_id, kind="manifest"),
        keys.lease(query_id): QueryKey(query_id=query_id, kind="lease"),
        keys.outcome(query_id): QueryKey(query_id=query_id, kind="outcome"),
        keys.tasks(query_id, stage, task): QueryKey(query_id=query_id, kind="tasks", stage=stage, task=task),
        keys.plan(query_id, stage): QueryKey(query_id=query_id, kind="stage", stage=stage),
        keys.commit(query_id, stage, task, attempt): QueryKey(
            query_id=query_id, kind="commit", stage=stage, task=task, attempt=attempt
        ),
        keys.partial(query_id, stage, task, attempt): QueryKey(
            query_id=query_id, kind="partial", stage=stage, task=task, attempt=attempt
        ),
        keys.error(query_id, stage, task, attempt): QueryKey(
            query_id=query_id, kind="error", stage=stage, task=task, attempt=attempt
        ),
    }
    assert {key: keys.parse_query_key(key) for key in made} == made
    assert all(key.startswith(keys.query_prefix(query_id)) for key in made)


@given(st.lists(NUMBERS, max_size=20))
def test_a_listing_of_mail_sorts_as_the_numbers_do(numbers: list[int]) -> None:
    listed = sorted(keys.inbox("n", number) for number in numbers)
    assert [keys.number_of_mail(key) for key in listed] == sorted(numbers)


@pytest.mark.parametrize(
    "key",
    [
        "_queries/q1/other.json",
        "_queries/q1/commit_1.json",
        "_queries/q1/commit_1_2.json",
        "_queries/q1/commit_1_2_3.arrow",
        "_queries/q1/partial_1_2_3.json",
        "_queries/q1/error_1_2_3.arrow",
        "_queries/q1/error_01_2_3.json",
        "_queries/q1/sub/manifest.json",
        "_queries/../manifest.json",
        "_queries/-q/manifest.json",
        "manifest.json",
    ],
)
def test_other_keys_are_not_taken_for_a_querys(key: str) -> None:
    assert keys.parse_query_key(key) is None


@pytest.mark.parametrize("key", ["_swarm/inbox/n/x.json", "_swarm/inbox/n/1.json.tmp", "_swarm/nodes/n.json"])
def test_other_keys_are_not_taken_for_mail(key: str) -> None:
    assert keys.number_of_mail(key) is None


@pytest.mark.parametrize("value", ["", "-a", "A", "a/b", "..", "a.b", "a" * 65, "ä", "a\n"])
def test_an_id_that_could_leave_its_folder_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="a-z, 0-9"):
        keys.query_prefix(value)
    with pytest.raises(ConfigError, match="a-z, 0-9"):
        keys.heartbeat(value)
