"""Deliveries: records them, and adds their pieces to the stock, in the caller's transaction.

A delivery's reference, such as the number of the delivery note, makes repeating it safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
)
from sqlalchemy import text

from saga.database import Tx, as_json
from shop.inventory.errors import DeliveryConflict, InvalidDelivery, UnknownProducts
from shop.inventory.reservations import lock_products
from shop.orders.entered import EnteredId, OptionalWords
from shop.orders.scalars import Pieces
from shop.values.messages import in_words

MOST_LINES = 5_000
"""Limits the lines of one delivery, and the deliveries of one call."""
_INSERT = text(
    "INSERT INTO delivery (reference, items, received_by, started_by, note) "
    "SELECT reference, items, received_by, :started_by, note FROM jsonb_to_recordset(CAST(:rows AS jsonb)) "
    "AS d(reference text, items jsonb, received_by text, note text) ORDER BY reference "
    "ON CONFLICT (reference) DO NOTHING RETURNING reference"
)
_KNOWN = text("SELECT reference, items FROM delivery WHERE reference = ANY(CAST(:references AS text[]))")
_CREATE = text(
    "INSERT INTO product (id, name, received, on_hand) SELECT id, name, 0, 0 "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS p(id text, name text) ORDER BY id "
    "ON CONFLICT (id) DO NOTHING"
)
_ADD = text(
    "UPDATE product p SET received = p.received + d.pieces, on_hand = p.on_hand + d.pieces "
    "FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS d(id text, pieces bigint) WHERE p.id = d.id"
)
_STOCK = text("SELECT id, on_hand, reserved FROM product WHERE id = ANY(CAST(:ids AS text[]))")


_MOST_PIECES = 1_000_000_000
"""Limits the pieces of a product in one delivery."""
_PIECES = f"a whole number from 1 to {_MOST_PIECES:,}"


def _delivered(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError:
        raise ValueError(_PIECES) from None


DeliveredPieces = Annotated[
    Pieces,
    Field(ge=1, le=_MOST_PIECES),
    WrapValidator(_delivered),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": _MOST_PIECES}),
]


class _Part(BaseModel, extra="forbid", frozen=True, hide_input_in_errors=True):
    """A part of a delivery; it has no other fields."""


class DeliveredItem(_Part):
    """One line of a delivery."""

    product_id: EnteredId = Field(description="The catalogue's id of the product", examples=["PROD-001"])
    pieces: DeliveredPieces = Field(description="How many pieces", examples=[20])
    name: OptionalWords = Field(default=None, description="Creates the product with this name, if it is new")


class DeliveryNote(_Part):
    """One delivery, as whoever received it records it."""

    reference: EnteredId = Field(
        default_factory=lambda: f"delivery-{uuid4().hex}",
        description="Number of the delivery note: the same delivery again changes nothing. Generated if left "
        "out; then sending it again receives the goods twice",
        examples=["DN-4711"],
    )
    items: list[DeliveredItem] = Field(min_length=1, max_length=MOST_LINES)
    received_by: OptionalWords = Field(default=None, description="Who received the goods", examples=["ann"])
    note: OptionalWords = Field(default=None, description="Stored with the delivery; no card data")

    @field_validator("items")
    @classmethod
    def _limited(cls, items: list[DeliveredItem]) -> list[DeliveredItem]:
        for product, pieces in _sums(items).items():
            if pieces > _MOST_PIECES:
                raise ValueError(f"{pieces:,} pieces of {product!r} in all: at most {_MOST_PIECES:,}")
        return items

    @property
    def pieces(self) -> dict[str, int]:
        """Pieces per product; lines with the same product are added."""
        return dict(_sums(self.items))


def _sums(items: Iterable[DeliveredItem]) -> Counter[str]:
    pieces: Counter[str] = Counter()
    for item in items:
        pieces[item.product_id] += item.pieces
    return pieces


class ReceivedItem(BaseModel, frozen=True):
    """One product of a delivery, with its stock afterwards."""

    product_id: str
    pieces: int
    on_hand: int
    reserved: int


class DeliveryReceipt(BaseModel, frozen=True):
    """What became of one delivery."""

    reference: str
    status: Literal["received", "known"] = Field(description="`known`: it was received before")
    items: list[ReceivedItem]


def read_delivery(raw: object) -> DeliveryNote:
    """Reads a delivery: `reference`, `items`, `received_by`, `note`; or, for a single product, `product_id`,
    `pieces` and `name` instead of `items`. Raises `InvalidDelivery` with every problem."""
    if isinstance(raw, Mapping):
        raw = {k: v for k, v in raw.items() if k != "reference" or (v is not None and v != "")}
    of_item = 0
    if isinstance(raw, Mapping) and "items" not in raw:
        item = {name: raw[name] for name in DeliveredItem.model_fields if name in raw}
        raw = {**{name: value for name, value in raw.items() if name not in item}, "items": [item]}
        of_item = 2  # leaves out `items` and 0 of the places
    try:
        return DeliveryNote.model_validate(raw)
    except ValidationError as error:
        found = [(each["loc"], in_words(each)) for each in error.errors(include_url=False)]
        raise InvalidDelivery(
            [(loc[of_item:] if loc[:1] == ("items",) else loc, why) for loc, why in found]
        ) from None


async def store(
    tx: Tx, deliveries: Sequence[DeliveryNote], *, started_by: str | None
) -> list[DeliveryReceipt]:
    """Records all the deliveries and adds their pieces to the stock, or raises. One that was received before,
    with the same pieces, adds nothing. Raises `DeliveryConflict` and `UnknownProducts`."""
    by_reference = _distinct(deliveries)
    rows = [{**each.model_dump(), "items": each.pieces} for each in by_reference.values()]
    inserted = await tx.execute(_INSERT, {"rows": as_json(rows), "started_by": started_by})
    new = set(inserted.scalars())
    await _require_same(tx, [each for each in by_reference.values() if each.reference not in new])
    await _add(tx, [each for each in by_reference.values() if each.reference in new])
    asked = {"ids": sorted({item.product_id for each in deliveries for item in each.items})}
    stock = {
        row.id: {"on_hand": row.on_hand, "reserved": row.reserved} for row in await tx.execute(_STOCK, asked)
    }
    return [
        DeliveryReceipt(
            reference=each.reference,
            status="received" if each.reference in new else "known",
            items=[
                ReceivedItem(product_id=product, pieces=pieces, **stock[product])
                for product, pieces in each.pieces.items()
                if product in stock
            ],
        )
        for each in by_reference.values()
    ]


def merged(deliveries: Iterable[DeliveryNote]) -> list[DeliveryNote]:
    """Makes one delivery of those with the same reference, as a file has one line per product. Raises
    `InvalidDelivery` if one has too many lines or pieces then."""
    first: dict[str, DeliveryNote] = {}
    items: dict[str, list[DeliveredItem]] = {}
    for each in deliveries:
        first.setdefault(each.reference, each)
        items.setdefault(each.reference, []).extend(each.items)
    problems: list[tuple[tuple[str | int, ...], str]] = []
    made = []
    for reference, note in first.items():
        try:
            made.append(DeliveryNote.model_validate({**dict(note), "items": items[reference]}))
        except ValidationError as error:
            problems += [((f"reference {reference}",), in_words(each)) for each in error.errors()]
    if problems:
        raise InvalidDelivery(problems)
    return made


def _distinct(deliveries: Sequence[DeliveryNote]) -> dict[str, DeliveryNote]:
    by_reference: dict[str, DeliveryNote] = {}
    for each in deliveries:
        if by_reference.setdefault(each.reference, each).pieces != each.pieces:
            raise DeliveryConflict({each.reference: by_reference[each.reference].pieces})
    return by_reference


async def _require_same(tx: Tx, deliveries: Sequence[DeliveryNote]) -> None:
    if not deliveries:
        return
    rows = await tx.execute(_KNOWN, {"references": [each.reference for each in deliveries]})
    stored = {row.reference: row.items for row in rows}
    if different := {
        each.reference: stored[each.reference] for each in deliveries if stored[each.reference] != each.pieces
    }:
        raise DeliveryConflict(different)


async def _add(tx: Tx, deliveries: Sequence[DeliveryNote]) -> None:
    pieces: Counter[str] = Counter()
    for each in deliveries:
        pieces.update(each.pieces)
    if not pieces:
        return
    names = {item.product_id: item.name for each in deliveries for item in each.items if item.name}
    if names:
        await tx.execute(_CREATE, {"rows": as_json([{"id": i, "name": name} for i, name in names.items()])})
    known = await lock_products(tx, pieces)
    if unknown := sorted(pieces.keys() - known.keys()):
        raise UnknownProducts(unknown)
    await tx.execute(_ADD, {"rows": as_json([{"id": i, "pieces": n} for i, n in pieces.items()])})
