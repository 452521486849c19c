"""How is the house built? Lines, files, long functions and modules, arrows between rooms, import cycles.

    python benchmarks/house.py [--json]

A room is a package of `eed_search`, or a module that lies directly in it. Imports inside functions count; those for
types alone (`if TYPE_CHECKING`) do not. `tests/test_house.py` holds the limits.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "eed_search"
MOST_FUNCTION, MOST_MODULE = 60, 450  # lines
SHIPS_ALONE = "eed_search.deployment.runtime"  # copied into bundles, so one file


@dataclass(frozen=True)
class House:
    """What the code is made of.

    Attributes:
        num_lines: Of all modules.
        num_files: Modules.
        files: Modules by room.
        arrows: Rooms that a room imports from.
        long_functions: Functions of more than 60 lines, with their lines.
        long_modules: Modules of more than 450 lines, but for the runtime, which ships alone.
        cycles: Groups of modules that import each other.
    """

    num_lines: int
    num_files: int
    files: dict[str, int]
    arrows: dict[str, list[str]]
    long_functions: dict[str, int]
    long_modules: dict[str, int]
    cycles: list[list[str]]


def measure(package: Path = PACKAGE) -> House:
    """Read every module of a package; nothing of it is run."""
    trees = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(package.rglob("*.py"))
    }
    texts = {name: path.read_text(encoding="utf-8") for name, path in trees.items()}
    parsed = {name: ast.parse(text) for name, text in texts.items()}
    imports = {
        name: set(imported(name, trees[name].name == "__init__.py", tree, trees)) for name, tree in parsed.items()
    }
    rooms: dict[str, set[str]] = {}
    for name, others in imports.items():
        rooms.setdefault(room_of(name), set()).update(
            room_of(other) for other in others if room_of(other) != room_of(name)
        )
    lines = {name: text.count("\n") for name, text in texts.items()}
    files: dict[str, int] = {}
    for name in trees:
        if trees[name].name != "__init__.py":
            files[room_of(name)] = files.get(room_of(name), 0) + 1
    return House(
        num_lines=sum(lines.values()),
        num_files=len(lines),
        files=files,
        arrows={room: sorted(others) for room, others in sorted(rooms.items())},
        long_functions={
            f"{name}:{one.name}": size
            for name, tree in parsed.items()
            for one in ast.walk(tree)
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            and (size := (one.end_lineno or 0) - one.lineno + 1) > MOST_FUNCTION
        },
        long_modules={name: size for name, size in lines.items() if size > MOST_MODULE and name != SHIPS_ALONE},
        cycles=cycles(imports),
    )


def room_of(name: str) -> str:
    """Name the room of a module."""
    return ".".join(name.split(".")[:2])


def imported(name: str, is_package: bool, tree: ast.Module, known: Mapping[str, object]) -> Iterator[str]:
    """Name the modules of the package that a module imports, wherever in it."""
    for node in walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            for one in node.names:
                whole = f"{node.module}.{one.name}"
                if (found := whole if whole in known else str(node.module)) in known and found != name:
                    yield found


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk through a module, past what is there for types alone."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from walk(child)


def cycles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Find the groups of modules that reach each other (Tarjan 1972, https://doi.org/10.1137/0201010)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(imports[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in imports:
        if name not in index:
            visit(name)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    house = measure()
    if parser.parse_args(arguments).json:
        print(json.dumps(asdict(house), indent=1))
        return 0
    print(
        f"{house.num_lines:,} lines in {house.num_files} files; {sum(map(len, house.arrows.values()))} arrows between rooms"
    )
    for room, number in sorted(house.files.items()):
        print(
            f"  {room:28} {number:3} files  imports {', '.join(one.rpartition('.')[2] for one in house.arrows.get(room, ()))}"
        )
    for title, table in (
        ("functions over 60 lines", house.long_functions),
        ("modules over 450 lines", house.long_modules),
    ):
        print(f"{title}: {len(table)}")
        for name, size in sorted(table.items(), key=lambda one: -one[1]):
            print(f"  {size:4} {name}")
    print(f"import cycles: {len(house.cycles)}")
    for group in house.cycles:
        print(f"  {', '.join(group)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
