"""A network with two pooling levels, trained from start to end: a file to copy from.

The graphs are generated: five dense communities wired to each other as a path or as a star.
Run as ``python examples/minimal.py`` or ``python -m examples.minimal``.
"""

import torch
import torch.nn.functional as F
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import BatchNorm, GCNConv, global_mean_pool
from torch_geometric.utils import stochastic_blockmodel_graph

from gumbelpool import GumbelPool


class Net(torch.nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.conv1, self.norm1 = GCNConv(in_channels, 64), BatchNorm(64)
        self.conv2, self.norm2 = GCNConv(64, 64), BatchNorm(64)
        self.pool1 = GumbelPool(64, num_clusters=20, remove_self_loops=True, sample_in_eval=True)
        self.conv3, self.norm3 = GCNConv(64, 64), BatchNorm(64)
        self.pool2 = GumbelPool(64, num_clusters=5, remove_self_loops=True, sample_in_eval=True)
        self.lin = torch.nn.Linear(3 * 64, num_classes)

    def forward(self, x, edge_index, batch, batch_size=None, generator=None):
        given = {"batch_size": batch_size, "generator": generator}  # both may be left out
        x = self.norm1(self.conv1(x, edge_index)).relu()
        x = self.norm2(self.conv2(x, edge_index)).relu()
        fine = self.pool1(x, edge_index, batch=batch, **given)
        y = self.norm3(self.conv3(fine.x, fine.edge_index, fine.edge_weight)).relu()
        coarse = self.pool2(y, fine.edge_index, fine.edge_weight, fine.batch, **given)
        levels = (x, batch), (y, fine.batch), (coarse.x, coarse.batch)
        means = [global_mean_pool(*level, batch_size) for level in levels]
        return self.lin(torch.cat(means, dim=1)), fine.loss + coarse.loss


def community_graph(label):
    joined = [(0, i) if label else (i - 1, i) for i in range(1, 5)]
    density = 0.5 * torch.eye(5)
    for i, j in joined:
        density[i, j] = density[j, i] = 0.03
    edge_index = stochastic_blockmodel_graph([15] * 5, density)
    colour = torch.randperm(8)[:5].repeat_interleave(15)
    return Data(x=F.one_hot(colour, 8).float(), edge_index=edge_index, y=label)


def main():
    torch.manual_seed(0)
    graphs = [community_graph(label) for label in (0, 1) * 200]
    train, test = DataLoader(graphs[:320], 32, shuffle=True), DataLoader(graphs[320:], 80)
    model = Net(in_channels=8, num_classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(1, 21):
        model.train()
        for batch in train:
            logits, loss = model(batch.x, batch.edge_index, batch.batch)
            optimizer.zero_grad()
            (F.cross_entropy(logits, batch.y) + 0.1 * loss).backward()
            optimizer.step()
        model.eval()
        hits = sum((model(b.x, b.edge_index, b.batch)[0].argmax(-1) == b.y).sum() for b in test)
        print(f"epoch {epoch}: test accuracy {100 * int(hits) / 80:.1f} %", flush=True)


if __name__ == "__main__":
    main()
