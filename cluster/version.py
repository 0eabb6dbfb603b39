"""The version of the code, from where it is written down."""

import tomllib

from cluster.layout import ROOT


def version() -> str:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])
