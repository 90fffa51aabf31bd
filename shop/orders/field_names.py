"""Detects misnamed fields: another common name, another spelling, or a typing error.

Unknown fields are dropped. If that would change the money, the destination or the contact data, the order is
refused instead, with the name that was probably meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from shop.orders.order import Order
from shop.orders.parts import BillingInfo, Item, PaymentInfo, ShippingInfo

_ADDRESS = {
    "address": "street street1 address1 line1 addressline1 streetaddress housenumber houseno streetnumber",
    "address2": "street2 line2 addressline2 addresstwo apartment apt suite "
    "street3 line3 address3 addressline3",
    "city": "town locality",
    "country": "countrycode countryiso countryiso2",
    "name": "recipient recipientname fullname firstname lastname",
    "phone": "phonenumber telephone tel mobile",
    "state": "statecode province provincecode region",
    "zip": "zipcode postcode postalcode postal plz",
}
# Lower case without separators; the keys are the models' field names.
_OTHER_NAMES: dict[type[BaseModel], dict[str, str]] = {
    Order: {
        "currency": "currencycode currencyiso isocurrency ordercurrency ccy",
        "customer_email": "email emailaddress mail",
        "customer_name": "customerfullname fullname",
        "items": "lineitems orderitems products",
        "payment_info": "payment paymentdetails",
        "shipping_info": "shipping shippingaddress shippingdetails deliveryaddress shipto",
        "discount_amount": "discount totaldiscount totaldiscounts discounttotal",
        "shipping_amount": "shippingtotal shippingcost shippingprice shippingfee freight",
        "tax_amount": "tax taxes totaltax taxtotal",
        "tip_amount": "tip tips gratuity totaltip",
        "prices_include_tax": "taxincluded taxesincluded taxincl priceswithtax",
        "total_amount": "total totalprice ordertotal grandtotal",
    },
    Item: {
        "discount_amount": "discount totaldiscount linediscount",
        "line_total": "rowtotal linetotalprice linesum",
        "price": "unitprice priceperunit",
        "product_id": "productcode",
        "quantity": "qty",
    },
    PaymentInfo: {
        "card_last4": "last4 lastfour cardlastfour cardlastfourdigits",
        "method": "paymentmethod",
        "token": "paymenttoken paymentmethodid cardtoken",
    },
    ShippingInfo: _ADDRESS,
    BillingInfo: _ADDRESS,
}
_ALTERNATIVES = {
    model: {other: name for name, others in names.items() for other in others.split()}
    for model, names in _OTHER_NAMES.items()
}
_MUST_AGREE = frozenset({"currency", "country"})
"""Fields for which a different value under another name is refused, even if the right field is there."""
_PARTS_OF_OTHER_FIELDS = frozenset(
    {"housenumber", "houseno", "streetnumber", "street3", "line3", "address3", "addressline3"}
)
"""Parts of an address whose field holds another part as well: refused even if that field is there."""
_HARMLESS = frozenset("id notes order_number ordered_at locale metadata properties sku variant fees".split())
"""Fields of whose names nothing is refused for its similarity."""
_DEEPEST = 12
"""Limits the nesting that is searched for a value, in levels."""
_NOTHING = re.compile(r"\s*([+-]?0{1,18}(\.0{1,18})?)?\s*")
_MIN_SIMILARITY = 0.84
"""The minimal similarity of a name (difflib's ratio): `curency` and `adress` reach it, `total_tax` for
`tax_amount` does not."""


def misnamed(model: type[BaseModel], given: Mapping[Any, Any]) -> dict[str, str]:
    """Returns the fields of `given` that the model does not have, each with the field that is probably
    meant and missing."""
    found: dict[str, str] = {}
    for key, value in given.items():
        if not isinstance(key, str) or key in model.model_fields or len(key) > 60 or is_empty(value):
            continue
        name = _intended(model, key)
        missing = name is not None and is_empty(given.get(name))
        if name is not None and (
            missing
            or _plain(key) in _PARTS_OF_OTHER_FIELDS
            or (name in _MUST_AGREE and _differ(value, given[name]))
        ):
            found[key] = name
    return found


@lru_cache(maxsize=10_000)
def _intended(model: type[BaseModel], key: str) -> str | None:
    plain = _plain(key)
    if (name := _ALTERNATIVES.get(model, {}).get(plain)) is not None:
        return name
    names = {field.replace("_", ""): field for field in model.model_fields if field not in _HARMLESS}
    alike = difflib.get_close_matches(plain, names, n=1, cutoff=_MIN_SIMILARITY)
    return names[alike[0]] if alike else None


def _plain(key: str) -> str:
    return re.sub(r"[\W_]+", "", key.lower())


def is_empty(value: Any, depth: int = 0) -> bool:
    """Returns whether dropping the value loses nothing. True also for an address of empty fields, and for
    zero."""
    if isinstance(value, Mapping | list | tuple) and depth < _DEEPEST:
        inner = value.values() if isinstance(value, Mapping) else value
        return all(is_empty(each, depth + 1) for each in inner)
    return (
        value is None
        or (isinstance(value, int | float) and value == 0)
        or (isinstance(value, Decimal) and value.is_zero())
        or (isinstance(value, str) and _NOTHING.fullmatch(value) is not None)
    )


def _differ(one: Any, other: Any) -> bool:
    texts = isinstance(one, str) and isinstance(other, str)
    return not texts or one.strip().casefold() != other.strip().casefold()
