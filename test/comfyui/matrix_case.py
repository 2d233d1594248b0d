"""One workflow of the matrix, and the two lists they go into."""

from dataclasses import dataclass

from graph import Graph


@dataclass(frozen=True)
class Case:
    name: str
    workflow: dict
    expects: str = "daemon"
    # A picture is compared too.
    has_picture: bool = False
    note: str = ""
    # Of a "local" one: what force_daemon's error names.
    named: str = ""


# Narrow models, and those of full width.
CASES, FULL_CASES = [], []


def case(name, expects="daemon", has_picture=False, note="", named="", tier=CASES):
    def add(build):
        graph = Graph()
        build(graph)
        named_by = named or name.split()[0]
        tier.append(Case(name, graph.nodes, expects, has_picture, note, named_by))
        return build

    return add
