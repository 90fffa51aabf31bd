"""All tables of the shop, each defined in the package that owns it. Migrations (`shop/migrations`) create
them; the tests compare the two."""
# ruff: noqa: F401

from shop.alerts import tables as alerts
from shop.confirmation import tables as confirmation
from shop.inventory import tables as inventory
from shop.monitoring import tables as monitoring
from shop.notifications import tables as notifications
from shop.orders import tables as orders
from shop.payments import tables as payments
from shop.reconciliation import tables as reconciliation
from shop.review import tables as review
from shop.runtime import tables as runtime
from shop.shipping import tables as shipping
