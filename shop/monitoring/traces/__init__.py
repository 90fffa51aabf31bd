"""OpenTelemetry traces, if enabled: one per order, built from its journal."""
