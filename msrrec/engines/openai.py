"""The teacher behind any OpenAI-compatible API: one try of one call."""

from msrrec.chat.client import ChatClient
from msrrec.chat.completions import Completion
from msrrec.config import EndpointConfig


class TeacherClient:
    """Calls to one teacher, safe for many at once in one event loop."""

    def __init__(
        self,
        endpoint: EndpointConfig,
        api_key: str | None,
        timeout_s: float,
        *,
        sends_seed: bool = False,
    ) -> None:
        """``endpoint.base_url`` must be set.

        With ``sends_seed`` the attempt goes along as seed, which not every API allows.
        """
        self._endpoint, self._sends_seed = endpoint, sends_seed
        self._client = ChatClient("teacher", endpoint, api_key, timeout_s)

    async def complete(self, prompt: str, attempt: int = 0) -> Completion:
        """The model's completion of one prompt; raises what ``ChatClient.complete`` does."""
        parameters: dict[str, object] = {
            "temperature": self._endpoint.temperature,
            "max_tokens": self._endpoint.max_tokens,
        }
        if self._sends_seed:
            parameters["seed"] = attempt
        return await self._client.complete(prompt, parameters)

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.close()
