"""Work that lies nowhere in particular goes where there is the least of it for the idle bees."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apiary_df.model import NodeInfo, NodeState
from apiary_df.planner import Balance
from apiary_df.planner.soon import SOON_SHARE, count_soon_idle


def node(number: int, bees: int, busy: int) -> NodeInfo:
    return NodeInfo(
        node_id=f"n{number}",
        state=NodeState.ALIVE,
        cores=bees,
        memory_bytes=1 << 30,
        memory_per_bee=1 << 30,
        target_cell_size=1 << 20,
        bees_total=bees,
        bees_busy=busy,
        idle_bees=bees - busy,
    )


NODES = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 4)).map(lambda pair: (pair[0], min(pair))), min_size=1, max_size=6
).map(lambda pairs: [node(number, bees, busy) for number, (bees, busy) in enumerate(pairs)])


def sought(nodes: list[NodeInfo], given_bytes: dict[str, int], work_bytes: int) -> str:
    """The same, by looking at every node."""

    def rank(n: NodeInfo) -> tuple[float, float, str]:
        waits_bytes = 0 if n.idle_bees else work_bytes
        load = given_bytes[n.node_id] / max(n.idle_bees, 0.5) + waits_bytes
        return (load, n.bees_busy / n.bees_total, n.node_id)

    return min(nodes, key=rank).node_id


@given(
    NODES, st.lists(st.tuples(st.integers(0, 100), st.one_of(st.none(), st.integers(0, 5))), min_size=1, max_size=30)
)
def test_the_choice_is_the_one_that_looking_at_every_node_makes(
    nodes: list[NodeInfo], works: list[tuple[int, int | None]]
) -> None:
    balance = Balance(nodes)
    given_bytes = {n.node_id: 0 for n in nodes}
    for work_bytes, elsewhere in works:
        chosen = balance.least_loaded(work_bytes)
        assert chosen == sought(nodes, given_bytes, work_bytes)
        taker = chosen if elsewhere is None else nodes[elsewhere % len(nodes)].node_id
        balance.give(taker, work_bytes + 1)
        given_bytes[taker] += work_bytes + 1


def test_who_is_at_little_of_the_query_counts_as_idle() -> None:
    nodes = [node(0, 2, 2), node(1, 2, 0)]
    small = int(SOON_SHARE * 1000)
    found = count_soon_idle(nodes, [("n0", small), ("n0", small)], 4000)
    assert [(n.bees_busy, n.idle_bees) for n in found] == [(0, 2), (0, 2)]


def test_who_is_at_much_of_it_or_at_what_nobody_knows_stays_busy() -> None:
    nodes = [node(0, 2, 2), node(1, 2, 0)]
    small = int(SOON_SHARE * 1000)
    assert count_soon_idle(nodes, [("n0", 2 * small), ("n0", 1)], 4000) == nodes
    assert count_soon_idle(nodes, [], 4000) == nodes
    (one_of_two, _) = count_soon_idle(nodes, [("n0", small)], 4000)
    assert (one_of_two.bees_busy, one_of_two.idle_bees) == (1, 1), "the other bee is at another query"


@given(nodes=NODES, work_bytes=st.integers(0, 10_000), data=st.data())
def test_nobody_has_more_bees_than_before(nodes: list[NodeInfo], work_bytes: int, data: st.DataObject) -> None:
    names = st.sampled_from([n.node_id for n in nodes] + ["gone"])
    underway = data.draw(st.lists(st.tuples(names, st.integers(0, 3000)), max_size=12))
    found = count_soon_idle(nodes, underway, work_bytes)
    assert [n.node_id for n in found] == [n.node_id for n in nodes]
    for before, after in zip(nodes, found, strict=True):
        assert after.bees_busy + after.idle_bees == before.bees_total
        assert before.idle_bees <= after.idle_bees
