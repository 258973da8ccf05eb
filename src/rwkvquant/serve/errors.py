"""What a client did wrong, in the shape of OpenAI's errors: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

from rwkvquant.errors import RwkvQuantError

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(RwkvQuantError):
    """An answer with an HTTP status of 400 or above. `param`: the field of the request that is wrong."""

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def api_error(error: Exception) -> ApiError:
    """What a client gets for any error: the sentence of a user's mistake, and no details of an error of ours."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RwkvQuantError):
        return ApiError(str(error))
    return ApiError("the server failed; its log says why", 500, code="internal_error")
