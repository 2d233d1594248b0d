"""`UNetModel._forward`, in the daemon: the bare net. Sampling, guidance and scaling stay here."""

import torch

from . import adapters
from .bypass import bypass_adapters
from .compat import name_of
from .control import control_tensors, joined, rows_of, skip_shapes
from .daemon import Run
from .errors import LunaError, Unsupported
from .net_parts import NetParts
from .options import features_of
from .remote_net import RemoteNet

# Rows the daemon takes in one request (docs/protocol.md, section 7).
ROWS_MAX = 64
PREFIX = "diffusion_model."


class RemoteUNet(RemoteNet):
    """Stands in for `_forward`, so that wrappers around the net (EasyCache) still run."""

    def __init__(self, base, served, twin, read_weight):
        super().__init__(served, twin)
        self._base = base
        self._channels = base.model_config.unet_config["model_channels"]
        shapes = {name: each.shape for name, each in base.state_dict().items()}
        self._net = adapters.Net(
            shapes, _layer_of, lambda key: read_weight(key.removeprefix(PREFIX))
        )
        self._parts = NetParts(base.diffusion_model)
        self._skips = {}
        self._loras = (None, [])

    @property
    def patcher(self):
        """Whose patches hold now: the one that samples, or the one loaded last."""
        current = self._base.current_patcher
        if current is not None:
            return current
        loaded = getattr(self._base, "luna_patcher", lambda: None)()
        if loaded is None:
            raise Unsupported("A model that was never loaded with load_models_gpu")
        return loaded

    def begin_run(self, patcher):
        """Looks at all that a workflow has put on the model, before the first step."""
        self.local_reason = None
        self._loras = (None, [])
        self.twin.begin_run()
        try:
            self._check_patcher(patcher)
            self.daemon.connection.open()
        except (Unsupported, LunaError) as error:
            if not self.can_go_local(error):
                raise self.translate(error) from error
            self.go_local(error)
        else:
            self.twin.drop()

    def end_run(self):
        """What repeated in this run need not be kept for the next."""
        self.daemon.memory.clear()

    def _check_patcher(self, patcher):
        for name in patcher.object_patches:
            if name.startswith("diffusion_model"):
                raise Unsupported(f"A node that replaces {name}")
        self._check_parts()
        features_of(patcher.model_options.get("transformer_options", {}), self._channels)
        self._resolve(patcher.patches, self._bypass())
        for patches in patcher.hook_patches.values():
            self._resolve(patches, [])

    def _check_parts(self):
        found = next(self._parts.foreign(), None)
        if found is not None:
            raise Unsupported(_told(found))

    def _bypass(self):
        return bypass_adapters(self._base.diffusion_model, PREFIX)

    def _resolve(self, patches, bypass):
        return adapters.resolve(patches, bypass, self._net)

    def _current_loras(self, patcher):
        key = patcher.effective_key()
        if self._loras[0] != key:
            sets = self._resolve(patcher.effective_patches(), self._bypass())
            named = [(adapters.NamedLora(name), each) for name, each in patcher.named_loras]
            self._loras = (key, named + sets)
        return self._loras[1]

    def __call__(self, x, timesteps=None, context=None, y=None, control=None,
                 transformer_options={}, **arguments):  # fmt: skip
        if torch.is_grad_enabled() and (x.requires_grad or context.requires_grad):
            raise Unsupported("Training through the net")
        tensors = {"x": x, "timesteps": timesteps, "context": context, "y": y}
        if self.local_reason is None:
            try:
                self._check_parts()
                features = features_of(transformer_options, self._channels, arguments)
                return self._run(tensors, control, features)
            except (Unsupported, LunaError) as error:
                if not self.can_go_local(error):
                    raise self.translate(error) from error
                self.go_local(error)
        return self._run_locally(tensors, control, transformer_options, arguments)

    def _run(self, tensors, control, features):
        x = tensors["x"]
        fields = {"model": self.info["id"], **({"features": features} if features else {})}
        rows = x.shape[0]
        own = {"x": x, "timesteps": tensors["timesteps"].float()}
        shared = {name: tensors[name] for name in ("context", "y") if tensors[name] is not None}
        residuals = control_tensors(control, self._skip_shapes(x), rows) if control else {}
        loras = self._current_loras(self.patcher)
        outputs = []
        for begin in range(0, rows, ROWS_MAX):
            end = min(begin + ROWS_MAX, rows)
            run = Run("model_forward", fields, own, shared, residuals, loras)
            if rows > ROWS_MAX:
                run.own, run.shared, run.control = (
                    rows_of(each, begin, end, rows) for each in (own, shared, residuals)
                )
            outputs.append(self.daemon.run(run).tensors["out"])
        return joined(outputs).to(device=x.device, dtype=x.dtype)

    def _skip_shapes(self, x):
        size = tuple(x.shape[2:])
        if size not in self._skips:
            self._skips = {size: skip_shapes(self._base.diffusion_model, *size)}
        return self._skips[size]

    def _run_locally(self, tensors, control, options, arguments):
        model = self.twin.loaded(self.patcher, self._bypass())
        for each in self._parts.foreign():
            if not each.is_in(model.diffusion_model):
                raise Unsupported(f"{_told(each)} in a way that a local copy cannot repeat")
        dtype = model.get_dtype_inference()
        cast = {
            name: each if name == "timesteps" or each is None else each.to(dtype)
            for name, each in tensors.items()
        }
        out = model.diffusion_model._forward(
            **cast, control=control, transformer_options=options, **arguments
        )
        return out.to(tensors["x"].dtype)


def _told(foreign):
    if foreign.what is None:
        return f"A node that takes parts out of {foreign.name}"
    if foreign.is_forward:
        return f"A node that replaces the forward of {foreign.name} by {name_of(foreign.what)}"
    return f"A node that puts {name_of(foreign.what)} into the net at {foreign.name}"


def _layer_of(key):
    return f"unet.{key.removeprefix(PREFIX).rsplit('.', 1)[0]}"
