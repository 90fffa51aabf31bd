"""EasyPost as a `Carrier`: one account for USPS, UPS, FedEx, DHL and a hundred others.

- **Once.** EasyPost sells a shipment's label once: a second purchase is refused, and looked up. The
  shipment's id is journalled before the purchase.
- **Ours.** Other shops may use the same account, with the same order ids. Therefore a shipment is never
  looked up by its `reference`, only by the id in our journal. A reference begins with the installation id; a
  shipment without it, which an earlier version journalled, is used and voided only if it goes to the order's
  address.
- **Voiding** is EasyPost's refund. A scanned parcel counts as handed over from then on.
- **Verified.** Every answer must be about the requested shipment, have our reference and the order's address,
  and not contradict itself; a label must have the quoted price; and a lookup must confirm the purchase.
  Otherwise it is a `CarrierMismatch`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote as url_quote

from shop.orders import amounts, names
from shop.orders.order import Order
from shop.orders.parts import Item
from shop.runtime.installation import installation_id
from shop.settings import Settings
from shop.shipping.carrier import NotOurParcel, Quote, Rate, Shipment, Voided, choose
from shop.shipping.easypost.calls import EasyPostCalls, Rejected, ShipmentNotFound
from shop.shipping.easypost.records import ShipmentRecord, read
from shop.shipping.easypost.settings import Sender
from shop.shipping.errors import CarrierMismatch, CarrierRefused, CarrierUnavailable, VoidRefused
from shop.shipping.labels.content import recipient_of
from shop.text.domains import ascii_mail_domain
from shop.text.sanitize import folded, one_line

_GRAMS = 28.349523125
"""Grams of an ounce."""

_LABEL_BEGINS = b"%PDF-"
_BOUGHT_BEFORE = "SHIPMENT.POSTAGE.EXISTS"
_ZIP_PLUS_4 = re.compile(r"[0-9]{9}")


class EasyPostCarrier:
    """The EasyPost `Carrier`, with at most `carrier_concurrency` calls at once."""

    name = "easypost"

    def __init__(
        self,
        settings: Settings,
        api_key: str,
        sender: Sender,
        installation: Callable[[], Awaitable[str]] = installation_id,
    ) -> None:
        self._settings, self._sender, self._installation = settings, sender, installation
        limits = settings.shipping.timeout_seconds, settings.shipping.concurrency
        self._calls = EasyPostCalls(settings.easypost.url, api_key, *limits, settings.easypost.label_hosts)

    async def quote(self, order: Order) -> Quote:
        params = self._params(order, await self._reference(order))
        made = read(ShipmentRecord, await self._calls(lambda c: c.shipment.create(**params)))
        if made.reference != params["reference"]:
            raise CarrierMismatch("reference")
        self._check(made, order)
        if made.parcel is None or made.parcel.weight != params["parcel"]["weight"]:
            raise CarrierMismatch("weight")
        if made.bought or made.tracking_code is not None:
            raise CarrierMismatch("parcel")
        return Quote(made.id, tuple(rate.to_rate() for rate in made.rates), self._choice(made))

    async def create(self, order: Order, quote_id: str, rate: Rate | None) -> Shipment:
        try:
            known = await self._get(quote_id)
        except ShipmentNotFound:
            raise NotOurParcel("the shipment in the journal does not exist at EasyPost") from None
        if not await self._is_ours(known, order):
            raise NotOurParcel("the shipment in the journal is not this order's")
        self._check(known, order)
        _check_price(known, rate)
        if not known.bought:
            chosen = rate or self._choice(known)
            if chosen.id not in {each.id for each in known.rates}:
                raise CarrierMismatch("rate")
            known = await self._buy(order, known, chosen.id)
            _check_price(known, rate)
        return known.to_shipment(order.id)

    async def _buy(self, order: Order, quote: ShipmentRecord, rate_id: str) -> ShipmentRecord:
        refused: Rejected | None = None
        purchase: ShipmentRecord | None = None
        try:
            purchase = read(
                ShipmentRecord, await self._calls(lambda c: c.shipment.buy(quote.id, rate={"id": rate_id}))
            )
        except Rejected as error:  # possibly because it was already bought
            refused = error
        try:
            bought = await self._get(quote.id)
        except ShipmentNotFound:
            raise CarrierMismatch("shipment") from None
        if refused is not None and not bought.bought and refused.reason != _BOUGHT_BEFORE:
            raise refused
        if not await self._is_ours(bought, order):
            raise CarrierMismatch("reference")
        self._check(bought, order)
        if not bought.bought or bought.voided:
            raise CarrierMismatch("label")
        if purchase is not None:
            self._check(purchase, order)
            if (
                purchase.voided
                or not _is_same_label(purchase, bought)
                or purchase.to_shipment(order.id) != bought.to_shipment(order.id)
            ):
                raise CarrierMismatch("purchase")
        if purchase is not None and bought.selected_rate != next(
            rate for rate in quote.rates if rate.id == rate_id
        ):
            raise CarrierMismatch("rate")
        return bought

    async def label(self, order: Order, shipment_id: str, tracking_number: str) -> bytes:
        record = await self._get(shipment_id)
        # The carrier created another format.
        if record.postage_label is not None and record.postage_label.pdf is None:
            asked = await self._calls(lambda c: c.shipment.label(shipment_id, file_format="PDF"))
            record = _with_id(shipment_id, read(ShipmentRecord, asked))
        self._check(record, order)
        if not await self._is_ours(record, order) or record.tracking_code != tracking_number or record.voided:
            raise CarrierMismatch("label")
        url = record.postage_label.pdf if record.postage_label else None
        if url is None:
            raise CarrierUnavailable("EasyPost has no PDF of this label yet")
        label = await self._calls.download(url)
        if not label.startswith(_LABEL_BEGINS):
            raise CarrierUnavailable("EasyPost's label is not a PDF")
        return label

    async def void(self, order: Order, shipment_id: str) -> Voided:
        try:
            record = await self._get(shipment_id)
        except ShipmentNotFound:
            return Voided.NOT_BOUGHT
        if not await self._is_ours(record, order):
            if not record.bought and record.reference is not None:
                return Voided.NOT_BOUGHT  # another shop's, and not paid by us
            raise VoidRefused(
                "the label in the journal has a different address than the order: "
                "another shop may have bought it"
            )
        if order.shipping_info is not None and not _goes_to(record, order):
            raise VoidRefused("the label in the journal has a different address at EasyPost than the order")
        refused: Rejected | None = None
        try:  # also for a label that is reported as void or not bought
            await self._calls(lambda c: c.shipment.refund(shipment_id))
        except Rejected as error:
            refused = error
        record = await self._get(shipment_id)  # only a lookup shows the result
        result = _void_result(record)
        if result is None or (result is Voided.NOT_BOUGHT and refused is None):
            raise VoidRefused(f"EasyPost does not refund the label: {refused or record.refund_status}")
        return result

    async def probe(self) -> None:
        with suppress(ShipmentNotFound):
            await self._get("shp_that_is_not_there")

    async def aclose(self) -> None:
        await self._calls.aclose()

    async def _get(self, any_id: str) -> ShipmentRecord:
        return _with_id(
            any_id,
            read(
                ShipmentRecord, await self._calls(lambda c: c.shipment.retrieve(url_quote(any_id, safe="")))
            ),
        )

    @staticmethod
    def _check(record: ShipmentRecord, order: Order) -> None:
        """Raises `CarrierMismatch` if the shipment has a different address than the order, or contradicts
        itself. Once its customer is erased, an order has no address to compare."""
        if (differs := record.contradiction()) is not None:
            raise CarrierMismatch(differs)
        if order.shipping_info is not None and not _goes_to(record, order):
            raise CarrierMismatch("address")

    def _choice(self, record: ShipmentRecord) -> Rate:
        rate = choose([rate.to_rate() for rate in record.rates], self._settings.easypost.service)
        if rate is None:
            raise CarrierRefused(f"no carrier accepts this parcel{_reasons(record)}")
        return rate

    async def _reference(self, order: Order) -> str:
        return names.own_name(await self._installation(), order.id)

    async def _is_ours(self, record: ShipmentRecord, order: Order) -> bool:
        """Returns whether the journalled shipment is this order's. Once its customer is erased, an order has
        no address to compare."""
        if record.reference == await self._reference(order):
            return True
        from_earlier_version = record.reference == names.stem(order.id)
        return from_earlier_version and (order.shipping_info is None or _goes_to(record, order))

    def _params(self, order: Order, reference: str) -> dict[str, Any]:
        to, sender, s = order.shipping_info, self._sender, self._settings
        if to is None:
            raise CarrierRefused("an order without shipping_info cannot be shipped")
        params: dict[str, Any] = {
            "reference": reference,
            "from_address": {
                "name": s.shop.name,
                "email": s.shop.email,
                **sender.model_dump(exclude_none=True),
            },
            "to_address": {
                "name": _recipient(order),
                "company": to.company,
                "street1": to.address,
                "street2": to.address2,
                "city": to.city,
                "state": to.state,
                "zip": to.zip,
                "country": to.country.upper(),
                "email": ascii_mail_domain(order.customer_email) if order.customer_email else None,
                "phone": to.phone,
            },
            "parcel": {"weight": round(sum(self._ounces(i) for i in order.items if not i.digital), 1)},
            "options": {"label_format": "PDF", "label_size": "4x6"},
        }
        if to.country.upper() != sender.country:
            params["customs_info"] = self._customs(order)
        return params

    def _ounces(self, item: Item) -> float:
        """Returns the weight of a line, in tenths of an ounce, as the carriers take it: at least one, because
        they refuse what weighs nothing; of `CARRIER_PIECE_OUNCES` a piece, if the order does not say it."""
        given = item.weight_grams
        piece = given / _GRAMS if given else self._settings.easypost.piece_ounces
        return max(0.1, round(item.quantity * piece, 1))

    def _customs(self, order: Order) -> dict[str, Any]:
        items = [
            {
                "description": one_line(item.name or item.product_id, 100),
                "quantity": item.quantity,
                "value": str(amounts.line_total(item, order.currency) - item.discount_amount),
                "currency": order.currency,
                "weight": self._ounces(item),
                "origin_country": self._sender.country,
            }
            for item in order.items
            if not item.digital
        ]
        return {
            "customs_certify": True,
            "customs_signer": self._settings.shop.name,
            "contents_type": "merchandise",
            "restriction_type": "none",
            "non_delivery_option": "return",
            "eel_pfc": "NOEEI 30.37(a)",
            "customs_items": items,
        }


def _recipient(order: Order) -> str:
    return one_line(recipient_of(order))


def _goes_to(record: ShipmentRecord, order: Order) -> bool:
    """Returns whether the shipment has the order's address. Carriers change case and punctuation, and may add
    a state."""
    to, there = order.shipping_info, record.to_address
    if to is None or there is None:
        return False
    pairs = [
        (_recipient(order), there.name),
        (to.address, there.street1),
        (to.address2, there.street2),
        (to.city, there.city),
    ]
    pairs += [(to.country, there.country), *([(to.state, there.state)] if to.state else [])]
    return all(_letters(ours) == _letters(theirs) for ours, theirs in pairs) and _is_zip(
        _letters(to.zip), _letters(there.zip)
    )


def _is_zip(ours: str, theirs: str) -> bool:
    """Returns whether the ZIP codes match. A carrier may extend five digits by four."""
    return theirs == ours or (_ZIP_PLUS_4.fullmatch(theirs) is not None and theirs[:5] == ours)


def _check_price(record: ShipmentRecord, quoted: Rate | None) -> None:
    """Raises `CarrierMismatch` if the quoted rate has changed, for example in its price. A person may buy a
    different rate in the carrier's dashboard."""
    purchase = (rate.to_rate() for rate in (*record.rates, *filter(None, [record.selected_rate])))
    if quoted is not None and any(rate != quoted for rate in purchase if rate.id == quoted.id):
        raise CarrierMismatch("price")


def _with_id(any_id: str, record: ShipmentRecord) -> ShipmentRecord:
    if record.id != any_id:
        raise CarrierMismatch("shipment")
    return record


def _is_same_label(one: ShipmentRecord, other: ShipmentRecord) -> bool:
    """Returns whether two answers are about the same parcel and label."""
    return (one.id, one.reference, one.postage_label) == (other.id, other.reference, other.postage_label)


def _letters(text: str | None) -> str:
    return "".join(filter(str.isalnum, folded(text or "").casefold()))


def _void_result(record: ShipmentRecord) -> Voided | None:
    """Returns the result of voiding; None if the label is still valid and unused."""
    if not record.bought:
        return Voided.NOT_BOUGHT
    if record.voided:
        return Voided.VOIDED
    return Voided.HANDED_OVER if record.handed_over else None


def _reasons(record: ShipmentRecord) -> str:
    reasons = [
        f"{message.carrier or 'EasyPost'}: {message.message}"
        for message in record.messages
        if message.message
    ]
    return one_line(f" ({'; '.join(dict.fromkeys(reasons))})", 300) if reasons else ""
