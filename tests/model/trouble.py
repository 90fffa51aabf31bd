"""What can go wrong on the way to the gateway or to the database, and back."""

from enum import StrEnum


class Trouble(StrEnum):
    LOST_REQUEST = "the request is lost"
    LATE_REQUEST = "the request arrives when nobody waits any more"
    LOST_ANSWER = "the answer is lost"
    SLOW_ANSWER = "the answer is slow"
    """The worker waits, and something may happen meanwhile; time, for example."""
    ERROR = "an error is the answer"
    UNAVAILABLE = "it is unavailable for a while"
