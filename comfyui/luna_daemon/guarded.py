"""
Weights that are not here. On torch 2.15 a convolution with a meta weight does not fail: it returns
uninitialised memory. So every parameter of a remote net is a tensor that tells its shape and type
and refuses to be computed with.
"""

import torch

_METADATA = frozenset(
    """detach requires_grad_ size dim ndimension numel nelement element_size stride is_contiguous
    is_floating_point is_complex untyped_storage storage_offset data_ptr is_pinned __get__ __set__
    __repr__ __hash__ __format__ __len__""".split()
)


class WeightElsewhere(RuntimeError):
    """Something tried to compute with a weight of a remote net."""


class GuardedWeight(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", str(func))
        if name in _METADATA:
            return super().__torch_function__(func, types, args, kwargs or {})
        raise WeightElsewhere(
            f"The weights live in the daemon; {name} needs them here: use force_local for this branch."
        )

    def __deepcopy__(self, memo):
        return self


def guard(module):
    """Replaces every parameter of `module`, all on the meta device. Returns how many."""
    count = 0
    for each in module.modules():
        for name, parameter in list(each._parameters.items()):
            if parameter is None:
                continue
            weight = torch.Tensor._make_subclass(GuardedWeight, parameter.detach().to("meta"))
            each._parameters[name] = torch.nn.Parameter(weight, requires_grad=False)
            count += 1
    return count
