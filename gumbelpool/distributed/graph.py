"""A graph whose nodes are sharded: who has which, and what is told across the cuts."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gumbelpool.distributed.processes import Processes, bounds
from gumbelpool.edges import Edges
from gumbelpool.graph_validation import check_edge_ends, check_edge_shapes
from gumbelpool.rows.merging import index_dtype
from gumbelpool.switch import data_checks_enabled
from gumbelpool.validation import check_features, check_length


class ShardedGraph:
    r"""One process's part of a graph: some nodes, their out-edges, and what else touches them.

    The nodes of the graph are numbered through the processes, process 0's first. Making it is a
    collective call, as is every method: all processes of the group make it, in the same order. It
    costs the exchange of the edges that lead from one process to another, once.

    A process keeps its out-edges, a copy of the in-edges of its nodes, and the *halo*: the nodes of
    other processes that an edge joins to one of its own. Here they are numbered own nodes first.

    Args:
        edge_index: The out-edges of this process's nodes, ``[2, E_r]``, int64, with the numbers
            that nodes have in the whole graph.
        num_own: How many nodes this process has, 0 or more.
        group: The processes. (default: all that ``torch.distributed`` has)

    Attributes:
        num_nodes (int): N, the nodes of all processes.
        num_edges (int): E, the edges of all processes.
        own (range): The numbers of this process's nodes.
        halo (torch.Tensor): The numbers of its halo, ascending, ``[H]``.
        edge_index (torch.Tensor): The in-edges of its nodes, sorted by target, ``[2, E_in]``,
            numbered from its first node on, the halo behind: what a convolution needs.

    Raises:
        RuntimeError: If ``torch.distributed`` is not initialised.
        TypeError: If an argument has the wrong type. This and the next on all processes alike.
        ValueError: If an edge's source is not among this process's nodes, or its target is no node.

    Example:
        >>> graph = ShardedGraph(edge_index, num_own=x.size(0))
        >>> x = conv(graph.with_halo(x), graph.edge_index)[: len(graph.own)]
        >>> out = pool_sharded(pool, x, graph)
    """

    def __init__(
        self, edge_index: Tensor, num_own: int, *, group: "dist.ProcessGroup | None" = None
    ) -> None:
        device = edge_index.device if isinstance(edge_index, Tensor) else torch.device("cpu")
        self.processes = Processes(group, device)
        self.processes.together(lambda: _check_types(edge_index, num_own), lambda _: device.type)
        counts = self.processes.gather_integers([num_own, edge_index.size(1)])
        first = bounds([nodes for nodes, _ in counts])
        self.num_nodes, self.num_edges = first[-1], sum(edges for _, edges in counts)
        self.own = range(first[self.processes.rank], first[self.processes.rank + 1])
        self._counts = [nodes for nodes, _ in counts]
        self.processes.together(
            lambda: _check_ends(edge_index, self.own, self.num_nodes), lambda _: self.num_nodes
        )

        target = edge_index[1]
        cut = ((target < self.own.start) | (target >= self.own.stop)).nonzero().squeeze(1)
        owner = self._owner(target.index_select(0, cut), first)
        owner, order = owner.sort(stable=True)
        self._cut = cut.index_select(0, order)
        self._cut_sent, self._cut_received = self._announce(owner)
        across = edge_index.index_select(1, self._cut).t()
        came = self.processes.exchange(across, self._cut_sent, self._cut_received).t()

        self.halo = torch.unique(torch.cat([across[:, 1], came[0]]))
        wanted, sent = self._announce(self._owner(self.halo, first))
        self._halo_received, self._halo_sent = wanted, sent
        self._sent = self.processes.exchange(self.halo, wanted, sent) - self.own.start

        self._out = self._here(edge_index)
        within = torch.ones_like(target, dtype=torch.bool).index_fill_(0, cut, False)
        within = within.nonzero().squeeze(1)
        into = torch.cat([self._out.index_select(1, within), self._here(came)], dim=1)
        by_target = into[1].sort(stable=True).indices
        self.edge_index = into.index_select(1, by_target)
        # Which of the values of the own edges, the received ones behind, each in-edge has.
        behind = torch.arange(came.size(1), device=device) + target.numel()
        source = torch.cat([within, behind]).index_select(0, by_target)
        self._in_value = source.to(index_dtype(target.numel() + came.size(1)))

    def __repr__(self) -> str:
        return (
            f"ShardedGraph(process {self.processes.rank} of {self.processes.size}, nodes "
            f"{self.own.start} to {self.own.stop} of {self.num_nodes}, {self._out.size(1)} of "
            f"{self.num_edges} edges, {self._cut.numel()} of them cut, halo {self.halo.numel()})"
        )

    def with_halo(self, x: Tensor) -> Tensor:
        """Puts the rows of the halo behind those of this process's nodes.

        Differentiable: a row's gradient is the sum of what it has on all processes.

        Args:
            x: ``[N_r, F]``, a row for each of this process's nodes.

        Returns:
            ``[N_r + H, F]``.

        Raises:
            TypeError: If ``x`` is not floating point.
            ValueError: If it has not a row for each node, or not the same F on all processes.
        """
        self.processes.together(
            lambda: self.check_rows("x", x), lambda _: [*x.shape[1:], x.dtype, x.requires_grad]
        )
        return _WithHalo.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]

    def sum(self, values: Tensor) -> Tensor:
        """Sums over the processes, differentiably; a tensor of the same shape on all.

        Args:
            values: ``[...]``, floating point.

        Returns:
            ``[...]``, the same on all processes.
        """
        return _Sum.apply(values, self)  # type: ignore[no-any-return, no-untyped-call]

    def collect(self, rows: Tensor) -> Tensor:
        """The rows of all nodes, on every process, without a gradient.

        Args:
            rows: ``[N_r, ...]``, of any dtype, such as ``out.cluster``.

        Returns:
            ``[N, ...]``.

        Raises:
            ValueError: If it has not a row for each of this process's nodes.
        """
        self.processes.together(
            lambda: check_length("rows", rows, "this process's nodes", len(self.own)),
            lambda _: [*rows.shape[1:], rows.dtype],
        )
        return self.processes.collect(rows, self._counts)

    # --- for the pooling ------------------------------------------------------------------------

    def check_rows(self, name: str, x: object) -> None:
        """Checks features of this process's nodes."""
        check_features(name, x)
        assert isinstance(x, Tensor)
        check_length(name, x, "this process's nodes", len(self.own))

    @property
    def out_index(self) -> Tensor:
        """The out-edges in the order in which they came, numbered as ``edge_index``."""
        return self._out

    def of_halo(self, rows: Tensor) -> Tensor:
        """The halo's rows, ``[H, ...]``, of which each process has those of its own nodes."""
        chosen = rows.index_select(0, self._sent)
        return self.processes.exchange(chosen, self._halo_sent, self._halo_received)

    def to_owners(self, halo: Tensor) -> Tensor:
        """The sums of what the processes have for each own node in their halos, ``[N_r, ...]``."""
        came = self.processes.exchange(halo, self._halo_received, self._halo_sent)
        total = halo.new_zeros(len(self.own), *halo.shape[1:])
        return total.index_add_(0, self._sent, came)

    def in_edges(self, edge_weight: Tensor | None, edge_attr: Tensor | None) -> Edges:
        """The in-edges with their values, for those of the out-edges."""
        return Edges(self.edge_index, self._of_in_edges(edge_weight), self._of_in_edges(edge_attr))

    def _of_in_edges(self, value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        across = value.index_select(0, self._cut)
        came = self.processes.exchange(across, self._cut_sent, self._cut_received)
        return torch.cat([value, came]).index_select(0, self._in_value)

    def _owner(self, node: Tensor, first: list[int]) -> Tensor:
        """The process that has each node."""
        return torch.bucketize(node, torch.tensor(first[1:], device=node.device), right=True)

    def _announce(self, owner: Tensor) -> tuple[list[int], list[int]]:
        """How many there are for each process, and how many each process has for this one."""
        here = torch.bincount(owner, minlength=self.processes.size).tolist()
        every = self.processes.gather_integers(here)
        return here, [each[self.processes.rank] for each in every]

    def _here(self, node: Tensor) -> Tensor:
        """Numbers nodes from this process's first on, the halo behind."""
        node = node.contiguous()
        inside = (node >= self.own.start) & (node < self.own.stop)
        behind = torch.searchsorted(self.halo, node) + len(self.own)
        return torch.where(inside, node - self.own.start, behind)


class _WithHalo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: ShardedGraph) -> Tensor:
        ctx.graph = graph
        return torch.cat([x, graph.of_halo(x)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        own, halo = torch.split(grad, [len(ctx.graph.own), ctx.graph.halo.numel()])
        return own + ctx.graph.to_owners(halo), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, graph: ShardedGraph) -> Tensor:
        ctx.graph = graph
        return graph.processes.sum(values)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.graph.processes.sum(grad)[0], None


def _check_types(edge_index: object, num_own: object) -> None:
    check_edge_shapes(edge_index, None, None)
    if isinstance(num_own, bool) or not isinstance(num_own, int):
        raise TypeError(f"num_own must be an int; got {num_own!r}")
    if num_own < 0:
        raise ValueError(f"num_own must be at least 0; got {num_own}")


def _check_ends(edge_index: Tensor, own: range, num_nodes: int) -> None:
    check_edge_ends(edge_index, num_nodes)
    if data_checks_enabled() and edge_index.size(1) > 0:
        low, high = (int(end) for end in edge_index[0].aminmax())
        if low not in own or high not in own:
            raise ValueError(
                "edge_index must have its sources among this process's nodes, "
                f"[{own.start}, {own.stop}); got {low} to {high}"
            )
