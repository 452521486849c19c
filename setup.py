"""The build as pyproject.toml says, and search_spaces/ shipped inside the package, so that every install has the files."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["eed_search", "eed_search.*"]), "eed_search.search_spaces"],
    package_dir={"eed_search.search_spaces": "search_spaces"},
    package_data={
        "eed_search": ["py.typed"],
        "eed_search.deployment": ["runtimes.json"],
        "eed_search.search_spaces": ["*.yaml"],
    },
)
