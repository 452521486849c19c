"""`eed-search check`: every mistake of a file at once, and what was read of its images; starts nothing.

Loads neither torch nor Ray, unless the source of the images itself needs torch.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from eed_search.cli.console import say
from eed_search.cli.space_file import Changes, find, read
from eed_search.config import names, plugins
from eed_search.config.image_sizes import too_small
from eed_search.config.registry import BUILT_IN
from eed_search.config.spec import Choice, Spec
from eed_search.config.torchvision_names import TORCHVISION
from eed_search.core.errors import ModelError
from eed_search.runs.data_facts import DataFacts

_WIDTH = 100


def check(file: Path, changes: Changes, *, import_plugins: bool = False) -> None:
    """Check a file and say what it would do.

    Args:
        file: As given.
        changes: What the command line changes in it.
        import_plugins: Whether to run the user's code that it names under `plugins:`.

    Raises:
        SpecError: With every mistake, one line each.
        DataError: If the images cannot be read, or not be dealt into splits.
        ModelError: If the base cannot take them.
    """
    spec = read(file, changes, import_plugins=import_plugins)
    images = _images(spec)
    say(f"{find(file)}: no mistakes")
    for line in (*summary(spec), *images, *plugin_lines(spec, "check --plugins")):
        say(f"  {line}")


def _images(spec: Spec) -> list[str]:
    """Read the images and say what was read, where that needs no download and no user code.

    Raises:
        DataError: If they cannot be read, or not be dealt into splits.
        ModelError: If the base cannot take them.
    """
    from eed_search.data.sources import is_absent

    if spec.data.source not in BUILT_IN["source"] and not plugins.are_loaded(spec.plugins):
        return ["images    not read, since that runs your code: `check --plugins` does, and so does a launch"]
    if is_absent(spec.data):
        return ["images    not there yet; a launch downloads them first"]
    from eed_search.data.reading import read as read_images

    facts = read_images(spec.data, spec.seed).facts
    if problem := too_small(spec.model.name, facts.preprocessing.height, facts.preprocessing.width):
        raise ModelError(problem)
    return image_lines(facts)


def image_lines(facts: DataFacts) -> list[str]:
    """Say what was read, in lines that stand below `summary`."""
    return textwrap.wrap(
        facts.line(),
        _WIDTH,
        initial_indent="images    ",
        subsequent_indent=" " * 10,
        break_long_words=False,
        break_on_hyphens=False,
    )


def plugin_lines(spec: Spec, asking: str) -> list[str]:
    """Say what is known of the user's own code, in lines that stand below `summary`.

    Args:
        spec: The search.
        asking: The command that imports it.
    """
    if plugins.are_loaded(spec.plugins):
        found = [(entry, names.by_plugin(entry)) for entry in spec.plugins]
        return [f"plugins   {entry}: {', '.join(f'{r.kind} {r.name}' for r in made)}" for entry, made in found]
    open_names = names.unknown_names(spec.model_dump())
    said = f"; not checked: {', '.join(open_names)}" if open_names else ""
    return [
        f"plugins   {', '.join(spec.plugins)}",
        f"          not imported, since that runs your code: `{asking}` does, and so does a launch{said}",
    ]


def _methods(spec: Spec) -> str:
    methods = spec.search.space.method.values if isinstance(spec.search.space.method, Choice) else ()
    kinds = {"prune": spec.members.granularity, "radmm": spec.members.radmm.set, "learned": spec.members.granularity}
    return ", ".join(f"{method} ({kinds[str(method)]})" if method in kinds else str(method) for method in methods)


def _base(spec: Spec) -> str:
    own_width = spec.model.name.startswith(TORCHVISION)
    return spec.model.name if own_width else f"{spec.model.name} of width {spec.model.width}"


def summary(spec: Spec) -> list[str]:
    """Describe a search in a few lines."""
    source = spec.data.source if spec.data.path is None else f"{spec.data.source} in {spec.data.path}"
    space = spec.search.space
    free = [
        name
        for name in type(space).model_fields
        if not (isinstance(dimension := getattr(space, name), Choice) and len(dimension.values) == 1)
    ]
    num_baselines = len(spec.baselines.sizes)
    return [
        f"data      {source}, eps {spec.threat.eps:.4g}",
        f"base      {_base(spec)}, {spec.base.epochs:g} epochs",
        f"teams     {spec.team.mode}, members by {_methods(spec)}",
        f"search    {spec.search.trials} trials ({spec.search.sampler}), {num_baselines or 'no'} baseline{'' if num_baselines == 1 else 's'}",
        f"varies    {', '.join(free) or 'nothing'}",
    ]
