"""Whether a hub has a model, found with one short request in place of minutes of retries.

A model in this machine's cache needs no hub; ``HF_HUB_OFFLINE=1`` says that none is to be asked.
"""

import os
import re
from functools import lru_cache
from pathlib import Path

from msrrec.errors import ModelError, first_line

TIMEOUT_S = 5.0
"""How long the hub may take to answer before it counts as out of reach."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_EXPECTED = (
    "expected a model's folder, a hub name that this machine can reach, a .gguf file, 'embedded' "
    "or 'smollm2-135m'"
)


@lru_cache(maxsize=64)
def check_hub(name: str, revision: str | None = None) -> None:
    """Refuse a name that is no folder and that no hub can be asked for.

    Where the hub can't be reached and the model is in the cache, this process and those that it
    starts are told to stay offline, as the loaders would else try again and again.

    Args:
        name: What looks like a hub name, such as ``meta-llama/Meta-Llama-3-8B-Instruct``.
        revision: The hub's commit, branch or tag; None for its main branch.

    Raises:
        ModelError: If no hub can have it, the hub lacks it or withholds it, or it is neither cached
            nor can a hub be reached.
    """
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(f"{name}: no such folder, and no hub name; {_EXPECTED}")
    if cached_folder(name, revision) is None:
        _ask(name, revision)
        return
    try:
        _ask(name, revision)
    except ModelError:
        _stay_offline()


def find_token() -> str | None:
    """The hub's token of this process: ``HF_TOKEN``, or that of a login; None without one."""
    from huggingface_hub import get_token

    return get_token()


def use_token(token: str | None) -> None:
    """Have this process and those that it starts ask the hub with a token, unless they have one.

    On a cluster the token is read where the command runs, and handed to the workers that load.
    """
    if token and not os.environ.get("HF_TOKEN"):
        os.environ["HF_TOKEN"] = token


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """The folder of a hub's model in this machine's cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _ask(name: str, revision: str | None) -> None:
    """One request for the model's ``config.json``, without a retry."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, is_offline_mode

    if is_offline_mode():
        raise ModelError(
            f"{name}: no such folder, and it is not in the cache while HF_HUB_OFFLINE is set; "
            f"{_EXPECTED}"
        )
    url = hf_hub_url(name, "config.json", revision=revision)
    try:
        get_hf_file_metadata(url, timeout=TIMEOUT_S)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{name}: the hub shows it to accepted accounts only; accept its terms there and set "
            "HF_TOKEN"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        raise ModelError(
            f"{name}: no such folder, and the hub has no such model{at} for this account; "
            "correct the name, or set HF_TOKEN where it is private"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(
            f"{name}: the hub's model has no config.json; expected one in the Hugging Face format"
        ) from error
    except errors.HfHubHTTPError:
        return  # the hub answers, so what is wrong shows when the model is loaded
    except Exception as error:  # each HTTP library has its own errors for a missing network
        raise ModelError(
            f"{name}: no such folder, and no hub can be reached ({first_line(error)}); {_EXPECTED}"
        ) from error


def _stay_offline() -> None:
    """Say so to the hub's library, which reads its environment once, and to later processes."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
