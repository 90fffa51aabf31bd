"""Errors of carriers: parcels that they refuse, failures, labels that they do not take back."""

from __future__ import annotations

from saga.errors import StepError


class CarrierRefused(StepError):
    """The carrier does not take this parcel, such as for an address that it does not serve."""

    code = "carrier_refused"
    others_words = True
    refusal = True


class CarrierUnavailable(StepError):
    """The carrier cannot be reached just now, or fails. What it was asked may have been done all the same: look it up."""

    code = "carrier_unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CarrierTimeout(CarrierUnavailable):
    """No answer in time: a label may or may not have been bought."""

    code = "carrier_timeout"


class CarrierMismatch(CarrierUnavailable):
    """The carrier's answer is about another parcel than the order's, or contradicts an earlier one: it counts neither as a label nor as
    none."""

    code = "carrier_mismatch"

    def __init__(self, differs: str) -> None:
        super().__init__(f"the carrier's answer is about another {differs} than the order's")


class CarrierMisconfigured(StepError):
    """The carrier does not accept our account; names the setting. Trying again does not help."""

    code = "carrier_misconfigured"


class VoidRefused(StepError):
    """The carrier does not take back a label that was not used: a person has to."""

    code = "void_refused"
    others_words = True
