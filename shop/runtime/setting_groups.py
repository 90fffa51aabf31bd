"""The base class, types and validators of groups of settings. Each part defines its own group;
`shop/settings.py` composes them.

A field's environment variable is the group's prefix and the field's name in capitals, or the field's own
alias. Validation errors name the environment variable and do not show the given value: it may be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator
from pydantic.fields import FieldInfo

from saga.configuration import LARGEST
from shop.runtime.secrets import Unreadable
from shop.text.domains import ascii_mail_domain, ascii_url_host
from shop.values.countries import is_country

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
