"""The base class, types and validators of groups of settings. Each part defines its own group;
`shop/settings.py` composes them.

A field's environment variable is the group's prefix and the field's name in capitals, or the field's own
alias. Validation errors name the environment variable and do not show the given value: it may be a secret.

For each secret setting, such as `STRIPE_API_KEY`, there are two more:

- `STRIPE_API_KEY_FILE`: a file that contains it, as Docker and Kubernetes mount secrets;
- `STRIPE_API_KEY_BLOCK`: the name of a Prefect Secret block.

If several are set, their values must be equal. Errors name the setting and what to do, and never show a
secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator
from pydantic.fields import FieldInfo

from saga.configuration import LARGEST
from shop.text.domains import ascii_mail_domain, ascii_url_host
from shop.values.countries import is_country

_ALSO_SECRET = frozenset({"DATABASE_URL"})
"""Settings that contain a password but are not `SecretStr`, because they are shown without it."""
_LARGEST = 64_000
"""Limits how many characters of a secret's file are read."""
_block: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Replaces a secret that could not be read."""

    why: str


def blocks_from(read: Callable[[str], str]) -> None:
    """Sets the function that reads `..._BLOCK` settings: it takes a block's name, returns its secret, and may
    raise any exception."""
    global _block  # noqa: PLW0603
    _block = read


def is_secret(name: str, field: FieldInfo) -> bool:
    """Returns whether the setting can be in a file or a block."""
    return name in _ALSO_SECRET or field.annotation is SecretStr or SecretStr in get_args(field.annotation)


def elsewhere(name: str, given: Mapping[str, str | None]) -> str | Unreadable | None:
    """Reads the secret `name` (in capitals, as in the environment) from its file or block. None if neither is
    set."""
    file, block, here = (given.get(name + ending) for ending in ("_FILE", "_BLOCK", ""))
    if not file and not block:
        return None
    if file and block:
        return Unreadable(f"{name}_FILE and {name}_BLOCK are both set: unset one of them")
    found = _from_file(f"{name}_FILE", file) if file else _from_block(f"{name}_BLOCK", block or "")
    if here and not isinstance(found, Unreadable) and here != found:
        return Unreadable(
            f"{name} and {name}_{'FILE' if file else 'BLOCK'} have different values: unset one of them"
        )
    return found


def _from_file(setting: str, path: str) -> str | Unreadable:
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            text = file.read(_LARGEST).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        return Unreadable(f"{setting}={path} cannot be read: {reason}")
    return text or Unreadable(f"{setting}={path} is empty")


def _from_block(setting: str, name: str) -> str | Unreadable:
    if _block is None:
        return Unreadable(
            f"{setting}={name} is a Prefect block, which this program cannot read: "
            "set the secret in another way"
        )
    try:
        found = _block(name)
    except Exception as error:  # noqa: BLE001  (any error of the server or its client)
        return Unreadable(
            f"{setting}={name} cannot be read from the Prefect server: "
            f"{type(error).__name__}: {str(error)[:200]}"
        )
    return found.strip() or Unreadable(f"{setting}={name} is empty")


_PLAIN_ADDRESS = re.compile(r"https?://[^\s/@?#]+(/[^\s@?#]*)?")


class Group(BaseModel):
    """Base class: the settings of one part."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        return readable(value)


def prefixed(prefix: str) -> ConfigDict:
    """Returns a configuration in which the environment variables of fields without an alias begin with
    `prefix`."""
    return ConfigDict(alias_generator=lambda name: prefix + name.upper())


def readable(value: Any) -> Any:
    """Returns the value. Raises `ValueError` with the reason if it could not be read."""
    if isinstance(value, Unreadable):
        raise ValueError(value.why)
    return value


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its environment variable, and its field. `group`: None for a field outside of groups."""

    name: str
    group: str | None
    field: str
    info: FieldInfo


@cache
def settings_in(whole: type[BaseModel]) -> Mapping[str, Setting]:
    """Returns all settings of the class and of its groups, by environment variable."""
    found: dict[str, Setting] = {}
    for field, info in whole.model_fields.items():
        if (group := group_of(info)) is None:
            found[field.upper()] = Setting(field.upper(), None, field, info)
            continue
        for name, inner in group.model_fields.items():
            variable = inner.alias or name.upper()
            found[variable] = Setting(variable, field, name, inner)
    return MappingProxyType(found)


def group_of(info: FieldInfo) -> type[Group] | None:
    """Returns the class of the group in this field; None if the field is not a group."""
    annotation = info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Group) else None


def value_of(whole: BaseModel, setting: Setting) -> Any:
    """Returns the setting's value."""
    return getattr(whole if setting.group is None else getattr(whole, setting.group), setting.field)


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("must be JSON") from None


FromJson = BeforeValidator(_parsed)
"""Parses a setting of several values from JSON."""
Minutes = Annotated[float, Field(gt=0, le=LARGEST)]


def with_ascii_host(url: str) -> str:
    """Returns the URL with its host in ASCII, because clients encode other hosts in different ways."""
    try:
        return ascii_url_host(url)
    except UnicodeError:
        raise ValueError("its host is not a valid domain name") from None


Url = Annotated[str, AfterValidator(with_ascii_host)]


def _mail_address(value: str) -> str:
    try:
        return ascii_mail_domain(value)
    except UnicodeError:
        raise ValueError("its domain is not a valid domain name") from None


MailAddress = Annotated[str, AfterValidator(_mail_address)]


def _country(code: str) -> str:
    code = code.strip().upper()
    if not is_country(code):
        raise ValueError("a country must be a two-letter code of ISO 3166")
    return code


Country = Annotated[str, AfterValidator(_country)]
"""A country's two-letter code, converted to capitals."""


def is_plain_address(url: str) -> bool:
    """Returns whether this is a web address without login, query and fragment, so that it contains no
    secret."""
    return _PLAIN_ADDRESS.fullmatch(url) is not None


def separated(secrets: SecretStr | None) -> tuple[str, ...]:
    """Splits a value of several secrets, separated by commas."""
    return tuple(each.strip() for each in secrets.get_secret_value().split(",")) if secrets else ()
