"""Carrier errors: refused parcels, failures, and labels that cannot be voided."""

from __future__ import annotations

from saga.errors import StepError


class CarrierRefused(StepError):
    """The carrier does not accept this parcel, for example because it does not serve the address."""

    code = "carrier_refused"
    quotes_external_system = True
    refusal = True


class CarrierUnavailable(StepError):
    """The carrier is unreachable or failed. The request may have been executed: look it up."""

    code = "carrier_unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CarrierTimeout(CarrierUnavailable):
    """The carrier did not answer in time: a label may or may not have been bought."""

    code = "carrier_timeout"


class CarrierMismatch(CarrierUnavailable):
    """The carrier's answer differs from the order's parcel, or contradicts an earlier answer. It counts
    neither as a label nor as no label."""

    code = "carrier_mismatch"

    def __init__(self, differs: str) -> None:
        super().__init__(f"the carrier's answer is about another {differs} than the order's")


class CarrierMisconfigured(StepError):
    """The carrier does not accept our account. The message names the setting. Retrying does not help."""

    code = "carrier_misconfigured"


class VoidRefused(StepError):
    """The carrier does not void an unused label: a person has to."""

    code = "void_refused"
    quotes_external_system = True
