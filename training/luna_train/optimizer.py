"""Muon for matrices and convolutions, AdamW for the rest.

Muon replaces the momentum of a weight matrix by its nearest orthogonal matrix, so that rare directions (a
colour, one name among 900) move as fast as common ones. A convolution counts as a matrix (out, in * k * k).
"""

import torch

from .parallel import in_parallel

MOMENTUM = 0.95
NEWTON_SCHULZ = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About U V^T of the singular value decomposition, (..., m, n), by four odd polynomials.

    All steps but the last run on the small Gram matrix: if x becomes P x, then x x^T becomes P (x x^T) P, and
    these matrices commute.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    gram = x @ x.mT
    unit, product = torch.eye(gram.shape[-1]), None
    for a, b, c in NEWTON_SCHULZ:
        if product is not None:
            gram = gram @ (factor @ factor)
        factor = a * unit + b * gram + c * gram @ gram
        product = factor if product is None else factor @ product
    x = product @ x
    return x.mT if tall else x


class MuonAdamW:
    """`muon`: parameters of two or more dimensions; `adam`: any others. One learning rate for both."""

    def __init__(self, muon, adam, rate, weight_decay=0.01, betas=(0.9, 0.99)):
        self.muon, self.weight_decay = list(muon), weight_decay
        self.momenta = [torch.zeros_like(parameter) for parameter in self.muon]
        self.adam = torch.optim.AdamW(adam, rate, betas=betas, weight_decay=weight_decay, fused=True)

    def zero_grad(self):
        self.adam.zero_grad()
        for parameter in self.muon:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float):
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        gradients = [parameter.grad for parameter in self.muon]
        torch._foreach_lerp_(self.momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, self.momenta, MOMENTUM)  # Nesterov
        torch._foreach_mul_(self.muon, 1 - rate * self.weight_decay)

        @torch.no_grad()
        def move(index: int):
            flat = ahead[index].flatten(1)
            # 0.2 sqrt(longer side): the size of an AdamW step, so that AdamW's rates fit
            scale = -rate * 0.2 * max(flat.shape) ** 0.5
            self.muon[index].add_(orthogonal(flat).view_as(self.muon[index]), alpha=scale)

        in_parallel(move, range(len(self.muon)))

    def state_dict(self):
        return {"adam": self.adam.state_dict(), "momenta": self.momenta}

    def load_state_dict(self, state):
        self.adam.load_state_dict(state["adam"])
        self.momenta = [momentum.clone() for momentum in state["momenta"]]


def muon_adamw(model: torch.nn.Module, rate: float) -> MuonAdamW:
    """Matrices to Muon; tables (embeddings), norms, biases, and layers that meet 3 or 4 channels to AdamW."""
    tables = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    muon, adam = [], []
    for parameter in model.parameters():
        matrix = parameter.ndim >= 2 and min(parameter.flatten(1).shape) > 16 and id(parameter) not in tables
        (muon if matrix else adam).append(parameter)
    return MuonAdamW(muon, adam, rate)
