"""The plain dense float64 form of everything: one-hot S, dense A, explicit matrices, loops.

Written from the mathematics alone and to be obviously right, never to be fast. Nothing here imports
gumbelpool. `pool` is a differentiable function of a dense S in which every quantity is linear in
every row of S (its multilinear extension); autograd through it gives g = ∂L/∂S, and
`estimate` carries g to the logits by an explicit Jacobian matrix per row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-12
GAP = 1.0
INF = math.inf


@dataclass(frozen=True)
class Config:
    """The constructor options of the layer that change what it computes."""

    num_clusters: int
    ratio: float | None = None
    estimator: str = "straight_through"
    tau: float = 1.0
    aggr: str = "sum"
    losses: tuple[str, ...] = ()
    drop_empty: bool = False
    remove_self_loops: bool = False
    weighted: bool = True


class Output(NamedTuple):
    """The fields of PoolOutput, under the same names."""

    x: Tensor
    edge_index: Tensor
    edge_weight: Tensor | None
    batch: Tensor
    edge_attr: Tensor | None
    cluster: Tensor
    losses: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        return sum(self.losses.values(), torch.zeros((), dtype=torch.float64))


# --- the draw ----------------------------------------------------------------------------------


def clusters_per_graph(config: Config, batch: Tensor, num_graphs: int) -> list[int]:
    """K_g = K, or min(K, max(1, ceil(ratio · n_g)))."""
    if config.ratio is None:
        return [config.num_clusters] * num_graphs
    sizes = [int((batch == g).sum()) for g in range(num_graphs)]
    return [min(config.num_clusters, max(1, math.ceil(config.ratio * n))) for n in sizes]


def mask_logits(logits: Tensor, batch: Tensor, per_graph: Sequence[int]) -> Tensor:
    """Logits with −inf in the columns k ≥ K_g."""
    masked = logits.clone()
    for i, g in enumerate(batch.tolist()):
        masked[i, per_graph[g] :] = -INF
    return masked


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Row i goes to the first k with cumsum(softmax θ_i)_k > u_i."""
    chosen = []
    for p, u in zip(probabilities(logits).tolist(), uniforms.tolist(), strict=True):
        possible = [k for k in range(len(p)) if p[k] > 0]
        above = [k for k in possible if sum(p[: k + 1]) > u]
        chosen.append(above[0] if above else possible[-1])
    return torch.tensor(chosen, dtype=torch.long)


def one_hot(draw: Tensor, num_clusters: int) -> Tensor:
    S = torch.zeros(len(draw), num_clusters, dtype=torch.float64)
    for i, k in enumerate(draw.tolist()):
        S[i, k] = 1.0
    return S


# --- pooling, linear in every row of S -----------------------------------------------------------


def adjacency(num_nodes: int, edge_index: Tensor, values: Tensor) -> Tensor:
    """Dense [n, n]; duplicate edges add up."""
    A = torch.zeros(num_nodes, num_nodes, dtype=torch.float64)
    return A.index_put((edge_index[0], edge_index[1]), values, accumulate=True)


def pool_matrix(S: Tensor, A: Tensor) -> Tensor:
    """SᵀA₀S + diag(Sᵀa): SᵀAS for one-hot S, and linear in every row of S."""
    a = torch.diagonal(A)
    A0 = A - torch.diag(a)
    return S.T @ A0 @ S + torch.diag(S.T @ a)


def pool_features(S: Tensor, x: Tensor, aggr: str) -> Tensor:
    if aggr == "sum":
        return S.T @ x
    n = S.sum(0)
    divisor = torch.where(n.detach() >= 1, n, torch.ones_like(n))
    return S.T @ x / divisor.unsqueeze(1)


