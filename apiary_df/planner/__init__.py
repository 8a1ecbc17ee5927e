"""Which node reads which cell: pure arithmetic over :class:`CellInfo` and :class:`NodeInfo`.

What belongs here: choosing between local and distributed (``query``), giving cells to nodes (``board``,
``placing``), giving work that lies nowhere in particular (``balance``), taking from a node what is more than a bee can
hold (``leafcutter``), and packing a node's cells into waves of shares (``packing``). What does not: splitting a cell
into ranges (the scans do), making tasks of shares, and reacting to what happens later (the schedule does).

Every function here is deterministic: cells are taken in the order of their sort keys and nodes in the order
of their ids, so the order of the caller's dicts, sets and lists never shows in a plan. A cell that is handed
in twice (a file that a table lists twice) is two cells, and both are placed.

How a cell finds its node:

1. *Cached.* It goes to an idle node that caches it, up to that node's fair share of the whole work. The fair
   share is what keeps a node that caches everything from being given everything.
2. *Least loaded.* What is left goes, largest first, to the node with the fewest bytes per idle bee after
   taking it. Once a node's idle bees each have a bee's budget of work, or if it never had an idle bee, it
   queues: it counts by bytes per bee, busy or not, with a bee's budget still to do for every busy one. So
   work goes to those that will be free first, and is never refused.
3. *Leafcutter.* A node that holds more than one bee's budget gives cells away, as long as another node can
   take them into the budget of a bee of its own. Where none can, they stay where they are, for a later wave.
"""

from __future__ import annotations

from apiary_df.planner.balance import Balance
from apiary_df.planner.board import Assignments, Nodes, extract_alive_nodes
from apiary_df.planner.leafcutter import leafcutter_split_assignments
from apiary_df.planner.packing import Share, Wave, waves
from apiary_df.planner.placing import assign_cells_to_nodes
from apiary_df.planner.query import Distributed, Local, Shares, plan_query, spread_shares

__all__ = [
    "Assignments",
    "Balance",
    "Distributed",
    "Local",
    "Nodes",
    "Share",
    "Shares",
    "Wave",
    "assign_cells_to_nodes",
    "extract_alive_nodes",
    "leafcutter_split_assignments",
    "plan_query",
    "spread_shares",
    "waves",
]
