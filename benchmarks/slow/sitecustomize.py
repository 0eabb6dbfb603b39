"""On the path of a platform's processes, this makes each embedded text take SLOW_MS longer, without work.

So machines that are not there can be measured: two nodes of one machine then share no processor that is at its limit.
"""

import importlib.util
import os
import sys
import time
from importlib.abc import MetaPathFinder
from typing import Any

NAME = "kernel.models.embedding"
SLOW_S = float(os.environ.get("SLOW_MS", "0")) / 1000


class Slowing(MetaPathFinder):
    """Changes the module when it is imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            embed = module.LocalEmbedder.embed_now

            def embed_now(self: Any, texts: Any, used: Any = None) -> Any:
                time.sleep(SLOW_S * len(texts))
                return embed(self, texts, used)

            module.LocalEmbedder.embed_now = embed_now

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Slowing())