def link_loss(S: Tensor, edge_index: Tensor, w: Tensor) -> Tensor:
    """‖A − SSᵀ‖_F / max(‖A‖_F, 1) of one graph, with the diagonals of A and of SSᵀ linear in S."""
    n = len(S)
    loop = edge_index[0] == edge_index[1]
    A0 = adjacency(n, edge_index[:, ~loop], w[~loop])
    gram = S @ S.T
    off_diagonal = 1.0 - torch.eye(n, dtype=torch.float64)
    Q = (
        (w**2).sum()
        - 2 * (A0 * gram).sum()
        - 2 * w[loop].sum()
        + (off_diagonal * gram).sum()
        + float(n)
    )
    Q = Q if Q > TINY else torch.full_like(Q, TINY)  # constant: no gradient below tiny
    norm2 = (w**2).sum()
    return Q.sqrt() / (norm2.sqrt() if norm2 > 1 else 1.0)


def modularity_loss(S: Tensor, edge_index: Tensor, w: Tensor) -> Tensor:
    """−Q of one graph, pair by pair of nodes, with the pairs i = j linear in S."""
    n = len(S)
    W = w.sum()
    if W == 0:
        return torch.zeros((), dtype=torch.float64)
    A = adjacency(n, edge_index, w)
    beyond_chance = A / W - torch.outer(A.sum(1), A.sum(0)) / W**2
    same = S @ S.T
    same = same - torch.diag(torch.diagonal(same)) + torch.diag(S.sum(1))
    return -(beyond_chance * same).sum()


def probabilities(theta: Tensor) -> Tensor:
    """Softmax per row; −inf logits get probability 0 and a zero (never NaN) gradient."""
    if len(theta) == 0:
        return theta.clone()
    rows = []
    for row in theta:
        finite = row > -INF
        p = torch.zeros(len(row), dtype=torch.float64)
        rows.append(p.masked_scatter(finite, torch.softmax(row[finite], 0)))
    return torch.stack(rows)


def entropy_of(p: Tensor) -> Tensor:
    p = p[p > 0]
    return -(p * p.log()).sum()


def entropy_loss(theta: Tensor) -> Tensor:
    """mean_i H(p_i) of one graph."""
    return torch.stack([entropy_of(p) for p in probabilities(theta)]).mean()


def balance_loss(theta: Tensor, num_clusters: int) -> Tensor:
    """log K_g − H(mean_i p_i) of one graph."""
    return math.log(num_clusters) - entropy_of(probabilities(theta).mean(0))


