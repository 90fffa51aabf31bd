"""EasyPost, as a `Carrier`: one account, and through it USPS, UPS, FedEx, DHL and a hundred others.

- **Once.** A shipment at EasyPost is bought once: buying it again is refused, and looked up. Its id is journalled before it is bought.
- **Ours.** The account may be shared with other shops, whose orders may have the same ids. So a shipment is never looked up by its
  `reference`, only by the id in our journal. A reference begins with the installation id; a shipment without it, which an earlier version
  has noted, is used and voided only if it goes to the order's address.
- **Voiding** is EasyPost's refund. A parcel that somebody has scanned is handed over, and stays so.
- **Not believed.** Every answer is about the shipment that was asked about, bears our reference, goes to the order's
  address, and agrees with itself; what is bought costs what was quoted; a label counts as bought once a look-up says the
  same as the purchase. Else it is a `CarrierMismatch`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote as url_quote

from shop.orders import names
from shop.orders.order import Order
from shop.runtime.installation import installation_id
from shop.settings import Settings
from shop.shipping.carrier import AnothersParcel, Quote, Rate, Shipment, Tracking, Voided, choose
from shop.shipping.easypost.calls import AnsweredNo, EasyPostCalls, NotThere
from shop.shipping.easypost.records import ShipmentRecord, read
from shop.shipping.easypost.settings import Sender
from shop.shipping.errors import CarrierMismatch, CarrierRefused, CarrierUnavailable, VoidRefused
from shop.text.domains import ascii_mail_domain
from shop.text.sanitize import folded, one_line

_LABEL_BEGINS = b"%PDF-"
_BOUGHT_BEFORE = "SHIPMENT.POSTAGE.EXISTS"
_ZIP_PLUS_4 = re.compile(r"[0-9]{9}")


class EasyPostCarrier:
    """A `Carrier` over one session of at most `carrier_concurrency` calls at once."""

    name = "easypost"

    def __init__(
        self, settings: Settings, api_key: str, sender: Sender, installation: Callable[[], Awaitable[str]] = installation_id
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
        except NotThere:
            raise AnothersParcel("the shipment in the journal is not there") from None
        if not await self._is_ours(known, order):
            raise AnothersParcel("the shipment in the journal is not this order's")
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
        refused: AnsweredNo | None = None
        told: ShipmentRecord | None = None
        try:
            told = read(ShipmentRecord, await self._calls(lambda c: c.shipment.buy(quote.id, rate={"id": rate_id})))
        except AnsweredNo as error:  # it may say so because it is bought already
            refused = error
        try:
            bought = await self._get(quote.id)
        except NotThere:
            raise CarrierMismatch("shipment") from None
        if refused is not None and not bought.bought and refused.reason != _BOUGHT_BEFORE:
            raise refused
        if not await self._is_ours(bought, order):
            raise CarrierMismatch("reference")
        self._check(bought, order)
        if not bought.bought or bought.voided:
            raise CarrierMismatch("label")
        if told is not None:
            self._check(told, order)
            if told.voided or not _same(told, bought) or told.to_shipment(order.id) != bought.to_shipment(order.id):
                raise CarrierMismatch("purchase")
        if told is not None and bought.selected_rate != next(rate for rate in quote.rates if rate.id == rate_id):
            raise CarrierMismatch("rate")
        return bought

    async def label(self, order: Order, shipment_id: str, tracking_number: str) -> bytes:
        record = await self._get(shipment_id)
        if record.postage_label is not None and record.postage_label.pdf is None:  # the carrier made another kind
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
            raise CarrierUnavailable("what EasyPost calls a label is no PDF")
        return label

    async def void(self, order: Order, shipment_id: str) -> Voided:
        try:
            record = await self._get(shipment_id)
        except NotThere:
            return Voided.NOT_BOUGHT
        if not await self._is_ours(record, order):
            if not record.bought and record.reference is not None:
                return Voided.NOT_BOUGHT  # another shop's, and none of our money is in it
            raise VoidRefused("the label in the journal goes to another address than the order's: another shop may have bought it")
        if order.shipping_info is not None and not _goes_to(record, order):
            raise VoidRefused("EasyPost says that the label in the journal goes to another address than the order's")
        refused: AnsweredNo | None = None
        try:  # also of a label that is said to be void, or not to be there
            await self._calls(lambda c: c.shipment.refund(shipment_id))
        except AnsweredNo as error:
            refused = error
        record = await self._get(shipment_id)  # only a look-up says what has become of it
        became = _became(record)
        if became is None or (became is Voided.NOT_BOUGHT and refused is None):
            raise VoidRefused(f"EasyPost does not take the label back: {refused or record.refund_status}")
        return became

    async def track(self, shipment_id: str) -> Tracking:
        return (await self._get(shipment_id)).to_tracking()

    async def probe(self) -> None:
        with suppress(NotThere):
            await self._get("shp_that_is_not_there")

    async def aclose(self) -> None:
        await self._calls.aclose()

    async def _get(self, any_id: str) -> ShipmentRecord:
        return _with_id(any_id, read(ShipmentRecord, await self._calls(lambda c: c.shipment.retrieve(url_quote(any_id, safe="")))))

    @staticmethod
    def _check(record: ShipmentRecord, order: Order) -> None:
        """Raises `CarrierMismatch` if it does not go to the order's address, or contradicts itself. Once its customer is
        erased, an order has no address that could be compared."""
        if (differs := record.contradiction()) is not None:
            raise CarrierMismatch(differs)
        if order.shipping_info is not None and not _goes_to(record, order):
            raise CarrierMismatch("address")

    def _choice(self, record: ShipmentRecord) -> Rate:
        rate = choose([rate.to_rate() for rate in record.rates], self._settings.easypost.service)
        if rate is None:
            raise CarrierRefused(f"no carrier takes this parcel{_why(record)}")
        return rate

    async def _reference(self, order: Order) -> str:
        return names.own_name(await self._installation(), order.id)

    async def _is_ours(self, record: ShipmentRecord, order: Order) -> bool:
        """Of a shipment in the order's journal. Once its customer is erased, an order has no address that could be compared."""
        if record.reference == await self._reference(order):
            return True
        an_earlier_version_s = record.reference == names.stem(order.id)
        return an_earlier_version_s and (order.shipping_info is None or _goes_to(record, order))

    def _params(self, order: Order, reference: str) -> dict[str, Any]:
        to, sender, s = order.shipping_info, self._sender, self._settings
        if to is None:
            raise CarrierRefused("an order without shipping_info cannot be shipped")
        params: dict[str, Any] = {
            "reference": reference,
            "from_address": {"name": s.shop.name, "email": s.shop.email, **sender.model_dump(exclude_none=True)},
            "to_address": {
                "name": _recipient(order),
                "street1": to.address,
                "street2": to.address2,
                "city": to.city,
                "state": to.state,
                "zip": to.zip,
                "country": to.country.upper(),
                "email": ascii_mail_domain(order.customer_email) if order.customer_email else None,
                "phone": to.phone,
            },
            "parcel": {"weight": round(sum(order.wanted.values()) * s.easypost.piece_ounces, 1)},
            "options": {"label_format": "PDF", "label_size": "4x6"},
        }
        if to.country.upper() != sender.country:
            params["customs_info"] = self._customs(order)
        return params

    def _customs(self, order: Order) -> dict[str, Any]:
        items = [
            {
                "description": one_line(item.name or item.product_id, 100),
                "quantity": item.quantity,
                "value": str(item.price * item.quantity),
                "currency": order.currency,
                "weight": round(item.quantity * self._settings.easypost.piece_ounces, 1),
                "origin_country": self._sender.country,
            }
            for item in order.items
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
    return one_line((order.shipping_info and order.shipping_info.name) or order.customer_name or order.customer_id)


def _goes_to(record: ShipmentRecord, order: Order) -> bool:
    """Whether it goes to the order's address. Carriers change case and punctuation, and may fill in a state."""
    to, there = order.shipping_info, record.to_address
    if to is None or there is None:
        return False
    pairs = [(_recipient(order), there.name), (to.address, there.street1), (to.address2, there.street2), (to.city, there.city)]
    pairs += [(to.country, there.country), *([(to.state, there.state)] if to.state else [])]
    return all(_letters(ours) == _letters(theirs) for ours, theirs in pairs) and _is_zip(_letters(to.zip), _letters(there.zip))


def _is_zip(ours: str, theirs: str) -> bool:
    """A carrier may add the last four digits to five."""
    return theirs == ours or (_ZIP_PLUS_4.fullmatch(theirs) is not None and theirs[:5] == ours)


def _check_price(record: ShipmentRecord, quoted: Rate | None) -> None:
    """Raises `CarrierMismatch` if the rate that was quoted is another now, such as a dearer one. One that a person has bought in the
    carrier's dashboard is theirs to choose."""
    told = (rate.to_rate() for rate in (*record.rates, *filter(None, [record.selected_rate])))
    if quoted is not None and any(rate != quoted for rate in told if rate.id == quoted.id):
        raise CarrierMismatch("price")


def _with_id(any_id: str, record: ShipmentRecord) -> ShipmentRecord:
    if record.id != any_id:
        raise CarrierMismatch("shipment")
    return record


def _same(one: ShipmentRecord, other: ShipmentRecord) -> bool:
    """Whether two answers name the same parcel and label."""
    return (one.id, one.reference, one.postage_label) == (other.id, other.reference, other.postage_label)


def _letters(text: str | None) -> str:
    return "".join(filter(str.isalnum, folded(text or "").casefold()))


def _became(record: ShipmentRecord) -> Voided | None:
    """None: the label is there, and nobody has used it."""
    if not record.bought:
        return Voided.NOT_BOUGHT
    if record.voided:
        return Voided.VOIDED
    return Voided.HANDED_OVER if record.where.handed_over else None


def _why(record: ShipmentRecord) -> str:
    said = [f"{message.carrier or 'EasyPost'}: {message.message}" for message in record.messages if message.message]
    return one_line(f" ({'; '.join(dict.fromkeys(said))})", 300) if said else ""
