"""Properties of files as metadata; dates are ISO text, which sorts and compares as it should."""

from __future__ import annotations

import datetime
import re
from typing import Any

_PDF_DATE = re.compile(r"D?:?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?\s*(?:([+-])(\d\d)'?(\d\d)?'?|Z.*)?")


def iso_date(value: datetime.datetime | datetime.date | None) -> str | None:
    """A date in ISO text; one without a time zone is taken for UTC, as Office files mean it."""
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return None if value is None else value.isoformat()


def pdf_date(value: str) -> str | None:
    """A date as PDF writes it, D:20240229120000+01'00', in ISO text; None where it is none."""
    match = _PDF_DATE.match(value.strip())
    if match is None:
        return None
    numbers = [int(part) if part else default for part, default in zip(match.groups()[:6], (1, 1, 1, 0, 0, 0), strict=True)]
    sign, hours, minutes = match[7], int(match[8] or 0), int(match[9] or 0)
    offset = datetime.timedelta(hours=hours, minutes=minutes) * (-1 if sign == "-" else 1)
    try:
        return datetime.datetime(*numbers, tzinfo=datetime.timezone(offset)).isoformat()  # type: ignore[misc,arg-type]
    except ValueError:
        return None


def known(**values: str | None) -> dict[str, str]:
    """Those that say something."""
    return {key: value.strip() for key, value in values.items() if value and value.strip()}


def office_properties(said: Any, author: str | None) -> dict[str, str]:
    """The core properties of an Office file; its libraries call all but the author the same."""
    return known(
        title=said.title,
        author=author,
        subject=said.subject,
        keywords=said.keywords,
        created=iso_date(said.created),
        modified=iso_date(said.modified),
    )
