"""What is not kept for ever: traces, and what we know of customers. The money trail stays."""
