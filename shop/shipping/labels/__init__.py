"""Labels of the embedded carrier as PDF."""
