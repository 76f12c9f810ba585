"""What every pooling layer of this package returns."""

from typing import NamedTuple

from torch import Tensor

from gumbelpool.coarsen import unpool
from gumbelpool.diagnostics import Occupancy, occupancy
from gumbelpool.validation import check_length, check_supernode_rows


class PoolOutput(NamedTuple):
    r"""A pooled batch of graphs, in the field order of PyG's sparse poolers.

    Attributes:
        x: Pooled features, ``[K', F]``.
        edge_index: Coalesced pooled edges, ``[2, E']``, int64: sorted by (row, col), no duplicates.
        edge_weight: Sum of the merged weights, ``[E']``, or ``None`` for a binary pooled graph.
        batch: Graph of each supernode, ``[K']``, int64; all zeros where the input had no batch.
        edge_attr: Sum of the merged edge features, ``[E', D]``, or ``None``.
        cluster: Row of ``x`` that each node went to, ``[N]``, int64.
        losses: Auxiliary losses, scalars by name.
    """

    x: Tensor
    edge_index: Tensor
    edge_weight: Tensor | None
    batch: Tensor
    edge_attr: Tensor | None
    cluster: Tensor
    losses: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        """The sum of ``losses``, a zero where there are none."""
        zero = self.x.new_zeros(())
        return sum(self.losses.values(), zero)

    def unpool(self, x: Tensor | None = None) -> Tensor:
        """Gives each node the row of its supernode.

        Args:
            x: Rows per supernode, ``[K', ...]``. (default: the pooled features)

        Returns:
            ``x[cluster]``, of shape ``[N, ...]``.

        Raises:
            TypeError: If ``x`` is not a dense tensor.
            ValueError: If ``x`` has not a row for each supernode.
        """
        if x is None:
            x = self.x
        check_supernode_rows("x", x)
        check_length("x", x, "the pooled graph", self.x.size(0))
        return unpool(x, self.cluster)

    def occupancy(self, batch_size: int | None = None) -> Occupancy:
        """Measures how many supernodes each graph uses, and how evenly.

        Args:
            batch_size: The number of graphs B. (default: up to the last graph with a row in ``x``,
                which is all of them unless ``drop_empty=True``)

        Returns:
            :class:`~gumbelpool.Occupancy`, ``[B]`` each; zeros for a graph without nodes.
        """
        if batch_size is None:
            batch_size = int(self.batch[-1]) + 1 if self.batch.numel() > 0 else 0
        return occupancy(self.cluster, self.batch[self.cluster], batch_size)
