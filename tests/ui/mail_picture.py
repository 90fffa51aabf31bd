"""Renders the confirmation mail with Chromium: `python -m tests.ui.mail_picture docs/mail.png`."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from email.policy import default
from pathlib import Path

from shop.confirmation.writer import template_confirmation
from shop.notifications.mail import MailContext, confirmation_mail
from shop.orders.order import EXAMPLE, Order
from shop.settings import Settings

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_SIZE = "680,900"


def picture(path: Path) -> None:
    """Renders the picture. Raises `FileNotFoundError` if there is no browser."""
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise FileNotFoundError(f"no browser found; install one of: {', '.join(_BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "mail.html")
        page.write_text(_html(), encoding="utf-8")
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [*command, f"--window-size={_SIZE}", f"--screenshot={path.resolve()}", page.as_uri()],
            check=True,
            capture_output=True,
            timeout=120,
        )


def _html() -> str:
    settings = Settings(_env_file=None, TRACKING_URL="https://carrier.example/{tracking_number}")
    order = Order.model_validate(
        {**EXAMPLE, "total_amount": "1073.96", "tax_amount": "9.00", "shipping_amount": "4.99"}
    )
    texts = template_confirmation(order, settings).model_dump()
    made = confirmation_mail(
        order, texts, "CA473124829US", MailContext(settings, datetime(2031, 2, 3, 9, 30, tzinfo=UTC))
    )
    part = email.message_from_bytes(made.data, policy=default).get_body(("html",))
    return str(part.get_content()) if part is not None else ""


if __name__ == "__main__":
    picture(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/mail.png"))
