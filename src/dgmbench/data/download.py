"""One file over HTTP(S), through pooch: proxies as the environment sets them, continued where it broke off.

What is on disk says where to go on, so that a second attempt and a second process do the same: ask for the rest with
`Range`, on condition (`If-Range`) that the file is still the one that was begun. A server that does not know ranges, or
whose file changed, sends all of it again, and the part begins anew.

Reference: RFC 9110, sections 13.1.5 and 14.
"""

import re
from typing import Any

from dgmbench.data.part import Part, mark_of

_ATTEMPTS = 3
_TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 14  # what a break may lose; the 1 kB that pooch takes by itself halve the rate


class NotObtained(Exception):
    """A source did not give the file; the message says why. Other sources may."""


class _Misfit(Exception):
    """An answer that does not continue what is here."""


def download(url: str, part: Part) -> bool:
    """Fill `part` with the content of `url`; whether that continued what an earlier attempt had left.

    Raises `NotObtained` for an answer that is not the file, or no answer after three attempts; what came until then
    stays in the part.
    """
    import requests

    continued = False
    for attempt in range(1, _ATTEMPTS + 1):
        about = part.continuing(url)
        continued = continued or bool(about)
        try:
            if about and part.size == about["bytes"]:  # ended after the last byte, before it was verified
                part.resume(about["bytes"])
            else:
                _get(url, part, about)
            return continued
        except requests.HTTPError as error:
            raise NotObtained(f"the server answered {error.response.status_code}") from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise NotObtained(f"not an address ({error})") from error
        except _Misfit as error:
            part.empty()
            if attempt == _ATTEMPTS:
                raise NotObtained(f"the server's answers do not fit together ({error})") from error
        except requests.RequestException as error:
            if attempt == _ATTEMPTS:
                kept = f"; {part.size:,} bytes are kept, the next fetch goes on from there" if part.size else ""
                raise NotObtained(f"no connection ({type(error).__name__}){kept}") from error
    raise AssertionError("the last attempt returns or raises")


def _get(url: str, part: Part, about: dict[str, Any]) -> None:
    """One request: for the whole file, or for the rest of what `about` describes."""
    import pooch

    headers = {"Accept-Encoding": "identity"}
    if about:
        headers["Range"] = f"bytes={part.size}-"
        if about["mark"]:
            headers["If-Range"] = about["mark"]

    def answered(response: Any, **_kwargs: Any) -> None:
        if response.is_redirect:
            return
        if about and response.status_code == 206:
            _require_fit(response.headers, part.size, about)
            part.resume(about["bytes"])
        elif about and response.status_code == 416:
            raise _Misfit("416, although the file should have gone on")
        elif response.status_code == 200:
            part.begin(_about(url, response.headers))
        elif response.ok:
            raise NotObtained(f"the server answered {response.status_code}")

    get = pooch.HTTPDownloader(
        chunk_size=_BLOCK, timeout=_TIMEOUT_SECONDS, headers=headers, hooks={"response": answered}
    )
    get(url, part, None)


def _about(url: str, headers: Any) -> dict[str, Any] | None:
    """What a part must know to be continued; None where the bytes on the wire are not those of the file."""
    if headers.get("Content-Encoding", "identity") != "identity":
        return None
    length = headers.get("Content-Length", "")
    return {"url": url, "mark": mark_of(headers), "bytes": int(length) if length.isdigit() else None}


def _require_fit(headers: Any, start: int, about: dict[str, Any]) -> None:
    given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if given is not None and int(given[1]) != start:
        raise _Misfit(f"asked for byte {start:,} and the following, it sent byte {int(given[1]):,}")
    if given is not None and given[2] != "*" and about["bytes"] not in (None, int(given[2])):
        raise _Misfit(f"the file had {about['bytes']:,} bytes and now has {int(given[2]):,}")
    mark = mark_of(headers)
    # Servers that do not know `If-Range` send the rest of whatever the file is now.
    if mark is not None and about["mark"] is not None and mark != about["mark"]:
        raise _Misfit("the file changed meanwhile")
