"""What the daemon can do for which node: one table, for the code and for docs/comfyui.md."""

import functools
import json
import os

_PATH = os.path.join(os.path.dirname(os.path.dirname(__file__)), "compat.json")

with open(_PATH, encoding="utf-8") as _file:
    TABLE = json.load(_file)

_BY_MODULE = {row["module"]: row for row in TABLE["rows"] if "module" in row}


def row_of(function):
    """The table's row for a function that a node has put into a model; None where it is unknown."""
    function = _innermost(function)
    module = getattr(function, "__module__", None) or type(function).__module__
    # ComfyUI imports its extras and packs by path.
    module = module.replace(os.sep, ".")
    for name, row in _BY_MODULE.items():
        if f".{module}".endswith(f".{name}"):
            return row
    return None


def name_of(function):
    """For a message: the node where the table knows it, and where the code stands."""
    function = _innermost(function)
    kind = function if hasattr(function, "__qualname__") else type(function)
    place = f"{os.path.basename(kind.__module__)}.{kind.__qualname__}"
    row = row_of(function)
    return f"{' / '.join(row['nodes'])} ({place})" if row else place


def _innermost(function):
    while isinstance(function, functools.partial):
        function = function.func
    return function
