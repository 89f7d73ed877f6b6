"""The peer of code_quality.py: an RQ-VAE with the settings of LC-Rec and TIGER.

Quantiser, losses, initialisation and optimiser as in LC-Rec (github.com/zhengbw0324/LC-Rec,
index/main.py): 3 x 256 codes, beta .25, codebook and commitment loss of weight 1, mean squared
reconstruction error, k-means on the first batch, xavier-normal linear layers with ReLU, AdamW at
1e-3 without decay, constant rate after 50 epochs of warm-up, gradients clipped at 1, batch 1024.
Layers 512-256-128 are TIGER's (arXiv 2305.05065, with a latent of 32) and the default of LC-Rec's
model (with 64); its main.py has 2048-1024-512-256-128-64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Variant:
    """What differs between the variants tried."""

    layers: tuple[int, ...]
    latent: int
    standardised: bool
    """Whether vectors are multiplied by sqrt(d), so that a component has a variance near 1 as those
    that LC-Rec trains on; unit vectors as they are otherwise."""

    def __str__(self) -> str:
        scale = "standardised" if self.standardised else "unit"
        return f"{'-'.join(map(str, self.layers))}-{self.latent}, {scale} input"


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        linear = nn.Linear(a, b)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class RqVae(nn.Module):
    """Encoder, residual quantiser with straight-through gradients, decoder."""

    def __init__(self, d: int, variant: Variant, sizes: tuple[int, ...], beta: float = 0.25):
        super().__init__()
        widths = [d, *variant.layers, variant.latent]
        self.encoder, self.decoder = mlp(widths), mlp(widths[::-1])
        self.levels = nn.ParameterList([torch.zeros(k, variant.latent) for k in sizes])
        self.beta = beta

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Centroids by k-means on the first batch, level by level."""
        from sklearn.cluster import KMeans

        rest = self.encoder(x)
        for level in self.levels:
            found = KMeans(len(level), max_iter=100, n_init=1, random_state=0).fit(rest.numpy())
            level.copy_(torch.from_numpy(found.cluster_centers_))
            rest = rest - level[torch.from_numpy(found.labels_).long()]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, loss of the quantiser (mean over levels), codes."""
        rest = latent = self.encoder(x)
        total, losses, codes = torch.zeros_like(latent), [], []
        for level in self.levels:
            scores = (level * level).sum(1) - 2 * rest.detach() @ level.T
            code = scores.argmin(1)
            centroid = level[code]
            committed = F.mse_loss(centroid.detach(), rest)
            losses.append(F.mse_loss(centroid, rest.detach()) + self.beta * committed)
            rest = rest - centroid.detach()
            total = total + centroid.detach()
            codes.append(code)
        through = latent + (total - latent).detach()
        return self.decoder(through), torch.stack(losses).mean(), torch.stack(codes, 1)


@dataclass(frozen=True)
class Trained:
    """The best point of a training's curve, chosen by the held-out items themselves."""

    error: float
    """Mean squared error of the held-out items, in the space of the vectors."""
    fit_error: float
    """Of the items trained on, at the same point."""
    codes: np.ndarray
    """(n, L) codes of held-out and then trained items."""
    best_epoch: int
    epochs: int
    """Epochs trained."""
    curve: list[tuple[int, float, float]]
    """(epoch, error of the items trained on, held-out error)."""


def train(
    fit: np.ndarray,
    held_out: np.ndarray,
    variant: Variant,
    sizes: tuple[int, ...],
    *,
    most_epochs: int,
    say: Callable[[str], None],
    every: int = 25,
    patience: int = 300,
    seed: int = 0,
) -> Trained:
    """Train until the held-out error has not fallen by half a percent in ``patience`` epochs."""
    torch.manual_seed(seed)
    d = fit.shape[1]
    factor = d**0.5 if variant.standardised else 1.0
    x, other = torch.from_numpy(fit) * factor, torch.from_numpy(held_out) * factor
    model = RqVae(d, variant, sizes)
    model.start(x[torch.randperm(len(x))[:1024]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    warm_up = 50 * -(-len(x) // 1024)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: min(1.0, (s + 1) / warm_up))
    curve: list[tuple[int, float, float]] = []
    best, codes = (np.inf, np.inf, 0), np.empty((0, len(sizes)), np.int64)
    mark, since, epoch = np.inf, 0, 0
    while epoch < most_epochs and since < patience:
        for _ in range(every):
            for rows in torch.randperm(len(x)).split(1024):
                made, loss, _ = model(x[rows])
                optimiser.zero_grad()
                (F.mse_loss(made, x[rows]) + loss).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
        epoch += every
        with torch.no_grad():
            made_fit, _, codes_fit = model(x)
            made_other, _, codes_other = model(other)
        of_fit = float(((made_fit - x) ** 2).sum(1).mean()) / factor**2
        of_other = float(((made_other - other) ** 2).sum(1).mean()) / factor**2
        curve.append((epoch, of_fit, of_other))
        say(f"{variant}: epoch {epoch}, error fit {of_fit:.4f}, held out {of_other:.4f}")
        if of_other < best[0]:
            best, codes = (of_other, of_fit, epoch), torch.cat([codes_other, codes_fit]).numpy()
        since += every
        if of_other < 0.995 * mark:
            mark, since = of_other, 0
    return Trained(best[0], best[1], codes, best[2], epoch, curve)
