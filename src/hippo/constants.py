"""Tensors that depend on numbers alone: made once and kept, for training and inference alike."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar, cast

import torch

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")


def constant(maxsize: int) -> Callable[[Callable[Arguments, Made]], Callable[Arguments, Made]]:
    """Keep the latest `maxsize` results of a function, which are made outside of inference mode, on the CPU unless the
    function says otherwise.

    `torch.export` makes tensors without values; one of them, once kept, would be in all later results. It records its
    own thread only, so under it another one makes what is kept.
    """

    def keep(make: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
        def plain(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made:
            with torch.inference_mode(False), torch.device("cpu"):
                return make(*args, **kwargs)

        @functools.lru_cache(maxsize)
        @functools.wraps(make)
        def made(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made:
            if torch.compiler.is_exporting():
                with ThreadPoolExecutor(1) as elsewhere:
                    return elsewhere.submit(plain, *args, **kwargs).result()
            return plain(*args, **kwargs)

        return cast(Callable[Arguments, Made], made)

    return keep
