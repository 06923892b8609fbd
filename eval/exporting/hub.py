"""Repositories of the Hugging Face Hub: a model folder is one."""

from pathlib import Path
from types import ModuleType

from psla_wds.errors import ConfigError, PslaError


def huggingface_hub() -> ModuleType:
    """The package, which cards and uploads need."""
    try:
        import huggingface_hub
        import huggingface_hub.utils  # which the package does not always import by itself
    except ImportError:
        raise ConfigError(
            "model cards and uploads need the package huggingface_hub",
            where="eval.export",
            fix="pip install -c constraints.txt 'psla-wds[export]'",
        ) from None
    return huggingface_hub


def check_name(repository: str) -> None:
    """Raise `ConfigError` unless it is OWNER/NAME as the Hub takes it."""
    validation = huggingface_hub().utils
    try:
        validation.validate_repo_id(repository)
        if "/" not in repository:
            raise ValueError("it has no owner")
    except ValueError as error:
        raise ConfigError(
            f"{repository!r} is no name of a repository: {str(error).splitlines()[0]}",
            where="--push",
            fix="give OWNER/NAME, of letters, digits, - and _",
        ) from None


def push(
    folder: Path,
    repository: str,
    *,
    private: bool,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a folder in one commit; the repository is made if it is not there. Gives its URL.

    Args:
        endpoint, token: the Hub's own, and that of the account which is logged in, unless given.

    Raises `PslaError` if the Hub refuses, or cannot be reached.
    """
    library = huggingface_hub()
    from httpx2 import HTTPError  # of the library's client; connections that fail are of it too

    api = library.HfApi(endpoint=endpoint, token=token, library_name="psla-wds")
    try:
        # None, and not False: an organization may have its repositories private unless told.
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            commit_message="Upload a model that psla-wds exported",
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PslaError(
            f"the upload failed: {reason}",
            where=repository,
            fix="with the network there, and logged in by `hf auth login`: "
            f"hf upload {repository} {folder}{' --private' if private else ''}",
        ) from None
    return str(url)
