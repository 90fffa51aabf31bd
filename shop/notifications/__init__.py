"""Messages about orders: mails to the customer and webhooks to the CRM."""