def pool(
    config: Config,
    S: Tensor,
    theta: Tensor,
    x: Tensor,
    edge_index: Tensor,
    edge_weight: Tensor | None,
    edge_attr: Tensor | None,
    batch: Tensor,
    num_graphs: int,
) -> Output:
    """The layer's output, differentiable in S (used at a one-hot S) and in the inputs."""
    K = config.num_clusters
    if edge_weight is None:
        edge_weight = torch.ones(edge_index.size(1), dtype=torch.float64)
    per_graph = clusters_per_graph(config, batch, num_graphs)

    features, used, pooled_index, pooled_weight, pooled_attr = [], [], [], [], []
    loss_values: dict[str, list[Tensor]] = {name: [] for name in config.losses}
    for g in range(num_graphs):
        nodes = (batch == g).nonzero().flatten()
        n = len(nodes)
        position = {int(node): i for i, node in enumerate(nodes)}
        edges = [e for e, i in enumerate(edge_index[0].tolist()) if i in position]
        local = torch.tensor(
            [[position[int(end)] for end in side[edges]] for side in edge_index], dtype=torch.long
        ).view(2, -1)
        S_g, w = S[nodes], edge_weight[edges]

        features.append(pool_features(S_g, x[nodes], config.aggr))
        allowed = torch.arange(K) < per_graph[g]
        used.append(S_g.detach().sum(0) > 0 if config.drop_empty else allowed)

        exists = pool_matrix(S_g.detach(), adjacency(n, local, torch.ones(len(edges)).double())) > 0
        if config.remove_self_loops:
            exists &= ~torch.eye(K, dtype=torch.bool)
        row, col = exists.nonzero(as_tuple=True)  # in order of (row, col)
        pooled_index.append(torch.stack([row, col]) + g * K)
        pooled_weight.append(pool_matrix(S_g, adjacency(n, local, w))[row, col])
        if edge_attr is not None:
            channels = torch.zeros(len(row), edge_attr.size(1), dtype=torch.float64)
            for d in range(edge_attr.size(1)):
                pooled = pool_matrix(S_g, adjacency(n, local, edge_attr[edges, d]))
                channels[:, d] = pooled[row, col]
            pooled_attr.append(channels)

        zero = torch.zeros((), dtype=torch.float64)
        for name, values in loss_values.items():
            if name == "link":
                values.append(link_loss(S_g, local, w) if n else zero)
            elif name == "modularity":
                values.append(modularity_loss(S_g, local, w) if n else zero)
            elif name == "entropy":
                values.append(entropy_loss(theta[nodes]) if n else zero)
            else:
                values.append(balance_loss(theta[nodes], per_graph[g]) if n else zero)

    X = torch.cat(features)
    index = torch.cat(pooled_index, 1)
    graph = torch.arange(num_graphs).repeat_interleave(K)
    cluster = batch * K + S.detach().argmax(1)
    keep = torch.cat(used) if used else torch.zeros(0, dtype=torch.bool)
    new_id = torch.cumsum(keep.long(), 0) - 1
    X, graph, index, cluster = X[keep], graph[keep], new_id[index], new_id[cluster]
    return Output(
        x=X,
        edge_index=index,
        edge_weight=torch.cat(pooled_weight) if config.weighted else None,
        batch=graph,
        edge_attr=None if edge_attr is None else torch.cat(pooled_attr),
        cluster=cluster,
        losses={name: torch.stack(values).mean() for name, values in loss_values.items()},
    )


# --- estimators ----------------------------------------------------------------------------------


def jacobian(q: Tensor) -> Tensor:
    """J(q) = diag(q) − q qᵀ, one [K, K] matrix per row."""
    return torch.stack([torch.diag(row) - torch.outer(row, row) for row in q])


def apply_rows(matrices: Tensor, vectors: Tensor) -> Tensor:
    return torch.stack([M @ v for M, v in zip(matrices, vectors, strict=True)])


def conditional_gumbel(theta: Tensor, draw: Tensor, exponential: Tensor) -> Tensor:
    """θ + γ given that its argmax is `draw`, from Exp(1) noise."""
    out = torch.empty_like(theta)
    for i, c in enumerate(draw.tolist()):
        top = torch.logsumexp(theta[i], 0) - exponential[i, c].log()
        for j in range(theta.size(1)):
            # log of E_j e^{−θ_j}, and of E_c e^{−L} = e^{−top}
            out[i, j] = (
                top if j == c else -torch.logaddexp(exponential[i, j].log() - theta[i, j], -top)
            )
    return out


