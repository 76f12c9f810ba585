"""How the generators hand over a graph: both directions, sorted, nodes in random order."""

import numpy as np
import torch
from torch_geometric.data import Data


def undirected(pairs: np.ndarray, x: np.ndarray, label: int, rng: np.random.Generator) -> Data:
    """A graph with each pair of `pairs`, [E, 2], both ways, and its nodes under new names.

    Args:
        pairs: Edges [E, 2], each once.
        x: Features, [N, F].
        label: The class.
        rng: For the new names, so that the order of the nodes says nothing.
    """
    new_name = rng.permutation(len(x))
    renamed = new_name[pairs]
    both_ways = np.concatenate([renamed, renamed[:, ::-1]])
    order = np.lexsort((both_ways[:, 1], both_ways[:, 0]))
    return Data(
        x=torch.from_numpy(x[np.argsort(new_name)].astype(np.float32)),
        edge_index=torch.from_numpy(both_ways[order]).t().contiguous(),
        y=torch.tensor([label]),
    )
