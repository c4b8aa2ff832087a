"""Files of a data set repository on the Hugging Face hub, or a mirror that HF_ENDPOINT names.

What is listed is one commit, so that a download that goes on tomorrow goes on with the same files. The client retries
by itself, but forgets a file that its process did not finish; so the bytes that arrived are kept here, under a name
that says of which content they are, and the next try asks for the rest. No token is sent: the exports are public.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars

from nutshell import files
from nutshell.errors import DataError

# What the client raises for want of a network, of the hub, or of what it was asked for.
_FAILURES = (httpx2.HTTPError, OSError)


class HubFile(NamedTuple):
    """A file as the hub lists it.

    Attributes:
        path: its path in the repository.
        size: in bytes.
        sha256: of its content, where the hub stores it apart (LFS); else absent.
        blob_id: its name in git: SHA-1 of a header and, where there is no `sha256`, of the content.
    """

    path: str
    size: int
    sha256: str | None
    blob_id: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def is_at(self, path: Path) -> bool:
        """Say whether a local file has this content, by reading it."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return files.sha256_file(path) == self.sha256
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == self.blob_id


class HubRepo:
    """One commit of a data set repository.

    Attributes:
        repo: its name, OWNER/NAME.
        revision: the commit.
        files: what it holds, by path.
    """

    def __init__(self, repo: str, revision: str = "main") -> None:
        """List the files of a commit, or of what a branch or tag points to.

        Raises:
            DataError: no such repository or revision, or no way to ask.
        """
        self.repo = repo
        # The client reads it once, when it is imported.
        self._endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
        disable_progress_bars()
        try:
            listed = HfApi(endpoint=self._endpoint, token=False).dataset_info(
                repo, revision=revision, files_metadata=True
            )
        except HFValidationError as error:
            raise DataError(f"{repo}: no repository's name, which is OWNER/NAME") from error
        except GatedRepoError as error:
            raise DataError(f"{repo}: its owner asks for an account first; fetch it by other means") from error
        except RepositoryNotFoundError as error:
            raise DataError(f"{repo}: no such data set repository on the hub, or a private one") from error
        except RevisionNotFoundError as error:
            raise DataError(f"{repo}: has no revision {revision!r}") from error
        except _FAILURES as error:
            raise DataError(f"{repo}: the hub cannot be asked ({_first_line(error)}); check the network") from error
        self.revision = str(listed.sha)
        self.files = {
            file.rfilename: HubFile(
                file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id or ""
            )
            for file in listed.siblings or ()
        }

    def bytes_left(self, file: HubFile, target: Path) -> int:
        """Count the bytes that `download` still has to bring."""
        part = _part(file, target)
        return file.size - (part.stat().st_size if part.exists() else 0)

    def download(self, file: HubFile, target: Path) -> None:
        """Bring a file, going on where an earlier try broke off; it appears at `target` whole and checked.

        Raises:
            DataError: the download broke off, or brought other bytes than the hub lists.
        """
        part = _part(file, target)
        if part.exists() and part.stat().st_size > file.size:
            part.unlink()
        url = hf_hub_url(self.repo, file.path, repo_type="dataset", revision=self.revision, endpoint=self._endpoint)
        try:
            with part.open("ab") as stream:
                http_get(
                    url,
                    stream,
                    resume_size=stream.tell(),
                    headers=build_hf_headers(token=False),
                    expected_size=file.size,
                )
                stream.flush()
                os.fsync(stream.fileno())
        except _FAILURES as error:
            raise DataError(
                f"{self.repo}: {file.path}: the download broke off ({_first_line(error)}); run the command again, and "
                "it goes on from here"
            ) from error
        if not file.is_at(part):
            part.unlink()
            raise DataError(
                f"{self.repo}: {file.path}: what arrived is not what the hub lists (its checksum differs); it is "
                "deleted, run the command again"
            )
        part.replace(target)


def _part(file: HubFile, target: Path) -> Path:
    """Name the file of the bytes that are there already; another content has another name."""
    return target.with_name(f".{target.name}.{(file.sha256 or file.blob_id)[:16]}.part")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
