"""The safety net: whatever was left behind is taken up again, without waiting for a drain to come by."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows import board
from flows.lane import Lane
from flows.takeover import tell_of_takeovers
from shop import journal
from shop.database import transaction
from shop.expiry import expire_reservations
from shop.lease import lease
from shop.notifications import outbox
from shop.settings import settings
from tasks.deliver_outbox import deliver_outbox


@task(name="release_expired_reservations", cache_policy=NO_CACHE, persist_result=False)
async def release_expired_reservations() -> list[str]:
    """Gives back what dead reservations hold. Returns the orders' ids."""
    released: list[str] = []
    while expired := await expire_reservations():
        released += expired
    return released


@flow(name="recover-orders", persist_result=False)
async def recover_orders() -> dict[str, int]:
    """Takes over orders whose lease ran out, and takes them to their outcome by the same saga; then gives back expired reservations
    and sends what is left in the outbox."""
    lane, recovered = Lane(), 0
    async with lease() as mine:
        try:
            while True:
                async with transaction() as tx:
                    orders = await journal.claim(tx, mine, most=settings().batch_size, begun=True, flow_run_id=str(flow_run.id))
                if not orders:
                    break
                tell_of_takeovers(orders)
                lane.start(orders)
                recovered += len(orders)
                await lane.finish_up()
        except BaseException:
            await lane.finish_up(20)
            raise
    released = await release_expired_reservations()
    await board.settle()
    sent = 0
    while await outbox.is_due() and (now_sent := (await deliver_outbox(200))["sent"]):
        sent += now_sent
    get_run_logger().info("%d orders recovered, %d reservations released, %d messages sent", recovered, len(released), sent)
    return {"recovered": recovered, "reservations_released": len(released), "messages_sent": sent}
