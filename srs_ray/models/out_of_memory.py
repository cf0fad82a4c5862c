"""Tells a lack of memory from other errors of torch and its libraries."""

from __future__ import annotations

# How torch, cuDNN, cuBLAS and oneDNN say, in a plain RuntimeError, that memory ran out. Where a workspace does not fit,
# cuDNN takes another engine, and reports that it finds none where none fits. A library reports that it is not
# initialized where its handle finds no memory.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "unable to find an engine",
    "STATUS_NOT_INITIALIZED",
    "cublasCreate",
    "cudnnCreate",
    "could not create a primitive",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _OUT_OF_MEMORY)
    )
