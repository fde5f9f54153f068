"""One file over HTTP(S), through pooch: proxies as the environment sets them, resumed where a connection breaks."""

from collections.abc import Callable
from pathlib import Path

_ATTEMPTS = 3
_TIMEOUT_SECONDS = 30.0


class NotObtained(Exception):
    """A source did not give the file; the message says why. Other sources may."""


def download(url: str, path: Path, announce: Callable[[int], None]) -> None:
    """Write the content of `url` to `path`; what an interrupted attempt left is continued, not repeated.

    `announce` is told the size in bytes as soon as the server tells it.

    Raises `NotObtained` for an answer that is not the file, or no answer after three attempts.
    """
    import pooch
    import requests

    with open(path, "wb") as stream:
        for attempt in range(1, _ATTEMPTS + 1):
            start = stream.tell()
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})

            def restart(response, **_kwargs) -> None:
                # A server that ignores the range sends the whole file again.
                if response.status_code == 200:
                    stream.seek(0)
                    stream.truncate()
                announce(stream.tell() + int(response.headers.get("content-length", 0)))

            get = pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS, headers=headers, hooks={"response": restart})
            try:
                get(url, stream, None)
                return
            except requests.HTTPError as error:
                raise NotObtained(f"the server answered {error.response.status_code}") from error
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
                raise NotObtained(f"not an address ({error})") from error
            except requests.RequestException as error:
                if attempt == _ATTEMPTS:
                    raise NotObtained(f"no connection ({type(error).__name__})") from error
