"""What the payment gateway reports by itself: the inbox and its handling."""
