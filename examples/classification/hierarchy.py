"""The embedded benchmark `hierarchy`: graphs whose class lies in their coarse structure.

`hierarchy` generates the graphs and `contacts` says what each class looks like from afar. Nothing
here trains or draws anything.
"""

from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from torch_geometric.data import Data

CLASSES: tuple[str, ...] = ("ring", "star", "clique", "path", "tree")

NUM_COLOURS = 8
COMMUNITIES = (5, 6)  # per graph; fewer than 5, and a path is a tree. Ranges include both ends.
NODES = (16, 22)  # per community
DENSITY = (0.35, 0.5)  # share of the pairs of nodes in a community that are edges, per graph
SHOWN = 0.95  # of the nodes show their community's colour, the others any colour
EXTRA_SWAPS = (0, 3)  # beyond the one swap per pair of communities that a clique needs


def hierarchy(num_graphs: int = 1000, seed: int = 0) -> list[Data]:
    r"""Graphs of dense communities; the class is how the communities are wired to each other.

    A graph has 5 or 6 communities of 16 to 22 nodes, each with a colour of its own out of 8. A
    node's features are the one-hot code of its community's colour or, for one node in twenty, of
    a colour drawn at random. Seen from afar, with a community as a node and two communities joined
    where any edge joins them, the graph is a ring, a star, a clique, a path or a tree, exactly.

    Why nothing but the coarse structure gives the class away:

    - **Size, degrees, features.** The nodes, colours, features and the edges inside communities
      are drawn before the class is looked at, and so is the number of *swaps*. The class only
      decides between which communities each swap happens: it replaces an edge (u, v) of one
      community and an edge (w, z) of another by (u, w) and (v, z). That leaves the degree of
      every node as it was. So the number of nodes and of edges, the degree sequence, the
      features, who has which degree and feature, and even the number of edges between
      communities follow the same law in every class; the test draws the same graph in every
      class and finds them equal.
    - **A network without pooling.** Swaps take the nodes that the fewest swaps have touched, so
      a node has few foreign neighbours or none among its eight or so, and telling these from
      neighbours that show a wrong colour takes smoothing. What counts is to which communities
      the foreign neighbours of *all* nodes of a community belong. Message passing over nodes
      dilutes that, and a readout over nodes adds it up without regard to the community that it
      came from. The set of colours in contact would be enough in principle, but colours
      take random places in the coarse graph: a ring of 5 alone can be coloured in 672 ways, of
      which a few hundred graphs show hardly any twice. What still shows a little at the
      level of nodes is the hub of a star, crowded with foreign neighbours, and the many
      colours that every community of a clique meets.
    - **With pooling**, the nodes that look alike after a layer or two of message passing make one
      supernode, and on these few supernodes the class is a matter of one or two further layers:
      who has how many neighbours, by how strong an edge. That takes an assignment that respects
      the communities (a random one joins everything to everything), and a network that looks at
      the edges *between* supernodes: nine tenths of the pooled weight are self-loops.

    Args:
        num_graphs (int): Number of graphs. Graph i is of class i modulo the number of classes, and
            is the same however many graphs there are. (default: :obj:`1000`)
        seed (int): Non-negative seed. (default: :obj:`0`)

    Returns:
        A list of :class:`torch_geometric.data.Data`, each connected, undirected, coalesced and
        without self-loops, with

        - **x** (float32): features, :math:`(N, 8)`
        - **edge_index** (int64): :math:`(2, E)`
        - **y** (int64): index into :obj:`CLASSES`, :math:`(1)`
        - **community** (int64): the true community of each node, :math:`(N)`. It is there to check
          the graphs with; numbered as in :func:`contacts`, it tells the class.
    """
    return [_graph(i % len(CLASSES), np.random.default_rng((seed, i))) for i in range(num_graphs)]


