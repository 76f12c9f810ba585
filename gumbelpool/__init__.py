"""Sampled hard cluster pooling for PyTorch Geometric."""

from gumbelpool.coarsen import coarsen_edges, coarsen_nodes, unpool
from gumbelpool.diagnostics import CollapseWarning, Crispness, Occupancy, crispness, occupancy
from gumbelpool.diffpool import DenseDiffPool
from gumbelpool.expectation import (
    adjacency_variance,
    expected_adjacency,
    expected_features,
)
from gumbelpool.modularity import expected_modularity, modularity_variance
from gumbelpool.output import PoolOutput
from gumbelpool.pool import GumbelPool
from gumbelpool.rows import backend
from gumbelpool.samples import samples_for_error
from gumbelpool.sampling import sample_clusters
from gumbelpool.switch import data_checks

__version__ = "0.1.0"

__all__ = [
    "CollapseWarning",
    "Crispness",
    "DenseDiffPool",
    "GumbelPool",
    "Occupancy",
    "PoolOutput",
    "adjacency_variance",
    "backend",
    "coarsen_edges",
    "coarsen_nodes",
    "crispness",
    "data_checks",
    "expected_adjacency",
    "expected_features",
    "expected_modularity",
    "modularity_variance",
    "occupancy",
    "sample_clusters",
    "samples_for_error",
    "unpool",
]
