"""Molecules and other graphs."""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from spy import Training


def chemprop() -> Training:
    from chemprop import data, models, nn

    smiles = ["C" * (1 + i // 4) + ("O", "N", "=C", "Cl")[i % 4] for i in range(32)]

    def loader(few, shift, shuffle):
        points = [data.MoleculeDatapoint.from_smi(s, [shift + 0.1 * i]) for i, s in enumerate(few)]
        return data.build_dataloader(data.MoleculeDataset(points), batch_size=6, shuffle=shuffle)

    module = models.MPNN(nn.BondMessagePassing(d_h=16, depth=2), nn.MeanAggregation(), nn.RegressionFFN(input_dim=16))

    def ids(batch):  # the target is 0.1 for each
        return (batch.Y.flatten() * 10).round().long()

    remark = "own module, loader and data set; its loss is a torchmetrics metric"
    reference = loader(smiles[:8], 0.05, False)
    return Training(ids, module, loader(smiles, 0.0, True), alone=True, reference=reference, remark=remark)


def torch_geometric() -> Training:
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader
    from torch_geometric.nn import GCN, global_mean_pool

    class Graphs(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.gnn, self.head = GCN(4, 16, 2), torch.nn.Linear(16, 3)

        def forward(self, batch):
            return self.head(global_mean_pool(self.gnn(batch.x, batch.edge_index), batch.batch))

        def training_step(self, batch, batch_idx):
            loss = F.cross_entropy(self(batch), batch.y)
            self.log("loss", loss, batch_size=batch.num_graphs)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    g = torch.Generator().manual_seed(0)

    def graph(i):
        edges = torch.randint(5, (2, 8), generator=g)
        return Data(
            x=torch.randn(5, 4, generator=g), edge_index=edges, y=torch.tensor([i % 3]), number=torch.tensor([i])
        )

    graphs = [graph(i) for i in range(40)]
    loaders = DataLoader(graphs[:32], 6, shuffle=True), DataLoader(graphs[32:], 6)
    remark = "its own DataLoader and Batch"
    return Training(lambda b: b.number, Graphs(), loaders[0], alone=True, reference=loaders[1], remark=remark)


def torch_geometric_nodes() -> Training:
    """A loss over the nodes of several graphs: no tensor of the step has the graphs first."""
    training = torch_geometric()

    def step(batch, batch_idx):
        module = training.module
        return F.cross_entropy(module.head(module.gnn(batch.x, batch.edge_index)), batch.y[batch.batch])

    training.module.training_step = step
    training.reference, training.remark = None, "nodes of several graphs, which are the rows of its loss"
    return training
