"""Work that lies nowhere in particular goes where there is the least of it for the idle bees."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apiary_df.model import NodeInfo, NodeState
from apiary_df.planner import Balance


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