def exponential_noise(seed: int, sample: int, num_rows: int, num_clusters: int) -> Tensor:
    """Exp(1) noise of (seed, sample, row, column), by SplitMix64 in Python's integers."""

    def odd_word(index: int) -> int:
        word = seed + 0xD1B54A32D192ED03 * sample + 0x9E3779B97F4A7C15 * index
        word %= 2**64
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
        return (word ^ word >> 31) >> 32 | 1

    rows = [odd_word(i) for i in range(num_rows)]
    columns = [odd_word(-1 - k) for k in range(num_clusters)]
    uniform = [
        [(m * b % 2**32 // 2) * 2.0**-31 * (1 - 2.0**-24) + 2.0**-32 for b in columns] for m in rows
    ]
    return -torch.tensor(uniform, dtype=torch.float64).view(num_rows, num_clusters).log()


def estimate(
    name: str, g: Tensor, theta: Tensor, draw: Tensor, tau: float, noise: Sequence[Tensor] = ()
) -> Tensor:
    """∂L/∂θ from g = ∂L/∂S; `noise` is Exp(1), [N, K]: one for "gumbel", several for Rao."""
    if len(theta) == 0:
        return torch.zeros_like(theta)
    D = one_hot(draw, theta.size(1))
    soft = torch.softmax(theta / tau, -1)
    if name == "straight_through":
        return apply_rows(jacobian(soft), g) / tau
    if name in ("gumbel", "gumbel_rao"):
        assert len(noise) == 1 or name == "gumbel_rao"
        each = []
        for exponential in noise:
            q = torch.softmax(conditional_gumbel(theta, draw, exponential) / tau, -1)
            each.append(apply_rows(jacobian(q), g) / tau)
        return torch.stack(each).mean(0)
    if name == "gst":
        q = []
        for i, c in enumerate(draw.tolist()):
            largest = theta[i].max()
            m1 = (largest - theta[i, c]) * D[i]
            m2 = torch.relu(theta[i] - largest + GAP) * (1 - D[i])
            q.append(torch.softmax((theta[i] + m1 - m2) / tau, -1))
        return apply_rows(jacobian(torch.stack(q)), g) / tau
    assert name == "reinmax"
    middle = apply_rows(jacobian(0.5 * (soft + D)), g)
    base = apply_rows(jacobian(torch.softmax(theta, -1)), g)
    return 2 * middle - 0.5 * base


# --- the whole layer -----------------------------------------------------------------------------


def layer(
    config: Config,
    downstream: Callable[[Output], Tensor] | None,
    x: Tensor,
    edge_index: Tensor,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    *,
    edge_attr: Tensor | None = None,
    logits: Tensor | None = None,
    assign_x: Tensor | None = None,
    num_graphs: int | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    draw_from: Callable[[Tensor], Tensor] = lambda theta: theta.argmax(1),
    noise: Sequence[Tensor] = (),
) -> tuple[Output, dict[str, Tensor]]:
    """Output of the layer and the gradient of `downstream(output)` with respect to every input.

    `draw_from` maps the (masked) logits to the draw; `noise` is the Exp(1) noise of the backward.
    """
    if batch is None:
        batch = torch.zeros(len(x), dtype=torch.long)
        num_graphs = 1
    elif num_graphs is None:
        num_graphs = int(batch.max()) + 1

    given = {"x": x, "edge_weight": edge_weight, "edge_attr": edge_attr}
    leaf = {k: v.detach().double().requires_grad_() for k, v in given.items() if v is not None}
    source = x if assign_x is None else assign_x
    if logits is None:
        raw = source.detach().double() @ weight.detach().double().T
        raw = raw if bias is None else raw + bias.detach().double()
    else:
        raw = logits.detach().double()
    theta = mask_logits(raw, batch, clusters_per_graph(config, batch, num_graphs))
    theta.requires_grad_()
    chosen = draw_from(theta.detach())
    S = one_hot(chosen, config.num_clusters).requires_grad_()
    out = pool(
        config,
        S,
        theta,
        leaf["x"],
        edge_index,
        leaf.get("edge_weight"),
        leaf.get("edge_attr"),
        batch,
        num_graphs,
    )
    if downstream is None:
        return out, {}

    names = [*leaf, "S", "theta"]
    grads = torch.autograd.grad(
        downstream(out), [*leaf.values(), S, theta], allow_unused=True, materialize_grads=True
    )
    grad = dict(zip(names, grads, strict=True))
    through_draw = estimate(
        config.estimator, grad.pop("S"), theta.detach(), chosen, config.tau, noise
    )
    d_theta = torch.where(theta > -INF, through_draw + grad.pop("theta"), 0.0)
    if logits is not None:
        grad["logits"] = d_theta
        return out, grad
    grad["lin.weight"] = d_theta.T @ source.detach().double()
    if bias is not None:
        grad["lin.bias"] = d_theta.sum(0)
    d_source = d_theta @ weight.detach().double()
    if assign_x is None:
        grad["x"] = grad["x"] + d_source
    else:
        grad["assign_x"] = d_source
    return out, grad
