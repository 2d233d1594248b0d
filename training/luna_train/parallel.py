"""One thread per part of a batch, each running alone.

Torch's own threads meet after every small operation; beside other programs on the same cores they mostly wait for
each other. Here each thread takes its share of the batch through the whole step, and they meet once.
"""

from concurrent.futures import ThreadPoolExecutor

import torch

from .config import THREADS

POOL = []


def pool() -> ThreadPoolExecutor:
    torch.set_num_threads(1)
    if not POOL:
        POOL.append(ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)))
    return POOL[0]


def in_parallel(work, parts) -> list:
    return list(pool().map(work, parts))


def set_gradients(parameters, loss_of_part, parts) -> float:
    """Mean loss over the parts; its gradient goes to the parameters."""
    parameters = list(parameters)

    def run(part):
        loss = loss_of_part(part)
        return loss.item(), torch.autograd.grad(loss, parameters)

    results = in_parallel(run, parts)
    sums = list(results[0][1])
    for _, gradients in results[1:]:
        torch._foreach_add_(sums, list(gradients))
    torch._foreach_div_(sums, len(parts))
    for parameter, gradient in zip(parameters, sums):
        parameter.grad = gradient
    return sum(loss for loss, _ in results) / len(parts)
