"""The routes of the router: how they read the path, and how they answer errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import unquote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from voucher_sessions import VoucherSessionsError
from voucher_sessions.contrib.fastapi.problems import Problem, problem_of, problem_of_client, problem_of_input

# What FastAPI says of a body that is no JSON, if its parser raises another error than it should.
_UNREADABLE: Final = "There was an error parsing the body"
# Stands for %2F while a path is matched. No percent-encoding decodes to it.
_ENCODED_SLASH: Final = "\udc2f"


class ContractRoute(APIRoute):
    """A route whose path may contain percent-encoded slashes, and which answers errors with the bodies of the API."""

    def matches(self, scope: MutableMapping[str, Any]) -> tuple[Match, MutableMapping[str, Any]]:
        """Match the path as the client encoded it, so that a code with a slash does not look like two parts."""
        path = path_with_encoded_slashes(scope)
        if path is None:
            return super().matches(scope)
        match, child = super().matches({**scope, "path": path})
        if match is not Match.NONE:
            parameters: dict[str, object] = child["path_params"]  # those of a prefix can be numbers
            child["path_params"] = {
                name: value.replace(_ENCODED_SLASH, "/") if isinstance(value, str) else value
                for name, value in parameters.items()
            }
        return match, child

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that answers errors of the engine and wrong input itself."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except VoucherSessionsError as error:
                return problem_of(error).response
            except RedisError as error:
                return problem_of_client(error).response
            except RequestValidationError as error:
                return problem_of_input(error).response
            except HTTPException as error:
                if error.detail != _UNREADABLE:
                    raise  # of a dependency: the application answers it
                return Problem(status=400, key="invalid_payload", details=f"body: {error.detail}").response

        return answer


def path_with_encoded_slashes(scope: Mapping[str, Any]) -> str | None:
    """The decoded path, except for encoded slashes. None: the server does not say how the path was encoded.

    Bytes that are not UTF-8 become text that the engine refuses, instead of the text of another code.
    """
    encoded = scope.get("raw_path")
    if not encoded:
        return None
    text = encoded.decode(errors="surrogateescape")
    decoded = unquote(text)
    # Starlette's test client decodes twice. Any other path was changed since, or is decoded in another way.
    if scope["path"] not in (decoded, unquote(decoded)):
        return None
    return _ENCODED_SLASH.join(unquote(part, errors="surrogateescape") for part in re.split("%2[Ff]", text))
