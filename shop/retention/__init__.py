"""Data retention: deletes traces and erases customer data. The records of payments stay."""
