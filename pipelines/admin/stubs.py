"""The messages and the service of `admin.proto`, made when they are first needed.

What belongs here: that. What does not: serving (see `service`). No generated file lies in the tree.
"""

from __future__ import annotations

from functools import cache
from typing import Any

PROTO = "pipelines/admin/admin.proto"


@cache
def messages_and_services() -> tuple[Any, Any]:
    """The two modules that `protoc` makes of the service's description."""
    import grpc

    made: tuple[Any, Any] = grpc.protos_and_services(PROTO)
    return made
