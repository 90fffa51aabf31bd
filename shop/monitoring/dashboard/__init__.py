"""The figures of the shop: charts, the dashboard, the daily report. Reads only."""