def contacts(name: str, num_communities: int) -> list[tuple[int, int]]:
    """The pairs (i, j), i < j, of communities that edges join in a graph of class `name`."""
    match name:
        case "ring":
            return [*contacts("path", num_communities), (0, num_communities - 1)]
        case "star":
            return [(0, i) for i in range(1, num_communities)]
        case "clique":
            return list(combinations(range(num_communities), 2))
        case "path":
            return [(i, i + 1) for i in range(num_communities - 1)]
        case "tree":  # a binary heap
            return [((i - 1) // 2, i) for i in range(1, num_communities)]
    raise ValueError(f"expected a class out of {', '.join(CLASSES)}, got {name!r}")


def _graph(label: int, rng: np.random.Generator) -> Data:
    # Up to the contacts, nothing may depend on the label.
    num_communities = int(rng.integers(*COMMUNITIES, endpoint=True))
    sizes = rng.integers(*NODES, endpoint=True, size=num_communities)
    community = np.repeat(np.arange(num_communities), sizes)
    num_nodes = len(community)
    shown = rng.permutation(NUM_COLOURS)[community]
    anything = rng.integers(NUM_COLOURS, size=num_nodes)
    colour = np.where(rng.random(num_nodes) < SHOWN, shown, anything)

    density = rng.uniform(*DENSITY)
    starts = np.cumsum(sizes) - sizes
    insides = [_community(int(size), density, rng) for size in sizes]
    edges = np.concatenate([e + start for (e, _), start in zip(insides, starts, strict=True)])
    swappable = np.concatenate([s for _, s in insides])
    num_swaps = num_communities * (num_communities - 1) // 2
    num_swaps += int(rng.integers(*EXTRA_SWAPS, endpoint=True))
    new_name = rng.permutation(num_nodes)

    pairs = rng.permutation(contacts(CLASSES[label], num_communities))
    _swap(edges, swappable, community, np.resize(pairs, (num_swaps, 2)), rng)

    edges = new_name[edges]
    both_ways = np.concatenate([edges, edges[:, ::-1]])
    order = np.lexsort((both_ways[:, 1], both_ways[:, 0]))
    old_name = np.argsort(new_name)
    return Data(
        x=torch.from_numpy(np.eye(NUM_COLOURS, dtype=np.float32)[colour[old_name]]),
        edge_index=torch.from_numpy(both_ways[order]).t().contiguous(),
        y=torch.tensor([label]),
        community=torch.from_numpy(community[old_name]),
    )


def _community(
    num_nodes: int, density: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Edges [E, 2] of a cycle through all nodes and random chords; whether each is a chord [E]."""
    low, high = _all_pairs(num_nodes)
    cycle = rng.permutation(num_nodes)
    following = np.roll(cycle, -1)
    on_cycle = np.zeros((num_nodes, num_nodes), dtype=bool)
    on_cycle[np.minimum(cycle, following), np.maximum(cycle, following)] = True
    is_chord = ~on_cycle[low, high]
    # The cycle comes first, and swaps spare it: so every community stays connected.
    order = np.argsort(is_chord + rng.random(len(low)))[: round(density * len(low))]
    return np.stack([low[order], high[order]], axis=1), is_chord[order]


@lru_cache
def _all_pairs(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.triu_indices(num_nodes, 1)
    return low, high


def _swap(
    edges: np.ndarray,
    swappable: np.ndarray,
    community: np.ndarray,
    pairs: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """For each pair of communities, turn an edge of either into two edges between them.

    Changes `edges` and `swappable` in place.
    """
    home = community[edges[:, 0]]
    touched = np.zeros(len(community))
    taken: set[tuple[int, int]] = set()
    for pair in pairs.tolist():
        while True:
            # The edges whose ends have the fewest foreign neighbours, so that these spread evenly.
            first, second = (
                _freshest(np.flatnonzero(swappable & (home == c)), edges, touched, rng)
                for c in pair
            )
            u, v = edges[first].tolist()
            w, z = rng.permutation(edges[second]).tolist()
            new = {(min(u, w), max(u, w)), (min(v, z), max(v, z))}
            if taken.isdisjoint(new):
                break
        taken |= new
        edges[first], edges[second] = (u, w), (v, z)
        swappable[[first, second]] = False
        touched[[u, v, w, z]] += 1


def _freshest(
    candidates: np.ndarray, edges: np.ndarray, touched: np.ndarray, rng: np.random.Generator
) -> int:
    """Which candidate edge has the ends with the fewest foreign neighbours; ties at random."""
    load = touched[edges[candidates]].sum(axis=1) + rng.random(len(candidates))
    return int(candidates[load.argmin()])
